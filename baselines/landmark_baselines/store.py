"""A training set in memory: decoded, resampled and normalised once, kept as 8-bit tensors.

A set that does not fit is mapped from a temporary file instead, and the system keeps in memory what it can.
"""

import hashlib
import io
import math
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from landmark_challenge import files
from landmark_challenge.dataset import Case, Dataset
from landmark_challenge.images import Image, canonical, canonical_geometry, normalise
from landmark_challenge.task import Task

from .references import reference_mm
from .stopwatch import span

# Part of the cache's key: raise it when `canonical`, `normalise` or the rounding below change their results.
PREPARATION = 1
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class Store:
    """Images of one spacing and their landmarks.

    images: (N, 1, (z,) y, x) uint8, 255 for intensity 1; smaller images are continued by their border at the far side.
    points: (N, L, ndim) float32 voxel coordinates x, y[, z], NaN where a landmark is absent or nobody assessed it.
    spacing_mm: isotropic. own_size: (N, ndim) int64 voxels x, y[, z] of each image itself; None where all have that of
    the store.
    """

    images: Tensor
    points: Tensor
    spacing_mm: float
    own_size: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> Tensor:
        """(B, 1, ...) float32 intensities of 0..1 of the cases `index`, on the device of the points."""
        chosen = self.images[index.to(self.images.device, non_blocking=self.images.is_cuda)]
        return chosen.to(self.points.device, non_blocking=self.points.is_cuda).float().div_(255)

    @property
    def sizes(self) -> Tensor:
        """(N, ndim) int64 voxels x, y[, z] of each image, on the device of the points."""
        if self.own_size is not None:
            return self.own_size.to(self.points.device)
        whole = torch.tensor(self.images.shape[:1:-1], device=self.points.device)
        return whole.expand(len(self), -1)

    def alone(self, case: int) -> Tensor:
        """(1, 1, ...) one image in its own size, as it is seen where there are no others: `batch` continues it."""
        image = self.batch(torch.tensor([case]))
        if self.own_size is None:
            return image
        own = [slice(0, count) for count in reversed(self.own_size[case].tolist())]
        return image[(slice(None), slice(None), *own)]

    def points_of(self, index: Tensor) -> Tensor:
        """(B, L, ndim) points of the cases `index`."""
        return self.points[index.to(self.points.device, non_blocking=self.points.is_cuda)]


def radial_errors_mm(points: Tensor, store: Store) -> Tensor:
    """(M,) errors in mm of `points` (N, L, ndim), found in the cases of the store, where the landmark is there.

    The error of a point that is not finite is none either: what was not found is not averaged away.
    """
    errors = torch.linalg.vector_norm(points - store.points, dim=-1) * store.spacing_mm
    return errors[torch.isfinite(store.points).all(dim=-1)]


def prepare(
    image: Image,
    task: Task,
    spacing_mm: float,
    *,
    region: tuple[ArrayLike, ArrayLike] | None = None,
    average: bool = True,
) -> Image:
    """The image as networks see it: canonical grid of isotropic `spacing_mm`, intensities 0..1 by the task's rule.

    region, average: as in `canonical`. A region's intensities follow from the region alone unless the rule is `window`.
    """
    with span("resample"):
        grid = canonical(image, [spacing_mm] * image.ndim, region=region, average=average)
        return Image(normalise(grid.array, task.intensity), grid.spacing_mm, grid.origin_mm, grid.direction)


def load_store(
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    spacing_mm: Sequence[float],
    device: torch.device | str = "cpu",
    average: bool = True,
) -> list[Store]:
    """One store per spacing; every image is decoded once. Prepared images are kept beside the dataset for next time.

    average: whether shrinking averages, as in `canonical`. Beside the stores no more than one case is in memory.
    """
    ndim = dataset.task.dimension
    sizes = np.empty((len(spacing_mm), len(cases), ndim), np.int64)
    for row, case in enumerate(cases):
        geometry = dataset.geometry(case.name)
        for level, spacing in enumerate(spacing_mm):
            sizes[level, row] = canonical_geometry(geometry, [spacing] * ndim).size
    arrays = [_allocate((len(cases), 1, *each.max(axis=0)[::-1].tolist())) for each in sizes]
    points = np.empty((len(spacing_mm), len(cases), len(dataset.task.names), ndim), np.float32)
    for row, case in enumerate(cases):
        reference = reference_mm(dataset, case)
        for level, grid in enumerate(_prepared(dataset, case, spacing_mm, average=average)):
            have = grid.array.shape
            margins = [(0, full - count) for full, count in zip(arrays[level].shape[2:], have, strict=True)]
            arrays[level][row, 0] = np.pad(grid.array, margins, mode="edge")
            points[level, row] = grid.mm_to_index(reference)
    stores = []
    for level, spacing in enumerate(spacing_mm):
        held = torch.from_numpy(arrays[level])
        images = held.to(device) if _fits(held.nbytes, torch.device(device)) else held
        alike = (sizes[level] == sizes[level][0]).all()
        own_size = None if alike else torch.from_numpy(sizes[level])
        stores.append(Store(images, torch.from_numpy(points[level]).to(device), spacing, own_size))
    return stores


def _allocate(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory for a store, or a map of a temporary file (removed with the process) where it would take too much."""
    size = math.prod(shape)
    if _fits(size, torch.device("cpu")):
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        return np.memmap(file, np.uint8, "r+", shape=shape)


def _fits(size: int, device: torch.device) -> bool:
    if device.type == "cuda":
        return size < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]
    pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else None
    return pages is None or size < MEMORY_SHARE * pages * os.sysconf("SC_PAGE_SIZE")


def _prepared(dataset: Dataset, case: Case, spacing_mm: Sequence[float], *, average: bool) -> list[Image]:
    """The 8-bit prepared grids of a case, from the cache where they are there."""
    digest = dataset.header.get("digests", {}).get(case.name)
    grids: list[Image | None] = []
    paths: list[Path | None] = []
    image: Image | None = None
    for spacing in spacing_mm:
        path = None
        if digest:
            changed = dataset.image_path(case.name).stat().st_mtime_ns
            key = f"{PREPARATION} {digest} {spacing} {dataset.task.intensity} {changed}"
            key += "" if average else " sampled"
            name = hashlib.sha256(key.encode()).hexdigest()[:24]
            path = dataset.folder / ".cache" / f"{case.name}-{spacing:g}mm-{name}.npz"
        paths.append(path)
        grids.append(_read_cached(path) if path is not None else None)
    for level, spacing in enumerate(spacing_mm):
        if grids[level] is None:
            image = image or dataset.image(case.name)
            grid = prepare(image, dataset.task, spacing, average=average)
            quantised = np.rint(grid.array * 255).astype(np.uint8)
            grids[level] = Image(quantised, grid.spacing_mm, grid.origin_mm, grid.direction)
            _write_cached(paths[level], grids[level])
    return [grid for grid in grids if grid is not None]


def _read_cached(path: Path) -> Image | None:
    try:
        with np.load(path, allow_pickle=False) as saved:
            return Image.of(saved["array"], saved["spacing_mm"], saved["origin_mm"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
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
