"""The SpatialConfiguration-Net: a map of where a landmark may be by what it looks like, times a map of where it may be
by what the other maps say. The second stands on a coarse grid, so that its large kernels cost little.

2019: Payer et al., "Integrating spatial configuration into heatmap regression based CNNs for landmark localization",
Medical Image Analysis 54. 2016: Payer et al., "Regressing heatmaps for multiple landmark localization using CNNs",
MICCAI. What the texts leave open is as in the authors' code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CONV, channels_last

SLOPE = 0.1  # of the leaky ReLU
SMALL = 1e-4  # standard deviation of the first weights of layers that give maps
AVERAGE_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Architecture:
    """generation: 2019 or 2016. width: channels of every layer but those that give maps.

    levels: resolutions of the local U-Net of 2019. dropout: share of the values dropped in each of them. spatial:
    whether the local maps are multiplied by spatial ones, which stand on a grid `spatial_stride` times coarser.
    """

    generation: int = 2019
    width: int = 128
    levels: int = 4
    dropout: float = 0.5
    spatial: bool = True
    spatial_stride: int = 16
    spatial_kernel: int = 11

    @property
    def multiple(self) -> int:
        """Voxels that the sides of an input are a multiple of."""
        return math.lcm(2 ** (self.levels - 1), self.spatial_stride)


class SpatialConfigurationNet(nn.Module):
    """(B, 1, ...) intensities of 0..1 -> maps (B, L, ...) float32 of the same size, whose peaks are the landmarks.

    sigma: (L,) voxels, of the Gaussians that the maps are taught; a weight like the others where it is learned.
    """

    def __init__(
        self, ndim: int, landmarks: int, architecture: Architecture, *, sigma_voxel: float, learned_sigma: bool
    ) -> None:
        super().__init__()
        first = architecture.generation == 2016
        self.local: nn.Module = (_local_2016 if first else LocalAppearance)(ndim, landmarks, architecture)
        self.spatial: nn.Module | None = None
        if architecture.spatial:
            self.spatial = (OtherLandmarks if first else _spatial_2019)(ndim, landmarks, architecture)
        self.stride = architecture.spatial_stride
        self.enlarging = "linear" if first else "cubic"
        self.sigma = nn.Parameter(torch.full((landmarks,), float(sigma_voxel)), requires_grad=learned_sigma)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, ...) -> (B, L, ...)."""
        local = self.local(channels_last(2 * x - 1))  # -1..1, as in both papers
        maps = local.float().contiguous()  # maps one after the other in memory are decoded several times faster
        if self.spatial is None:
            return maps
        coarse = self.spatial(AVERAGE_POOL[x.ndim - 2](maps, self.stride))
        with torch.autocast(x.device.type, enabled=False):
            return maps * enlarged(coarse.float(), self.stride, mode=self.enlarging)


