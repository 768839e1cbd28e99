"""Random geometry and intensity in tensors: parameters are drawn apart from where they are applied.

A warp maps window offsets to image positions: position = centre + matrix @ offset + displacement(offset). Points go the
other way, by fixed-point iteration to well below a hundredth of a voxel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .grids import on_device
from .patches import sample_points, sample_windows
from .store import Store
from .training import cases_at


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


# Random similarity, stretch and smooth deformation beside changes of grey values: 140 images are few.
FEW_IMAGES = Augmentation(
    rotation_degrees=12,
    scale=0.15,
    stretch=0.08,
    elastic_mm=1.5,
    contrast=0.3,
    brightness=0.15,
    gamma=0.4,
    noise=0.05,
)


# Share of the distance between its nodes up to which a random field hardly ever folds: 99 % of the points in windows
# with such fields are found again to within 0.3 % of that distance; with a share of 0.3 it is to within 24 %.
WITHOUT_FOLDS = 0.2


def without_folds(augmentation: Augmentation, extent_mm: float) -> Augmentation:
    """The augmentation for windows whose shortest side is `extent_mm`: as it is, but for an elastic field that folds.

    Where a field folds, a window shows a point of the image several times, and no label is right.

    >>> without_folds(FEW_IMAGES, 40.0).elastic_mm, without_folds(FEW_IMAGES, 12.5).elastic_mm
    (1.5, 0.5)
    """
    limit = WITHOUT_FOLDS * extent_mm / augmentation.elastic_nodes
    return replace(augmentation, elastic_mm=min(augmentation.elastic_mm, limit))


@dataclass(frozen=True)
class Draws:
    """Random numbers for a batch, one generator per case, so that a case's numbers do not depend on its batch."""

    generators: Sequence[torch.Generator]

    @classmethod
    def of(cls, seed: int, positions: Sequence[int]) -> "Draws":
        """Draws for the cases that stand at `positions` in the order of training."""
        seeds = [(seed * 1_000_003 + position * 7919 + 12345) % (2**63) for position in positions]
        return cls([torch.Generator().manual_seed(value) for value in seeds])

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in 0..1."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self.generators])

    def symmetric(self, *shape: int) -> Tensor:
        """(B, *shape) in -1..1."""
        return 2 * self.uniform(*shape) - 1

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) of mean 0 and standard deviation 1."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])

    def noise(self, *shape: int, device: torch.device) -> Tensor:
        """(B, *shape) as `normal`, for as many numbers as voxels: a GPU draws its own, other ones."""
        if device.type == "cpu":
            return self.normal(*shape)
        there = [torch.Generator(device).manual_seed(generator.initial_seed()) for generator in self.generators]
        return torch.stack([torch.randn(shape, device=device, generator=generator) for generator in there])


@dataclass(frozen=True)
class Warp:
    """centres: (B, W, ndim) voxels. matrices: (B, W, ndim, ndim). nodes: (B, W, ndim, *nodes) voxels, or None."""

    centres: Tensor
    matrices: Tensor
    nodes: Tensor | None
    size: tuple[int, ...]


def random_matrices(windows: int, ndim: int, augmentation: Augmentation, draws: Draws) -> Tensor:
    """(B, windows, ndim, ndim) random rotation x scale x stretch."""
    angles = draws.symmetric(windows, 3) * math.radians(augmentation.rotation_degrees)
    rotation = torch.eye(ndim).expand(len(angles), windows, ndim, ndim)
    planes = [(0, 1)] if ndim == 2 else [(0, 1), (0, 2), (1, 2)]
    for i, (a, b) in enumerate(planes):
        turn = torch.eye(ndim).repeat(len(angles), windows, 1, 1)
        turn[..., a, a] = turn[..., b, b] = torch.cos(angles[..., i])
        turn[..., b, a] = torch.sin(angles[..., i])
        turn[..., a, b] = -turn[..., b, a]
        rotation = rotation @ turn
    scale = 1 + draws.symmetric(windows, 1) * augmentation.scale
    stretch = 1 + draws.symmetric(windows, ndim) * augmentation.stretch
    return rotation * (scale * stretch).unsqueeze(-2)


