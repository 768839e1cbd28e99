"""The two stages of the MD-GRU localizer: what each of them sees of an image, and where it puts the landmarks.

Andermatt et al., arXiv 1708.02766, section 2. The coarse stage sees the whole image, subsampled; the fine one a window
at the working resolution around each estimate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .augmentation import Augmentation
from .blocks import autocast
from .md_gru_network import Architecture, LocalizationNetwork, decode, with_high_pass
from .patches import sample_windows
from .stopwatch import span
from .training import Schedule


@dataclass(frozen=True)
class Stage:
    """One of the two networks. spacing_mm: of the voxels it works on. window: sides x, y[, z] of what it sees, in
    voxels; () in the coarse stage for the least that holds every training image. classes_per_voxel: the paper's n, of
    voxels after the stem. offset_voxel: in training the window's centre lies up to so far along every axis from the
    image's centre (coarse); or from the landmark, 0 for anywhere with the landmark inside (fine). label_sigma_mm: see
    `class_loss`.
    """

    spacing_mm: float
    window: tuple[int, ...]
    architecture: Architecture
    schedule: Schedule
    classes_per_voxel: int = 1
    offset_voxel: float = 0.0
    label_sigma_mm: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Settings:
    """A preset. refine: off leaves the coarse stage alone. parabola: through the most probable class and its two
    neighbours. high_pass_mm: sigma of the Gaussian that the second channel lacks. passes: further passes with
    DropConnect on, from which covariances then come; 0 takes them from the distributions of the classes alone.
    """

    coarse: Stage
    fine: Stage
    refine: bool = True
    parabola: bool = True
    high_pass_mm: float = 5.0
    passes: int = 0


def overview_scale(extent: Sequence[int], window: Sequence[int]) -> float:
    """Voxels of an image (x, y[, z]) per voxel of the coarse window: 1, or more where the image would not fit in."""
    return max(1.0, *(count / side for count, side in zip(extent, window, strict=True)))


def choose_window(shape: Sequence[int], stage: Stage) -> tuple[int, ...]:
    """Sides x, y[, z] of the least coarse window that the network can have and that holds (z,) y, x voxels."""
    stride = stage.architecture.stride
    return tuple(math.ceil(count / stride) * stride for count in reversed(shape))


def make_network(ndim: int, landmarks: int, stage: Stage) -> LocalizationNetwork:
    """The network of a stage whose window is known."""
    return LocalizationNetwork(
        ndim, landmarks, stage.architecture, window=stage.window, classes_per_voxel=stage.classes_per_voxel
    )


@torch.inference_mode()
def run_windows(
    network: nn.Module, windows: Tensor, settings: Settings, stage: Stage, *, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What the network of a stage says of windows (B, 1 or L, *size) of 0..1, of voxels `scale` times the stage's.

    Returns (B, L, ndim) voxel coordinates in the windows and, in voxels^2, the variances around them.
    """
    with span("resample"):
        sigma = settings.high_pass_mm / (stage.spacing_mm * scale)
        channels = with_high_pass(windows.flatten(0, 1).unsqueeze(1), sigma)
    with span("network"), autocast(windows.device):
        logits = network(channels.unflatten(0, windows.shape[:2]))
    with span("decode"):
        return decode(logits, stage.window, parabola=settings.parabola)


@torch.inference_mode()
def run_coarse(network: nn.Module, images: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(B, 1, ...) whole images -> (B, L, ndim) voxel coordinates of the coarse stage, and variances."""
    stage, extent = settings.coarse, images.shape[:1:-1]
    scale = overview_scale(extent, stage.window)
    if scale == 1:
        before = [(side - count) // 2 for side, count in zip(stage.window, extent, strict=True)]
        with span("resample"):
            after = [side - count - own for side, count, own in zip(stage.window, extent, before, strict=True)]
            margins = [margin for pair in zip(before, after, strict=True) for margin in pair]
            windows = F.pad(images, margins, mode="replicate")
        inside, variances = run_windows(network, windows, settings, stage)
        return inside - torch.tensor(before, device=images.device), variances
    centres = ((torch.tensor(extent, device=images.device) - 1) / 2).expand(len(images), 1, -1)
    return _run_around(network, images, centres, settings, stage, scale=scale)


def run_fine(network: nn.Module, images: Tensor, estimates: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(B, 1, ...) images and (B, L, ndim) estimates -> refined ones, in voxels of the fine stage, and variances."""
    return _run_around(network, images, estimates, settings, settings.fine)


@torch.inference_mode()
def _run_around(
    network: nn.Module, images: Tensor, centres: Tensor, settings: Settings, stage: Stage, *, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`run_windows` on windows around `centres` (B, 1 or L, ndim), places and variances in voxels of the images."""
    with span("resample"):
        matrices = torch.eye(centres.shape[-1], device=images.device) * scale
        windows = sample_windows(images, centres, stage.window[::-1], matrices=matrices.expand(*centres.shape, -1))
    inside, variances = run_windows(network, windows[:, :, 0], settings, stage, scale=scale)
    half = (torch.tensor(stage.window, device=images.device) - 1) / 2
    return centres + (inside - half) * scale, variances * scale**2
