"""Layers that the methods share, in 2D and 3D."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from . import fused


class _RightOnSmallGrids(nn.Module):
    """A convolution, before whose class it stands, gets the right gradient on small grids too; see `wants_float32`."""

    kernel_size: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        if not wants_float32(x, self.kernel_size):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class Convolution2d(_RightOnSmallGrids, nn.Conv2d):
    """`nn.Conv2d`, its weights' gradient right on small grids too."""


class Convolution3d(_RightOnSmallGrids, nn.Conv3d):
    """`nn.Conv3d`, its weights' gradient right on small grids too."""


def wants_float32(x: Tensor, kernel: Sequence[int]) -> bool:
    """Whether a CPU's bfloat16 gradients of weights are wrong: in training, on a grid smaller than the kernel.

    There oneDNN (as of PyTorch 2.13) leaves memory as it was in some of them: 1e30 or NaN, which gradient clipping then
    makes the only gradient. Seen for depths of 2 with a kernel of 3, and for a width of 1 with a stride of 2.
    """
    small = any(count < size for count, size in zip(x.shape[2:], kernel, strict=True))
    return small and torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")


CONV: dict[int, type[nn.Module]] = {2: Convolution2d, 3: Convolution3d}
NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def convolution(
    ndim: int, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, relu: bool = True, groups: int = 1
) -> nn.Sequential:
    """Zero-padded convolution, batch normalisation and, if wanted, ReLU."""
    layers = [
        CONV[ndim](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False, groups=groups),
        NORM[ndim](outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class ResidualPair(nn.Module):
    """Two convolutions with a shortcut (ResNet34); where the width changes the shortcut is a 1x1 convolution."""

    def __init__(self, ndim: int, inputs: int, outputs: int, *, groups: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(ndim, inputs, outputs, groups=groups),
            convolution(ndim, outputs, outputs, relu=False, groups=groups),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else convolution(ndim, inputs, outputs, kernel=1, relu=False, groups=groups)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, ...) -> (B, outputs, ...)."""
        first, second = self.body
        if not isinstance(second, fused.FusedConvolution):
            return torch.relu_(second(first(x)) + self.shortcut(x))
        return second(first(x), x.to(second.weight.dtype, copy=True) if self.plain else self.shortcut(x))

    @property
    def plain(self) -> bool:
        """Whether the shortcut leaves its input as it is."""
        return isinstance(self.shortcut, nn.Identity)

    def fuse(self) -> None:
        """Let the second convolution, its norm folded, add the shortcut and rectify by itself."""
        first, second = self.body
        layer = next(second.children())
        if fused.fusable(layer):
            self.body = nn.Sequential(first, fused.FusedConvolution(layer, relu=True))


class AveragePool(nn.Module):
    """The mean of every 2 voxels along each axis; a last odd one is left out.

    As in AvgPool2d and 3d, but the latter knows no channels-last: it would copy its input and its result.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same with half the size, channels-last."""
        if x.ndim == 4:
            return F.avg_pool2d(x, 2)
        even = x.shape[2] // 2 * 2
        flat = F.avg_pool2d(x.movedim(2, 1).flatten(0, 1), 2).unflatten(0, (len(x), x.shape[2]))
        return torch.add(flat[:, 0:even:2], flat[:, 1:even:2]).mul_(0.5).movedim(1, 2)


def residual_block(ndim: int, inputs: int, width: int, *, pairs: int, pool: bool, groups: int = 1) -> nn.Sequential:
    """A ResNet block of `pairs` pairs of convolutions, after an average pool of 2 where `pool`."""
    layers: list[nn.Module] = [AveragePool()] if pool else []
    layers += [ResidualPair(ndim, inputs if i == 0 else width, width, groups=groups) for i in range(pairs)]
    return nn.Sequential(*layers)


def dense_head(ndim: int, inputs: int, nodes: Sequence[int], outputs: int, *, groups: int = 1) -> nn.Sequential:
    """Dense layers as 1x1 convolutions with batch normalisation and ReLU, and a linear output layer."""
    widths = [inputs, *nodes]
    layers = [convolution(ndim, a, b, kernel=1, groups=groups) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, CONV[ndim](widths[-1], outputs, 1, groups=groups))


def placed(module: nn.Module, device: str, ndim: int) -> nn.Module:
    """The module on the device, its weights channels-last."""
    return module.to(device).to(memory_format=CHANNELS_LAST[ndim])  # type: ignore[call-overload]


def channels_last(x: Tensor) -> Tensor:
    """(B, C, ...) with the channels next to each other in memory, as `placed` weights want it."""
    return x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])


def fast_bfloat16() -> bool:
    """Whether this CPU has bfloat16 units (AMX or AVX512-BF16); emulated bfloat16 is slower than float32."""
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(tiles() or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def compute_type(device: torch.device) -> torch.dtype:
    """The type that `device` computes convolutions in fastest: a T4 has units for float16 but not for bfloat16."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if fast_bfloat16() else torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Arithmetic in the device's own fast type."""
    kind = compute_type(device)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not torch.float32)


def for_inference(module: nn.Module) -> nn.Module:
    """A trained module ready to run under `autocast`: norms folded, weights already in the type that it computes in.

    On the CPU its convolutions become `fused.FusedConvolution`s where PyTorch has what they need.
    """
    device = next(module.parameters()).device
    fold_norms(module.eval()).to(compute_type(device))
    if device.type == "cpu" and fused.available():
        for part in list(module.modules()):
            if isinstance(part, ResidualPair):
                part.fuse()
        fused.fuse_sequences(module)
    return module


def fold_norms(module: nn.Module) -> nn.Module:
    """Fold every batch normalisation into the convolution before it, in place; for inference only."""
    for part in module.modules():
        if not isinstance(part, nn.Sequential):
            continue
        for i, (layer, after) in enumerate(pairwise(list(part))):
            if isinstance(layer, nn.Conv2d | nn.Conv3d) and isinstance(after, nn.BatchNorm2d | nn.BatchNorm3d):
                part[i] = fuse_conv_bn_eval(layer, after)
                part[i + 1] = nn.Identity()
    return module


def parameter_count(module: nn.Module) -> int:
    """Number of trained weights."""
    return sum(parameter.numel() for parameter in module.parameters())
