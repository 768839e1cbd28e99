"""The scan of the MD-GRU layer: the states of convolutional GRUs over the slices of an image, and their gradients.

The equations are those of md_gru_layer.py. Only h * u has to wait for the step before. Everything else runs as one call
over all steps of a block, forward and backward; directions whose slices have the same shape run as the groups of one
convolution.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Scan(NamedTuple):
    """How one group of directions runs. axes: of the image, each forward and backward. keep: the gates are stored for
    the backward pass; else they are computed again there, and what is stored shrinks from five states a step to one.
    """

    axes: tuple[int, ...]
    stride: int
    keep: bool
    block: int
    dtype: torch.dtype


class Directions(torch.autograd.Function):
    """The states of all directions along `scan.axes`, with the gradients written out so that they come in blocks.

    x: (B, I, ...). w: (D*3C, I, k, k), b: (D*3C), u: (D*3C, C, k, k), gates in the order r, z, c. Returns
    (T, B, h, w, D, C); directions are the axes' forward and backward ones in turn, each in its own order of time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, u: Tensor, scan: Scan) -> Tensor:
        """All steps; of each, the convolution with the state first."""
        with torch.autocast(x.device.type, enabled=False):
            w_cast, b_cast, u_cast = (_channels_last(part.to(scan.dtype)) for part in (w, b, u))
            length = x.shape[2 + scan.axes[0]]
            needed = any(ctx.needs_input_grad)
            kept: list[tuple[Tensor, Tensor]] = []
            states: Tensor | None = None
            for start, stop in _blocks(length, length if scan.keep else scan.block):
                gates = _input_gates(_slices(x, scan, start, stop), w_cast, b_cast, scan)
                if states is None:
                    directions, channels = 2 * len(scan.axes), u.shape[1]
                    shape = (*gates.shape[1:4], directions, channels)
                    states = gates.new_empty(length + 1, *shape)
                    states[0] = 0
                    state = torch.zeros(shape, device=x.device, dtype=_sum_type(scan.dtype))
                for t in range(start, stop):
                    recurrent = _state_gates(states[t], u_cast)
                    candidate = _candidate_(recurrent, gates[t - start])
                    # The state is summed in float32: bfloat16 would lose steps smaller than 1/256 of it.
                    state = torch.lerp(candidate.to(state.dtype), state, recurrent[..., 1, :].to(state.dtype))
                    states[t + 1] = state
                    if scan.keep and needed:
                        kept.append((recurrent, candidate))
            assert states is not None
        if needed:
            ctx.save_for_backward(x, w, b, u, states)
            ctx.scan, ctx.kept = scan, kept
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Back through time in blocks: within one, only dh * (transposed u) has to wait for the step after."""
        x, w, b, u, states = ctx.saved_tensors
        scan, kept, (gradient,) = ctx.scan, ctx.kept, gradients
        length = len(states) - 1
        with torch.autocast(x.device.type, enabled=False):
            w_cast, b_cast, u_cast = (_channels_last(part.to(scan.dtype)) for part in (w, b, u))
            back = _transposed(u_cast, 2 * len(scan.axes))
            sums = [torch.zeros_like(part, dtype=_sum_type(scan.dtype)) for part in (w, b, u)]
            to_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
            carried = torch.zeros_like(states[0], dtype=_sum_type(scan.dtype))
            for start, stop in reversed(list(_blocks(length, scan.block))):
                slices, before = _slices(x, scan, start, stop), states[start:stop]
                if kept[start:stop]:
                    recurrent, candidate = (torch.stack(part) for part in zip(*kept[start:stop], strict=True))
                    kept[start:stop] = []  # memory; whoever retains the graph has them computed again
                else:
                    recurrent = _state_gates(before, u_cast)
                    candidate = _candidate_(recurrent, _input_gates(slices, w_cast, b_cast, scan))
                r, z, convolved = recurrent.unbind(dim=-2)
                # What a change of h_t does to the arguments of r, z, and to h_{t-1} * u_c, once for the block.
                to_candidate = (1 - z) * (1 - candidate * candidate)
                to_convolved = to_candidate * r
                to_r, to_z = to_convolved * convolved * (1 - r), (before - candidate) * z * (1 - z)
                changes = torch.stack((to_r, to_z, to_convolved), dim=-2)
                for t in range(stop - 1, start - 1, -1):
                    here = t - start
                    carried = carried + gradient[t]
                    own = carried.to(scan.dtype)
                    to_candidate[here] *= own
                    changes[here] *= own.unsqueeze(-2)
                    through = _convolved(changes[here].flatten(-3), back, None, directions=2 * len(scan.axes))
                    carried = torch.addcmul(through.to(carried.dtype), carried, z[here].to(carried.dtype))
                sums[2] += _weight_gradient(before.flatten(-2), changes, u_cast, scan, stride=1)[1]
                changes[..., 2, :] = to_candidate  # from here on: of the input's side
                sums[1] += changes.sum(dim=(0, 1, 2, 3), dtype=sums[1].dtype).flatten()
                to_slices, to_w = _weight_gradient(
                    slices, changes, w_cast, scan, stride=scan.stride, to_input=to_x is not None
                )
                sums[0] += to_w
                if to_x is not None and to_slices is not None:
                    _add_slices(to_x, to_slices, scan, start, stop)
        return to_x, *(part.to(weight.dtype) for part, weight in zip(sums, (w, b, u), strict=True)), None


def _blocks(length: int, steps: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, steps):
        yield start, min(start + steps, length)


def _slices(x: Tensor, scan: Scan, start: int, stop: int) -> Tensor:
    """(K, B, y, x, D*I): what each direction sees from step `start` to `stop`."""
    seen = []
    for axis in scan.axes:
        steps = x.movedim(axis + 2, 0)
        steps = steps if steps.ndim == 5 else steps.unsqueeze(3)
        last = len(steps) - start
        seen += [steps[start:stop], steps[last - (stop - start) : last].flip(0)]
    return torch.stack(seen, dim=-1).movedim(2, -1).flatten(-2).to(scan.dtype)


def _add_slices(to_x: Tensor, to_slices: Tensor, scan: Scan, start: int, stop: int) -> None:
    """Add the gradients of `_slices`, (K, B, D*I, y, x), to those of the image."""
    parts = to_slices.unflatten(2, (2 * len(scan.axes), -1)).unbind(dim=2)
    for number, axis in enumerate(scan.axes):
        steps = to_x.movedim(axis + 2, 0)
        steps = steps if steps.ndim == 5 else steps.unsqueeze(3)
        last = len(steps) - start
        steps[start:stop] += parts[2 * number]
        steps[last - (stop - start) : last] += parts[2 * number + 1].flip(0)


def _input_gates(slices: Tensor, w: Tensor, b: Tensor, scan: Scan) -> Tensor:
    """(K, B, y, x, D*I) -> (K, B, h, w, D, 3, C): the input's side of the gates, all steps in one call."""
    found = _convolved(slices, w, b, directions=2 * len(scan.axes), stride=scan.stride)
    return found.unflatten(-1, (3, -1))


