"""Images whose voxels are looked up where they lie, in whatever order and direction a file has stored them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landmark_challenge.images import Image, bounding_box_mm, oriented
from landmark_challenge.task import Intensity, Task

from .stopwatch import span
from .store import prepare

# Percentiles are taken from so many voxels of a grid: reading all of a large volume would cost more than the search.
SAMPLED_VOXELS = 2**18


@dataclass(frozen=True)
class Volumes:
    """Images of one size whose voxels lie in one flat tensor of any type, in whatever order and direction.

    first: (N,) address of the first voxel of each image. shape and strides: of the axes (z,) y, x in voxels; a stride
    may be negative. low, high: grey values that become 0 and 1. spacing_mm: isotropic. clip: there may be grey values
    beyond low and high.
    """

    values: Tensor
    first: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    low: float
    high: float
    spacing_mm: float
    clip: bool = False

    @classmethod
    def of(cls, images: Tensor, spacing_mm: float) -> "Volumes":
        """Prepared images (N, 1, (z,) y, x): 8 bits with 255 for intensity 1, or intensities as they are."""
        images = images.contiguous()
        every = torch.arange(len(images), device=images.device)
        high = 255.0 if images.dtype == torch.uint8 else 1.0
        shape, strides = tuple(images.shape[2:]), tuple(images.stride()[2:])
        return cls(images.reshape(-1), every * math.prod(shape), shape, strides, 0.0, high, spacing_mm)

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def extent_mm(self) -> Tensor:
        """(ndim,) from the first to the last voxel along x, y[, z]."""
        return torch.tensor(self.shape[::-1], dtype=torch.float32, device=self.values.device).sub(1) * self.spacing_mm

    def at(self, addresses: Tensor) -> Tensor:
        """Grey values, clipped, of the voxels at `addresses`."""
        found = torch.take(self.values, addresses).float()
        return found.clamp_(self.low, self.high) if self.clip else found

    def fetch(self, addresses: Tensor) -> None:
        """Bring voxels into the processor's cache: looked up apart, they are waited for together, not one by one.

        Rows of a patch in a large volume come from memory, which otherwise makes a walk there an eighth slower.
        """
        if self.values.device.type == "cpu":
            torch.take(self.values, addresses)

    def scaled(self, grey: Tensor) -> Tensor:
        """Intensities of 0..1, in place: once for every pixel is less than once for every voxel beside it."""
        return grey.sub_(self.low).mul_(1 / (self.high - self.low))


def open_volume(image: Image, task: Task, spacing_mm: float, *, device: torch.device) -> tuple[Volumes, np.ndarray]:
    """One image as `prepare` would show it, and (ndim,) LPS mm of the centre of its first voxel.

    A volume whose stored voxels are already those of the canonical grid, in any order, is not touched: voxels are
    looked up and scaled where a patch wants them, and percentiles come from a regular sample of them.
    """
    with span("resample"):
        stored = Image(np.ascontiguousarray(image.array), image.spacing_mm, image.origin_mm, image.direction)
        grid = oriented(stored)
        usable = grid.ndim == 3 and task.intensity.rule != "equalise" and _is_usable(stored.array)
        same_spacing = np.allclose(grid.spacing_mm, spacing_mm, rtol=0, atol=1e-9)
        aligned = same_spacing and np.allclose(grid.direction, np.eye(3), rtol=0, atol=1e-9)
        low, high = _grey_range(grid.array, task.intensity) if usable and aligned else (0.0, 0.0)
        if high > low:  # else hardly a voxel differs from the others, and `prepare` says what to make of it
            address = (grid.array.ctypes.data - stored.array.ctypes.data) // stored.array.itemsize
            strides = tuple(stride // stored.array.itemsize for stride in grid.array.strides)
            values = torch.from_numpy(stored.array.reshape(-1)).to(device)
            first = torch.tensor([address], device=device)
            volumes = Volumes(values, first, tuple(grid.array.shape), strides, low, high, spacing_mm, clip=True)
            return volumes, bounding_box_mm(grid)[0] + spacing_mm / 2
    prepared = prepare(image, task, spacing_mm)
    tensor = torch.from_numpy(np.ascontiguousarray(prepared.array))[None, None].to(device)
    return Volumes.of(tensor, spacing_mm), prepared.origin_mm


def _is_usable(array: np.ndarray) -> bool:
    """Whether PyTorch can look up values of this type without a copy."""
    return array.dtype in (np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64) and array.flags.writeable


def _grey_range(array: np.ndarray, intensity: Intensity) -> tuple[float, float]:
    """The grey values that become 0 and 1 by the task's rule."""
    if intensity.low is None or intensity.high is None:
        raise ValueError(f"rule {intensity.rule} without a range")
    if intensity.rule == "window":
        return intensity.low, intensity.high
    step = max(1, math.ceil((array.size / SAMPLED_VOXELS) ** (1 / array.ndim)))
    sampled = array[(slice(None, None, step),) * array.ndim].astype(np.float32)
    low, high = np.percentile(sampled, (intensity.low, intensity.high)).tolist()
    return low, high
