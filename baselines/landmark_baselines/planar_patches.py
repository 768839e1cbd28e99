"""Patches at any fractional position: three orthogonal planes of a volume (2.5D), pictures (2D) and boxes (3D).

Any number of points in any number of images are sampled in one batched linear interpolation. Positions are millimetres
from the centre of an image's first voxel along its axes x, y[, z]. Patches parallel to the axes are blended from the
voxels beside them axis by axis, so that their cost does not depend on the size of the image.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .volumes import Volumes

OUTSIDE = ("border", "zero")
# Voxels looked up at once: a chunk stays in the processor's cache, and a graphics card gets enough to do.
CHUNK = {"cpu": 600_000, "cuda": 60_000_000}
ROW_STEP = 48  # voxels of a row between those that are looked up ahead: of 8 bits, about a cache line


@dataclass(frozen=True)
class PatchShape:
    """size: pixels along each side. pitch_mm: from pixel to pixel. outside: what lies outside an image, `border` (its
    outermost voxels go on) or `zero`. box: the whole surroundings of a point of a volume, not three planes through it.
    """

    size: int
    pitch_mm: float
    outside: str = "border"
    box: bool = False

    def axes(self, ndim: int) -> list[tuple[int, ...]]:
        """The axes (0 x, 1 y, 2 z) that each channel spans, slowest first: planes yz, xz and xy, or everything."""
        if ndim == 2 or self.box:
            return [tuple(range(ndim))[::-1]]
        return [(2, 1), (2, 0), (1, 0)]

    def offsets_mm(self, ndim: int, device: torch.device) -> Tensor:
        """(channels, *size, ndim) of the pixels from the centre of the patch, x, y[, z]."""
        steps = (torch.arange(self.size, device=device, dtype=torch.float32) - (self.size - 1) / 2) * self.pitch_mm
        channels = []
        for axes in self.axes(ndim):
            offsets = torch.zeros(*[self.size] * len(axes), ndim, device=device)
            for place, axis in enumerate(axes):
                offsets[..., axis] = steps.reshape([-1 if i == place else 1 for i in range(len(axes))])
            channels.append(offsets)
        return torch.stack(channels)


def sample_patches(volumes: Volumes, which: Tensor, centres_mm: Tensor, shape: PatchShape) -> Tensor:
    """Patches parallel to the axes.

    which: (P,) the image of each point. centres_mm: (P, ndim). Returns (P, channels, *size) intensities of 0..1.
    """
    centres = centres_mm / volumes.spacing_mm
    step = shape.pitch_mm / volumes.spacing_mm
    return torch.stack([_spanned(volumes, which, centres, axes, shape, step) for axes in shape.axes(volumes.ndim)], 1)


def _spanned(
    volumes: Volumes, which: Tensor, centres: Tensor, spanned: tuple[int, ...], shape: PatchShape, step: float
) -> Tensor:
    """(P, *size) one channel of patches around `centres` (P, ndim) voxels; axes not among `spanned` have one pixel."""
    order = [axis for axis in range(volumes.ndim) if axis not in spanned] + list(spanned)
    counts = [shape.size if axis in spanned else 1 for axis in order]
    out = torch.empty(len(centres), *[shape.size] * len(spanned), device=centres.device)
    looked_up = math.prod(count + 1 if step == 1 else 2 * count for count in counts)
    for part in _chunks(len(centres), looked_up, centres.device):
        address = volumes.first[which[part]].reshape(-1, *[1] * len(order))
        shares, inside = [], torch.ones_like(address, dtype=torch.bool)
        for place, (axis, count) in enumerate(zip(order, counts, strict=True)):
            row = volumes.ndim - 1 - axis
            form = [-1 if i == place else 1 for i in range(len(order))]
            index, share = _beside(centres[part, axis], count, step)
            held = index.clamp(0, volumes.shape[row] - 1)
            if shape.outside == "zero":
                inside = inside & (held == index).reshape(len(index), *form)
            along = (held * volumes.strides[row]).reshape(len(index), *form)
            if abs(volumes.strides[row]) == 1 and place == len(order) - 1:
                volumes.fetch(address + along[..., ::ROW_STEP])
            address = address + along
            shares.append(share.reshape(len(index), *form))
        found = volumes.at(address)
        if shape.outside == "zero":
            found.masked_fill_(~inside, volumes.low)
        for place, share in enumerate(shares, 1):
            length = found.shape[place]
            if step == 1:
                pair = found.narrow(place, 0, length - 1), found.narrow(place, 1, length - 1)
            else:
                pair = found.unflatten(place, (-1, 2)).unbind(place + 1)
            found = torch.lerp(*pair, share)
        out[part] = volumes.scaled(found).reshape(out[part].shape)
    return out


def _beside(centre: Tensor, count: int, step: float) -> tuple[Tensor, Tensor]:
    """Along one axis: the voxels beside `count` pixels, `step` voxels apart, around `centre` (P,).

    index (P, n) runs through the voxels once where pixels are one voxel apart (n = count + 1), else the two of each
    pixel follow each other (n = 2 count); it may lie outside the image. share (P, count or 1): of the upper voxel.
    """
    start = centre - (count - 1) / 2 * step
    if step == 1:
        lower = start.floor()
        index = lower.long()[:, None] + torch.arange(count + 1, device=centre.device)
        return index, (start - lower)[:, None]
    positions = start[:, None] + torch.arange(count, device=centre.device) * step
    lower = positions.floor()
    below = lower.long()
    return torch.stack([below, below + 1], dim=-1).flatten(1), positions - lower


def sample_positions(volumes: Volumes, which: Tensor, positions_mm: Tensor, *, outside: str) -> Tensor:
    """Intensities (P, n) at any positions (P, n, ndim) in mm of the images `which` (P,)."""
    out = torch.empty(positions_mm.shape[:-1], device=positions_mm.device)
    for part in _chunks(len(positions_mm), 2**volumes.ndim * out.shape[1], positions_mm.device):
        # The corners around a position: the lower one, then, axis after axis, all of them and all of them one up.
        address, ups, shares = volumes.first[which[part], None], [], []
        inside = [torch.ones((), dtype=torch.bool, device=address.device)]
        for axis, position in enumerate((positions_mm[part] / volumes.spacing_mm).movedim(-1, 0).contiguous()):
            last, stride = volumes.shape[-1 - axis] - 1, volumes.strides[-1 - axis]
            lower = position.floor()
            below = lower.long()
            held, above = below.clamp(0, last), (below + 1).clamp(0, last)
            address = address + held * stride
            ups.append((above - held) * stride)
            shares.append((position - lower).float())
            if outside == "zero":
                there = (held == below, above == below + 1)
                inside = [other & own for own in there for other in inside]
        corners = [address]
        for up in ups:
            corners += [corner + up for corner in corners]
        found = [volumes.at(corner) for corner in corners]
        if outside == "zero":
            for values, within in zip(found, inside, strict=True):
                values.masked_fill_(~within, volumes.low)
        for share in reversed(shares):
            half = len(found) // 2
            found = [torch.lerp(lower, upper, share) for lower, upper in zip(found[:half], found[half:], strict=True)]
        out[part] = volumes.scaled(found[0])
    return out


def sample_turned(
    volumes: Volumes, which: Tensor, centres_mm: Tensor, shape: PatchShape, *, matrices: Tensor
) -> Tensor:
    """As `sample_patches`, the offsets of pixels turned and stretched by `matrices` (P, ndim, ndim)."""
    offsets = shape.offsets_mm(volumes.ndim, centres_mm.device)
    turned = torch.einsum("nj,pij->pni", offsets.reshape(-1, volumes.ndim), matrices)
    found = sample_positions(volumes, which, centres_mm[:, None] + turned, outside=shape.outside)
    return found.reshape(len(centres_mm), *offsets.shape[:-1])


def _chunks(count: int, each: int, device: torch.device) -> Iterator[slice]:
    size = max(1, CHUNK.get(device.type, CHUNK["cpu"]) // each)
    for start in range(0, count, size):
        yield slice(start, start + size)
