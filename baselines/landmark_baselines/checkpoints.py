"""The model folder: model.json and weights.safetensors. No pickles."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from landmark_challenge import files
from landmark_challenge.dataset import REFERENCE, Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image, bounding_box_mm
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.task import Task, parse_task

from .references import reference_mm

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class Model:
    """What a model folder holds. mean_shape: name -> position in the image's bounding box, each axis 0..1."""

    method: str
    preset: str
    settings: Mapping[str, Any]
    task: Task
    provenance: Mapping[str, Any]
    mean_shape: Mapping[str, tuple[float, ...]]
    weights: Mapping[str, Tensor]

    def mean_landmarks(self, image: Image) -> Landmarks:
        """The mean shape in the frame of an image, millimetres."""
        lower, upper = bounding_box_mm(image)
        names = list(self.mean_shape)
        points = np.zeros((len(names), 3))
        shares = np.array([self.mean_shape[name] for name in names]).reshape(len(names), -1)
        points[:, : image.ndim] = lower + shares * (upper - lower)
        return Landmarks(names, points)

    def load_weights(self, network: nn.Module, folder: Path, *, prefix: str = "") -> None:
        """Give a network those weights whose names begin with `prefix`. Raises ChallengeError where they are others."""
        part = {key.removeprefix(prefix): value for key, value in self.weights.items() if key.startswith(prefix)}
        try:
            network.load_state_dict(part)
        except RuntimeError:
            raise ChallengeError(f"{folder}: wanted the weights of the model.json beside them, got others") from None


def save_model(folder: Path, model: Model) -> None:
    """Write a model folder; model.json comes last, so that a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).unlink(missing_ok=True)
    staged = folder / f".{WEIGHTS_FILE}.tmp"
    save_file({key: value.detach().cpu().contiguous() for key, value in model.weights.items()}, staged)
    staged.chmod(0o644)
    staged.replace(folder / WEIGHTS_FILE)
    files.write_json(
        folder / MODEL_FILE,
        {
            "method": model.method,
            "preset": model.preset,
            "settings": dict(model.settings),
            "task": model.task.model_dump(mode="json"),
            "provenance": dict(model.provenance),
            "mean_shape": {name: list(share) for name, share in model.mean_shape.items()},
        },
    )


def read_model(folder: Path) -> Model:
    """The model in a folder. Raises ChallengeError where a part is missing or not what it should be."""
    value = files.read_json(folder / MODEL_FILE)
    wanted = {"method", "preset", "settings", "task", "provenance", "mean_shape"}
    if not isinstance(value, dict) or not wanted <= set(value):
        raise ChallengeError(f"{folder / MODEL_FILE}: wanted the keys {', '.join(sorted(wanted))}")
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ChallengeError(f"{folder / WEIGHTS_FILE}: wanted safetensors weights, got an error: {error}") from None
    return Model(
        method=value["method"],
        preset=value["preset"],
        settings=value["settings"],
        task=parse_task(value["task"], source=str(folder / MODEL_FILE)),
        provenance=value["provenance"],
        mean_shape={name: tuple(share) for name, share in value["mean_shape"].items()},
        weights=weights,
    )


def check_taught(dataset: Dataset) -> None:
    """Raise ChallengeError where a landmark is in no training case, from which none could be learned."""
    cases = dataset.wanted_cases("train")
    seen = np.isfinite([reference_mm(dataset, case) for case in cases]).all(axis=2).any(axis=0)
    if not seen.all():
        missing = dataset.task.names[int(np.argmin(seen))]
        raise ChallengeError(f"{dataset.folder}: wanted '{missing}' in a training case, it is in none")


def mean_shape_of(dataset: Dataset) -> dict[str, tuple[float, ...]]:
    """The training cases' mean position of each landmark in the image's bounding box (0..1 along each LPS axis).

    Raises ChallengeError where a landmark is in no training case.
    """
    check_taught(dataset)
    shares: list[np.ndarray] = []
    ndim = dataset.task.dimension
    for case in dataset.wanted_cases("train"):
        lower, upper = bounding_box_mm(dataset.geometry(case.name))
        points = reference_mm(dataset, case)[:, :ndim]
        shares.append((points - lower) / (upper - lower))
    mean = np.nanmean(shares, axis=0)
    return {name: tuple(row.tolist()) for name, row in zip(dataset.task.names, mean, strict=True)}


def data_digest(dataset: Dataset, splits: Sequence[str], *, observers: Sequence[str] = (REFERENCE,)) -> str:
    """A digest of the cases of the splits: images as stored at import, what was assessed, the observers' points."""
    digest = hashlib.sha256()
    for case in [case for split in splits for case in dataset.cases(split=split)]:
        digest.update(f"{case.name} {case.split} {dataset.header.get('digests', {}).get(case.name, '')}".encode())
        digest.update("".join(f" {name}" for name in case.not_assessed).encode())
        for observer in observers:
            path = dataset.landmarks_path(case.name, observer=observer)
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def provenance_of(dataset: Dataset, *, seed: int, **more: Any) -> dict[str, Any]:
    """Where a model comes from: data digest, seed, versions, licence of the training data, and `more`."""
    return {
        "data_digest": data_digest(dataset, ("train", "validation")),
        "data_source": dataset.header.get("source", ""),
        "data_licence": dataset.header.get("licence", ""),
        "training_cases": len(dataset.cases(split="train")),
        "validation_cases": len(dataset.cases(split="validation")),
        "seed": seed,
        "versions": {
            "landmark-challenge-kit": version("landmark-challenge-kit"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **more,
    }
