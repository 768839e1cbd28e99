"""What a trained model must be better than, for the tests of every method."""

from pathlib import Path

import numpy as np

from landmark_baselines.method import Localizer, load_model, train_method
from landmark_challenge.dataset import Dataset


def training_error_mm(localizer: Localizer, dataset: Dataset) -> float:
    """Mean radial error over the training cases."""
    found = []
    for case in dataset.cases(split="train"):
        reference = dataset.landmarks(case.name)
        points = localizer.localize(dataset.image(case.name)).landmarks.aligned_mm(reference.names)
        found.append(np.linalg.norm(points - reference.points_mm, axis=1).mean())
    return float(np.mean(found))


def floor_mm(dataset: Dataset, folder: Path) -> float:
    """The training error of the mean shape, trained into `folder`."""
    train_method("mean_shape", dataset, output=folder, device="cpu")
    return training_error_mm(load_model(folder, device="cpu"), dataset)


def assert_beats_the_floor(model: Path, dataset: Dataset, folder: Path) -> None:
    """A model folder does better than the mean shape, fits a repository, and left no checkpoint behind."""
    assert training_error_mm(load_model(model, device="cpu"), dataset) < floor_mm(dataset, folder)
    assert (model / "weights.safetensors").stat().st_size < 2_000_000
    assert not list(model.glob("*.checkpoint"))
