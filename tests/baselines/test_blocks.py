"""Blocks: shapes, shortcuts, and that folding batch norms changes nothing but the last digits."""

import pytest
import torch
from torch import nn

from landmark_baselines.blocks import (
    CONV,
    channels_last,
    convolution,
    dense_head,
    fold_norms,
    parameter_count,
    placed,
    residual_block,
)


def _trained(module: nn.Module, x: torch.Tensor) -> nn.Module:
    module.train()
    for _ in range(3):
        module(x * 2 + 1)  # running statistics that are not 0 and 1
    return module.eval()


@pytest.mark.parametrize("ndim", [2, 3])
def test_folded_norms_give_the_same_features(ndim: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, *(12,) * ndim)
    network = nn.Sequential(
        convolution(ndim, 3, 8, kernel=7, stride=2),
        residual_block(ndim, 8, 16, pairs=2, pool=True),
        dense_head(ndim, 16, (8,), 5),
    )
    network = _trained(network, x)
    with torch.no_grad():
        before = network(x)
        after = fold_norms(network)(x)
    assert before.shape == (4, 5, *(3,) * ndim)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in network.modules())


def test_a_block_of_equal_width_keeps_a_plain_shortcut() -> None:
    same = residual_block(2, 16, 16, pairs=1, pool=False)
    wider = residual_block(2, 8, 16, pairs=1, pool=False)
    assert parameter_count(same) == 2 * (16 * 16 * 9 + 2 * 16)
    assert parameter_count(wider) == 8 * 16 * 9 + 16 * 16 * 9 + 8 * 16 + 3 * 2 * 16


@pytest.mark.parametrize(
    ("size", "stride", "groups"),
    [((2, 2, 2), 1, 1), ((2, 2, 2), 1, 8), ((2, 6, 6), 1, 4), ((4, 1, 1), 2, 1), ((8, 1), 2, 1), ((1, 1), 2, 8)],
)
def test_weights_get_the_right_gradient_on_grids_smaller_than_the_kernel(
    size: tuple[int, ...], stride: int, groups: int
) -> None:
    torch.manual_seed(0)
    layer = CONV[len(size)](8, 16, 3, stride=stride, padding=1, groups=groups, bias=False)
    placed(layer, "cpu", len(size))
    x = channels_last(torch.randn(2, 8, *size))
    slope = torch.randn_like(layer(x))

    def gradient(*, narrow: bool) -> torch.Tensor:
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            found = layer(x)
        found.backward(slope.to(found.dtype))
        return layer.weight.grad.clone()

    wanted = gradient(narrow=False)
    for _ in range(20):
        junk = [torch.full((count,), 1e30) for count in (64, 1000, 10_000, 100_000)]  # what unwritten memory then holds
        del junk
        torch.testing.assert_close(gradient(narrow=True), wanted, atol=0.05 * float(wanted.abs().max()), rtol=0)
