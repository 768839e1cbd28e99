"""Tensor grids: cells, their centres, and points in voxel coordinates (the conversions of index space, once).

A voxel coordinate is 0-based in the order x, y[, z] with voxel centres at integers. A cell k of `stride` voxels covers
the half-open range [stride*k - 0.5, stride*(k+1) - 0.5) and has its centre at stride*(k + 0.5) - 0.5.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_centres(shape: Sequence[int], stride: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(ndim, *shape) voxel coordinates x, y[, z] of the centres of a grid of cells; shape is (z,) y, x.

    >>> cell_centres((1, 2), 8)[0].tolist()
    [[3.5, 11.5]]
    """
    axes = [torch.arange(count, device=device, dtype=torch.float32) * stride + (stride - 1) / 2 for count in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])


def on_device(values: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """Values in the type and on the device of a tensor, without waiting for what a GPU has still to do."""
    return torch.as_tensor(values).to(like, non_blocking=like.is_cuda)


def cell_of(points: Tensor, shape: Sequence[int], stride: int) -> tuple[Tensor, Tensor]:
    """Which cell holds each point: (..., ndim) voxel coordinates -> (...) flat cell index and (...) whether inside.

    A point that is NaN or outside the grid is not inside; its index is 0.
    """
    index = torch.floor((points + 0.5) / stride)
    limits = on_device(list(shape)[::-1], index)
    inside = ((index >= 0) & (index < limits)).all(dim=-1)
    index = torch.where(inside.unsqueeze(-1), index, torch.zeros_like(index)).long()
    flat = torch.zeros(index.shape[:-1], dtype=torch.long, device=points.device)
    for axis in range(len(shape) - 1, -1, -1):
        flat = flat * shape[len(shape) - 1 - axis] + index[..., axis]
    return flat, inside


def rescale(points: Tensor, *, spacing_from: float, spacing_to: float) -> Tensor:
    """Voxel coordinates of one grid in another that shares its outer lower corner, as canonical grids do.

    >>> rescale(torch.tensor([3.5]), spacing_from=0.1, spacing_to=0.8).round(decimals=4).tolist()
    [0.0]
    """
    ratio = spacing_from / spacing_to
    return (points + 0.5) * ratio - 0.5
