"""Streaming in slabs against the whole image in one piece."""

import pytest
import torch
from torch import Tensor, nn

from landmark_baselines import blocks, slabs
from landmark_baselines.blocks import channels_last, convolution, residual_block
from landmark_baselines.global_to_local import Architecture, PatchNetwork
from landmark_baselines.slabs import layers_of, streamed


def _body(ndim: int) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(
        convolution(ndim, 1, 6, kernel=7, stride=2),
        residual_block(ndim, 6, 8, pairs=2, pool=True),
        residual_block(ndim, 8, 12, pairs=1, pool=True),
    )
    for _ in range(2):
        body(torch.randn(2, 1, *(32,) * ndim) * 2 + 1)  # norms that would show a border that is not the image's
    return body.eval()


def test_reach_by_hand() -> None:
    layers = layers_of(_body(3), inputs=1, ndim=3)
    assert [layer.stride for layer in layers] == [2, 2, 2, 4, 4, 4, 8, 8]  # convolution, norm, ReLU, pool, 2 pairs, ...
    assert [layer.halo for layer in layers] == [3, 3, 3, 5, 13, 21, 25, 41]
    assert layers[0].size == 1 and layers[1].size == 6 / 8 and layers[4].size == 8 / 64


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", [(333, 40), (256, 37), (153, 24, 18), (119, 21, 25)])
def test_slabs_give_the_result_of_the_whole(
    shape: tuple[int, ...], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "compute_type", lambda _: torch.float32)
    monkeypatch.setattr("landmark_baselines.fused.available", lambda: fused and torch.backends.mkldnn.is_available())
    body = _body(len(shape))
    body = blocks.for_inference(body)
    x = channels_last(torch.randn(2, 1, *shape))
    rows: list[int] = []
    original = slabs._in_slabs

    def counting(layers: list[slabs.Layer], x: Tensor, slab: int) -> Tensor:
        rows.append(slab)
        return original(layers, x, slab)

    monkeypatch.setattr(slabs, "_in_slabs", counting)
    with torch.inference_mode():
        wanted = body(x)
        assert torch.equal(streamed(body, x), wanted) and not rows  # fits: nothing is cut
        everything = 3 * 4 * x.numel()
        for share in (0.7, 0.3, 0.02):
            found = streamed(body, x, bound=int(share * everything))
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert len(rows) == 3 and rows[0] < shape[0]


def test_no_map_exceeds_the_bound() -> None:
    body = _body(2)
    x = channels_last(torch.randn(1, 1, 4000, 64))
    bound = 1_500_000
    largest = 0

    def watch(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, 4 * (inputs[0].numel() + output.numel()))

    for layer in body.modules():
        if not isinstance(layer, nn.Sequential):
            layer.register_forward_hook(watch)
    with torch.inference_mode():
        body(x)
        assert largest > 2 * bound
        largest = 0
        streamed(body, x, bound=bound)
    assert 0 < largest <= bound


def test_the_network_streams_by_itself_and_training_never(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PatchNetwork(2, 3, Architecture(4, (6, 8), (1, 1), (True, True), (5,))).eval()
    x = torch.randn(1, 1, 320, 48)
    with torch.inference_mode():
        wanted = network(x)
        monkeypatch.setattr(slabs, "MEMORY_BOUND", 40_000)
        cut = []
        original = slabs._in_slabs
        monkeypatch.setattr(slabs, "_in_slabs", lambda *values: cut.append(1) or original(*values))
        for one, other in zip(network(x), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert cut
    cut.clear()
    network(x)[0].sum().backward()
    assert not cut
