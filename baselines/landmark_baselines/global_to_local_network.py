"""The networks of global-to-local: patches that say whether a landmark is in them and where it is; loss and decoding.

Noothout et al., IEEE TMI 39(12), 2020. `global_to_local.py` puts the two stages together.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .augmentation import Augmentation
from .blocks import autocast, channels_last, convolution, dense_head, residual_block
from .grids import cell_centres, cell_of
from .patches import padded, sample_windows
from .slabs import streamed
from .stopwatch import span
from .training import Schedule


@dataclass(frozen=True)
class Architecture:
    """One FCNN. stem: channels of the 7x7 convolution of stride 2, 0 for none. widths, pairs, pools: per block."""

    stem: int
    widths: tuple[int, ...]
    pairs: tuple[int, ...]
    pools: tuple[bool, ...]
    head: tuple[int, ...]

    @property
    def stride(self) -> int:
        """2^n voxels: the side of a patch and the spacing of the output grid."""
        return 2 ** (sum(self.pools) + (self.stem > 0))


@dataclass(frozen=True)
class Stage:
    """One of the two stages. spacing_mm: of the voxels it works on. window: side of a training sub-image in voxels,
    0 for the whole image (global stage) or chosen from the global stage's validation errors (local stage).
    """

    spacing_mm: float
    window: int
    architecture: Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Settings:
    """A preset. regression: `log` displacements, `linear` ones, or `none`; classification: on or off (section V-B).

    classification_weight: of the cross-entropy beside the mean absolute error of the displacements; the paper adds both
    means as they are (1). coordinate_weight: of an extra loss on the decoded point in voxels; the paper has none (0).
    local_margin: voxels of a local window that are context on both sides together: landmarks lie in the rest of it.
    decoding: `posterior` weighs all patches (the paper); `positive` is its predecessor (Noothout et al., MIDL 2018):
    patches of a posterior above 0.5 count the same, the others not. local: off leaves the global stage alone.
    """

    global_stage: Stage
    local_stage: Stage
    regression: Literal["log", "linear", "none"] = "log"
    classification: bool = True
    classification_weight: float = 1.0
    coordinate_weight: float = 0.0
    local_margin: int = 0
    decoding: Literal["posterior", "positive"] = "posterior"
    local: bool = True


class PatchNetwork(nn.Module):
    """Analyses an image in patches of 2^n voxels: is the landmark in the patch, and where is it from its centre.

    One network for all landmarks of one image; or, with `specialised`, one per landmark, each with an image of its own,
    as one grouped computation.
    """

    def __init__(self, ndim: int, landmarks: int, architecture: Architecture, *, specialised: bool = False) -> None:
        super().__init__()
        self.ndim, self.landmarks = ndim, landmarks
        groups = landmarks if specialised else 1
        layers: list[nn.Module] = []
        width = groups
        if architecture.stem:
            stem = architecture.stem * groups
            layers.append(convolution(ndim, width, stem, kernel=7, stride=2, groups=groups))
            width = stem
        for own_width, pairs, pool in zip(architecture.widths, architecture.pairs, architecture.pools, strict=True):
            layers.append(residual_block(ndim, width, own_width * groups, pairs=pairs, pool=pool, groups=groups))
            width = own_width * groups
        nodes = [count * groups for count in architecture.head]
        self.body = nn.Sequential(*layers)
        self.classify = dense_head(ndim, width, nodes, landmarks, groups=groups)
        self.regress = dense_head(ndim, width, nodes, landmarks * ndim, groups=groups)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, ...), specialised (B, L, ...) -> logits (B, L, *grid) and what is regressed (B, L, ndim, *grid)."""
        features = streamed(self.body, channels_last(x))
        displacement = self.regress(features).float()
        return self.classify(features).float(), displacement.unflatten(1, (self.landmarks, self.ndim))


def to_log(displacement: Tensor) -> Tensor:
    """sign(d) ln(1 + |d|), d in voxels: smooth, odd and invertible (the paper does not say which logarithm)."""
    return torch.sign(displacement) * torch.log1p(displacement.abs())


def from_log(value: Tensor) -> Tensor:
    """The inverse of `to_log`; clamped so that a wild value stays finite."""
    return torch.sign(value) * torch.expm1(value.abs().clamp(max=12.0))


