"""The localization network of the MD-GRU method: from a window of an image to a distribution over places, per axis.

Andermatt et al., arXiv 1708.02766, section 2 and Fig. 1. Places along an axis of a window are classes; a window of w
voxels in C classes has class c centred at (c + 1/2) w/C - 1/2, 0-based voxels with centres at integers (the authors'
code takes the left edge of a class for its place).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.errors import ChallengeError

from .blocks import CONV, channels_last
from .md_gru_layer import MDGRU

# Voxels that go through the network at once when it only localizes, which bounds its memory.
CHUNK_VOXELS = 2**21


@dataclass(frozen=True)
class Architecture:
    """levels: channels of each subsampling MD-GRU and of the voxelwise dense layer after it. kernel: side of the
    MD-GRU's filters. stem, stem_stride: channels and stride S of the convolution of side 2S + 1 in front (coarse
    stage), 0 and 1 for none. drop, gaussian, checkpoint: see `MDGRU`. head: `dense`, the paper's two layers over all
    voxels, or `light`, where those weights do not fit or the images are too few for them; head_width: its channels.
    """

    levels: tuple[tuple[int, int], ...] = ((32, 48), (64, 96), (128, 192))
    kernel: int = 7
    stem: int = 0
    stem_stride: int = 1
    drop: float = 0.5
    gaussian: bool = False
    checkpoint: int = 0
    head: str = "dense"
    head_width: int = 64

    @property
    def stride(self) -> int:
        """Voxels of the window per cell of the last level, along every axis."""
        return int(self.stem_stride * 2 ** len(self.levels))


class DenseHead(nn.Module):
    """Two dense layers over all voxels of the last level, for every landmark its own."""

    def __init__(self, landmarks: int, features: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        widths = (features, 4 * sum(classes), sum(classes))
        self.weights = nn.ParameterList([nn.Parameter(torch.empty(landmarks, a, b)) for a, b in pairwise(widths)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(landmarks, 1, b)) for b in widths[1:]])
        for weight in self.weights:
            nn.init.uniform_(weight, -math.sqrt(3 / weight.shape[1]), math.sqrt(3 / weight.shape[1]))

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, L or 1, F, ...) -> logits (B, L, C) of every axis, x first."""
        x = features.flatten(2).transpose(0, 1).expand(len(self.weights[0]), -1, -1)
        x = F.leaky_relu(torch.baddbmm(self.biases[0], x, self.weights[0]), 0.01)
        x = torch.baddbmm(self.biases[1], x, self.weights[1]).transpose(0, 1)
        return list(x.split(self.classes, dim=-1))


