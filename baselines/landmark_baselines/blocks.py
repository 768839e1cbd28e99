"""Layers that the methods share, in 2D and 3D."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
AVERAGE_POOL: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def convolution(
    ndim: int, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    """Zero-padded convolution, batch normalisation and, if wanted, ReLU."""
    layers = [
        CONV[ndim](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        NORM[ndim](outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class ResidualPair(nn.Module):
    """Two convolutions with a shortcut (ResNet34); where the width changes the shortcut is a 1x1 convolution."""

    def __init__(self, ndim: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(ndim, inputs, outputs), convolution(ndim, outputs, outputs, relu=False))
        self.shortcut = nn.Identity() if inputs == outputs else convolution(ndim, inputs, outputs, kernel=1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, outputs, ...)."""
        return torch.relu_(self.body(x) + self.shortcut(x))


def residual_block(ndim: int, inputs: int, width: int, *, pairs: int, pool: bool) -> nn.Sequential:
    """A ResNet block of `pairs` pairs of convolutions, after an average pool of 2 where `pool`."""
    layers: list[nn.Module] = [AVERAGE_POOL[ndim](2)] if pool else []
    layers += [ResidualPair(ndim, inputs if i == 0 else width, width) for i in range(pairs)]
    return nn.Sequential(*layers)


def dense_head(ndim: int, inputs: int, nodes: Sequence[int], outputs: int) -> nn.Sequential:
    """Dense layers as 1x1 convolutions with batch normalisation and ReLU, and a linear output layer."""
    widths = [inputs, *nodes]
    layers = [convolution(ndim, a, b, kernel=1) for a, b in zip(widths, nodes, strict=False)]
    return nn.Sequential(*layers, CONV[ndim](widths[-1], outputs, 1))


def parameter_count(module: nn.Module) -> int:
    """Number of trained weights."""
    return sum(parameter.numel() for parameter in module.parameters())
