"""Patch-based iterative network: patches at a guess tell how far and in which direction the landmarks are; the guess
moves, again and again. Li et al., "Fast Multiple Landmark Localisation Using a Patch-based Iterative Network", MICCAI
2018.

PIN-Multiple walks in the space of landmark sets, PIN-Single (a network per landmark) in the image. Patches are sampled
where the guess is, between voxels; the paper's code cuts positions down to whole voxels.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.shape_space import ShapeSpace
from landmark_challenge.task import Task

from .blocks import for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .pin_network import PinNetwork, build_network, walk_to_landmarks
from .pin_presets import (
    PRESETS,
    PUBLISHED,
    STUDY,
    STUDY_NOTE,
    VARIANTS,
    Settings,
    checked,
    preset_settings,
    variant_settings,
)
from .pin_training import SPACE, train
from .presets import from_plain
from .training import set_threads
from .volumes import open_volume

__all__ = [
    "PRESETS",
    "PUBLISHED",
    "STUDY",
    "STUDY_NOTE",
    "VARIANTS",
    "Pin",
    "Settings",
    "Walk",
    "load",
    "preset_settings",
    "train",
    "variant_settings",
]


@dataclass(frozen=True, eq=False)
class Walk:
    """The walk in one image. path_mm: (T + 1, S, L, 3) LPS mm, the position of every landmark of every start."""

    path_mm: NDArray[np.float64]

    @property
    def points_mm(self) -> NDArray[np.float64]:
        """(L, 3) the mean of where the starts lead."""
        points: NDArray[np.float64] = self.path_mm[-1].mean(axis=0)
        return points

    @property
    def covariance_mm2(self) -> NDArray[np.float64]:
        """(L, 3, 3) of the ends about their mean, with S - 1."""
        away = self.path_mm[-1] - self.points_mm
        covariance: NDArray[np.float64] = np.einsum("sli,slj->lij", away, away) / max(1, len(away) - 1)
        return covariance

    @property
    def last_step_mm(self) -> NDArray[np.float64]:
        """(S,) how far the last step moved a start's landmarks at most: what is left of its way."""
        steps: NDArray[np.float64] = np.linalg.norm(self.path_mm[-1] - self.path_mm[-2], axis=-1).max(axis=-1)
        return steps

    @property
    def from_mean_mm(self) -> NDArray[np.float64]:
        """(S,) how far from the answer a start ends, as the mean over its landmarks."""
        away: NDArray[np.float64] = np.linalg.norm(self.path_mm[-1] - self.points_mm, axis=-1).mean(axis=-1)
        return away

    @property
    def lines(self) -> list[str]:
        """How each start has converged, for people."""
        figures = zip(self.last_step_mm, self.from_mean_mm, strict=True)
        steps = len(self.path_mm) - 1
        return [
            f"start {number} of {len(self.last_step_mm)}: last of {steps} steps {step:.2f} mm, ends {away:.2f} mm from "
            "the mean of all starts"
            for number, (step, away) in enumerate(figures, 1)
        ]


@dataclass(frozen=True)
class Pin:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    network: PinNetwork = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1; covariances in mm^2 of where the starts lead.

        They tell how far the starts agree, not how far all of them are wrong: nothing calibrates them.
        """
        found = self.walk(image)
        landmarks = Landmarks(self.task.names, found.points_mm)
        return Localization(landmarks, dict(zip(self.task.names, found.covariance_mm2, strict=True)))

    def walk(self, image: Image) -> Walk:
        """Every step of every start."""
        checked(self.settings)
        volumes, first_mm = open_volume(image, self.task, self.settings.spacing_mm, device=self.device)
        path = walk_to_landmarks(self.network, volumes, self.settings).double().cpu().numpy()
        path_mm = np.zeros((*path.shape[:3], 3))
        path_mm[..., : image.ndim] = path + first_mm
        return Walk(path_mm)

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> Pin:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)))
    try:
        space = None
        if settings.joint:
            space = ShapeSpace(*(saved.weights[name].double().numpy() for name in SPACE[:3]))
        network = build_network(saved.task, settings, space)
    except KeyError:
        raise ChallengeError(f"{model}: wanted the weights of the model.json beside them, got others") from None
    saved.load_weights(network, model)
    placed(network, device, 2)
    for part in (network.body, network.regress, network.classify):  # the space stays exact
        for_inference(part)
    return Pin(saved, settings, network.eval(), torch.device(device))
