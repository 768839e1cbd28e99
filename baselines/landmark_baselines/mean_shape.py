"""The floor of every comparison: the training set's mean position in the image frame, whatever the image shows."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landmark_challenge.dataset import Dataset
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .checkpoints import Model, mean_shape_of, provenance_of, read_model, save_model
from .resuming import already_trained, fingerprint_of


@dataclass(frozen=True)
class MeanShape:
    """Answers with the mean shape."""

    model: Model

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """The mean shape in the frame of the image; no covariance."""
        return Localization(self.mean_shape(image))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back of every method, here the answer itself."""
        return self.model.mean_landmarks(image)


def train(
    dataset: Dataset,
    *,
    output: Path,
    device: str = "cpu",
    preset: str = "tiny",
    seed: int = 0,
    resume: bool = False,
    **_: Any,
) -> None:
    """Average the training positions; every preset is the same, there is nothing to choose."""
    fingerprint = fingerprint_of(dataset, method="mean_shape", preset=preset, settings={}, seed=seed)
    if resume and already_trained(output, fingerprint):
        return
    begun = time.monotonic()
    shape = mean_shape_of(dataset)
    provenance = provenance_of(
        dataset, seed=seed, fingerprint=fingerprint, training_seconds=round(time.monotonic() - begun, 1)
    )
    save_model(output, Model("mean_shape", preset, {}, dataset.task, provenance, shape, {}))


def load(model: Path, *, device: str = "cpu") -> MeanShape:
    """The localizer in a model folder."""
    return MeanShape(read_model(model))
