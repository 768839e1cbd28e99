"""Whole images as a fixed number of voxels, whatever their size and spacing, as networks with dense layers want them.

An image is resampled to `side` voxels along every axis of its bounding box, so that its voxels need not be isotropic.
A share of the image, 0..1 along each axis, is a voxel coordinate of any side: share = (index + 1/2) / side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landmark_challenge.dataset import Case, Dataset
from landmark_challenge.images import Image, bounding_box_mm, canonical, normalise
from landmark_challenge.task import Task

from .augmentation import Augmentation, Draws, Warp, change_intensity, random_matrices, warp_images, warp_points
from .references import reference_mm
from .stopwatch import span
from .training import cases_at


@dataclass(frozen=True)
class Frames:
    """images: (N, 1, *side) uint8, 255 for intensity 1. points: (N, L, ndim) shares of the image along x, y[, z], NaN
    where a landmark is absent or nobody assessed it. extent_mm: (N, ndim), of the images.
    """

    images: Tensor
    points: Tensor
    extent_mm: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side(self) -> int:
        """Voxels along every axis."""
        return self.images.shape[-1]

    def batch(self, index: Tensor) -> Tensor:
        """(B, 1, ...) float32 intensities of 0..1 of the cases `index`."""
        return self.images[index.to(self.images.device)].float().div_(255)


def to_voxels(shares: Tensor, side: int) -> Tensor:
    """Shares of the image -> voxel coordinates.

    >>> to_voxels(torch.tensor([0.5]), 8).item()
    3.5
    """
    return shares * side - 0.5


def to_shares(points: Tensor, side: int) -> Tensor:
    """Voxel coordinates -> shares of the image."""
    return (points + 0.5) / side


def resized(image: Image, task: Task, side: int) -> Image:
    """The image as networks see it: `side` voxels along every axis of space, intensities 0..1 by the task's rule."""
    with span("resample"):
        lower, upper = bounding_box_mm(image)
        grid = canonical(image, ((upper - lower) / side).tolist())
        return Image(normalise(grid.array, task.intensity), grid.spacing_mm, grid.origin_mm, grid.direction)


def load_frames(
    dataset: Dataset, cases: Sequence[Case], *, sides: Sequence[int], device: torch.device | str = "cpu"
) -> list[Frames]:
    """The frames of every side; every image is decoded once."""
    images: list[list[np.ndarray]] = [[] for _ in sides]
    points, extents = [], []
    for case in cases:
        image = dataset.image(case.name)
        lower, upper = bounding_box_mm(image)
        for level, side in enumerate(sides):
            array = resized(image, dataset.task, side).array
            images[level].append(np.rint(array * 255).astype(np.uint8))
        reference = reference_mm(dataset, case)[:, : image.ndim]
        points.append((reference - lower) / (upper - lower))
        extents.append(upper - lower)
    shares = torch.from_numpy(np.array(points, np.float32)).to(device)
    extent_mm = torch.from_numpy(np.array(extents, np.float32)).to(device)
    return [Frames(torch.from_numpy(np.array(level)[:, None]).to(device), shares, extent_mm) for level in images]


def errors_mm(points: Tensor, frames: Frames) -> Tensor:
    """(M,) radial errors of `points` (N, L, ndim), shares found in the frames, where the landmark is there.

    The error of a point that is not finite is none either: what was not found is not averaged away.
    """
    errors = torch.linalg.vector_norm((points - frames.points) * frames.extent_mm.unsqueeze(1), dim=-1)
    return errors[torch.isfinite(frames.points).all(dim=-1)]


def augmented_frames(
    frames: Frames, positions: Sequence[int], *, augmentation: Augmentation, shift: Sequence[float], seed: int
) -> tuple[Tensor, Tensor]:
    """Images at `positions` of the order of training, changed at random: (B, 1, *side) and (B, L, ndim) shares.

    shift: greatest shift along x, y[, z] as a share of the image, beside that of `augmentation`. Turning and deforming
    happen in millimetres, as if the patient moved before the image was resampled.
    """
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(frames), seed=seed)
    images = frames.batch(index)
    ndim, side = images.ndim - 2, frames.side
    spacing_mm = (frames.extent_mm[index.to(images.device)] / side).unsqueeze(1)
    reach = torch.tensor(shift, device=images.device) * side + augmentation.shift_mm / spacing_mm
    centres = (side - 1) / 2 + draws.symmetric(1, ndim).to(images) * reach
    matrices = random_matrices(1, ndim, augmentation, draws).to(images)
    matrices = matrices * spacing_mm.unsqueeze(-2) / spacing_mm.unsqueeze(-1)
    nodes = None
    if augmentation.elastic_mm > 0:
        steps = draws.normal(1, ndim, *[augmentation.elastic_nodes] * ndim).to(images) * augmentation.elastic_mm
        nodes = steps / spacing_mm.reshape(*spacing_mm.shape, *[1] * ndim)
    warp = Warp(centres, matrices, nodes, (side,) * ndim)
    windows = change_intensity(warp_images(images, warp)[:, :, 0], augmentation, draws=draws)
    points = to_voxels(frames.points[index.to(images.device)], side)
    return windows, to_shares(warp_points(points, warp)[:, 0], side)
