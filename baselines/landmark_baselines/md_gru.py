"""MD-GRU localization, coarse to fine: multi-dimensional recurrent networks that tell the class of each coordinate.

Andermatt et al., "Multi-dimensional recurrent localization", arXiv 1708.02766. The coarse network sees the whole image,
subsampled; the fine one sees a window around what the first has found, for each landmark its own. The layer is
md_gru_layer.py, the network md_gru_network.py, what each stage does with it md_gru_stages.py. Several landmarks share a
trunk and have a head each.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .blocks import for_inference
from .checkpoints import MODEL_FILE, Model, read_model
from .grids import rescale
from .md_gru_presets import (
    PRESETS,
    PUBLISHED,
    STUDY,
    STUDY_NOTE,
    VARIANTS,
    preset_settings,
    variant_settings,
)
from .md_gru_stages import Settings, Stage, choose_window, make_network, overview_scale, run_coarse, run_fine
from .md_gru_training import train
from .presets import from_plain
from .store import prepare
from .training import set_threads

__all__ = [
    "PRESETS",
    "PUBLISHED",
    "STUDY",
    "STUDY_NOTE",
    "VARIANTS",
    "MDGRULocalizer",
    "Settings",
    "Stage",
    "choose_window",
    "load",
    "make_network",
    "overview_scale",
    "preset_settings",
    "run_coarse",
    "run_fine",
    "train",
    "variant_settings",
]


@dataclass(frozen=True)
class MDGRULocalizer:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    coarse: nn.Module = field(repr=False)
    fine: nn.Module | None = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1, and covariances in mm^2.

        They are the variances of the class distributions around the point, axis by axis. With `passes`, those of the
        passes with DropConnect instead, averaged, and to them the covariance of where the passes put the point. The
        point itself is that of the whole network. Nothing calibrates them.
        """
        point, variance, grid, spacing = self._find(image)
        covariance = torch.diag_embed(variance)
        if self.settings.passes > 1:
            points, variances = self._passes(image)
            away = points - points.mean(dim=0)
            spread = torch.einsum("pli,plj->lij", away, away) / (len(points) - 1)
            covariance = torch.diag_embed(variances.mean(dim=0)) + spread
        whole = np.zeros((len(point), 3, 3))
        whole[:, : image.ndim, : image.ndim] = covariance.cpu().numpy() * spacing**2  # axes are those of space
        landmarks = Landmarks(self.task.names, grid.index_to_mm(point.cpu().numpy()))
        return Localization(landmarks, dict(zip(self.task.names, whole, strict=True)))

    def _passes(self, image: Image) -> tuple[Tensor, Tensor]:
        """(P, L, ndim) points and variances with DropConnect on; the same every time for an image."""
        networks = [network for network in (self.coarse, self.fine) if network is not None]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            try:
                for network in networks:
                    network.train()
                found = [self._find(image) for _ in range(self.settings.passes)]
            finally:
                for network in networks:
                    network.eval()
        return torch.stack([each[0] for each in found]), torch.stack([each[1] for each in found])

    def _find(self, image: Image) -> tuple[Tensor, Tensor, Image, float]:
        """(L, ndim) voxel coordinates and their variances, the prepared image that they are of, and its spacing."""
        coarse, fine = self.settings.coarse, self.settings.fine
        grid = prepare(image, self.task, coarse.spacing_mm)
        points, variances = run_coarse(self.coarse, self._tensor(grid), self.settings)
        if not self.settings.refine or self.fine is None:
            return points[0].double(), variances[0].double(), grid, coarse.spacing_mm
        if fine.spacing_mm != coarse.spacing_mm:
            grid = prepare(image, self.task, fine.spacing_mm)
            points = rescale(points, spacing_from=coarse.spacing_mm, spacing_to=fine.spacing_mm)
        points, variances = run_fine(self.fine, self._tensor(grid), points, self.settings)
        return points[0].double(), variances[0].double(), grid, fine.spacing_mm

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)

    def _tensor(self, image: Image) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image.array))[None, None].to(self.device)


def load(model: Path, *, device: str = "cpu") -> MDGRULocalizer:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = from_plain(Settings, saved.settings, source=str(model / MODEL_FILE))
    ndim, landmarks = saved.task.dimension, len(saved.task.names)
    networks: dict[str, nn.Module] = {}
    for name, stage in (("coarse", settings.coarse), ("fine", settings.fine))[: 1 + settings.refine]:
        network = make_network(ndim, landmarks, stage)
        saved.load_weights(network, model, prefix=f"{name}.")
        networks[name] = for_inference(network.to(device))
    return MDGRULocalizer(saved, settings, networks["coarse"], networks.get("fine"), torch.device(device))
