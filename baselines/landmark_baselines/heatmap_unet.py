"""Heatmap U-Net: one U-Net at one resolution gives a map per landmark, and the map its point. The plain baseline of
Huang et al., arXiv 2007.05355 (2D, section 3.4) and of Ma et al., arXiv 2003.01639 (3D).

The papers regress Gaussians (`bce`, `mse`). `spatial_cross_entropy` takes the softmax over all voxels as the
distribution of the landmark instead: it needs no balance of the few voxels near a landmark against the many others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .augmentation import FEW_IMAGES, Augmentation, augmented_batch
from .blocks import autocast, for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .heatmaps import DECODERS, gaussian_factors, render_gaussians, second_moments, weighted_sum
from .patches import padded
from .presets import from_plain, of_preset
from .single_network import train_single
from .stopwatch import span
from .store import Store, prepare
from .training import Schedule, Step, one_cycle, set_threads
from .unet import Architecture, UNet


@dataclass(frozen=True)
class Settings:
    """A preset. spacing_mm: of the voxels it works on. loss: `spatial_cross_entropy`, `bce` or `mse`. sigma_mm: of the
    Gaussians that are learned. decoding: a key of heatmaps.DECODERS.
    """

    spacing_mm: float
    architecture: Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: str = "spatial_cross_entropy"
    sigma_mm: float = 1.6
    decoding: str = "local"

    @property
    def sigma_voxel(self) -> float:
        """The sigma of the learned Gaussians in voxels."""
        return self.sigma_mm / self.spacing_mm


class Taught(Protocol):
    """What maps are taught: the part of the settings that `heatmap_loss` reads."""

    @property
    def loss(self) -> str:
        """`spatial_cross_entropy`, `bce` or `mse`."""

    @property
    def sigma_voxel(self) -> float:
        """The sigma of the learned Gaussians in voxels."""


@dataclass(frozen=True)
class MapTarget:
    """What maps are taught, for methods whose settings do not say so themselves."""

    sigma_voxel: float
    loss: str = "spatial_cross_entropy"


def heatmap_loss(outputs: Tensor, points: Tensor, settings: Taught) -> Tensor:
    """Loss of one batch: outputs (B, L, *grid), points (B, L, ndim) voxel coordinates, NaN where nobody knows.

    `bce` and `mse` are summed over the voxels, which Adam cannot tell from the papers' mean. A point outside the grid
    leaves them an empty map to learn, and the cross-entropy nothing.
    """
    shape = outputs.shape[2:]
    known = torch.isfinite(points).all(dim=-1)
    if settings.loss == "spatial_cross_entropy":
        extent = torch.tensor(list(shape)[::-1], dtype=points.dtype, device=points.device)
        known = known & ((points >= -0.5) & (points < extent - 0.5)).all(dim=-1)
        target = gaussian_factors(points, shape, settings.sigma_voxel, normalised=True)
        losses = -weighted_sum(outputs.flatten(2).log_softmax(dim=-1).view_as(outputs), target)
    else:
        maps = render_gaussians(points, shape, settings.sigma_voxel)
        entropy = F.binary_cross_entropy_with_logits
        error = (entropy if settings.loss == "bce" else F.mse_loss)(outputs, maps, reduction="none")
        losses = error.flatten(2).sum(dim=-1)
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)


def to_maps(outputs: Tensor, settings: Settings) -> Tensor:
    """(B, L, *grid) what the network gives -> maps: with the cross-entropy they sum to 1, else peaks of about 1."""
    if settings.loss == "spatial_cross_entropy":
        return outputs.flatten(2).softmax(dim=-1).view_as(outputs)
    return outputs.sigmoid() if settings.loss == "bce" else outputs


@torch.inference_mode()
def run(network: nn.Module, images: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(B, 1, ...) whole images -> (B, L, ndim) voxel coordinates and the maps that they were decoded from."""
    with span("network"), autocast(images.device):
        outputs = network(padded(images, settings.architecture.multiple)).float()
    with span("decode"):
        maps = to_maps(outputs, settings)
        return _decoder(settings)(maps, settings.sigma_voxel), maps


def train(
    dataset: Dataset, *, preset: str = "cpu", seed: int = 0, settings: Settings | None = None, **options: Any
) -> None:
    """Train the network into a model folder; `options` are those of `train_single`."""
    chosen = settings or preset_settings(preset, dataset.task)
    _decoder(chosen)
    train_single(
        "heatmap_unet",
        dataset,
        settings=chosen,
        network=lambda: UNet(dataset.task.dimension, len(dataset.task.names), chosen.architecture),
        loss_of=lambda model, step, store: _loss(model, step, store, chosen, seed=seed),
        points_of=lambda model, images: run(model, images, chosen)[0],
        spacing_mm=chosen.spacing_mm,
        schedule=chosen.schedule,
        preset=preset,
        seed=seed,
        **options,
    )


