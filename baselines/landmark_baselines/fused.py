"""Convolutions that add, rectify and store in one pass over memory, with weights laid out once (oneDNN, CPU only).

A convolution's result otherwise goes through memory again for the sum with the shortcut and for the ReLU, which in wide
early layers takes as long as the arithmetic.
"""

from functools import cache
from typing import TypeGuard

import torch
from torch import Tensor, nn

_OPERATORS = ("_convolution_pointwise", "_reorder_convolution_weight")


@cache
def available() -> bool:
    """Whether this PyTorch has the operators, which are internal to it: without them everything runs unfused."""
    return bool(torch.backends.mkldnn.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)


class FusedConvolution(nn.Module):
    """A trained convolution, padded with zeros, with what is added to its result and a ReLU; for inference only."""

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, *, relu: bool) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.requires_grad_(False)
        self.relu = relu
        self.geometry = (
            list(map(int, convolution.padding)),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *self.geometry)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(B, inputs, ...) -> (B, outputs, ...) in the type of the weights; a sum is written over what is `added`."""
        x = x.to(self.weight.dtype)
        if added is None:
            plain: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.packed, self.bias, *self.geometry, "relu" if self.relu else "none", [], ""
            )
            return plain
        # in place, since only so PyTorch computes grouped convolutions of bfloat16 and adds to them
        both: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            added, x, self.packed, self.bias, *self.geometry, "add", 1.0, "relu" if self.relu else None, [], ""
        )
        return both


def fusable(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.Conv3d]:
    """Whether `module` is a convolution that `FusedConvolution` can stand for."""
    if not isinstance(module, nn.Conv2d | nn.Conv3d):
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def fuse_sequences(module: nn.Module) -> None:
    """Put a FusedConvolution for every convolution in a Sequential, with the ReLU behind it, in place."""
    for part in module.modules():
        if not isinstance(part, nn.Sequential):
            continue
        layers = list(part)
        for i, layer in enumerate(layers):
            if not fusable(layer):
                continue
            after = i + 1
            while after < len(layers) and isinstance(layers[after], nn.Identity):
                after += 1
            rectified = after < len(layers) and isinstance(layers[after], nn.ReLU)
            part[i] = FusedConvolution(layer, relu=rectified)
            if rectified:
                part[after] = nn.Identity()
