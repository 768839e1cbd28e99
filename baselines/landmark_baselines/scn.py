"""SpatialConfiguration-Net: maps of local appearance times maps of the landmarks' spatial configuration, which learn
Gaussians whose width is learned as well (Payer et al., Medical Image Analysis 54, 2019; the first one: MICCAI 2016).

The network is in scn_network.py. What the texts leave open is as in the authors' code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .augmentation import FEW_IMAGES, Augmentation, augmented_batch, without_folds
from .blocks import autocast, for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .heatmaps import DECODERS, render_gaussians
from .patches import padded
from .presets import from_plain, of_preset
from .scn_network import Architecture, SpatialConfigurationNet, tile_starts
from .single_network import train_single
from .stopwatch import span
from .store import Store, prepare
from .training import Schedule, Step, one_cycle, set_threads


@dataclass(frozen=True)
class Settings:
    """A preset. spacing_mm: of the voxels it works on. sigma_mm: of the Gaussians at first, for good where it is not
    learned. scale: a Gaussian's integral, per voxel. sigma_penalty: weight of the squared sigmas (voxels) in the loss.
    window: largest side in voxels of what is seen at once, 0 for whole images. decoding: key of heatmaps.DECODERS.
    """

    spacing_mm: float
    architecture: Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)
    learned_sigma: bool = True
    sigma_mm: float = 1.2
    scale: float = 100.0
    sigma_penalty: float = 20.0
    window: int = 0
    decoding: str = "quadratic"


def targets(points: Tensor, shape: tuple[int, ...], sigma: Tensor, *, scale: float) -> Tensor:
    """(B, L, *shape): around each of `points` (B, L, ndim) a Gaussian of `sigma` (L,) voxels whose integral is `scale`.

    Gradients reach sigma. A narrow Gaussian is a high one, which a network that is unsure cannot follow.
    """
    height = scale / (math.sqrt(2 * math.pi) * sigma) ** len(shape)
    return render_gaussians(points, shape, sigma) * height.reshape(-1, *[1] * len(shape))


def configuration_loss(maps: Tensor, points: Tensor, sigma: Tensor, settings: Settings) -> Tensor:
    """Loss of one batch: half the squared errors of the maps and half the penalised squared sigmas, summed, per image.

    maps: (B, L, *grid). points: (B, L, ndim) voxel coordinates, NaN where nobody knows: such a landmark teaches neither
    its map nor its sigma. A point outside of the grid leaves an empty map to learn.
    """
    known = torch.isfinite(points).all(dim=-1)
    errors = (maps - targets(points, tuple(maps.shape[2:]), sigma, scale=settings.scale)).square()
    each = errors.flatten(2).sum(dim=-1) + settings.sigma_penalty * sigma.square()
    return torch.where(known, each, 0).sum() / (2 * len(maps))


@torch.inference_mode()
def run(network: nn.Module, images: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """(B, 1, ...) whole images -> (B, L, ndim) voxel coordinates and the maps that they were decoded from."""
    with span("network"), autocast(images.device):
        maps = _tiled(network, padded(images, settings.architecture.multiple), settings)
    with span("decode"):
        sigma_voxel = float(network.get_parameter("sigma").detach().float().mean())
        return _decoder(settings)(maps, sigma_voxel), maps


def _tiled(network: nn.Module, images: Tensor, settings: Settings) -> Tensor:
    """The maps of images of any size: the mean over tiles of at most `window` voxels that overlap by half."""
    shape, window, multiple = images.shape[2:], settings.window, settings.architecture.multiple
    if not window or max(shape) <= window:
        return network(images).float()
    step = max(window // 2 // multiple, 1) * multiple
    total = images.new_zeros(len(images), network.get_parameter("sigma").numel(), *shape)
    times = images.new_zeros(shape)
    for corner in product(*(tile_starts(count, window, step) for count in shape)):
        tile: Any = (..., *(slice(start, start + window) for start in corner))
        total[tile] += network(images[tile]).float()
        times[tile] += 1
    return total / times


def train(
    dataset: Dataset, *, preset: str = "cpu", seed: int = 0, settings: Settings | None = None, **options: Any
) -> None:
    """Train the network into a model folder; `options` are those of `train_single`."""
    chosen = settings or preset_settings(preset, dataset.task)
    _checked(chosen)
    train_single(
        "scn",
        dataset,
        settings=chosen,
        network=lambda: _network(dataset.task, chosen),
        loss_of=lambda model, step, store: _loss(model, step, store, chosen, seed=seed),
        points_of=lambda model, images: run(model, images, chosen)[0],
        spacing_mm=chosen.spacing_mm,
        schedule=chosen.schedule,
        preset=preset,
        seed=seed,
        **options,
    )


def _loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch of images, augmented."""
    seen = [min(count, settings.window or count) for count in store.images.shape[2:]]
    images, points = augmented_batch(
        store,
        step.positions(settings.schedule.batch),
        # In images of less than 145 mm, which the paper's are not, its field would fold.
        augmentation=without_folds(settings.augmentation, min(seen) * store.spacing_mm),
        multiple=settings.architecture.multiple,
        window=settings.window,
        seed=seed,
    )
    return configuration_loss(model(images).float(), points, model.sigma, settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scn:
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
        """Landmarks in mm, each of the task with probability 1. A map's width is what it was taught: no covariances."""
        grid = prepare(image, self.task, self.settings.spacing_mm)
        tensor = torch.from_numpy(np.ascontiguousarray(grid.array))[None, None].to(self.device)
        points, _ = run(self.network, tensor, self.settings)
        return Localization(Landmarks(self.task.names, grid.index_to_mm(points[0].double().cpu().numpy())))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> Scn:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = from_plain(Settings, saved.settings, source=str(model / MODEL_FILE))
    _checked(settings)
    network = _network(saved.task, settings)
    saved.load_weights(network, model)
    return Scn(saved, settings, for_inference(placed(network, device, saved.task.dimension)), torch.device(device))


def _network(task: Task, settings: Settings) -> SpatialConfigurationNet:
    return SpatialConfigurationNet(
        task.dimension,
        len(task.names),
        settings.architecture,
        sigma_voxel=settings.sigma_mm / settings.spacing_mm,
        learned_sigma=settings.learned_sigma,
    )


def _decoder(settings: Settings) -> Callable[[Tensor, float], Tensor]:
    if settings.decoding not in DECODERS:
        raise ChallengeError(f"decoding: wanted one of {', '.join(DECODERS)}, got '{settings.decoding}'")
    return DECODERS[settings.decoding]


def _checked(settings: Settings) -> None:
    """Raises ChallengeError for settings that no network can be made of."""
    _decoder(settings)
    architecture = settings.architecture
    if architecture.generation not in (2016, 2019):
        raise ChallengeError(f"architecture.generation: wanted 2016 or 2019, got {architecture.generation}")
    if settings.window % architecture.multiple:
        raise ChallengeError(f"window: wanted a multiple of {architecture.multiple} voxels, got {settings.window}")


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings changed to a variant of VARIANTS."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    return VARIANTS[variant](settings)


def _first_generation(settings: Settings) -> Settings:
    """The network of 2016, whose sigma is the one it starts with."""
    before = settings.architecture
    first = replace(before, generation=2016, levels=1, spatial_stride=8, spatial_kernel=15)
    return replace(settings, architecture=first, learned_sigma=False)


VARIANTS: dict[str, Callable[[Settings], Settings]] = {
    "scn_mia": lambda settings: settings,
    "scn_mia_fixed_sigma": lambda settings: replace(settings, learned_sigma=False),
    "scn_mia_local": lambda settings: replace(settings, architecture=replace(settings.architecture, spatial=False)),
    "scn": _first_generation,
}


def _paper(task: Task) -> Settings:
    """2D: the cephalograms of 2019. 3D: the spine of 2019, in volumes of 2 mm voxels."""
    if task.dimension == 2:
        spacing = max(min(task.working_spacing_mm), 0.47)  # the paper: fitted into 512x512 pixels
        schedule = Schedule(30_000, 1, 1e-6, weight_decay=1e-3, momentum=0.99, gradient_norm=1e4, validate_every=1000)
        return Settings(spacing, Architecture(), schedule, _PAPER, sigma_mm=2.5 * spacing)
    spacing = min(task.working_spacing_mm) if task.pad_to_voxels else max(min(task.working_spacing_mm), 2.0)
    schedule = Schedule(40_000, 1, 5e-8, weight_decay=5e-4, momentum=0.99, validate_every=2500)
    architecture = Architecture(width=64, spatial_stride=8, spatial_kernel=7)
    settings = Settings(spacing, architecture, schedule, _PAPER, sigma_mm=4 * spacing, scale=1000, sigma_penalty=100)
    return replace(settings, window=128)  # the paper: 96x96x192


def _fast(task: Task) -> Settings:
    """The paper's architecture and loss with a one-cycle schedule and stronger augmentation."""
    paper = _paper(task)
    schedule = Schedule(6000, 4 if task.dimension == 2 else 2, 5e-4, average=0.999, validate_every=500)
    architecture = replace(paper.architecture, dropout=0.0)  # the paper: 0.5, too much for a fifth of its steps
    return replace(
        paper, schedule=one_cycle(schedule, gradient_norm=1e4), architecture=architecture, augmentation=_SHAKEN
    )


def _cpu(task: Task) -> Settings:
    """Two cores: half the paper's width. 2D at 1.2 mm (or the task's spacing, if coarser); 3D at twice the task's
    spacing, or at the spacing itself where all images are cut to a small size.
    """
    fast, spacing = _fast(task), min(task.working_spacing_mm)
    if task.dimension == 2:
        spacing = max(spacing, 1.2)
        architecture = Architecture(width=64, dropout=0.0, spatial_stride=8)
        schedule = one_cycle(Schedule(2000, 2, 1e-3, average=0.995, validate_every=200), gradient_norm=1e4)
        return replace(fast, spacing_mm=spacing, architecture=architecture, schedule=schedule, sigma_mm=2 * spacing)
    spacing *= 1 if task.pad_to_voxels else 2
    architecture = Architecture(width=24, dropout=0.0, spatial_stride=8, spatial_kernel=5)
    schedule = one_cycle(Schedule(1000, 2, 2e-3, average=0.99, validate_every=100), gradient_norm=1e4)
    return replace(fast, spacing_mm=spacing, architecture=architecture, schedule=schedule, sigma_mm=2 * spacing)


def _tiny(task: Task) -> Settings:
    """About a minute to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    flat = task.dimension == 2
    spacing = cpu.spacing_mm * (1.5 if flat else 1)
    slim = replace(cpu.architecture, width=24 if flat else 12, spatial_kernel=7 if flat else 5)
    schedule = replace(cpu.schedule, iterations=500, batch=4, learning_rate=3e-3, average=0.98, validate_every=100)
    return replace(cpu, spacing_mm=spacing, architecture=slim, schedule=schedule, sigma_mm=2 * spacing)


_PAPER = Augmentation(
    rotation_degrees=14.3,  # 0.25 rad
    scale=0.2,
    stretch=0.2,
    shift_mm=10,
    elastic_mm=5.8,  # the paper: uniform in +-10 mm, which has this standard deviation
    contrast=0.25,
    brightness=0.125,  # of intensities in 0..1; the paper: 0.25 of those in -1..1
)
_SHAKEN = replace(FEW_IMAGES, shift_mm=8)
PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
