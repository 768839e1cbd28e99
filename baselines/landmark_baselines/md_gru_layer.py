"""The subsampling MD-GRU layer: convolutional GRUs along every axis of an image, in both directions.

Andermatt, Pezold, Amann and Cattin, arXiv 1708.02766, section 2, equations (1) to (6). A direction takes the slices
across one axis as time steps; its state is an image of a slice, reduced by the stride:

    r_t = sigma(x_t * w_r + h_{t-1} * u_r + b_r)                    x_t * w: strided, zero-padded convolution
    z_t = sigma(x_t * w_z + h_{t-1} * u_z + b_z)                    h * u: zero-padded convolution
    c_t = tanh (x_t * w_c + r_t (.) (h_{t-1} * u_c) + b_c)          (.): elementwise
    h_t = z_t (.) h_{t-1} + (1 - z_t) (.) c_t,   h_0 = 0

Only h * u has to wait for the step before: md_gru_scan.py makes use of that.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .md_gru_scan import Directions, Scan

# Steps of a block of the backward pass: what is prepared for all of them at once should stay in a processor's cache,
# while on a graphics card fewer, larger calls are faster.
BLOCK_STEPS = {"cpu": 8, "cuda": 256}


class MDGRU(nn.Module):
    """The layer: (B, inputs, ...) -> (B, channels, ...), every axis shorter by `stride`, rounded up.

    kernel: odd side of both filters; the paper does not say it, the authors' code has 7. drop: share of the input
    filters' weights that DropConnect drops, the others grow to make up for it; `gaussian` noise of the same variance
    instead is the default of the authors' code. checkpoint: steps in a block whose gates are computed again in the
    backward pass, which bounds the memory of training; 0 keeps them all, which is faster. Computes in autocast's type
    where that is on.
    """

    def __init__(
        self,
        ndim: int,
        inputs: int,
        channels: int,
        *,
        kernel: int = 7,
        stride: int = 2,
        drop: float = 0.0,
        gaussian: bool = False,
        checkpoint: int = 0,
    ) -> None:
        super().__init__()
        self.ndim, self.channels, self.stride = ndim, channels, stride
        self.drop, self.gaussian, self.checkpoint = drop, gaussian, checkpoint
        # A slice of a picture is a line, here an image of one row.
        window = (kernel, kernel) if ndim == 3 else (1, kernel)
        self.input_weight = nn.Parameter(torch.empty(2 * ndim, 3 * channels, inputs, *window))
        self.state_weight = nn.Parameter(torch.empty(2 * ndim, 3 * channels, channels, *window))
        self.bias = nn.Parameter(torch.zeros(2 * ndim, 3 * channels))  # the authors' code: 1 for the gates
        for weight in (self.input_weight, self.state_weight):
            fans = (weight.shape[2] + channels) * math.prod(window)
            nn.init.uniform_(weight, -math.sqrt(6 / fans), math.sqrt(6 / fans))  # Glorot, every filter for itself

    def forward(self, x: Tensor) -> Tensor:
        """The sum over all directions of their states, averaged over `stride` steps of time each."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.state_weight.dtype
        input_weight = self._dropped(self.input_weight)
        total: Tensor | None = None
        for axes in axes_by_shape(x.shape[2:]):
            block = self.checkpoint or BLOCK_STEPS.get(kind, 16)
            scan = Scan(axes, self.stride, torch.is_grad_enabled() and not self.checkpoint, block, dtype)
            which = [direction for axis in axes for direction in (2 * axis, 2 * axis + 1)]
            chosen = (
                weight if len(which) == len(weight) else weight[which]
                for weight in (input_weight, self.bias, self.state_weight)
            )
            states = Directions.apply(x, *(weight.flatten(0, 1) for weight in chosen), scan)
            for number, axis in enumerate(axes):
                both = states[..., 2 * number, :] + states[..., 2 * number + 1, :].flip(0)
                found = _averaged(both, self.stride)
                found = found if self.ndim == 3 else found.squeeze(2)
                found = found.movedim(-1, 2).movedim(0, axis + 2)  # (T, B, others, C) -> (B, C, all axes)
                total = found if total is None else total + found
        assert total is not None
        return total

    def _dropped(self, weight: Tensor) -> Tensor:
        """DropConnect: one mask for all steps of a forward pass."""
        if not (self.training and self.drop > 0):
            return weight
        if self.gaussian:
            noise = torch.randn_like(weight) * math.sqrt(self.drop / (1 - self.drop))
            return weight * (1 + noise)
        return F.dropout(weight, self.drop)


def axes_by_shape(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The axes of an image whose sequences of slices have the same shape, together.

    >>> axes_by_shape((64, 48, 48)), axes_by_shape((5, 5, 5)), axes_by_shape((3, 4))
    ([(0,), (1, 2)], [(0, 1, 2)], [(0,), (1,)])
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for axis, length in enumerate(shape):
        rest = [count for other, count in enumerate(shape) if other != axis]
        groups.setdefault((length, *rest), []).append(axis)
    return [tuple(axes) for axes in groups.values()]


def _averaged(states: Tensor, stride: int) -> Tensor:
    """(T, ...) -> (ceil(T / stride), ...): the mean over each `stride` steps, of those there are at the end."""
    length = len(states)
    whole = length // stride * stride
    parts = [states[:whole].unflatten(0, (-1, stride)).mean(dim=1)] if whole else []
    if whole < length:
        parts.append(states[whole:].mean(dim=0, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
