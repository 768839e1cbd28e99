"""Random geometry and intensity in tensors: parameters are drawn apart from where they are applied.

A warp maps window offsets to image positions: position = centre + matrix @ offset + displacement(offset). Points go the
other way, by fixed-point iteration to well below a hundredth of a voxel.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .patches import sample_points, sample_windows


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; 0 switches one off. Flips never happen: they would swap left and right names.

    rotation_degrees, scale (share), stretch (share, per axis), shift_mm: uniform in +- the value. elastic_mm: standard
    deviation of the displacement at the nodes of a grid of elastic_nodes per axis. contrast (share), brightness, gamma
    (log), noise (standard deviation), all on intensities of 0..1.
    """

    rotation_degrees: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    shift_mm: float = 0.0
    elastic_mm: float = 0.0
    elastic_nodes: int = 5
    contrast: float = 0.0
    brightness: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0


@dataclass(frozen=True)
class Warp:
    """centres: (B, W, ndim) voxels. matrices: (B, W, ndim, ndim). nodes: (B, W, ndim, *nodes) voxels, or None."""

    centres: Tensor
    matrices: Tensor
    nodes: Tensor | None
    size: tuple[int, ...]


def random_matrices(count: int, ndim: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """(count, ndim, ndim) random rotation x scale x stretch."""
    angles = (2 * torch.rand(count, 3, generator=generator) - 1) * torch.deg2rad(
        torch.tensor(augmentation.rotation_degrees)
    )
    rotation = torch.eye(ndim).repeat(count, 1, 1)
    planes = [(0, 1)] if ndim == 2 else [(0, 1), (0, 2), (1, 2)]
    for i, (a, b) in enumerate(planes):
        turn = torch.eye(ndim).repeat(count, 1, 1)
        turn[:, a, a] = turn[:, b, b] = torch.cos(angles[:, i])
        turn[:, b, a] = torch.sin(angles[:, i])
        turn[:, a, b] = -turn[:, b, a]
        rotation = rotation @ turn
    scale = 1 + (2 * torch.rand(count, 1, generator=generator) - 1) * augmentation.scale
    stretch = 1 + (2 * torch.rand(count, ndim, generator=generator) - 1) * augmentation.stretch
    return rotation * (scale * stretch).unsqueeze(1)


def random_warp(
    centres: Tensor,
    size: Sequence[int],
    augmentation: Augmentation,
    *,
    spacing_mm: float,
    generator: torch.Generator,
) -> Warp:
    """A warp for each window around `centres` (B, W, ndim), shifts of the centres included."""
    batch, windows, ndim = centres.shape
    matrices = random_matrices(batch * windows, ndim, augmentation, generator).reshape(batch, windows, ndim, ndim)
    shift = (2 * torch.rand(batch, windows, ndim, generator=generator) - 1) * (augmentation.shift_mm / spacing_mm)
    nodes = None
    if augmentation.elastic_mm > 0:
        shape = (batch, windows, ndim) + (augmentation.elastic_nodes,) * ndim
        nodes = torch.randn(shape, generator=generator) * (augmentation.elastic_mm / spacing_mm)
        nodes = nodes.to(centres)
    return Warp(centres + shift.to(centres), matrices.to(centres), nodes, tuple(size))


def warp_images(images: Tensor, warp: Warp) -> Tensor:
    """(B, C, ...) float images -> (B, W, C, *size) warped windows."""
    displacement = None
    if warp.nodes is not None:
        batch, windows, ndim = warp.nodes.shape[:3]
        mode = "bilinear" if ndim == 2 else "trilinear"
        # align_corners=False, as in `sample_points`, so that points see the same field as voxels
        dense = F.interpolate(warp.nodes.flatten(0, 1), size=warp.size, mode=mode, align_corners=False)
        displacement = dense.movedim(1, -1).reshape(batch, windows, *warp.size, ndim)
    return sample_windows(images, warp.centres, warp.size, matrices=warp.matrices, displacement=displacement)


def warp_points(points: Tensor, warp: Warp, *, iterations: int = 12) -> Tensor:
    """(B, P, ndim) voxel coordinates in the images -> (B, W, P, ndim) voxel coordinates in every window."""
    extent = torch.tensor(warp.size[::-1], dtype=points.dtype, device=points.device)
    middle = (extent - 1) / 2
    inverse = torch.linalg.inv(warp.matrices)
    target = points.unsqueeze(1) - warp.centres.unsqueeze(2)
    offsets = torch.einsum("bwij,bwpj->bwpi", inverse, target)
    if warp.nodes is None:
        return offsets + middle
    nodes = warp.nodes.flatten(0, 1)
    ratio = nodes.shape[-1] / extent
    start = offsets
    for _ in range(iterations):
        at = (offsets + middle + 0.5) * ratio - 0.5
        moved = sample_points(nodes, at.flatten(0, 1)).transpose(1, 2).reshape(*points.shape[:1], -1, *points.shape[1:])
        offsets = start - torch.einsum("bwij,bwpj->bwpi", inverse, moved)
    return offsets + middle


def change_intensity(windows: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """(N, ...) intensities of about 0..1 with random contrast, brightness, gamma and noise per window."""
    count, device = len(windows), windows.device
    shape = (count,) + (1,) * (windows.ndim - 1)
    draw = (2 * torch.rand(3, count, generator=generator) - 1).to(device)
    if augmentation.gamma > 0:
        windows = windows.clamp(0, 1) ** torch.exp(draw[0] * augmentation.gamma).reshape(shape)
    if augmentation.contrast > 0 or augmentation.brightness > 0:
        gain = (1 + draw[1] * augmentation.contrast).reshape(shape)
        windows = (windows - 0.5) * gain + 0.5 + (draw[2] * augmentation.brightness).reshape(shape)
    if augmentation.noise > 0:
        noise = torch.randn(windows.shape, generator=generator).to(device)
        level = (torch.rand(count, generator=generator) * augmentation.noise).to(device).reshape(shape)
        windows = windows + noise * level
    if augmentation.cutout > 0:
        windows = _cut_out(windows, augmentation.cutout, generator)
    return windows


def _cut_out(windows: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """With probability `share`, a box of up to 0.4 of each side becomes the window's mean."""
    count, size = len(windows), windows.shape[2:]
    hit = torch.rand(count, generator=generator) < share
    inside = torch.ones(count, *size, dtype=torch.bool)
    for axis, length in enumerate(size):
        width = (0.1 + 0.3 * torch.rand(count, generator=generator)) * length
        start = torch.rand(count, generator=generator) * (length - width)
        ramp = torch.arange(length)
        along = (ramp >= start.unsqueeze(1)) & (ramp < (start + width).unsqueeze(1))
        inside &= along.reshape(count, *[length if i == axis else 1 for i in range(len(size))])
    mask = (inside & hit.reshape(-1, *[1] * len(size))).unsqueeze(1).to(windows.device)
    mean = windows.flatten(1).mean(dim=1).reshape(-1, *[1] * (windows.ndim - 1))
    return torch.where(mask, mean, windows)
