"""Multi-scale Loc-Net: U-Nets whose maps' centres of mass are points, chained coarse to fine by differentiable crops.

Ma et al., "Volumetric landmark detection with a multi-scale shift equivariant neural network", ISBI 2020, arXiv
2003.01639. All scales are trained together; random shifts of the finest crop make the chain robust and, repeated for an
image, tell how sure it is. The paper trains one chain per landmark, in 3D; here landmarks may share one (`shared`), and
there is a 2D form.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .ablation import Row
from .augmentation import FEW_IMAGES, Augmentation, warp_points
from .blocks import autocast, for_inference, parameter_count, placed
from .checkpoints import MODEL_FILE, Model, mean_shape_of, provenance_of, read_model, save_model
from .grids import rescale
from .heatmap_unet import heatmap_loss
from .heatmaps import argmax_points, centre_of_mass, second_moments
from .presets import from_plain
from .scales import Change, ImageReader, Reader, StoreReader
from .stopwatch import span
from .store import Store, load_store, radial_errors_mm
from .training import Point, Schedule, Step, cases_at, clear_checkpoints, fit, launch, report, set_threads
from .unet import Architecture, UNet

PASSES_AT_ONCE = 5
MAP_SIGMA_VOXEL = 1.5


@dataclass(frozen=True)
class Settings:
    """A preset. spacings_mm: of the voxels of each scale, coarse to fine. crop_voxels: side of all other inputs.

    coarse, fine: the U-Net of the coarsest scale and those of the others. shared: one network for all landmarks at each
    scale, with a map for each, or one per landmark (the paper). anti_alias: whether shrinking averages; the paper
    decimates. maps: a map's weights are its `relu` (the paper) or `softmax`. loss: `squared` (the paper) or plain
    `distance` of the points in mm, or `heatmap`, the baseline, which learns Gaussians of sigma_mm and is read at its
    arg-max. weighting: of the scales, `schedule` (the paper) or `even`. map_weight: of a cross-entropy of softmax maps
    with a Gaussian; the paper has none (0). end_to_end: off trains scale after scale. noise_mm: the largest shift of
    the finest crop along an axis. passes: of an image, each with other shifts; 1: one without, and no covariance.
    map_spread: whether the covariance holds, beside the spread of the passes (the paper's), that of the finest maps.
    """

    spacings_mm: tuple[float, ...]
    crop_voxels: int
    coarse: Architecture
    fine: Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)
    shared: bool = False
    anti_alias: bool = False
    maps: str = "relu"
    loss: str = "squared"
    weighting: str = "schedule"
    map_weight: float = 0.0
    sigma_mm: float = 6.0
    end_to_end: bool = True
    noise_mm: float = 5.0
    passes: int = 50
    map_spread: bool = False

    @property
    def noise_voxel(self) -> float:
        """The largest shift in voxels of the finest scale; a chain of one scale has no crop to shift."""
        return self.noise_mm / self.spacings_mm[-1] if len(self.spacings_mm) > 1 else 0.0


class Found(NamedTuple):
    """What a scale finds. points: (B, L, ndim) voxels of its grid. maps: (B, L, *size). corner: (B, L, ndim) the voxel
    of the grid on which the first one of the map lies.
    """

    points: Tensor
    maps: Tensor
    corner: Tensor


@dataclass(frozen=True)
class MapTarget:
    """What `heatmap_loss` teaches."""

    loss: str
    sigma_voxel: float


class ScaleNetwork(nn.Module):
    """The U-Nets of one scale: one for all landmarks with a map for each, or one per landmark."""

    def __init__(self, ndim: int, landmarks: int, architecture: Architecture, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        count, outputs = (1, landmarks) if shared else (landmarks, 1)
        self.networks = nn.ModuleList(UNet(ndim, outputs, architecture) for _ in range(count))
        for network in self.networks:
            assert isinstance(network, UNet)
            nn.init.kaiming_normal_(network.output.weight, nonlinearity="relu")  # as the other layers

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, ...) an image for all landmarks, or (B, L, ...) a crop for each -> (B, L, ...) float32 maps."""
        if not self.shared:
            inputs = x.expand(-1, len(self.networks), *x.shape[2:]).split(1, dim=1)
            return torch.cat([network(one) for network, one in zip(self.networks, inputs, strict=True)], dim=1)
        if x.shape[1] == 1:
            maps: Tensor = self.networks[0](x)
            return maps
        every = self.networks[0](x.flatten(0, 1).unsqueeze(1)).unflatten(0, x.shape[:2])
        return every.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # of each crop the map of the landmark it was cut for


class Chain(nn.Module):
    """The scales, coarse to fine."""

    def __init__(self, ndim: int, landmarks: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.scales = nn.ModuleList(
            ScaleNetwork(ndim, landmarks, settings.fine if scale else settings.coarse, shared=settings.shared)
            for scale in range(len(settings.spacings_mm))
        )

    def forward(self, read: Reader, shifts: Tensor) -> list[Found]:
        """What every scale finds; shifts: (B, L, ndim) voxels by which the finest crops are put beside their points."""
        found: list[Found] = []
        for scale, network in enumerate(self.scales):
            before = found[-1].points if found else None
            last = scale == len(self.scales) - 1
            found.append(look(network, scale, read, self.settings, before=before, shifts=shifts if last else None))
        return found


def look(
    network: nn.Module,
    scale: int,
    read: Reader,
    settings: Settings,
    *,
    before: Tensor | None = None,
    shifts: Tensor | None = None,
) -> Found:
    """Run one scale around what the scale before found, (B, L, ndim) voxels of that scale; the coarsest on all.

    The crop is sampled linearly at an unrounded position and the same position is added to the point in it, so that
    gradients reach the coarser scales by both ways. (The released code crops at rounded positions and adds others.)
    """
    centres = None
    with torch.autocast(_device_type(network), enabled=False), span("resample"):
        if before is not None:
            centres = _to_scale(before, scale - 1, scale, settings)
            centres = centres if shifts is None else centres + shifts
        images = read(scale, centres)
    with span("network"):
        maps = network(images).float()
    with torch.autocast(_device_type(network), enabled=False), span("decode"):
        inside = argmax_points(maps) if settings.loss == "heatmap" else centre_of_mass(weights_of(maps, settings.maps))
        corner = torch.zeros_like(inside)
        if centres is not None:
            corner = centres - (settings.crop_voxels - 1) / 2
        return Found(corner + inside, maps, corner)


def weights_of(maps: Tensor, kind: str) -> Tensor:
    """(B, L, ...) weights of the voxels whose centre of mass is the point.

    A map without a value above 0 has a ReLU of nothing but zeros, which the paper's division would put into a corner,
    and no gradient would revive it: its softmax is taken instead, for a flat map its middle.
    """
    soft = maps.flatten(2).softmax(dim=-1).view_as(maps)
    if kind == "softmax":
        return soft
    alive = (maps > 0).flatten(2).any(dim=-1)
    return torch.where(alive.reshape(*alive.shape, *[1] * (maps.ndim - 2)), maps.clamp(min=0), soft)


def chain_loss(found: Sequence[Found], points: Tensor, settings: Settings, *, progress: float) -> Tensor:
    """Loss of one batch; points (B, L, ndim) in voxels of the coarsest scale, NaN where nobody knows.

    progress: share of the training that is done, 0..1. Errors of all scales are in millimetres, so that their weights
    compare them as they are (the paper does not say; its released code does the same by weights of 16, 4, 1 and 0.25).
    """
    losses = [scale_loss(part, points, settings, scale=scale) for scale, part in enumerate(found)]
    weights = scale_weights(len(losses), progress) if settings.weighting == "schedule" else [1.0] * len(losses)
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def scale_weights(count: int, progress: float) -> list[float]:
    """The weights of `count` scales: the coarsest falls from 1 to 0, the finest rises from 0 to 1, others peak between.

    The paper does not give the peak, 1 here. It keeps weights for an epoch; here they change with every batch.

    >>> scale_weights(4, 0.25)
    [0.75, 0.5, 0.5, 0.25]
    """
    if count == 1:
        return [1.0]
    return [1 - progress, *[1 - abs(2 * progress - 1)] * (count - 2), progress]


def scale_loss(found: Found, points: Tensor, settings: Settings, *, scale: int) -> Tensor:
    """Loss of one scale, mean over the known landmarks; points: as in `chain_loss`."""
    target, spacing = _to_scale(points, 0, scale, settings), settings.spacings_mm[scale]
    if settings.loss == "heatmap":
        return heatmap_loss(found.maps, target - found.corner, MapTarget("mse", settings.sigma_mm / spacing))
    known = torch.isfinite(target).all(dim=-1)
    offset = torch.where(known.unsqueeze(-1), found.points - target, 0) * spacing
    squared = offset.square().sum(dim=-1)
    # a tenth of a micrometre keeps the slope of the root finite
    errors = squared if settings.loss == "squared" else (squared + 1e-8).sqrt() * known
    loss = errors.sum() / known.sum().clamp(min=1)
    if settings.map_weight > 0:
        taught = MapTarget("spatial_cross_entropy", MAP_SIGMA_VOXEL)
        loss = loss + settings.map_weight * heatmap_loss(found.maps, target - found.corner.detach(), taught)
    return loss


@torch.inference_mode()
def run(chain: Chain, read: Reader, *, passes: int) -> tuple[Tensor, Tensor]:
    """(passes, L, ndim) points of one image in voxels of the finest scale, and (passes, L, ndim, ndim) the second
    moments in voxel^2 of the maps around them, zeros without `map_spread`. Only the finest scale is run for every pass.

    The shifts are the same for every image; a single pass has none.
    """
    settings, points = chain.settings, None
    *coarser, finest = chain.scales
    with autocast(next(chain.parameters()).device):
        for scale, network in enumerate(coarser):
            points = look(network, scale, read, settings, before=points).points
        if points is None or passes == 1 or settings.noise_voxel == 0:
            return _spread_of([look(finest, len(coarser), read, settings, before=points)], settings)
        shifts = torch.rand(passes, *points.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
        parts = (shifts.to(points) * settings.noise_voxel).split(PASSES_AT_ONCE)
        found = [look(finest, len(coarser), read, settings, before=points, shifts=part) for part in parts]
        return _spread_of(found, settings)


def _spread_of(found: Sequence[Found], settings: Settings) -> tuple[Tensor, Tensor]:
    points = torch.cat([part.points for part in found])
    if not settings.map_spread:
        return points, points.new_zeros(*points.shape, points.shape[-1])
    with torch.autocast(points.device.type, enabled=False):
        spreads = [
            second_moments(part.maps.flatten(2).softmax(dim=-1).view_as(part.maps), part.points - part.corner)
            for part in found
        ]
    return points, torch.cat(spreads)


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
    """Train the chain into a model folder; an interrupted run goes on with `resume`."""
    settings = checked(settings or preset_settings(preset, dataset.task))
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    torch.manual_seed(seed)
    begun = time.monotonic()
    stores: list[list[Store]] = []
    for split in ("train", "validation"):
        cases = dataset.wanted_cases(split)
        spacings = settings.spacings_mm
        stores.append(load_store(dataset, cases, spacing_mm=spacings, device=device, average=settings.anti_alias))
    learn, judge = stores
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    chain = placed(Chain(ndim, landmarks, settings), device, ndim)
    assert isinstance(chain, Chain)
    if main:
        report(
            f"{dataset.task.name}: {len(learn[0])} training and {len(judge[0])} validation cases in memory after "
            f"{time.monotonic() - begun:.1f} s; {len(settings.spacings_mm)} scales, "
            f"{parameter_count(chain) / 1e6:.2f} M weights"
        )
    options: dict[str, Any] = {"fabric": fabric, "folder": output, "seed": seed, "resume": resume}
    fitted = _fit_together if settings.end_to_end else _fit_one_by_one
    curves = fitted(chain, learn, judge, settings, options)
    if not main:
        return
    weights = chain.state_dict()
    if preset == "tiny":
        weights = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in weights.items()}
    provenance = provenance_of(
        dataset,
        seed=seed,
        training_seconds=round(sum(curve[-1].seconds for curve in curves.values() if curve), 1),
        device=device,
        processes=fabric.world_size,
        validation_curve={
            stage: [[point.iteration, point.validation_mm] for point in curve] for stage, curve in curves.items()
        },
    )
    described = asdict(settings)
    save_model(output, Model("loc_net", preset, described, dataset.task, provenance, mean_shape_of(dataset), weights))
    clear_checkpoints(output)


def _fit_together(
    chain: Chain, learn: Sequence[Store], judge: Sequence[Store], settings: Settings, options: dict[str, Any]
) -> dict[str, list[Point]]:
    """End to end: one training of all scales, whose losses reach the coarser ones through the crops."""

    def loss(model: nn.Module, step: Step) -> Tensor:
        read, points, shifts = _batch(learn, step, settings, seed=options["seed"])
        return chain_loss(model(read, shifts), points, settings, progress=step.number / settings.schedule.iterations)

    def validate(model: nn.Module) -> float:
        assert isinstance(model, Chain)
        model.eval()
        points = [run(model, read, passes=1)[0] for read in _cases(judge, settings)]
        return float(radial_errors_mm(torch.cat(points), judge[-1]).mean())

    return {"chain": fit(chain, loss, validate=validate, schedule=settings.schedule, stage="chain", **options)}


def _fit_one_by_one(
    chain: Chain, learn: Sequence[Store], judge: Sequence[Store], settings: Settings, options: dict[str, Any]
) -> dict[str, list[Point]]:
    """Multi-step: each scale has a training of its own, behind coarser ones that are finished."""
    curves = {}
    for scale in range(len(chain.scales)):
        curves[f"scale-{scale + 1}"] = _fit_scale(chain, scale, learn, judge, settings, options)
    return curves


def _fit_scale(
    chain: Chain,
    scale: int,
    learn: Sequence[Store],
    judge: Sequence[Store],
    settings: Settings,
    options: dict[str, Any],
) -> list[Point]:
    *coarser, network = chain.scales[: scale + 1]
    finest = scale == len(chain.scales) - 1

    def found_by(model: nn.Module, read: Reader, shifts: Tensor | None) -> Found:
        before = None
        with torch.no_grad(), autocast(options["fabric"].device):
            for number, finished in enumerate(coarser):
                before = look(finished.eval(), number, read, settings, before=before).points
        return look(model, scale, read, settings, before=before, shifts=shifts if scale and finest else None)

    def loss(model: nn.Module, step: Step) -> Tensor:
        read, points, shifts = _batch(learn, step, settings, seed=options["seed"])
        return scale_loss(found_by(model, read, shifts), points, settings, scale=scale)

    @torch.inference_mode()
    def validate(model: nn.Module) -> float:
        model.eval()
        with autocast(options["fabric"].device):
            points = [found_by(model, read, None).points for read in _cases(judge, settings)]
        return float(radial_errors_mm(torch.cat(points), judge[scale]).mean())

    schedule, stage = settings.schedule, f"scale-{scale + 1}"
    return fit(network, loss, validate=validate, schedule=schedule, stage=stage, **options)


def _batch(learn: Sequence[Store], step: Step, settings: Settings, *, seed: int) -> tuple[Reader, Tensor, Tensor]:
    """A batch, changed at random: its reader, its (B, L, ndim) points in the coarsest scale, shifts of finest crops."""
    positions = step.positions(settings.schedule.batch)
    change = Change.random(
        learn[0], positions, augmentation=settings.augmentation, multiple=settings.coarse.multiple, seed=seed
    )
    index = cases_at(positions, len(learn[0]), seed=seed)
    points = warp_points(learn[0].points[index.to(learn[0].points.device)], change.warp)[:, 0]
    shifts = change.draws.symmetric(*points.shape[1:]).to(points) * settings.noise_voxel
    reader = StoreReader(learn, index, settings.crop_voxels, settings.coarse.multiple, change)
    return reader.read, points, shifts


def _cases(stores: Sequence[Store], settings: Settings) -> Iterator[Reader]:
    """A reader of each case, as it is."""
    for index in torch.arange(len(stores[0])).split(1):
        yield StoreReader(stores, index, settings.crop_voxels, settings.coarse.multiple).read


def _to_scale(points: Tensor, scale_from: int, scale_to: int, settings: Settings) -> Tensor:
    """Voxel coordinates of one scale in those of another."""
    spacings = settings.spacings_mm
    return rescale(points, spacing_from=spacings[scale_from], spacing_to=spacings[scale_to])


def _device_type(network: nn.Module) -> str:
    return next(network.parameters()).device.type


@dataclass(frozen=True)
class LocNet:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    chain: Chain = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1: the mean of all passes (the paper does not say which
        point of them it scores), and their sample covariance in mm^2.

        The paper takes the variances along the axes as uncorrelated. What it calls the 90 % confidence volume follows
        from a covariance: `ellipsoid_90` of `landmarks evaluate`. It tells how much the point depends on where the
        finest crop is cut, which is smaller than the error; with `map_spread` the mean spread of the maps is added (the
        law of total variance), which holds the width that they were taught and is larger. Nothing calibrates either.
        """
        settings = self.settings
        reader = ImageReader(
            image,
            self.task,
            settings.spacings_mm,
            settings.crop_voxels,
            settings.coarse.multiple,
            settings.anti_alias,
            self.device,
        )
        found, spread = run(self.chain, reader.read, passes=settings.passes)
        points, spreads = found.double().cpu().numpy(), spread.double().cpu().numpy()
        landmarks = Landmarks(self.task.names, reader.last.index_to_mm(points.mean(axis=0)))
        if len(points) == 1:
            return Localization(landmarks)
        with span("decode"):
            apart = (points - points.mean(axis=0)) * settings.spacings_mm[-1]
            covariance = np.zeros((len(self.task.names), 3, 3))
            # the axes of the finest grid are those of space
            between = np.einsum("kli,klj->lij", apart, apart) / (len(points) - 1)
            within = spreads.mean(axis=0) * settings.spacings_mm[-1] ** 2
            covariance[:, : image.ndim, : image.ndim] = between + within
        return Localization(landmarks, dict(zip(self.task.names, covariance, strict=True)))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> LocNet:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)))
    ndim = saved.task.dimension
    chain = Chain(ndim, len(saved.task.names), settings)
    saved.load_weights(chain, model)
    for_inference(placed(chain, device, ndim))
    return LocNet(saved, settings, chain, torch.device(device))


def checked(settings: Settings) -> Settings:
    """The settings, if they name what is there. Raises ChallengeError."""
    for name, known in CHOICES.items():
        if getattr(settings, name) not in known:
            raise ChallengeError(f"{name}: wanted one of {', '.join(known)}, got '{getattr(settings, name)}'")
    spacings = settings.spacings_mm
    if not spacings or min(spacings) <= 0 or any(fine >= coarse for coarse, fine in pairwise(spacings)):
        raise ChallengeError(f"spacings_mm: wanted positive ones, coarse to fine, got {list(spacings)}")
    if settings.crop_voxels < 1 or settings.crop_voxels % settings.fine.multiple:
        raise ChallengeError(f"crop_voxels: wanted a multiple of {settings.fine.multiple}, got {settings.crop_voxels}")
    if settings.loss == "heatmap" and len(spacings) > 1:
        raise ChallengeError(f"loss: wanted a single scale with heatmap, got {len(spacings)}")
    if settings.map_weight > 0 and settings.maps != "softmax":
        raise ChallengeError("map_weight: wanted 0 unless maps are softmax")
    if settings.map_spread and settings.maps != "softmax":
        raise ChallengeError("map_spread: wanted false unless maps are softmax")
    if settings.passes < 1 or settings.noise_mm < 0:
        raise ChallengeError(
            f"passes, noise_mm: wanted 1 or more and 0 or more, got {settings.passes} and {settings.noise_mm}"
        )
    return settings


CHOICES = {
    "maps": ("relu", "softmax"),
    "loss": ("squared", "distance", "heatmap"),
    "weighting": ("schedule", "even"),
}


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    if preset not in PRESETS:
        raise ChallengeError(f"preset: wanted one of {', '.join(PRESETS)}, got '{preset}'")
    return PRESETS[preset](task)


VARIANTS = ("heatmap", "single_scale", "multi_step", "end_to_end", "end_to_end_noise")


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings of a row of the paper's Table 1; `end_to_end_noise` is the proposed method.

    The first two have one scale, the second finest (the paper's GPU had no room for the finest), and one level more.
    """
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    if variant in ("heatmap", "single_scale"):
        widths = settings.coarse.widths
        deeper = replace(settings.coarse, widths=(*widths, 2 * widths[-1]))
        settings = replace(settings, spacings_mm=settings.spacings_mm[-2:][:1], coarse=deeper)
        return replace(settings, loss="heatmap", map_weight=0.0) if variant == "heatmap" else settings
    if variant == "multi_step":
        return replace(settings, end_to_end=False, noise_mm=0.0)
    return replace(settings, noise_mm=0.0) if variant == "end_to_end" else settings


STUDY = (
    Row("U-Net (heatmap), one scale", "heatmap"),
    Row("Loc-Net, one scale", "single_scale"),
    Row("multi-scale Loc-Net, multi-step", "multi_step"),
    Row("multi-scale Loc-Net, end to end", "end_to_end"),
    Row("multi-scale Loc-Net, end to end + noise, one pass", "end_to_end_noise", {"passes": 1}),
    Row("multi-scale Loc-Net, end to end + noise", "end_to_end_noise"),
)
STUDY_NOTE = (
    "One scale: the second finest, with one level more. Multi-step: scales trained one after the other, each for the "
    "whole schedule; end to end: together, through the crops. Noise: random shifts of the finest crop in training and, "
    "in the last row, in as many passes of each image as the preset says, whose mean is scored."
)


def _paper(task: Task) -> Settings:
    """Section 2.1, and the released code where the paper says nothing (scales, widths, dropout).

    Scales are 8, 4, 2 and 1 times the task's spacing (the paper: 0.5 mm), and so are the shifts: 5 mm at 0.5 mm.
    """
    spacing = min(task.working_spacing_mm)
    network = Architecture((16, 32, 64, 128), convolutions=1, norm=False, dropout=0.5, narrow=False)
    schedule = Schedule(83_500, 1, 5e-4, validate_every=835)  # 500 epochs of 167 cases
    return Settings(
        (8 * spacing, 4 * spacing, 2 * spacing, spacing), 56, network, network, schedule, noise_mm=10 * spacing
    )


def _modern(schedule: Schedule) -> Schedule:
    return replace(schedule, policy="one-cycle", weight_decay=1e-4, gradient_norm=5.0)


def _fast(task: Task) -> Settings:
    """The paper's scales and widths with normalisation, softmax maps, one chain for all landmarks, and augmentation."""
    paper = _paper(task)
    network = replace(paper.coarse, norm=True, dropout=0.0)
    schedule = _modern(Schedule(6000, 8 if task.dimension == 2 else 4, 1e-3, average=0.999, validate_every=500))
    return replace(paper, coarse=network, fine=network, schedule=schedule, augmentation=_SHAKEN, **_MODERN)


def _cpu(task: Task) -> Settings:
    """Two cores. 2D at 1.6, 0.8 and 0.4 mm (or the task's spacing, if coarser); 3D from about 4 mm to the task's
    spacing, small cut images from twice that.
    """
    finest, flat = min(task.working_spacing_mm), task.dimension == 2
    if flat:
        finest, scales = max(finest, 0.4), 3
        coarse, fine, crop = Architecture((16, 32, 64, 96, 128)), Architecture((16, 24, 32, 48)), 40
        schedule = Schedule(2000, 4, 2e-3, average=0.99, validate_every=200)
    else:
        small = task.pad_to_voxels is not None
        scales, crop = (2, 32) if small else (1 + max(1, round(math.log2(4 / finest))), 24)
        coarse, fine = Architecture((16, 32, 48, 64)), Architecture((16, 24, 32))
        schedule = Schedule(1300, 2, 2e-3, average=0.99, validate_every=130)
    spacings = tuple(finest * 2**level for level in reversed(range(scales)))
    return Settings(spacings, crop, coarse, fine, _modern(schedule), _SHAKEN, noise_mm=crop * finest / 8, **_MODERN)


def _tiny(task: Task) -> Settings:
    """About a minute to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    coarse = Architecture((8, 16, 24, 32), convolutions=1)
    fine = Architecture((8, 12, 16), convolutions=1)
    crop = 24 if task.dimension == 2 else 16
    spacings = tuple(spacing * (2 if task.dimension == 2 else 1) for spacing in cpu.spacings_mm)
    schedule = replace(cpu.schedule, iterations=500, batch=4, learning_rate=5e-3, average=0.98, validate_every=100)
    return replace(
        cpu,
        spacings_mm=spacings,
        crop_voxels=crop,
        coarse=coarse,
        fine=fine,
        schedule=schedule,
        noise_mm=crop * spacings[-1] / 8,
    )


_SHAKEN = replace(FEW_IMAGES, shift_mm=8)
_MODERN: dict[str, Any] = {
    "shared": True,
    "anti_alias": True,
    "maps": "softmax",
    "loss": "distance",
    "weighting": "even",
    "map_weight": 1.0,
    "map_spread": True,
}
PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
