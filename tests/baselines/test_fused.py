"""Fused convolutions against the layers that they stand for."""

import pytest
import torch
from torch import nn

from landmark_baselines import blocks, fused
from landmark_baselines.blocks import AveragePool, ResidualPair, channels_last, convolution, dense_head, residual_block
from landmark_baselines.unet import Architecture, UNet

needs_operators = pytest.mark.skipif(not fused.available(), reason="PyTorch without oneDNN's fused operators")
# A rounding of bfloat16 is 2^-9 of a value; a few of them meet on the way through these networks.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03}


def _trained(module: nn.Module, inputs: int, ndim: int) -> nn.Module:
    torch.manual_seed(1)
    module.train()
    for _ in range(3):
        module(torch.randn(2, inputs, *(16,) * ndim) * 2 + 1)  # running statistics that are not 0 and 1
    return module.eval()


def _network(ndim: int, groups: int) -> nn.Module:
    return nn.Sequential(
        convolution(ndim, groups, 8 * groups, kernel=7, stride=2, groups=groups),
        residual_block(ndim, 8 * groups, 16 * groups, pairs=2, pool=True, groups=groups),
        dense_head(ndim, 16 * groups, (8 * groups,), 5 * groups, groups=groups),
    )


@needs_operators
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_fused_networks_give_what_the_layers_give(
    ndim: int, groups: int, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _trained(_network(ndim, groups), groups, ndim)
    x = torch.randn(2, groups, *(29, 17, 21)[:ndim])
    kept = x.clone()
    with torch.inference_mode():
        wanted = network(x)
        monkeypatch.setattr(blocks, "compute_type", lambda _: kind)
        ready = blocks.for_inference(network)
        found = ready(channels_last(x))
    assert not any(isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ReLU) for layer in ready.modules())
    assert found.dtype == kind and torch.equal(x, kept)
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=TOLERANCE[kind] * float(wanted.abs().max()))


@needs_operators
@pytest.mark.parametrize("norm", [True, False])
def test_a_fused_u_net_keeps_its_skips(norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network = _trained(UNet(2, 3, Architecture((8, 12, 16), norm=norm, dropout=0.2)), 1, 2)
    x = torch.randn(1, 1, 24, 36)
    with torch.inference_mode():
        wanted = network(x)
        monkeypatch.setattr(blocks, "compute_type", lambda _: torch.float32)
        found = blocks.for_inference(network)(x)
    assert any(isinstance(layer, fused.FusedConvolution) for layer in network.modules())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@needs_operators
@pytest.mark.parametrize("inputs", [6, 8])
def test_a_fused_pair_leaves_its_input_alone(inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "compute_type", lambda _: torch.float32)
    pair = blocks.for_inference(ResidualPair(2, inputs, 8))
    x = channels_last(torch.randn(1, inputs, 9, 9))
    kept = x.clone()
    with torch.inference_mode():
        first, again = pair(x), pair(x)
    assert torch.equal(x, kept) and torch.equal(first, again)


def test_without_the_operators_the_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "available", lambda: False)
    monkeypatch.setattr(blocks, "compute_type", lambda _: torch.float32)
    network = _trained(_network(2, 1), 1, 2)
    x = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        wanted = network(x)
        found = blocks.for_inference(network)(x)
    assert not any(isinstance(layer, fused.FusedConvolution) for layer in network.modules())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@needs_operators
def test_convolutions_that_no_operator_stands_for_stay() -> None:
    reflecting = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
    by_name = nn.Conv2d(2, 2, 3, padding="same")
    assert not fused.fusable(reflecting) and not fused.fusable(by_name) and fused.fusable(nn.Conv2d(2, 2, 3))


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (6, 8, 10), (5, 7, 9)])
def test_the_channels_last_pool_is_pytorchs(shape: tuple[int, ...]) -> None:
    x = channels_last(torch.randn(2, 3, *shape))
    plain = nn.functional.avg_pool2d if len(shape) == 2 else nn.functional.avg_pool3d
    found = AveragePool()(x)
    torch.testing.assert_close(found, plain(x, 2), rtol=1e-6, atol=1e-6)
    assert found.is_contiguous(memory_format=blocks.CHANNELS_LAST[len(shape)])