class LocalAppearance(nn.Module):
    """The local maps of 2019: a U-Net of equal widths that adds where others concatenate. (B, 1, ...) -> (B, L, ...)"""

    def __init__(self, ndim: int, landmarks: int, architecture: Architecture) -> None:
        super().__init__()
        width, levels = architecture.width, architecture.levels
        self.first = _layer(ndim, 1, width, 3)
        self.down = nn.ModuleList(
            nn.Sequential(
                _layer(ndim, width, width, 3), nn.Dropout(architecture.dropout), _layer(ndim, width, width, 3)
            )
            for _ in range(levels)
        )
        self.across = nn.ModuleList(_layer(ndim, width, width, 3) for _ in range(levels))
        self.output = _maps(ndim, width, landmarks, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, ...) -> (B, L, ...), linear."""
        pool, mode = AVERAGE_POOL[x.ndim - 2], LINEAR[x.ndim - 2]
        x = self.first(x)
        skips: list[Tensor] = []
        for down, across in zip(self.down, self.across, strict=True):
            x = down(pool(x, 2).to(x.dtype) if skips else x)
            skips.append(across(x))
        x = skips.pop()
        while skips:
            x = F.interpolate(x, scale_factor=2.0, mode=mode).to(x.dtype).add_(skips.pop())
        return self.output(x)


class OtherLandmarks(nn.Module):
    """The spatial maps of 2016: one convolution, in which a landmark does not see its own local map."""

    others: Tensor

    def __init__(self, ndim: int, landmarks: int, architecture: Architecture) -> None:
        super().__init__()
        self.output: Any = _maps(ndim, landmarks, landmarks, architecture.spatial_kernel)
        # A landmark that is alone would see nothing at all, so that one sees itself.
        others = torch.ones(1, 1) if landmarks == 1 else 1 - torch.eye(landmarks)
        self.register_buffer("others", others.reshape(landmarks, landmarks, *[1] * ndim), persistent=False)

    def forward(self, local: Tensor) -> Tensor:
        """(B, L, ...) -> (B, L, ...), linear."""
        convolve = F.conv2d if local.ndim == 4 else F.conv3d
        weight = self.output.weight * self.others
        return convolve(local, weight, self.output.bias, padding=weight.shape[-1] // 2)


def enlarged(maps: Tensor, factor: int, *, mode: str) -> Tensor:
    """(B, L, ...) float maps with `factor` times the voxels per axis; mode: `linear` or `cubic`.

    The same as F.interpolate without aligned corners, but one small matrix product per axis; also cubic in 3D.
    """
    for axis in range(2, maps.ndim):
        matrix = _enlarging_matrix(maps.shape[axis], factor, mode).to(maps)
        maps = torch.movedim(torch.movedim(maps, axis, -1) @ matrix, -1, axis)
    return maps


def _enlarging_matrix(count: int, factor: int, mode: str) -> Tensor:
    """(count, factor * count): row k is what a 1 at place k becomes."""
    unit = torch.eye(count).reshape(count, 1, count, 1)
    size = (factor * count, 1)
    rows = F.interpolate(unit, size=size, mode="bicubic" if mode == "cubic" else "bilinear", align_corners=False)
    return rows.reshape(count, factor * count)


def _local_2016(ndim: int, landmarks: int, architecture: Architecture) -> nn.Sequential:
    """The local maps of 2016: three convolutions at full resolution and the layer of maps."""
    width = architecture.width
    layers = [_layer(ndim, before, width, 5, slope=0.0) for before in (1, width, width)]
    return nn.Sequential(*layers, _maps(ndim, width, landmarks, 5))


def _spatial_2019(ndim: int, landmarks: int, architecture: Architecture) -> nn.Sequential:
    """The spatial maps of 2019: three convolutions with large kernels and the layer of maps, in -1..1."""
    width, kernel = architecture.width, architecture.spatial_kernel
    layers = [_layer(ndim, before, width, kernel) for before in (landmarks, width, width)]
    return nn.Sequential(*layers, _maps(ndim, width, landmarks, kernel), nn.Tanh())


def _layer(ndim: int, inputs: int, outputs: int, kernel: int, *, slope: float = SLOPE) -> nn.Sequential:
    convolution = CONV[ndim](inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(convolution.weight, a=slope)  # type: ignore[arg-type]
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.LeakyReLU(slope, inplace=True))


def _maps(ndim: int, inputs: int, landmarks: int, kernel: int) -> nn.Module:
    """A linear layer that gives maps, so small at first that all are about 0."""
    convolution = CONV[ndim](inputs, landmarks, kernel, padding=kernel // 2)
    nn.init.trunc_normal_(convolution.weight, std=SMALL, a=-2 * SMALL, b=2 * SMALL)  # type: ignore[arg-type]
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return convolution


def tile_starts(count: int, window: int, step: int) -> Sequence[int]:
    """Where tiles of `window` voxels begin so that they cover `count`, `step` apart but for the last.

    >>> list(tile_starts(250, 128, 64))
    [0, 64, 122]
    """
    return [*range(0, max(count - window, 0), step), max(count - window, 0)]
