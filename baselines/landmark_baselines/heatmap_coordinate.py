"""Heatmaps times coordinates: a U-Net's maps are sharp but take one vertebra for the next; an Xception's coordinates
are blurred but near. Their product, in logarithms log h - |x - mu|^2 / (2 sigma^2), is sharp and near.

Huang et al., "A new approach of landmark localization combining heatmap and coordinate regression",
arXiv 2007.05355, 2020. What the paper leaves open is chosen where the comment says so.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from . import unet, xception
from .ablation import Row
from .augmentation import FEW_IMAGES, Augmentation
from .blocks import autocast, for_inference, parameter_count, placed
from .checkpoints import MODEL_FILE, Model, mean_shape_of, provenance_of, read_model, save_model
from .heatmap_unet import VARIANTS as LOSSES
from .heatmap_unet import heatmap_loss
from .heatmaps import DECODERS, argmax_points, centre_of_mass, window_radius
from .neighbours import spine_measures
from .presets import from_plain
from .stopwatch import span
from .training import Point, Schedule, Step, clear_checkpoints, fit, launch, report, set_threads
from .whole_image import Frames, augmented_frames, errors_mm, load_frames, resized, to_shares, to_voxels


@dataclass(frozen=True)
class CoordinateStage:
    """Xception and a fully connected layer (section 3.3). side: the voxels per axis that an image is resized to."""

    side: int
    architecture: xception.Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class HeatmapStage:
    """The U-Net (section 3.4). loss: `bce`, `mse` or `spatial_cross_entropy`. sigma_voxel: of the learned Gaussians."""

    side: int
    architecture: unet.Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: str = "bce"
    sigma_voxel: float = 1.2


@dataclass(frozen=True)
class Settings:
    """A preset. shift: greatest random shift along x, y[, z] as a share of the image.

    combine: `fitted`, the product with a sigma per landmark, the coordinates' RMS error per axis in the validation
    cases; `fixed`, the product with `fixed_sigma`, a share of the image; `coordinate` or `heatmap`, that network alone.
    decoding: `argmax` of the map (the paper); or `local`, where the product says which peak, and the map itself, within
    a window around it, where the peak is to a fraction of a voxel.
    """

    coordinate: CoordinateStage
    heatmap: HeatmapStage
    shift: tuple[float, ...]
    combine: str = "fitted"
    fixed_sigma: float = 0.03
    decoding: str = "local"


class CoordinateNetwork(nn.Module):
    """One point per landmark from the whole image: Xception, flattened, and a fully connected layer.

    Flattened and not pooled (the paper does not say), because a mean over the image forgets where things are.
    """

    def __init__(self, ndim: int, landmarks: int, architecture: xception.Architecture, *, side: int) -> None:
        super().__init__()
        self.ndim, self.landmarks = ndim, landmarks
        self.features = xception.Xception(ndim, architecture)
        self.output = nn.Linear(architecture.features * architecture.grid(side) ** ndim, landmarks * ndim)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, 0.5)

    def start_at(self, points: Tensor) -> None:
        """Begin with `points` (L, ndim), shares of the image (the paper does not say how it begins)."""
        with torch.no_grad():
            self.output.bias.copy_(points.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, ...) -> (B, L, ndim) shares of the image, float32: bfloat16 has steps of half a voxel."""
        features = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            # contiguous: the weights are for features in the order of channels, whatever their layout in memory;
            # scaled (the paper: as they are), or a step of Adam, which moves thousands of weights, moves a point far
            flat = features.float().contiguous().flatten(1)
            points = self.output(flat / math.sqrt(flat.shape[1]))
        return points.unflatten(1, (self.landmarks, self.ndim))


def coordinate_loss(found: Tensor, points: Tensor) -> Tensor:
    """Mean squared error of (B, L, ndim) shares of the image, over what is known."""
    known = torch.isfinite(points).all(dim=-1, keepdim=True)
    squared = (found - torch.nan_to_num(points)).square() * known
    return squared.sum() / (known.sum() * points.shape[-1]).clamp(min=1)


def log_heatmaps(outputs: Tensor, loss: str) -> Tensor:
    """(B, L, *grid) what the U-Net gives -> log h, up to a constant per map."""
    if loss == "spatial_cross_entropy":
        return outputs.flatten(2).log_softmax(dim=-1).view_as(outputs)
    tiny = torch.finfo(outputs.dtype).tiny
    return F.logsigmoid(outputs) if loss == "bce" else outputs.clamp(min=tiny).log()