def _state_gates(states: Tensor, u: Tensor) -> Tensor:
    """([K,] B, h, w, D, C) -> ([K,] B, h, w, D, 3, C): the states' side of the gates."""
    return _convolved(states.flatten(-2), u, None, directions=states.shape[-2]).unflatten(-1, (3, -1))


def _convolved(rows: Tensor, weight: Tensor, bias: Tensor | None, *, directions: int, stride: int = 1) -> Tensor:
    """([K,] B, y, x, D*inputs) -> ([K,] B, h, w, D, outputs): every direction with its own filters."""
    images = _as_channels(rows if rows.ndim == 4 else rows.flatten(0, 1))
    found = F.conv2d(images, weight, bias, _strides(weight, stride), _padding(weight), groups=directions)
    found = _channels_last(found).permute(0, 2, 3, 1).unflatten(-1, (directions, -1))
    return found if rows.ndim == 4 else found.unflatten(0, rows.shape[:2])


def _candidate_(recurrent: Tensor, gates: Tensor) -> Tensor:
    """c_t of (..., D, 3, C): h * u in `recurrent`, whose first two parts become r and z, and the input's side."""
    recurrent[..., :2, :].add_(gates[..., :2, :]).sigmoid_()
    return torch.addcmul(gates[..., 2, :], recurrent[..., 0, :], recurrent[..., 2, :]).tanh_()


def _weight_gradient(
    inputs: Tensor, changes: Tensor, weight: Tensor, scan: Scan, *, stride: int, to_input: bool = False
) -> tuple[Tensor | None, Tensor]:
    """Gradients of a convolution over a block: of its input (K, B, channels, y, x) if wanted, and of its weights."""
    images = _as_channels(inputs.flatten(0, 1))
    arriving = _as_channels(changes.flatten(-3).flatten(0, 1))
    found, to_weight, _ = torch.ops.aten.convolution_backward(
        arriving, images, weight, None, _strides(weight, stride), _padding(weight), [1, 1], False, [0, 0],
        2 * len(scan.axes), [to_input, True, False],
    )  # fmt: skip
    return found.unflatten(0, inputs.shape[:2]) if to_input else None, to_weight


def _transposed(u: Tensor, directions: int) -> Tensor:
    """The filters that take gradients of h * u back to h, by a convolution like the others: (D*C, 3C, k, k)."""
    own = u.unflatten(0, (directions, -1))
    return _channels_last(own.transpose(1, 2).flip((-2, -1)).flatten(0, 1))


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    """What long sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _strides(weight: Tensor, stride: int) -> tuple[int, int]:
    """The stride of a convolution of slices; a line, one row, has none across."""
    return 1 if weight.shape[-2] == 1 else stride, stride


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[-2] // 2, weight.shape[-1] // 2


def _as_channels(rows: Tensor) -> Tensor:
    """(N, y, x, channels) in memory as PyTorch's (N, channels, y, x)."""
    return _channels_last(rows.permute(0, 3, 1, 2))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
