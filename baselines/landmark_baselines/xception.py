"""Xception (Chollet, CVPR 2017, Fig. 5) up to its last features: depthwise separable convolutions with shortcuts.

The original is 2D; in 3D only the kernels change.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import CONV, NORM, channels_last

MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
STEM = (32, 64)
ENTRY = (128, 256, 728)
MIDDLE_BLOCKS = 8
EXIT = (728, 1024, 1536, 2048)


@dataclass(frozen=True)
class Architecture:
    """width multiplies the channels (to multiples of 8), depth the number of blocks of the middle flow."""

    width: float = 1.0
    depth: float = 1.0

    def channels(self, count: int) -> int:
        """The original's `count` channels at this width.

        >>> Architecture(width=0.25).channels(728)
        184
        """
        return max(8, round(count * self.width / 8) * 8)

    @property
    def features(self) -> int:
        """Channels of the last features."""
        return self.channels(EXIT[-1])

    @staticmethod
    def grid(side: int) -> int:
        """Cells per axis of the last features of an image of `side` voxels.

        >>> Architecture.grid(299)
        10
        """
        count = (side - 3) // 2 + 1 - 2
        for _ in (*ENTRY, EXIT):
            count = (count - 1) // 2 + 1
        return count


class SeparableBlock(nn.Module):
    """Separable convolutions of `widths` and a shortcut around them; `pool` halves the grid.

    first: the stem has already applied the ReLU that stands before every convolution of the other blocks.
    """

    def __init__(self, ndim: int, inputs: int, widths: tuple[int, ...], *, pool: bool, first: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = inputs
        for i, width in enumerate(widths):
            # Not in place: the shortcut takes the same input.
            layers += [] if first and i == 0 else [nn.ReLU()]
            layers += separable(ndim, before, width)
            before = width
        if pool:
            layers.append(MAX_POOL[ndim](3, stride=2, padding=1))
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if pool:
            self.shortcut = nn.Sequential(CONV[ndim](inputs, before, 1, stride=2, bias=False), NORM[ndim](before))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, widths[-1], ...)."""
        return torch.add(self.body(x), self.shortcut(x))


def separable(ndim: int, inputs: int, outputs: int) -> list[nn.Module]:
    """A 3x3 convolution of each channel alone, a 1x1 convolution across them, batch normalisation.

    Nothing lies between the two convolutions (section 4.7).
    """
    return [
        CONV[ndim](inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        CONV[ndim](inputs, outputs, 1, bias=False),
        NORM[ndim](outputs),
    ]


class Xception(nn.Sequential):
    """(B, inputs, ...) -> (B, features, *grid): entry, middle and exit flow, without pooling and dense layers."""

    def __init__(self, ndim: int, architecture: Architecture, *, inputs: int = 1) -> None:
        wide = architecture.channels
        narrow, first = (wide(count) for count in STEM)
        layers: list[nn.Module] = [
            # Unpadded, as in the author's code; the text does not say.
            nn.Sequential(CONV[ndim](inputs, narrow, 3, stride=2, bias=False), NORM[ndim](narrow), nn.ReLU()),
            nn.Sequential(CONV[ndim](narrow, first, 3, bias=False), NORM[ndim](first), nn.ReLU()),
        ]
        before = first
        for i, count in enumerate(ENTRY):
            layers.append(SeparableBlock(ndim, before, (wide(count),) * 2, pool=True, first=i == 0))
            before = wide(count)
        blocks = round(MIDDLE_BLOCKS * architecture.depth)
        layers += [SeparableBlock(ndim, before, (before,) * 3, pool=False) for _ in range(blocks)]
        layers.append(SeparableBlock(ndim, before, (wide(EXIT[0]), wide(EXIT[1])), pool=True))
        before = wide(EXIT[1])
        for count in EXIT[2:]:
            layers.append(nn.Sequential(*separable(ndim, before, wide(count)), nn.ReLU()))
            before = wide(count)
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, features, *grid)."""
        features: Tensor = super().forward(channels_last(x))
        return features