def log_product(log_maps: Tensor, means: Tensor, sigma_voxel: Tensor) -> Tensor:
    """log h - |x - mu|^2 / (2 sigma^2) (section 3.5): maps (B, L, *grid), means (B, L, ndim) voxels, sigma (L,) voxels.

    As logarithms, because both factors underflow where the other may decide.
    """
    shape = log_maps.shape[2:]
    for axis, count in enumerate(reversed(shape)):
        ramp = torch.arange(count, dtype=means.dtype, device=means.device)
        exponent = -0.5 * ((ramp - means[..., axis, None]) / sigma_voxel.unsqueeze(-1)).square()
        place = [1] * len(shape)
        place[len(shape) - 1 - axis] = count
        log_maps = log_maps + exponent.reshape(*means.shape[:2], *place)
    return log_maps


def around(log_maps: Tensor, peaks: Tensor, radius_voxel: int) -> Tensor:
    """exp(log_maps) within `radius_voxel` of `peaks` (B, L, ndim) along every axis, 0 elsewhere, largest value 1."""
    far = torch.zeros((), dtype=torch.bool, device=log_maps.device)
    for axis, count in enumerate(reversed(log_maps.shape[2:])):
        ramp = torch.arange(count, device=log_maps.device)
        place = [1] * (log_maps.ndim - 2)
        place[len(place) - 1 - axis] = count
        far = far | ((ramp - peaks[..., axis, None]).abs() > radius_voxel).reshape(*peaks.shape[:2], *place)
    inside = log_maps.masked_fill(far, -math.inf)
    top = inside.flatten(2).amax(dim=-1).reshape(*peaks.shape[:2], *[1] * (log_maps.ndim - 2))
    return (inside - top).exp()


def decode(log_maps: Tensor, means: Tensor | None, sigma_voxel: Tensor | None, settings: Settings) -> Tensor:
    """(B, L, ndim) voxel coordinates of the heatmaps, or of their product with the coordinates `means` in voxels."""
    stage = settings.heatmap
    if means is None or sigma_voxel is None:
        top = log_maps.flatten(2).amax(dim=-1).reshape(*log_maps.shape[:2], *[1] * (log_maps.ndim - 2))
        return DECODERS[settings.decoding]((log_maps - top).exp(), stage.sigma_voxel)
    peaks = argmax_points(log_product(log_maps, means, sigma_voxel))
    if settings.decoding == "argmax":
        return peaks
    return centre_of_mass(around(log_maps, peaks, window_radius(stage.sigma_voxel)))


def fitted_sigma(found: Tensor, points: Tensor, *, least: float) -> Tensor:
    """(L,) sigma of a Gaussian around the coordinates `found` (N, L, ndim), most likely to give `points`; shares.

    That is the RMS error per axis. least: where a landmark was never seen, or found better than a voxel.
    """
    squared = (found - points).square().mean(dim=-1)
    return squared.nanmean(dim=0).nan_to_num(0.0).sqrt().clamp(min=least)


@torch.inference_mode()
def run_coordinates(network: nn.Module, images: Tensor) -> Tensor:
    """(B, 1, ...) resized images -> (B, L, ndim) shares of the image."""
    with span("network"), autocast(images.device):
        return network(images)


@torch.inference_mode()
def run_heatmaps(network: nn.Module, images: Tensor, loss: str) -> Tensor:
    """(B, 1, ...) resized images -> (B, L, *grid) log h."""
    with span("network"), autocast(images.device):
        outputs = network(images)
    return log_heatmaps(outputs.float(), loss)