def _loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch of whole images, augmented."""
    images, points = augmented_batch(
        store,
        step.positions(settings.schedule.batch),
        augmentation=settings.augmentation,
        multiple=settings.architecture.multiple,
        seed=seed,
    )
    return heatmap_loss(model(images).float(), points, settings)


@dataclass(frozen=True)
class HeatmapUNet:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    network: nn.Module = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1.

        With the cross-entropy there are covariances in mm^2, the softmax's second moments around its point. They hold
        the learned Gaussian's own variance, nothing calibrates them, and every voxel counts, however far from the point
        it is. The other losses have none: their maps have the width that they were taught.
        """
        grid = prepare(image, self.task, self.settings.spacing_mm)
        tensor = torch.from_numpy(np.ascontiguousarray(grid.array))[None, None].to(self.device)
        points, maps = run(self.network, tensor, self.settings)
        landmarks = Landmarks(self.task.names, grid.index_to_mm(points[0].double().cpu().numpy()))
        if self.settings.loss != "spatial_cross_entropy":
            return Localization(landmarks)
        with span("decode"):
            moments = second_moments(maps, points)[0].double().cpu().numpy() * self.settings.spacing_mm**2
        covariance = np.zeros((len(moments), 3, 3))
        covariance[:, : image.ndim, : image.ndim] = moments  # a prepared image's axes are those of space
        return Localization(landmarks, dict(zip(self.task.names, covariance, strict=True)))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> HeatmapUNet:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = from_plain(Settings, saved.settings, source=str(model / MODEL_FILE))
    _decoder(settings)
    ndim = saved.task.dimension
    network = UNet(ndim, len(saved.task.names), settings.architecture)
    saved.load_weights(network, model)
    return HeatmapUNet(saved, settings, for_inference(placed(network, device, ndim)), torch.device(device))


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


VARIANTS = {loss: {"loss": loss} for loss in ("spatial_cross_entropy", "bce", "mse")}


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings with another loss."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    return replace(settings, loss=variant)


def _decoder(settings: Settings) -> Callable[[Tensor, float], Tensor]:
    if settings.loss not in VARIANTS:
        raise ChallengeError(f"loss: wanted one of {', '.join(VARIANTS)}, got '{settings.loss}'")
    if settings.decoding not in DECODERS:
        raise ChallengeError(f"decoding: wanted one of {', '.join(DECODERS)}, got '{settings.decoding}'")
    return DECODERS[settings.decoding]


def _paper(task: Task) -> Settings:
    """2D after Huang et al.: images of about 512x512; widths (here the original's) and schedule are not stated, but
    Adam. 3D after Ma et al., who halve 448^3 voxels of 0.5 mm. Neither says how a map becomes a point: its arg-max.
    """
    spacing = min(task.working_spacing_mm)
    if task.dimension == 2:
        spacing = max(spacing, 0.5)
        shaken = Augmentation(rotation_degrees=25, scale=0.3, shift_mm=8 * spacing)  # the paper: 35 pixels along x
        schedule = Schedule(15_000, 2, 1e-4, validate_every=500)
        wide = Architecture((64, 128, 256, 512, 1024), norm=False)
        return Settings(spacing, wide, schedule, shaken, "bce", 1.2 * spacing, "argmax")
    slim = Architecture((16, 32, 64, 128, 256), convolutions=1, norm=False, dropout=0.5, narrow=False)
    schedule = Schedule(83_500, 1, 1e-6, validate_every=835)  # 500 epochs of 167 cases
    return Settings(max(spacing, 1.0), slim, schedule, Augmentation(), "mse", 6.0, "argmax")


def _fast(task: Task) -> Settings:
    """The papers' architectures and losses with a one-cycle schedule, more augmentation and sub-voxel decoding."""
    schedule = Schedule(6000, 8 if task.dimension == 2 else 2, 5e-4, average=0.999, validate_every=500)
    return replace(_paper(task), schedule=one_cycle(schedule), augmentation=_SHAKEN, decoding="local")


def _cpu(task: Task) -> Settings:
    """Two cores. 2D at 0.8 mm (or the task's spacing, if coarser); 3D at twice the task's spacing, or at the spacing
    itself where all images are cut to a small size.
    """
    spacing = min(task.working_spacing_mm)
    if task.dimension == 2:
        spacing = max(spacing, 0.8)
        schedule = one_cycle(Schedule(1800, 4, 2e-3, average=0.99, validate_every=150))
        return Settings(spacing, Architecture((16, 32, 64, 96, 128, 160)), schedule, _SHAKEN, sigma_mm=2 * spacing)
    spacing *= 1 if task.pad_to_voxels else 2
    schedule = one_cycle(Schedule(1500, 2, 2e-3, average=0.99, validate_every=150))
    return Settings(spacing, Architecture((8, 16, 32, 64, 96)), schedule, _SHAKEN, sigma_mm=1.5 * spacing)


def _tiny(task: Task) -> Settings:
    """About a minute to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    spacing = cpu.spacing_mm * (2 if task.dimension == 2 else 1)
    schedule = replace(cpu.schedule, iterations=500, batch=4, learning_rate=5e-3, average=0.98, validate_every=100)
    slim = Architecture((8, 16, 24, 32, 48), convolutions=1 if task.dimension == 3 else 2)
    return replace(cpu, spacing_mm=spacing, architecture=slim, schedule=schedule, sigma_mm=1.5 * spacing)


_SHAKEN = replace(FEW_IMAGES, shift_mm=8)
PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
