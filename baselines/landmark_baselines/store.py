"""A training set in memory: decoded, resampled and normalised once, kept as 8-bit tensors."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_challenge import files
from landmark_challenge.dataset import Case, Dataset
from landmark_challenge.images import Image, canonical, normalise
from landmark_challenge.task import Task


@dataclass(frozen=True)
class Store:
    """Images of one spacing and their landmarks.

    images: (N, 1, (z,) y, x) uint8, 255 for intensity 1; smaller images are continued by their border at the far side.
    points: (N, L, ndim) float32 voxel coordinates x, y[, z], NaN where a landmark is absent or nobody assessed it.
    assessed: (N, L) bool. spacing_mm: isotropic.
    """

    images: Tensor
    points: Tensor
    assessed: Tensor
    spacing_mm: float

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Tensor:
        """(B, 1, ...) float32 intensities of 0..1 of the cases `index`."""
        return self.images[index.to(self.images.device)].float().div_(255)


def prepare(image: Image, task: Task, spacing_mm: float) -> Image:
    """The image as networks see it: canonical grid of isotropic `spacing_mm`, intensities 0..1 by the task's rule."""
    grid = canonical(image, [spacing_mm] * image.ndim)
    return Image(normalise(grid.array, task.intensity), grid.spacing_mm, grid.origin_mm, grid.direction)


def load_store(
    dataset: Dataset, cases: Sequence[Case], *, spacing_mm: Sequence[float], device: torch.device | str = "cpu"
) -> list[Store]:
    """One store per spacing; every image is decoded once. Prepared images are kept beside the dataset for next time."""
    task = dataset.task
    prepared: list[list[NDArray[np.uint8]]] = [[] for _ in spacing_mm]
    points: list[list[NDArray[np.float64]]] = [[] for _ in spacing_mm]
    assessed = [[name not in case.not_assessed for name in task.names] for case in cases]
    for case in cases:
        reference = dataset.landmarks(case.name).aligned_mm(task.names)
        grids = _prepared(dataset, case, spacing_mm)
        for level, grid in enumerate(grids):
            prepared[level].append(grid.array)
            points[level].append(grid.mm_to_index(reference))
    stores = []
    for level, spacing in enumerate(spacing_mm):
        shape = np.max([array.shape for array in prepared[level]], axis=0)
        images = np.empty((len(cases), 1, *shape), np.uint8)
        for i, array in enumerate(prepared[level]):
            margins = [(0, int(full - have)) for full, have in zip(shape, array.shape, strict=True)]
            images[i, 0] = np.pad(array, margins, mode="edge")
        prepared[level].clear()
        stores.append(
            Store(
                torch.from_numpy(images).to(device),
                torch.from_numpy(np.array(points[level], np.float32)).to(device),
                torch.tensor(assessed, device=device),
                spacing,
            )
        )
    return stores


def _prepared(dataset: Dataset, case: Case, spacing_mm: Sequence[float]) -> list[Image]:
    """The 8-bit prepared grids of a case, from the cache where they are there."""
    digest = dataset.header.get("digests", {}).get(case.name)
    grids: list[Image | None] = []
    paths: list[Path | None] = []
    image: Image | None = None
    for spacing in spacing_mm:
        path = None
        if digest:
            key = f"{digest} {spacing} {dataset.task.intensity} {dataset.image_path(case.name).stat().st_mtime_ns}"
            name = hashlib.sha256(key.encode()).hexdigest()[:24]
            path = dataset.folder / ".cache" / f"{case.name}-{spacing:g}mm-{name}.npz"
        paths.append(path)
        grids.append(_read_cached(path) if path is not None else None)
    for level, spacing in enumerate(spacing_mm):
        if grids[level] is None:
            image = image or dataset.image(case.name)
            grid = prepare(image, dataset.task, spacing)
            quantised = np.rint(grid.array * 255).astype(np.uint8)
            grids[level] = Image(quantised, grid.spacing_mm, grid.origin_mm, grid.direction)
            _write_cached(paths[level], grids[level])
    return [grid for grid in grids if grid is not None]


def _read_cached(path: Path) -> Image | None:
    try:
        with np.load(path, allow_pickle=False) as saved:
            return Image.of(saved["array"], saved["spacing_mm"], saved["origin_mm"])
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _write_cached(path: Path | None, grid: Image | None) -> None:
    if path is None or grid is None:
        return
    buffer = io.BytesIO()
    np.savez(buffer, array=grid.array, spacing_mm=grid.spacing_mm, origin_mm=grid.origin_mm)
    try:
        files.write_bytes(path, buffer.getvalue())
    except OSError:  # a read-only dataset is no reason to stop: the cache only saves time
        return