def train(
    dataset: Dataset,
    *,
    output: Path,
    device: str,
    preset: str = "cpu",
    seed: int = 0,
    resume: bool = False,
    settings: Settings | None = None,
    devices: int = 1,
    nodes: int = 1,
    deterministic: bool = False,
) -> None:
    """Train both networks, one after the other, into a model folder; an interrupted run goes on with `resume`."""
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    settings = _checked(settings or preset_settings(preset, dataset.task), ndim=ndim)
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    begun = time.monotonic()
    sides = (settings.coordinate.side, settings.heatmap.side)
    frames = {}
    for split in ("train", "validation"):
        cases = dataset.wanted_cases(split)
        frames[split] = load_frames(dataset, cases, sides=sides, device=device)
    if main:
        counts = " and ".join(f"{len(parts[0])} {split}" for split, parts in frames.items())
        report(f"{dataset.task.name}: {counts} cases in memory after {time.monotonic() - begun:.1f} s")
    curves: dict[str, list[Point]] = {}
    weights: dict[str, Tensor] = {}

    def stage(name: str, level: int, build: Callable[[], nn.Module], loss_of: _Loss, points_of: _Points) -> nn.Module:
        learn, judge = (parts[level] for parts in frames.values())
        torch.manual_seed(seed + level)  # a resumed run begins the second network as one in one go does
        model = placed(build(), device, ndim)
        if main:
            size = " x ".join([str(sides[level])] * ndim)
            report(f"{name}: {parameter_count(model) / 1e6:.2f} M weights, images of {size} voxels")

        def loss(model: nn.Module, step: Step) -> Tensor:
            return loss_of(model, step, learn, settings, seed)

        curves[name] = fit(
            model,
            loss,
            fabric=fabric,
            validate=lambda judged: float(errors_mm(_every(judged, judge, points_of, settings), judge).mean()),
            schedule=(settings.coordinate, settings.heatmap)[level].schedule,
            folder=output,
            stage=name,
            seed=seed,
            resume=resume,
        )
        weights.update({f"{name}.{key}": value for key, value in model.state_dict().items()})
        return model

    sigma = [math.nan] * landmarks
    if settings.combine != "heatmap":
        learn, judge = (parts[0] for parts in frames.values())

        def coordinate_network() -> CoordinateNetwork:
            network = CoordinateNetwork(ndim, landmarks, settings.coordinate.architecture, side=sides[0])
            network.start_at(learn.points.nanmean(dim=0).nan_to_num(0.5))
            return network

        trained = stage("coordinate", 0, coordinate_network, _coordinate_loss, _coordinates)
        # Fitted on the cases that chose the weights, hence a little narrow; the training cases' are far too narrow.
        found = _every(trained, judge, _coordinates, settings)
        sigma = fitted_sigma(found, judge.points, least=1 / settings.heatmap.side).tolist()
        if main:
            report(f"coordinate: sigma {min(sigma):.3f} to {max(sigma):.3f} of the image")
    if settings.combine != "coordinate":
        build = partial(unet.UNet, ndim, landmarks, settings.heatmap.architecture)
        stage("heatmap", 1, build, _heatmap_loss, _heatmap_points)
    if not main:
        return
    if preset == "tiny":  # biases stay: half a voxel is lost in them
        weights = {k: v.to(torch.bfloat16) if v.ndim > 1 else v for k, v in weights.items()}
    provenance = provenance_of(
        dataset,
        seed=seed,
        training_seconds=round(sum(curve[-1].seconds for curve in curves.values() if curve), 1),
        device=device,
        processes=fabric.world_size,
        validation_curve={name: [[p.iteration, p.validation_mm] for p in curve] for name, curve in curves.items()},
    )
    described = {**asdict(settings), "sigma": [None if math.isnan(value) else value for value in sigma]}
    save_model(
        output,
        Model("heatmap_coordinate", preset, described, dataset.task, provenance, mean_shape_of(dataset), weights),
    )
    clear_checkpoints(output)


_Loss = Callable[[nn.Module, Step, Frames, Settings, int], Tensor]
_Points = Callable[[nn.Module, Tensor, Settings], Tensor]


def _every(model: nn.Module, frames: Frames, points_of: _Points, settings: Settings) -> Tensor:
    """(N, L, ndim) shares found in every case."""
    model.eval()
    every = torch.arange(len(frames)).split(4)
    return torch.cat([points_of(model, frames.batch(part), settings) for part in every])


def _coordinates(model: nn.Module, images: Tensor, _: Settings) -> Tensor:
    return run_coordinates(model, images)


def _heatmap_points(model: nn.Module, images: Tensor, settings: Settings) -> Tensor:
    log_maps = run_heatmaps(model, images, settings.heatmap.loss)
    return to_shares(decode(log_maps, None, None, settings), settings.heatmap.side)


def _coordinate_loss(model: nn.Module, step: Step, frames: Frames, settings: Settings, seed: int) -> Tensor:
    images, points = _batch(settings.coordinate, step, frames, settings, seed)
    return coordinate_loss(model(images), points)


def _heatmap_loss(model: nn.Module, step: Step, frames: Frames, settings: Settings, seed: int) -> Tensor:
    images, points = _batch(settings.heatmap, step, frames, settings, seed)
    return heatmap_loss(model(images).float(), to_voxels(points, frames.side), settings.heatmap)


