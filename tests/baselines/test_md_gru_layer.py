"""The MD-GRU layer against its equations written out, against PyTorch's GRU cell, and under symmetries."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from landmark_baselines.md_gru_layer import MDGRU, axes_by_shape


def _layer(ndim: int, inputs: int, channels: int, *, seed: int = 0, **options: object) -> MDGRU:
    torch.manual_seed(seed)
    layer = MDGRU(ndim, inputs, channels, **options).double()  # type: ignore[arg-type]
    torch.nn.init.normal_(layer.bias, std=0.3)
    return layer


def _loops(layer: MDGRU, x: np.ndarray) -> np.ndarray:
    """Equations (1) to (6) with a loop over directions, steps, places, channels and taps; x (I, *shape), float64."""
    w, u, b = (part.detach().numpy() for part in (layer.input_weight, layer.state_weight, layer.bias))
    stride, channels, shape = layer.stride, layer.channels, x.shape[1:]
    total = np.zeros((channels, *(math.ceil(count / stride) for count in shape)))
    for axis in range(len(shape)):
        steps = np.moveaxis(x, axis + 1, 0)
        small = tuple(math.ceil(count / stride) for count in steps.shape[2:])
        for backwards in (False, True):
            d = 2 * axis + backwards
            h = np.zeros((channels, *small))
            states = []
            for step in steps[::-1] if backwards else steps:
                before, h = h, np.zeros_like(h)
                for place in np.ndindex(small):
                    sums = [_tap_sums(weights, image, place, by) for weights, image, by in (
                        (w[d], step, stride), (u[d], before, 1)
                    )]  # fmt: skip
                    x_r, x_z, x_c = (sums[0] + b[d]).reshape(3, channels)
                    h_r, h_z, h_c = sums[1].reshape(3, channels)
                    r, z = 1 / (1 + np.exp(-(x_r + h_r))), 1 / (1 + np.exp(-(x_z + h_z)))
                    at = (slice(None), *place)
                    h[at] = z * before[at] + (1 - z) * np.tanh(x_c + r * h_c)
                states.append(h)
            states = states[::-1] if backwards else states
            for k in range(math.ceil(len(states) / stride)):
                total[(slice(None), *[slice(None)] * axis, k)] += np.mean(states[k * stride : (k + 1) * stride], axis=0)
    return total


def _tap_sums(weights: np.ndarray, image: np.ndarray, place: tuple[int, ...], stride: int) -> np.ndarray:
    """(outputs,) of a zero-padded convolution at one place, tap by tap."""
    kernel = weights.shape[2:] if image.ndim == 3 else weights.shape[3:]
    filters = weights if image.ndim == 3 else weights[:, :, 0]
    sums = np.zeros(len(weights))
    for tap in np.ndindex(kernel):
        at = [p * stride + t - k // 2 for p, t, k in zip(place, tap, kernel, strict=True)]
        if all(0 <= a < count for a, count in zip(at, image.shape[1:], strict=True)):
            sums += filters[(slice(None), slice(None), *tap)] @ image[(slice(None), *at)]
    return sums


def _autograd_loop(layer: MDGRU, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The same by PyTorch's convolutions, one step after the other, its gradients PyTorch's own; even sizes only."""
    w, u, b = parameters
    total = x.new_zeros(())
    for axis in range(layer.ndim):
        for backwards in (False, True):
            d = 2 * axis + backwards
            steps = x.movedim(axis + 2, 0)
            steps = steps if layer.ndim == 3 else steps.unsqueeze(3)
            stride = (layer.stride if layer.ndim == 3 else 1, layer.stride)
            padding = (w.shape[-2] // 2, w.shape[-1] // 2)
            h: Tensor | None = None
            states = []
            for step in steps.flip(0) if backwards else steps:
                x_r, x_z, x_c = F.conv2d(step, w[d], b[d], stride, padding).chunk(3, dim=1)
                h = torch.zeros_like(x_c) if h is None else h
                h_r, h_z, h_c = F.conv2d(h, u[d], padding=padding).chunk(3, dim=1)
                z = torch.sigmoid(x_z + h_z)
                h = z * h + (1 - z) * torch.tanh(x_c + torch.sigmoid(x_r + h_r) * h_c)
                states.append(h)
            found = torch.stack(states[::-1] if backwards else states).unflatten(0, (-1, layer.stride)).mean(dim=1)
            found = found if layer.ndim == 3 else found.squeeze(3)
            total = total + found.movedim(0, axis + 2)
    return total


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 4, 3), (5, 4), (3, 3)])
def test_values_are_those_of_the_equations(shape: tuple[int, ...], stride: int) -> None:
    layer = _layer(len(shape), 2, 3, kernel=3, stride=stride)
    x = torch.randn(2, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = np.stack([_loops(layer, each.numpy()) for each in x])
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [0, 3])
@pytest.mark.parametrize("shape", [(4, 6, 4), (6, 4)])
def test_gradients_are_those_of_the_plain_loop(shape: tuple[int, ...], checkpoint: int) -> None:
    layer = _layer(len(shape), 2, 3, kernel=3, checkpoint=checkpoint)
    x = torch.randn(2, 2, *shape, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.input_weight, layer.state_weight, layer.bias)
    ours = layer(x)
    plain = _autograd_loop(layer, x, inputs[1:])
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    arriving = torch.randn_like(plain)
    for own, expected in zip(
        torch.autograd.grad(ours, inputs, arriving), torch.autograd.grad(plain, inputs, arriving), strict=True
    ):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("shape", "checkpoint"), [((3, 4, 3), 0), ((3, 4, 3), 2), ((3, 4), 0)])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...], checkpoint: int) -> None:
    layer = _layer(len(shape), 1, 2, kernel=3, checkpoint=checkpoint)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(1, 1, *shape, dtype=torch.float64, requires_grad=True)

    def work(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(work, (x, *layer.parameters()), fast_mode=True)


def test_a_single_place_is_pytorchs_gru_cell() -> None:
    layer = _layer(3, 4, 5, kernel=1, stride=1)
    x = torch.randn(2, 4, 7, 1, 1, dtype=torch.float64)
    total = torch.zeros(2, 5, 7, 1, 1, dtype=torch.float64)
    for direction in range(6):
        axis, backwards = divmod(direction, 2)
        cell = torch.nn.GRUCell(4, 5, dtype=torch.float64)
        cell.weight_ih.data = layer.input_weight[direction, :, :, 0, 0].data
        cell.weight_hh.data = layer.state_weight[direction, :, :, 0, 0].data
        cell.bias_ih.data = layer.bias[direction].data
        torch.nn.init.zeros_(cell.bias_hh)
        # Along the other two axes every place is a sequence of one step.
        order = range(7) if not backwards else range(6, -1, -1)
        state: Tensor | None = None
        for t in order:
            state = cell(x[:, :, t, 0, 0], state if axis == 0 else None)
            total[:, :, t, 0, 0] += state.detach()
    torch.testing.assert_close(layer(x).detach(), total, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 4, 4), (5, 6)])