class LightHead(nn.Module):
    """Ours: a dense layer per voxel; along every axis the mean and the maximum over the others; and from each cell of
    this profile and its neighbours the logits of the classes in it. Its weights do not grow with the window.
    """

    def __init__(
        self, landmarks: int, channels: int, width: int, *, grid: Sequence[int], classes: Sequence[int]
    ) -> None:
        super().__init__()
        if any(count % cells for count, cells in zip(classes, grid, strict=True)):
            raise ChallengeError(f"head: wanted classes that are multiples of {tuple(grid)}, got {tuple(classes)}")
        self.landmarks, self.width = landmarks, width
        self.voxelwise = nn.Parameter(torch.empty(landmarks, width, channels))
        nn.init.xavier_uniform_(self.voxelwise)
        parts = [count // cells for count, cells in zip(classes, grid, strict=True)]
        self.profiles = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(2 * width * landmarks, width * landmarks, 3, padding=1, groups=landmarks),
                nn.LeakyReLU(0.01),
                nn.Conv1d(width * landmarks, part * landmarks, 3, padding=1, groups=landmarks),
            )
            for part in parts
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, L or 1, F, ...) -> logits (B, L, C) of every axis, x first."""
        shape = features.shape[3:]
        flat = features.flatten(3).expand(-1, self.landmarks, -1, -1)
        hidden = F.leaky_relu(torch.einsum("blfn,lhf->blhn", flat, self.voxelwise), 0.01).unflatten(3, shape)
        logits = []
        for axis, layers in enumerate(self.profiles):
            others = [3 + other for other in range(len(shape)) if other != len(shape) - 1 - axis]
            profile = torch.cat((hidden.mean(dim=others), hidden.amax(dim=others)), dim=2)
            found = layers(profile.flatten(1, 2)).unflatten(1, (self.landmarks, -1))
            logits.append(found.transpose(2, 3).flatten(2))
        return logits


class LocalizationNetwork(nn.Module):
    """Fig. 1: levels of MD-GRU, voxelwise dense layer and tanh, and a head per landmark on them.

    window: sides x, y[, z] in voxels. classes_per_voxel: n of the paper, of the voxels after the stem.
    """

    def __init__(
        self,
        ndim: int,
        landmarks: int,
        architecture: Architecture,
        *,
        window: Sequence[int],
        classes_per_voxel: int,
        inputs: int = 2,
    ) -> None:
        super().__init__()
        if any(side % architecture.stride for side in window):
            raise ChallengeError(f"window: wanted multiples of {architecture.stride} voxels, got {tuple(window)}")
        self.ndim = ndim
        classes = [side // architecture.stem_stride * classes_per_voxel for side in window]
        grid = [side // architecture.stride for side in window]
        layers: list[nn.Module] = []
        width = inputs
        if architecture.stem:
            stride = architecture.stem_stride
            layers.append(CONV[ndim](width, architecture.stem, 2 * stride + 1, stride=stride, padding=stride))
            width = architecture.stem
        for channels, dense in architecture.levels:
            gru = MDGRU(
                ndim,
                width,
                channels,
                kernel=architecture.kernel,
                drop=architecture.drop,
                gaussian=architecture.gaussian,
                checkpoint=architecture.checkpoint,
            )
            layers += [gru, CONV[ndim](channels, dense, 1), nn.Tanh()]
            width = dense
        self.trunk = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if architecture.head not in ("dense", "light"):
            raise ChallengeError(f"head: wanted dense or light, got '{architecture.head}'")
        self.head: DenseHead | LightHead = (
            DenseHead(landmarks, width * math.prod(grid), classes)
            if architecture.head == "dense"
            else LightHead(landmarks, width, architecture.head_width, grid=grid, classes=classes)
        )

    def forward(self, windows: Tensor) -> list[Tensor]:
        """(B, W, inputs, *size) -> logits (B, L, C) of every axis, x first; W is 1, for all landmarks, or L."""
        flat = windows.flatten(0, 1)
        chunk = len(flat) if torch.is_grad_enabled() else max(1, CHUNK_VOXELS // math.prod(flat.shape[2:]))
        features = torch.cat([self.trunk(channels_last(part)) for part in flat.split(chunk)])
        return [logits.float() for logits in self.head(features.unflatten(0, windows.shape[:2]))]


def with_high_pass(windows: Tensor, sigma_voxel: float) -> Tensor:
    """(N, 1, *size) -> (N, 2, *size): the window and what a Gaussian takes from it, both of mean 0 and deviation 1.

    The paper filters and normalises whole volumes. Here it happens to windows, borders going on around them, after
    their grey values were changed at random.
    """
    smooth = windows
    for axis, count in enumerate(windows.shape[2:], 2):
        blur = _blur_matrix(count, sigma_voxel).to(windows)
        behind = math.prod(windows.shape[axis + 1 :])
        lines = smooth.reshape((-1, count, behind) if behind > 1 else (-1, count))
        smooth = (blur @ lines if behind > 1 else lines @ blur.T).reshape(windows.shape)
    both = torch.cat((windows, windows - smooth), dim=1)
    deviation, mean = torch.std_mean(both, dim=list(range(2, both.ndim)), keepdim=True)
    return (both - mean) / deviation.clamp(min=1e-4)


@cache
def _blur_matrix(count: int, sigma_voxel: float) -> Tensor:
    """(count, count): a line of voxels -> the same blurred, its ends going on. Much faster than a convolution of one
    channel.
    """
    reach = math.ceil(4 * sigma_voxel)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_voxel) ** 2)
    sources = (torch.arange(count).unsqueeze(1) + torch.arange(-reach, reach + 1)).clamp(0, count - 1)
    return torch.zeros(count, count).scatter_add(1, sources, (taps / taps.sum()).expand(count, -1))


def class_centres(classes: int, side: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(C,) voxel coordinates of the centres of the classes of an axis of `side` voxels.

    >>> class_centres(4, 2).tolist()
    [-0.25, 0.25, 0.75, 1.25]
    """
    return (torch.arange(classes, device=device, dtype=torch.float32) + 0.5) * (side / classes) - 0.5


def class_loss(logits: Sequence[Tensor], points: Tensor, window: Sequence[int], *, label_sigma: float) -> Tensor:
    """The sum of the cross-entropies of the axes, as a mean over landmarks; points (B, L, ndim) voxels of the window.

    label_sigma: voxels; 0 is the paper's one class, else the labels are a Gaussian. A coordinate that is NaN or outside
    the window has no class and teaches nothing; the others of its point do.
    """
    total = logits[0].new_zeros(())
    for axis, (found, side) in enumerate(zip(logits, window, strict=True)):
        at, classes = points[..., axis], found.shape[-1]
        index = torch.floor((at + 0.5) * (classes / side))
        known = (index >= 0) & (index < classes)  # NaN is neither
        share = known / known.sum().clamp(min=1)
        if label_sigma > 0:
            distance = class_centres(classes, side, device=found.device) - torch.nan_to_num(at).unsqueeze(-1)
            labels = (-0.5 * (distance / label_sigma).square()).softmax(dim=-1)
        else:
            labels = F.one_hot(torch.where(known, index, 0).long(), classes).to(found)
        total = total - ((labels * found.log_softmax(dim=-1)).sum(dim=-1) * share).sum()
    return total


def decode(logits: Sequence[Tensor], window: Sequence[int], *, parabola: bool) -> tuple[Tensor, Tensor]:
    """(B, L, ndim) voxel coordinates in the window, and the variances of the distributions around them in voxels^2.

    The class of the largest probability; with `parabola` the top of the one through it and its neighbours (not on the
    border).
    """
    places, variances = [], []
    for found, side in zip(logits, window, strict=True):
        chance = found.softmax(dim=-1)
        classes = chance.shape[-1]
        best = chance.argmax(dim=-1, keepdim=True)
        place = (best.to(chance.dtype) + 0.5) * (side / classes) - 0.5
        if parabola and classes > 2:
            inner = best.clamp(1, classes - 2)
            before, peak, after = (chance.gather(-1, inner + step) for step in (-1, 0, 1))
            bend = before - 2 * peak + after
            offset = torch.where((bend < 0) & (inner == best), 0.5 * (before - after) / bend, 0)
            place = place + offset.nan_to_num(0.0) * (side / classes)
        centres = class_centres(classes, side, device=found.device)
        variances.append((chance * (centres - place).square()).sum(dim=-1))
        places.append(place.squeeze(-1))
    return torch.stack(places, dim=-1), torch.stack(variances, dim=-1)
