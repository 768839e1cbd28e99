"""Xception against the known weights of the original, and its blocks against explicit convolutions."""

import pytest
import torch
from torch import nn

from landmark_baselines.blocks import for_inference, parameter_count
from landmark_baselines.xception import Architecture, SeparableBlock, Xception, separable


@pytest.fixture(scope="module")
def original() -> Xception:
    return Xception(2, Architecture(), inputs=3)


def test_the_full_network_has_the_known_weights(original: Xception) -> None:
    # Keras counts 22,910,480 with the layer of 1000 classes, and 54,528 of them are moving statistics of the norms.
    assert parameter_count(original) == 22_910_480 - 54_528 - (2048 + 1) * 1000
    moving = sum(2 * part.num_features for part in original.modules() if isinstance(part, nn.BatchNorm2d))
    assert moving == 54_528


def test_the_flows_of_figure_5(original: Xception) -> None:
    depthwise = [part for part in original.modules() if isinstance(part, nn.Conv2d) and part.groups > 1]
    assert [part.in_channels for part in depthwise] == [
        64, 128, 128, 256, 256, 728, *[728] * 24, 728, 728, 1024, 1536,
    ]  # fmt: skip
    # 36 convolutional layers, as the paper counts: 34 separable ones and two in the stem
    stem = [part for part in original.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert len(stem) == 36
    with torch.inference_mode():
        assert original.eval()(torch.rand(1, 3, 299, 299)).shape == (1, 2048, 10, 10)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("side", [32, 33, 47, 64])
def test_the_grid_is_known_before_the_network_runs(ndim: int, side: int) -> None:
    small = Architecture(width=0.02, depth=0.25)
    features = Xception(ndim, small).eval()(torch.rand(1, 1, *(side,) * ndim))
    assert features.shape == (1, small.features, *(small.grid(side),) * ndim)


def test_multipliers() -> None:
    half = Architecture(width=0.5, depth=0.5)
    assert half.channels(728) == 368 and half.features == 1024 and Architecture(width=0.01).channels(32) == 8
    blocks = [part for part in Xception(2, half) if isinstance(part, SeparableBlock)]
    assert len(blocks) == 3 + 4 + 1


def test_a_separable_convolution_is_one_convolution_with_a_kernel_of_rank_one() -> None:
    torch.manual_seed(0)
    deep, wide, norm = separable(2, 5, 7)
    assert isinstance(deep, nn.Conv2d) and isinstance(wide, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    kernel = wide.weight * deep.weight[:, 0][None]  # (7, 5, 1, 1) * (1, 5, 3, 3)
    x = torch.randn(2, 5, 6, 9)
    torch.testing.assert_close(wide(deep(x)), nn.functional.conv2d(x, kernel, padding=1))


def test_the_shortcut_sees_the_input_before_the_relu() -> None:
    block = SeparableBlock(2, 8, (8, 8, 8), pool=False).eval()
    for part in block.body:
        if isinstance(part, nn.BatchNorm2d):
            nn.init.zeros_(part.weight)
    x = torch.randn(1, 8, 5, 5)
    before = x.clone()
    torch.testing.assert_close(block(x), before)
    torch.testing.assert_close(x, before)


def test_folded_norms_change_nothing() -> None:
    torch.manual_seed(0)
    network = Xception(2, Architecture(width=0.05, depth=0.25))
    x = torch.rand(4, 1, 48, 48)
    network(x)  # so that the moving statistics are not those of the start
    expected = network.eval()(x)
    folded = for_inference(network)
    kind = next(folded.parameters()).dtype
    tolerance = 1e-4 if kind is torch.float32 else 5e-2
    torch.testing.assert_close(folded(x.to(kind)).float(), expected, rtol=tolerance, atol=tolerance)