def test_a_flipped_input_flips_the_output(shape: tuple[int, ...]) -> None:
    ndim = len(shape)
    layer, mirrored = _layer(ndim, 2, 3, kernel=3, stride=1), _layer(ndim, 2, 3, kernel=3, stride=1)
    x = torch.randn(1, 2, *shape, dtype=torch.float64)
    for axis in range(ndim):
        for name in ("input_weight", "state_weight", "bias"):
            own, other = getattr(layer, name).data, getattr(mirrored, name).data
            other.copy_(own)
            # The two directions of the axis change places, the filters of all the others are flipped.
            other[2 * axis], other[2 * axis + 1] = own[2 * axis + 1], own[2 * axis]
            if name == "bias":
                continue
            for across in (other_axis for other_axis in range(ndim) if other_axis != axis):
                inside = [each for each in range(ndim) if each != across].index(axis)
                place = 3 + inside if ndim == 3 else 4
                other[2 * across : 2 * across + 2] = own[2 * across : 2 * across + 2].flip(place)
        torch.testing.assert_close(mirrored(x.flip(axis + 2)), layer(x).flip(axis + 2))


def test_axes_in_another_order_give_the_output_in_that_order() -> None:
    layer = _layer(3, 2, 3, kernel=3)
    turned = _layer(3, 2, 3, kernel=3)
    # (z, y, x) -> (x, z, y): the slices across x stay as they are, those across z and y are transposed.
    for name in ("input_weight", "state_weight", "bias"):
        own, other = getattr(layer, name).data, getattr(turned, name).data
        for axis, was in enumerate((2, 0, 1)):
            part = own[2 * was : 2 * was + 2]
            other[2 * axis : 2 * axis + 2] = part if name == "bias" or was == 2 else part.transpose(-1, -2)
    x = torch.randn(1, 2, 6, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(turned(x.permute(0, 1, 4, 2, 3)), layer(x).permute(0, 1, 4, 2, 3))


def test_dropconnect_is_one_mask_of_the_input_filters_for_all_steps() -> None:
    layer = _layer(3, 2, 3, kernel=3, drop=0.5)
    x = torch.randn(1, 2, 6, 4, 4, dtype=torch.float64)
    torch.manual_seed(5)
    dropped = layer.train()(x)
    torch.manual_seed(5)
    masked = F.dropout(layer.input_weight, 0.5)
    assert 0.4 < (masked == 0).double().mean() < 0.6
    by_hand = functional_call(layer.eval(), {"input_weight": masked}, (x,))
    torch.testing.assert_close(dropped, by_hand)
    assert not torch.allclose(layer(x), by_hand)


def test_gaussian_dropconnect_has_the_mean_and_variance_of_the_bernoulli_one() -> None:
    layer = _layer(3, 40, 20, kernel=3, drop=0.2, gaussian=True).train()
    noise = layer._dropped(torch.ones_like(layer.input_weight))
    assert noise.mean().item() == pytest.approx(1, abs=0.01)
    assert noise.var().item() == pytest.approx(0.2 / 0.8, abs=0.01)


@pytest.mark.parametrize("checkpoint", [0, 4])
def test_bfloat16_stays_close(checkpoint: int) -> None:
    layer = _layer(3, 2, 8, kernel=3, checkpoint=checkpoint).float()
    x = torch.randn(1, 2, 12, 12, 12)
    expected = layer(x)
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    found.float().square().mean().backward()
    assert (found.float() - expected).abs().max() < 0.05
    for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert torch.linalg.vector_norm(parameter.grad - gradient) < 0.03 * torch.linalg.vector_norm(gradient)


def test_checkpointing_stores_one_state_a_step_instead_of_five() -> None:
    stored = {}
    for checkpoint in (0, 4):
        layer = _layer(3, 2, 4, kernel=3, checkpoint=checkpoint)
        out = layer(torch.randn(1, 2, 16, 16, 16, dtype=torch.float64))
        nodes, sizes, seen = [out.grad_fn], {}, set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
            for pair in getattr(node, "kept", ()):
                sizes |= {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in pair}
            if hasattr(node, "scan"):
                states = node.saved_tensors[-1].untyped_storage()
                sizes[states.data_ptr()] = states.nbytes()
        stored[checkpoint] = sum(sizes.values())
    assert 4.5 * stored[4] < stored[0] < 5 * stored[4]


def test_all_directions_of_a_cube_are_one_group() -> None:
    assert axes_by_shape((8, 8, 8)) == [(0, 1, 2)]
    assert axes_by_shape((8, 4, 4)) == [(0,), (1, 2)]
    assert axes_by_shape((4, 8, 4)) == [(0,), (1,), (2,)]  # slices of 8x4 and of 4x8 are not the same


@pytest.mark.gpu
@pytest.mark.parametrize("checkpoint", [0, 4])
def test_a_graphics_card_computes_the_same(checkpoint: int) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        layer = _layer(3, 2, 4, kernel=3, checkpoint=checkpoint).to(device)
        x = torch.randn(2, 2, 8, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
        out = layer(x.requires_grad_())
        gradients = torch.autograd.grad(out.square().sum(), (x, *layer.parameters()))
        found[device] = [out.detach().cpu(), *(gradient.cpu() for gradient in gradients)]
    for on_cpu, on_cuda in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-9, atol=1e-11)