def _batch(
    stage: CoordinateStage | HeatmapStage, step: Step, frames: Frames, settings: Settings, seed: int
) -> tuple[Tensor, Tensor]:
    return augmented_frames(
        frames,
        step.positions(stage.schedule.batch),
        augmentation=stage.augmentation,
        shift=settings.shift,
        seed=seed,
    )


@dataclass(frozen=True)
class HeatmapCoordinate:
    """A trained model, ready to localize. sigma: (L,) the fitted ones, shares of the image."""

    model: Model
    settings: Settings
    sigma: Tensor = field(repr=False)
    coordinate_network: nn.Module | None = field(repr=False)
    heatmap_network: nn.Module | None = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1. No covariance: nothing calibrates the maps' width."""
        coordinate, heatmap = self.settings.coordinate, self.settings.heatmap
        means = sigma = None
        if self.settings.combine != "heatmap":
            grid = resized(image, self.task, coordinate.side)
            found = run_coordinates(_there(self.coordinate_network), self.tensor(grid))
            if self.settings.combine == "coordinate":
                return self.landmarks(to_voxels(found, coordinate.side), grid)
            means = to_voxels(found, heatmap.side)
            fixed = torch.full_like(self.sigma, self.settings.fixed_sigma)
            sigma = (fixed if self.settings.combine == "fixed" else self.sigma) * heatmap.side
        grid = resized(image, self.task, heatmap.side)
        log_maps = run_heatmaps(_there(self.heatmap_network), self.tensor(grid), heatmap.loss)
        with span("decode"):
            return self.landmarks(decode(log_maps, means, sigma, self.settings), grid)

    def landmarks(self, points: Tensor, grid: Image) -> Localization:
        """(1, L, ndim) voxel coordinates in a grid -> landmarks in mm."""
        return Localization(Landmarks(self.task.names, grid.index_to_mm(points[0].double().cpu().numpy())))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)

    def tensor(self, image: Image) -> Tensor:
        """(1, 1, ...) of a resized image, on the device of the networks."""
        return torch.from_numpy(np.ascontiguousarray(image.array))[None, None].to(self.device)


def _there(network: nn.Module | None) -> nn.Module:
    if network is None:
        raise ChallengeError("combine: wanted what this model was trained for, got a network that it does not have")
    return network


def load(model: Path, *, device: str = "cpu") -> HeatmapCoordinate:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    ndim, landmarks = saved.task.dimension, len(saved.task.names)
    settings = _checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)), ndim=ndim)
    coordinate: CoordinateNetwork | None = None
    heatmap: unet.UNet | None = None
    if settings.combine != "heatmap":
        coordinate = CoordinateNetwork(ndim, landmarks, settings.coordinate.architecture, side=settings.coordinate.side)
    if settings.combine != "coordinate":
        heatmap = unet.UNet(ndim, landmarks, settings.heatmap.architecture)
    for prefix, network in (("coordinate.", coordinate), ("heatmap.", heatmap)):
        if network is None:
            continue
        saved.load_weights(network, model, prefix=prefix)
        placed(network.eval(), device, ndim)
    if coordinate is not None:
        for_inference(coordinate.features)  # the fully connected layer stays in float32
    if heatmap is not None:
        for_inference(heatmap)
    sigma = torch.tensor([math.nan if value is None else value for value in saved.settings["sigma"]], device=device)
    return HeatmapCoordinate(saved, settings, sigma, coordinate, heatmap, torch.device(device))


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    if preset not in PRESETS:
        raise ChallengeError(f"preset: wanted one of {', '.join(PRESETS)}, got '{preset}'")
    return PRESETS[preset](task)


VARIANTS = {combine: {"combine": combine} for combine in ("fitted", "fixed", "coordinate", "heatmap")}


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings of a row of the paper's comparison; `fitted` is the proposed method."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    return replace(settings, combine=variant)


def _checked(settings: Settings, *, ndim: int) -> Settings:
    for name, value, known in (
        ("combine", settings.combine, VARIANTS),
        ("loss", settings.heatmap.loss, LOSSES),
        ("decoding", settings.decoding, ("argmax", "local")),
    ):
        if value not in known:
            raise ChallengeError(f"{name}: wanted one of {', '.join(known)}, got '{value}'")
    if len(settings.shift) != ndim:
        raise ChallengeError(f"shift: wanted {ndim} numbers, got {len(settings.shift)}")
    multiple = settings.heatmap.architecture.multiple
    if settings.heatmap.side % multiple:
        raise ChallengeError(f"heatmap.side: wanted a multiple of {multiple}, got {settings.heatmap.side}")
    if settings.coordinate.architecture.grid(settings.coordinate.side) < 1:
        raise ChallengeError(f"coordinate.side: wanted more voxels, got {settings.coordinate.side}")
    return settings