def patch_loss(outputs: tuple[Tensor, Tensor], points: Tensor, settings: Settings, *, stride: int) -> Tensor:
    """Loss of one batch; points (B, L, ndim) voxel coordinates in the input, NaN where there is nothing to learn from.

    A point outside the input still trains: no patch holds it, and its displacements are valid (the paper does not say).
    """
    logits, regressed = outputs
    shape = logits.shape[2:]
    known = torch.isfinite(points).all(dim=-1)
    target = torch.nan_to_num(points)
    centres = cell_centres(shape, stride, device=logits.device)
    # A head that is not learned has a gradient of zero all the same, which several processes wait for.
    loss = 0.0 * (logits.sum() + regressed.sum())
    weights = known.float()
    share = weights / weights.sum().clamp(min=1)
    if settings.classification:
        cell, inside = cell_of(points, shape, stride)
        labels = F.one_hot(cell, math.prod(shape)).float() * inside.unsqueeze(-1)
        entropy = F.binary_cross_entropy_with_logits(logits.flatten(2), labels, reduction="none").mean(dim=-1)
        loss = loss + settings.classification_weight * (entropy * share).sum()
    if settings.regression != "none":
        displacement = target.reshape(*target.shape, *[1] * len(shape)) - centres
        wanted = to_log(displacement) if settings.regression == "log" else displacement
        error = (regressed - wanted).abs().flatten(2).mean(dim=-1)
        loss = loss + (error * share).sum()
    if settings.coordinate_weight > 0:
        decoded = decode(outputs, settings, stride=stride)
        error = to_log(decoded - target).abs().mean(dim=-1)
        loss = loss + settings.coordinate_weight * (error * share).sum()
    return loss


def decode(outputs: tuple[Tensor, Tensor], settings: Settings, *, stride: int) -> Tensor:
    """(B, L, ndim) voxel coordinates: the mean of what the patches point to, weighted by their posteriors.

    Where no posterior is left (their sum underflows, or with `positive` decoding none is above 0.5) the patch of the
    largest logit decides alone.
    """
    logits, regressed = outputs
    centres = cell_centres(logits.shape[2:], stride, device=logits.device)
    if settings.regression == "log":
        pointed = centres + from_log(regressed)
    elif settings.regression == "linear":
        pointed = centres + regressed
    else:
        pointed = centres.expand(*regressed.shape)
    pointed = pointed.flatten(3)
    if not settings.classification:
        return pointed.mean(dim=-1)
    flat = logits.flatten(2)
    if settings.decoding == "positive":
        best = F.one_hot(flat.argmax(dim=-1), flat.shape[-1]).bool()
        votes = torch.where((flat > 0).any(dim=-1, keepdim=True), flat > 0, best).float()
        return (pointed * (votes / votes.sum(dim=-1, keepdim=True)).unsqueeze(2)).sum(dim=-1)
    # sigmoid(x) / sum sigmoid, scaled by its largest value so that the sum never underflows
    log_weights = F.logsigmoid(flat)
    weights = torch.exp(log_weights - log_weights.amax(dim=-1, keepdim=True))
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return (pointed * weights.unsqueeze(2)).sum(dim=-1)


@torch.inference_mode()
def global_outputs(network: nn.Module, images: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(B, 1, ...) whole images -> what the global network says of every patch, as `PatchNetwork` gives it."""
    with span("network"), autocast(images.device):
        outputs: tuple[Tensor, Tensor] = network(padded(images, settings.global_stage.architecture.stride))
    return outputs


@torch.inference_mode()
def run_global(network: nn.Module, images: Tensor, settings: Settings) -> Tensor:
    """(B, 1, ...) whole images -> (B, L, ndim) voxel coordinates of the global stage."""
    outputs = global_outputs(network, images, settings)
    with span("decode"):
        return decode(outputs, settings, stride=settings.global_stage.architecture.stride)


@torch.inference_mode()
def local_outputs(network: nn.Module, images: Tensor, estimates: Tensor, *, window: int) -> tuple[Tensor, Tensor]:
    """(B, 1, ...) images and (B, L, ndim) estimates -> what each local network says of the patches of its window."""
    with span("resample"):
        windows = sample_windows(images, estimates, (window,) * (images.ndim - 2))[:, :, 0]
    with span("network"), autocast(images.device):
        outputs: tuple[Tensor, Tensor] = network(windows)
    return outputs


@torch.inference_mode()
def run_local(network: nn.Module, images: Tensor, estimates: Tensor, settings: Settings, *, window: int) -> Tensor:
    """(B, 1, ...) images and (B, L, ndim) estimates -> refined ones, both in voxels of the local stage."""
    outputs = local_outputs(network, images, estimates, window=window)
    with span("decode"):
        inside = decode(outputs, settings, stride=settings.local_stage.architecture.stride)
    return inside + estimates - (window - 1) / 2
