"""Windows of images at any position, orientation and scale, sampled in one batched linear call."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .grids import on_device


def window_grid(size: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """(*size, ndim) offsets x, y[, z] in voxels from the centre of a window; size is (z,) y, x."""
    axes = [torch.arange(count, device=device, dtype=torch.float32) - (count - 1) / 2 for count in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)


def padded(images: Tensor, multiple: int) -> Tensor:
    """(B, 1, ...) continued by its border at the far side to a multiple of voxels, so that no strip is dropped."""
    margins: list[int] = []
    for count in reversed(images.shape[2:]):
        margins += [0, -count % multiple]
    return F.pad(images, margins, mode="replicate") if any(margins) else images


def sample_windows(
    images: Tensor,
    centres: Tensor,
    size: Sequence[int],
    *,
    matrices: Tensor | None = None,
    displacement: Tensor | None = None,
) -> Tensor:
    """Sample windows by (bi/tri)linear interpolation; outside an image lies its border value.

    images: (B, C, (z,) y, x) float. centres: (B, W, ndim) voxel coordinates x, y[, z] of W windows in each image.
    size: (z,) y, x of a window. matrices: (B, W, ndim, ndim) from window offsets to image offsets, default identity.
    displacement: (B, W, *size, ndim) added in image voxels. Returns (B, W, C, *size).
    """
    batch, windows, ndim = centres.shape
    offsets = window_grid(size, device=images.device).to(centres.dtype).reshape(-1, ndim)
    if matrices is None:
        positions = centres.unsqueeze(2) + offsets
    else:
        positions = centres.unsqueeze(2) + torch.einsum("pj,bwij->bwpi", offsets, matrices)
    if displacement is not None:
        positions = positions + displacement.reshape(batch, windows, -1, ndim)
    sampled = sample_points(images, positions.reshape(batch, -1, ndim))
    sampled = sampled.reshape(batch, images.shape[1], windows, *size)
    return sampled.transpose(1, 2)


def sample_points(images: Tensor, positions: Tensor) -> Tensor:
    """(B, C, (z,) y, x) at (B, P, ndim) voxel coordinates x, y[, z] -> (B, C, P), linear, border value outside."""
    ndim = positions.shape[-1]
    extent = on_device(list(images.shape[2:])[::-1], positions)
    normalised = (2 * positions + 1) / extent - 1  # the half-pixel convention of align_corners=False
    grid = normalised.reshape(len(images), *([1] * (ndim - 1)), -1, ndim)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.reshape(len(images), images.shape[1], -1)