# The paper's comparison (sections 3.5 and 4): one training, looked at in four ways.
STUDY = (
    Row("Xception coordinates alone", view={"combine": "coordinate"}),
    Row("U-Net heatmaps alone", view={"combine": "heatmap"}),
    Row("product, fixed sigma", view={"combine": "fixed"}),
    Row("product, fitted sigma (proposed)"),
)
STUDY_NOTE = (
    "All rows share the two networks. Fixed sigma: one share of the image for all landmarks; fitted: of each landmark, "
    "the RMS error per axis of the coordinates in the validation cases. A point jumps that is nearer to the reference "
    "of another landmark than to its own; to its like: of the same place at another level of the spine."
)
study_measures = spine_measures


def _paper(task: Task) -> Settings:
    """Section 3. It states no schedule, batch or width of the U-Net (here the original's), and has no 3D networks."""
    flat = task.dimension == 2
    shaken = Augmentation(rotation_degrees=25, scale=0.3)
    schedule = Schedule(15_000, 16, 1e-4, validate_every=500)
    return Settings(
        CoordinateStage(299 if flat else 96, xception.Architecture(), schedule, shaken),
        HeatmapStage(
            512 if flat else 128,
            unet.Architecture((64, 128, 256, 512, 1024) if flat else (16, 32, 64, 128, 256), norm=False),
            replace(schedule, batch=2),
            shaken,
        ),
        # 35 and 8 of 512 pixels: the side to side of an image is free, along the spine there is little to spare
        shift=(35 / 512, 8 / 512) if flat else (35 / 512, 35 / 512, 8 / 512),
        decoding="argmax",
    )


def _modern(schedule: Schedule) -> Schedule:
    return replace(schedule, policy="one-cycle", weight_decay=1e-4, gradient_norm=5.0)


def _fast(task: Task) -> Settings:
    """The paper's networks with one-cycle schedules, grey values changed at random too and sub-voxel decoding."""
    paper = _paper(task)
    shaken = replace(FEW_IMAGES, rotation_degrees=25, scale=0.3)
    coordinate = _modern(Schedule(6000, 32, 1e-3, average=0.999, validate_every=500))
    heatmap = _modern(Schedule(6000, 8, 5e-4, average=0.999, validate_every=500))
    return replace(
        paper,
        coordinate=replace(paper.coordinate, schedule=coordinate, augmentation=shaken),
        heatmap=replace(paper.heatmap, schedule=heatmap, augmentation=shaken),
        decoding="local",
    )


def _cpu(task: Task) -> Settings:
    """Two cores: a quarter of Xception's width; a small U-Net on half of the paper's pixels per axis, one level less
    deep, so that it sees the same part of the image.
    """
    flat = task.dimension == 2
    return replace(
        _fast(task),
        coordinate=CoordinateStage(
            128 if flat else 48,
            xception.Architecture(width=0.25, depth=0.5),
            _modern(Schedule(1500, 16, 3e-3, average=0.99, validate_every=150)),
            FEW_IMAGES,
        ),
        heatmap=HeatmapStage(
            256 if flat else 64,
            unet.Architecture((16, 32, 64, 128) if flat else (8, 16, 32, 64)),
            _modern(Schedule(1200, 4, 2e-3, average=0.99, validate_every=150)),
            FEW_IMAGES,
            "spatial_cross_entropy",
            2.0,
        ),
    )


def _tiny(task: Task) -> Settings:
    """A minute or two to train, under 2 MB: for the demo and the tests. Again half of the pixels and a level less."""
    cpu = _cpu(task)
    flat = task.dimension == 2
    return replace(
        cpu,
        coordinate=replace(
            cpu.coordinate,
            side=96 if flat else 40,
            architecture=xception.Architecture(width=0.125, depth=0.25),
            schedule=replace(cpu.coordinate.schedule, iterations=400, average=0.98, validate_every=100),
        ),
        heatmap=replace(
            cpu.heatmap,
            side=128 if flat else 48,
            architecture=unet.Architecture((16, 24, 32) if flat else (8, 16, 24)),
            schedule=replace(
                cpu.heatmap.schedule, iterations=400, learning_rate=5e-3, average=0.98, validate_every=100
            ),
            sigma_voxel=1.5,
        ),
    )


PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