def random_warp(
    centres: Tensor, size: Sequence[int], augmentation: Augmentation, *, spacing_mm: float, draws: Draws
) -> Warp:
    """A warp for each window around `centres` (B, W, ndim), shifts of the centres included."""
    _, windows, ndim = centres.shape
    matrices = random_matrices(windows, ndim, augmentation, draws)
    shift = draws.symmetric(windows, ndim) * (augmentation.shift_mm / spacing_mm)
    nodes = None
    if augmentation.elastic_mm > 0:
        shape = (windows, ndim) + (augmentation.elastic_nodes,) * ndim
        nodes = on_device(draws.normal(*shape), centres) * (augmentation.elastic_mm / spacing_mm)
    return Warp(centres + on_device(shift, centres), on_device(matrices, centres), nodes, tuple(size))


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
    extent = on_device(warp.size[::-1], points)
    middle = (extent - 1) / 2
    inverse = torch.linalg.inv_ex(warp.matrices).inverse  # `inv` would wait for a GPU to look for singular ones
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


def image_positions(positions: Tensor, warp: Warp) -> Tensor:
    """(B, P, ndim) voxel coordinates in the first window of each image -> the image positions that are shown there.

    The inverse of `warp_points`; gradients pass.
    """
    extent = on_device(warp.size[::-1], positions)
    offsets = positions - (extent - 1) / 2
    there = warp.centres[:, :1] + torch.einsum("bij,bpj->bpi", warp.matrices[:, 0], offsets)
    if warp.nodes is None:
        return there
    nodes = warp.nodes[:, 0]
    return there + sample_points(nodes, (positions + 0.5) * (nodes.shape[-1] / extent) - 0.5).transpose(1, 2)


def change_intensity(windows: Tensor, augmentation: Augmentation, *, draws: Draws) -> Tensor:
    """(B, W, *size) intensities of about 0..1 with random contrast, brightness, gamma and noise per window."""
    count, size = windows.shape[1], windows.shape[2:]
    gamma, contrast, brightness = (
        on_device(part.reshape(*windows.shape[:2], *[1] * len(size)), windows)
        for part in draws.symmetric(count, 3).unbind(dim=-1)
    )
    if augmentation.gamma > 0:
        windows = windows.clamp(0, 1) ** torch.exp(gamma * augmentation.gamma)
    if augmentation.contrast > 0 or augmentation.brightness > 0:
        windows = (windows - 0.5) * (1 + contrast * augmentation.contrast) + 0.5 + brightness * augmentation.brightness
    if augmentation.noise > 0:
        level = on_device(draws.uniform(count, *[1] * len(size)), windows) * augmentation.noise
        windows = windows + draws.noise(count, *size, device=windows.device).to(windows.dtype) * level
    if augmentation.cutout > 0:
        windows = _cut_out(windows, augmentation.cutout, draws)
    return windows


def augmented_batch(
    store: Store,
    positions: Sequence[int],
    *,
    augmentation: Augmentation,
    multiple: int,
    window: int = 0,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Images at `positions` of the order of training, changed at random: (B, 1, *size) and their (B, L, ndim) points.

    size: of the store's images, up to a `multiple` of voxels; with `window` at most that, anywhere in the image.
    """
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(store), seed=seed)
    images = store.batch(index)
    shape = on_device(images.shape[:1:-1], images)
    centres = ((shape - 1) / 2).expand(len(index), 1, -1)
    size = tuple(count + -count % multiple for count in images.shape[2:])
    if window:
        size = tuple(min(window, count) for count in size)
        room = (shape - on_device(size[::-1], images)).clamp(min=0)
        centres = centres + on_device(draws.symmetric(1, images.ndim - 2), images) / 2 * room
    warp = random_warp(centres, size, augmentation, spacing_mm=store.spacing_mm, draws=draws)
    windows = change_intensity(warp_images(images, warp)[:, :, 0], augmentation, draws=draws)
    return windows, warp_points(store.points_of(index), warp)[:, 0]


def _cut_out(windows: Tensor, share: float, draws: Draws) -> Tensor:
    """With probability `share`, a box of up to 0.4 of each side becomes the window's mean."""
    count, size = windows.shape[1], windows.shape[2:]
    flat = [1] * len(size)
    inside = (draws.uniform(count, *flat) < share).expand(*windows.shape).clone()
    for axis, length in enumerate(size):
        width = (0.1 + 0.3 * draws.uniform(count, *flat)) * length
        start = draws.uniform(count, *flat) * (length - width)
        ramp = torch.arange(length).reshape([length if i == axis else 1 for i in range(len(size))])
        inside &= (ramp >= start) & (ramp < start + width)
    mean = windows.flatten(2).mean(dim=-1).reshape(*windows.shape[:2], *flat)
    return torch.where(inside.to(windows.device, non_blocking=True), mean, windows)
