"""Heatmaps times coordinates: a U-Net's maps are sharp but take one vertebra for the next; an Xception's coordinates
are blurred but near. Their product, in logarithms log h - |x - mu|^2 / (2 sigma^2), is sharp and near.

Huang et al., "A new approach of landmark localization combining heatmap and coordinate regression",
arXiv 2007.05355, 2020. What the paper leaves open is chosen where the comment says so.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from . import unet
from .blocks import for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .heatmap_coordinate_network import (
    VARIANTS,
    CoordinateNetwork,
    Settings,
    checked,
    decode,
    run_coordinates,
    run_heatmaps,
)
from .heatmap_coordinate_presets import PRESETS, STUDY, STUDY_NOTE, preset_settings, variant_settings
from .heatmap_coordinate_training import train
from .neighbours import spine_measures
from .presets import from_plain
from .stopwatch import span
from .training import set_threads
from .whole_image import resized, to_voxels

__all__ = [
    "PRESETS",
    "STUDY",
    "STUDY_NOTE",
    "VARIANTS",
    "HeatmapCoordinate",
    "Settings",
    "load",
    "preset_settings",
    "study_measures",
    "train",
    "variant_settings",
]

study_measures = spine_measures


@dataclass(frozen=True)
class HeatmapCoordinate:
    """A trained model, ready to localize. sigma: (L,) the fitted ones, shares of the image."""

    model: Model
    settings: Settings
    sigma: Tensor = field(repr=False)
    coordinate_network: nn.Module | None = field(repr=False)
    heatmap_network: nn.Module | None = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1. No covariance: nothing calibrates the maps' width."""
        coordinate, heatmap = self.settings.coordinate, self.settings.heatmap
        means = sigma = None
        if self.settings.combine != "heatmap":
            grid = resized(image, self.task, coordinate.side)
            found = run_coordinates(_there(self.coordinate_network), self.tensor(grid))
            if self.settings.combine == "coordinate":
                return self.landmarks(to_voxels(found, coordinate.side), grid)
            means = to_voxels(found, heatmap.side)
            fixed = torch.full_like(self.sigma, self.settings.fixed_sigma)
            sigma = (fixed if self.settings.combine == "fixed" else self.sigma) * heatmap.side
        grid = resized(image, self.task, heatmap.side)
        log_maps = run_heatmaps(_there(self.heatmap_network), self.tensor(grid), heatmap.loss)
        with span("decode"):
            return self.landmarks(decode(log_maps, means, sigma, self.settings), grid)

    def landmarks(self, points: Tensor, grid: Image) -> Localization:
        """(1, L, ndim) voxel coordinates in a grid -> landmarks in mm."""
        return Localization(Landmarks(self.task.names, grid.index_to_mm(points[0].double().cpu().numpy())))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)

    def tensor(self, image: Image) -> Tensor:
        """(1, 1, ...) of a resized image, on the device of the networks."""
        return torch.from_numpy(np.ascontiguousarray(image.array))[None, None].to(self.device)


def _there(network: nn.Module | None) -> nn.Module:
    if network is None:
        raise ChallengeError("combine: wanted what this model was trained for, got a network that it does not have")
    return network


def load(model: Path, *, device: str = "cpu") -> HeatmapCoordinate:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    ndim, landmarks = saved.task.dimension, len(saved.task.names)
    settings = checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)), ndim=ndim)
    coordinate: CoordinateNetwork | None = None
    heatmap: unet.UNet | None = None
    if settings.combine != "heatmap":
        coordinate = CoordinateNetwork(ndim, landmarks, settings.coordinate.architecture, side=settings.coordinate.side)
    if settings.combine != "coordinate":
        heatmap = unet.UNet(ndim, landmarks, settings.heatmap.architecture)
    for prefix, network in (("coordinate.", coordinate), ("heatmap.", heatmap)):
        if network is None:
            continue
        saved.load_weights(network, model, prefix=prefix)
        placed(network.eval(), device, ndim)
    if coordinate is not None:
        for_inference(coordinate.features)  # the fully connected layer stays in float32
    if heatmap is not None:
        for_inference(heatmap)
    sigma = torch.tensor([math.nan if value is None else value for value in saved.settings["sigma"]], device=device)
    return HeatmapCoordinate(saved, settings, sigma, coordinate, heatmap, torch.device(device))
