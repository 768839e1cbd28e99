"""The U-Net that methods share, in 2D and 3D (Ronneberger et al., MICCAI 2015; zero-padded, so that sizes stay)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CONV, channels_last, convolution


@dataclass(frozen=True)
class Architecture:
    """widths: channels of the levels, from full resolution down. convolutions: of each level, on either side.

    norm: batch normalisation after each convolution. dropout: share of the values that are dropped after each. narrow:
    features get the width of the level above before they are up-sampled (the original's up-convolution) or stay wide.
    """

    widths: tuple[int, ...]
    convolutions: int = 2
    norm: bool = True
    dropout: float = 0.0
    narrow: bool = True

    @property
    def multiple(self) -> int:
        """Voxels of full resolution in a voxel of the lowest level; inputs are multiples of it."""
        return int(2 ** (len(self.widths) - 1))


class UNet(nn.Module):
    """(B, inputs, ...) -> maps (B, outputs, ...) of the same size; the last layer computes in float32.

    Logits in bfloat16 would carry steps of a tenth into a softmax.
    """

    def __init__(self, ndim: int, outputs: int, architecture: Architecture, *, inputs: int = 1) -> None:
        super().__init__()
        widths = architecture.widths
        self.down = nn.ModuleList(
            _level(ndim, before, width, architecture) for before, width in zip((inputs, *widths), widths, strict=False)
        )
        self.narrow, self.up = nn.ModuleList(), nn.ModuleList()
        for width, below in pairwise(widths):
            kept = width if architecture.narrow else below
            self.narrow.append(CONV[ndim](below, width, 1) if architecture.narrow else nn.Identity())
            self.up.append(_level(ndim, width + kept, width, architecture))
        self.output = nn.Linear(widths[0], outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, outputs, ...) float32."""
        x = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            # one matrix product, which unlike a 1x1 convolution gives maps that lie one after the other in memory
            maps = self.output.weight.float() @ x.float().flatten(2) + self.output.bias.float().unsqueeze(-1)
        return maps.unflatten(2, x.shape[2:])

    def features(self, x: Tensor, *, added: Sequence[Tensor] = ()) -> Tensor:
        """(B, inputs, ...) -> (B, widths[0], ...), which the last layer reads.

        added: (B, width) to what the first convolutions of each level on the way down give, from full resolution down.
        """
        pool = F.max_pool2d if x.ndim == 4 else F.max_pool3d
        x = channels_last(x)
        skips: list[Tensor] = []
        for number, level in enumerate(self.down):
            x = level(pool(x, 2) if number else x)
            if added:
                x = x + added[number].to(x.dtype).reshape(*added[number].shape, *[1] * (x.ndim - 2))
            skips.append(x)
        skips.pop()
        for skip, narrow, level in reversed(list(zip(skips, self.narrow, self.up, strict=True))):
            x = F.interpolate(narrow(x), scale_factor=2.0, mode="nearest")
            x = level(torch.cat([skip, x], dim=1))
        return x


def _level(ndim: int, inputs: int, width: int, architecture: Architecture) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(architecture.convolutions):
        before = width if i else inputs
        if architecture.norm:
            layers.append(convolution(ndim, before, width))
        else:
            layers += [CONV[ndim](before, width, 3, padding=1), nn.ReLU(inplace=True)]
        if architecture.dropout > 0:
            layers.append(nn.Dropout(architecture.dropout))
    return nn.Sequential(*layers)
