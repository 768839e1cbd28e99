"""Heatmaps: Gaussians rendered from points, and points decoded from maps to a fraction of a voxel.

Maps are (B, L, (z,) y, x); points are (B, L, ndim) voxel coordinates x, y[, z], 0-based with voxel centres at integers:
a point between two voxels lies at a half. A Gaussian is separable: it is kept as one factor per axis where it can be.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor


def gaussian_factors(
    points: Tensor, shape: Sequence[int], sigma_voxel: float | Tensor, *, normalised: bool = False
) -> list[Tensor]:
    """One (B, L, count) factor per axis of `shape` ((z,) y, x), whose outer product is the Gaussian around each point.

    sigma_voxel: one for all, or (L,) or (B, L); gradients pass. The peak is 1, or with `normalised` the sum over the
    grid. A point with NaN gives zeros.

    >>> [factor.tolist() for factor in gaussian_factors(torch.tensor([[[1.0, 0.0]]]), (1, 2), 1.0)]
    [[[[1.0]]], [[[0.6065306663513184, 1.0]]]]
    """
    known = torch.isfinite(points).all(dim=-1, keepdim=True)
    at = torch.nan_to_num(points)
    sigma = torch.as_tensor(sigma_voxel, dtype=at.dtype, device=at.device).expand(at.shape[:2]).unsqueeze(-1)
    factors = []
    for axis, count in enumerate(reversed(shape)):
        ramp = torch.arange(count, dtype=at.dtype, device=at.device)
        exponent = -0.5 * ((ramp - at[..., axis, None]) / sigma).square()
        factors.append((exponent.softmax(dim=-1) if normalised else exponent.exp()) * known)
    return factors[::-1]


def render_gaussians(
    points: Tensor, shape: Sequence[int], sigma_voxel: float | Tensor, *, normalised: bool = False
) -> Tensor:
    """(B, L, *shape): the outer product of `gaussian_factors`."""
    first, *rest = gaussian_factors(points, shape, sigma_voxel, normalised=normalised)
    maps = first
    for factor in rest:
        maps = maps.unsqueeze(-1) * factor.reshape(*factor.shape[:2], *[1] * (maps.ndim - 2), -1)
    return maps


def weighted_sum(maps: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """(B, L): the sum over the grid of `maps` times the outer product of `factors`, which is never built."""
    for factor in reversed(factors):
        maps = torch.einsum("bl...x,blx->bl...", maps, factor)
    return maps


def argmax_points(maps: Tensor) -> Tensor:
    """The voxel of the largest value: up to half a voxel off along every axis."""
    return _argmax_index(maps).to(maps.dtype)


def quadratic_points(maps: Tensor) -> Tensor:
    """The top of the paraboloid through the logarithms around the arg-max, exact for a Gaussian of any orientation.

    Where a value there is not positive, the values themselves are taken. The arg-max stays along an axis on whose
    border it lies, and where the paraboloid has no top within a voxel. Zhang et al., CVPR 2020, section 3.2.
    """
    peak = _argmax_index(maps)
    ndim = peak.shape[-1]
    patch = _windows(maps, peak, 1)[0].flatten(2)
    tiny = torch.finfo(maps.dtype).tiny
    patch = torch.where((patch > tiny).all(dim=-1, keepdim=True), patch.clamp(min=tiny).log(), patch)
    slope = torch.stack([patch @ _derivative(ndim, i).to(patch) for i in range(ndim)], dim=-1)
    rows = [[patch @ _derivative(ndim, i, j).to(patch) for j in range(ndim)] for i in range(ndim)]
    curvature = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    limits = torch.tensor(maps.shape[:1:-1], device=maps.device) - 1
    free = (peak > 0) & (peak < limits)
    slope = torch.where(free, slope, 0)
    unit = torch.eye(ndim, dtype=maps.dtype, device=maps.device)
    curvature = torch.where(free.unsqueeze(-1) & free.unsqueeze(-2), curvature, -unit)
    offset = -torch.linalg.solve_ex(curvature, slope.unsqueeze(-1)).result.squeeze(-1)
    has_top = (offset.abs() <= 1).all(dim=-1, keepdim=True)  # NaN and infinity are not
    return peak + torch.where(has_top, offset, torch.zeros_like(offset))


def local_centre_of_mass(maps: Tensor, radius_voxel: int) -> Tensor:
    """The centre of mass of the values above 0 within `radius_voxel` of the arg-max along every axis.

    The window ends at the border of the map, which draws points beside the border inwards. A map without a value above
    0 gives its arg-max. See `window_radius` for Gaussians.
    """
    peak = _argmax_index(maps)
    window, inside = _windows(maps, peak, radius_voxel)
    weights = window.clamp(min=0) * inside
    steps = torch.arange(-radius_voxel, radius_voxel + 1, dtype=maps.dtype, device=maps.device)
    return peak + _mean(weights, [steps] * peak.shape[-1], otherwise=torch.zeros_like(peak, dtype=maps.dtype))


def centre_of_mass(maps: Tensor) -> Tensor:
    """The centre of mass of all values above 0, differentiable; the middle of a map that has none."""
    axes = [torch.arange(count, dtype=maps.dtype, device=maps.device) for count in maps.shape[:1:-1]]
    middle = torch.tensor([(count - 1) / 2 for count in maps.shape[:1:-1]], dtype=maps.dtype, device=maps.device)
    return _mean(maps.clamp(min=0), axes, otherwise=middle)


def window_radius(sigma_voxel: float) -> int:
    """The radius from which a local centre of mass finds a Gaussian to a hundredth of a voxel: 3.3 sigma."""
    return max(1, math.ceil(3.3 * sigma_voxel))


def second_moments(maps: Tensor, points: Tensor) -> Tensor:
    """(B, L, ndim, ndim) voxel^2: the second moments around `points` of maps that sum to 1; symmetric."""
    ndim = points.shape[-1]
    offsets = []
    for axis, count in enumerate(maps.shape[:1:-1]):
        offsets.append(torch.arange(count, dtype=maps.dtype, device=maps.device) - points[..., axis, None])
    moments = maps.new_zeros(*points.shape, ndim)
    for i in range(ndim):
        for j in range(i, ndim):
            marginal = _marginal(maps, {i, j})
            if i == j:
                value = (marginal * offsets[i].square()).sum(dim=-1)
            else:
                value = torch.einsum("blji,blj,bli->bl", marginal, offsets[j], offsets[i])
            moments[..., i, j] = moments[..., j, i] = value
    return moments


# By name: maps and the sigma of the Gaussians that they were taught -> points.
DECODERS: Mapping[str, Callable[[Tensor, float], Tensor]] = MappingProxyType(
    {
        "argmax": lambda maps, _: argmax_points(maps),
        "quadratic": lambda maps, _: quadratic_points(maps),
        "local": lambda maps, sigma_voxel: local_centre_of_mass(maps, window_radius(sigma_voxel)),
        "whole": lambda maps, _: centre_of_mass(maps),
    }
)


def _argmax_index(maps: Tensor) -> Tensor:
    """(B, L, ndim) int64 x, y[, z]; axis by axis, since the largest value is found faster than its place."""
    levels = [maps]
    for _ in range(maps.ndim - 3):
        levels.append(levels[-1].amax(dim=-1))
    index: list[Tensor] = []
    for level in reversed(levels):  # z, y, x: the first level has one value per slice, the last is the map
        line = level
        for known in index:
            line = line.gather(
                2, known.reshape(*known.shape, *[1] * (line.ndim - 2)).expand(-1, -1, 1, *line.shape[3:])
            )
            line = line.squeeze(2)
        index.append(line.argmax(dim=-1))
    return torch.stack(index[::-1], dim=-1)


def _derivative(ndim: int, *axes: int) -> Tensor:
    """(3^ndim,) central differences along `axes` (0 for x), as weights of the values of a 3x3(x3) patch."""
    kernels = {0: [0.0, 1.0, 0.0], 1: [-0.5, 0.0, 0.5], 2: [1.0, -2.0, 1.0]}
    product = torch.ones(())
    for axis in reversed(range(ndim)):
        product = product.unsqueeze(-1) * torch.tensor(kernels[axes.count(axis)])
    return product.flatten()


def _windows(maps: Tensor, centres: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """(B, L, K, ...) values of the K = 2 radius + 1 voxels around integer `centres` per axis, border values outside;
    and which of them are inside.
    """
    steps = torch.arange(-radius, radius + 1, device=maps.device)
    flat = torch.zeros((), dtype=torch.long, device=maps.device)
    inside = torch.ones((), dtype=torch.bool, device=maps.device)
    stride, ndim = 1, centres.shape[-1]
    for axis, count in enumerate(maps.shape[:1:-1]):
        index = centres[..., axis, None] + steps
        place = [len(steps) if axis == ndim - 1 - other else 1 for other in range(ndim)]
        flat = flat + (index.clamp(0, count - 1) * stride).reshape(*index.shape[:2], *place)
        inside = inside & ((index >= 0) & (index < count)).reshape(*index.shape[:2], *place)
        stride *= count
    values = maps.flatten(2).gather(2, flat.flatten(2))
    return values.reshape(flat.shape), inside


def _marginal(maps: Tensor, axes: set[int]) -> Tensor:
    """The sum over all axes but `axes` (0 for x); those kept stay in the order (z,) y, x."""
    others = [maps.ndim - 1 - axis for axis in range(maps.ndim - 2) if axis not in axes]
    return maps.sum(dim=others) if others else maps


def _mean(weights: Tensor, axes: Sequence[Tensor], *, otherwise: Tensor) -> Tensor:
    """(B, L, ndim) mean position by weight; `otherwise` where all weights are 0."""
    total = weights.flatten(2).sum(dim=-1, keepdim=True)
    sums = torch.stack([(_marginal(weights, {axis}) * steps).sum(dim=-1) for axis, steps in enumerate(axes)], dim=-1)
    return torch.where(total > 0, sums / torch.where(total > 0, total, torch.ones_like(total)), otherwise)
