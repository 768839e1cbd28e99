"""Early layers of a network over an image too large for memory, slab by slab, with the result of the whole image.

A slab is cut with as much around it as its results depend on. What zero padding at a cut falsifies lies in that halo
and is dropped; at the image's own border a slab ends there too, and is padded as the whole image would be.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import AveragePool
from .fused import FusedConvolution

# What the maps of one layer and the next may take together; beyond it, layers are streamed.
MEMORY_BOUND = 2**30
# Maps that live at the same time: a pair's input, its middle, and its shortcut, on which the result is written.
LIVE_MAPS = 3


@dataclass(frozen=True)
class Layer:
    """A layer and what has happened up to its end. stride: input voxels per voxel of its result. halo: input voxels to
    either side that the result depends on. size: its largest map, in values per voxel of the input.
    """

    module: nn.Module
    stride: int
    halo: int
    size: float


def streamed(body: nn.Sequential, x: Tensor, *, bound: int | None = None) -> Tensor:
    """body(x) for x (B, C, ...); where maps exceed `bound` bytes (MEMORY_BOUND), the large early ones in slabs.

    body: of convolutions, norms, ReLUs, AveragePools and ResidualPairs, in sequence. Training is never streamed.
    """
    bound = MEMORY_BOUND if bound is None else bound
    if torch.is_grad_enabled():
        whole: Tensor = body(x)
        return whole
    layers = layers_of(body, inputs=x.shape[1], ndim=x.ndim - 2)
    value_bytes = LIVE_MAPS * _bytes_of_a_value(body, x)
    voxels = x.numel() // x.shape[1]
    excess = [i for i, layer in enumerate(layers) if value_bytes * layer.size * voxels > bound]
    if excess:
        early, layers = layers[: excess[-1] + 1], layers[excess[-1] + 1 :]
        largest = max(layer.size for layer in early)
        x = _in_slabs(early, x, int(bound / (value_bytes * largest * voxels / x.shape[2])))
    for layer in layers:
        x = layer.module(x)
    return x


def layers_of(body: nn.Module, *, inputs: int, ndim: int) -> list[Layer]:
    """The layers of nested Sequentials in order; inputs: channels of what enters."""
    stride, halo, channels = 1, 0, inputs
    layers = []
    for module in _flat(body):
        size = channels / stride**ndim
        for part in module.modules():
            if isinstance(part, AveragePool):
                halo, stride = halo + stride, 2 * stride
            elif isinstance(part, nn.Conv2d | nn.Conv3d | FusedConvolution):
                kernel, step = part.weight.shape[2], _stride(part)
                halo, stride, channels = halo + kernel // 2 * stride, stride * step, part.weight.shape[0]
            size = max(size, channels / stride**ndim)
        layers.append(Layer(module, stride, halo, size))
    return layers


def _in_slabs(layers: list[Layer], x: Tensor, rows: int) -> Tensor:
    """The layers over slabs of about `rows` input rows, halos included, along the first axis of space."""
    stride, halo = layers[-1].stride, layers[-1].halo
    halo = math.ceil(halo / stride) * stride
    step = max(1, (rows - 2 * halo) // stride) * stride
    pieces = []
    for begin in range(0, x.shape[2], step):
        last = begin + step >= x.shape[2]
        first = max(0, begin - halo)
        piece = x[:, :, first : x.shape[2] if last else begin + step + halo]
        for layer in layers:
            piece = layer.module(piece)
        pieces.append(piece[:, :, (begin - first) // stride : None if last else (begin + step - first) // stride])
    return torch.cat(pieces, dim=2)


def _flat(body: nn.Module) -> list[nn.Module]:
    if not isinstance(body, nn.Sequential):
        return [body]
    return [module for part in body for module in _flat(part)]


def _stride(part: nn.Module) -> int:
    return int(part.geometry[1][0] if isinstance(part, FusedConvolution) else part.stride[0])  # type: ignore[index]


def _bytes_of_a_value(body: nn.Module, x: Tensor) -> int:
    """Of the maps inside: autocast's type, or that of the weights."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type).itemsize
    return next(body.parameters()).dtype.itemsize
