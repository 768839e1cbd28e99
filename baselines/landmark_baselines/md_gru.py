"""MD-GRU localization, coarse to fine: multi-dimensional recurrent networks that tell the class of each coordinate.

Andermatt et al., "Multi-dimensional recurrent localization", arXiv 1708.02766. The coarse network sees the whole image,
subsampled; the fine one sees a window around what the first has found, for each landmark its own. The layer is
md_gru_layer.py, the network md_gru_network.py. Several landmarks share a trunk and have a head each.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import PublishedResult, Task

from .ablation import Row
from .augmentation import FEW_IMAGES, Augmentation, Draws, change_intensity, random_warp, warp_images, warp_points
from .blocks import autocast, for_inference, parameter_count
from .checkpoints import MODEL_FILE, Model, mean_shape_of, provenance_of, read_model, save_model
from .grids import rescale
from .md_gru_network import Architecture, LocalizationNetwork, class_loss, decode, with_high_pass
from .patches import sample_windows
from .presets import from_plain
from .stopwatch import span
from .store import Store, load_store, prepare, radial_errors_mm
from .training import Point, Schedule, Step, cases_at, clear_checkpoints, fit, launch, report, set_threads


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
    """Train both stages into a model folder; an interrupted run goes on with `resume`."""
    settings = settings or preset_settings(preset, dataset.task)
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    torch.manual_seed(seed)
    begun = time.monotonic()
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    spacings = [settings.coarse.spacing_mm, *[settings.fine.spacing_mm] * settings.refine]
    stores = []
    for split in ("train", "validation"):
        cases = dataset.wanted_cases(split)
        stores.append(load_store(dataset, cases, spacing_mm=spacings, device=device))
    learn, judge = stores
    if not settings.coarse.window:
        window = choose_window(learn[0].images.shape[2:], settings.coarse)
        settings = replace(settings, coarse=replace(settings.coarse, window=window))
    if main:
        report(
            f"{dataset.task.name}: {len(learn[0])} training and {len(judge[0])} validation cases in memory "
            f"after {time.monotonic() - begun:.1f} s"
        )
    weights: dict[str, Tensor] = {}
    curves: dict[str, list[Point]] = {}
    estimates: Tensor | None = None
    for level, name in enumerate(("coarse", "fine")[: len(spacings)]):
        stage = settings.fine if level else settings.coarse
        torch.manual_seed(seed + level)  # a resumed run begins the fine network as one in one go does
        network = make_network(ndim, landmarks, stage).to(device)
        if main:
            size = " x ".join(str(side) for side in stage.window)
            report(f"{name}: {parameter_count(network) / 1e6:.2f} M weights, windows of {size} voxels")
        curves[name] = _fit_stage(
            network, learn[level], judge[level], settings, estimates,
            fabric=fabric, folder=output, stage=name, seed=seed, resume=resume,
        )  # fmt: skip
        weights |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        if level < len(spacings) - 1:
            found = _every_point(network, judge[0], settings, None)
            estimates = rescale(found, spacing_from=spacings[0], spacing_to=spacings[1])
    if not main:
        return
    if preset == "tiny":
        weights = {key: value.to(torch.bfloat16) for key, value in weights.items()}
    provenance = provenance_of(
        dataset,
        seed=seed,
        training_seconds=round(sum(curve[-1].seconds for curve in curves.values() if curve), 1),
        device=device,
        processes=fabric.world_size,
        validation_curve={name: [[p.iteration, p.validation_mm] for p in curve] for name, curve in curves.items()},
    )
    shape = mean_shape_of(dataset)
    save_model(output, Model("md_gru", preset, asdict(settings), dataset.task, provenance, shape, weights))
    clear_checkpoints(output)


def _fit_stage(
    network: nn.Module, learn: Store, judge: Store, settings: Settings, estimates: Tensor | None, **options: Any
) -> list[Point]:
    """Train one stage; the fine one is judged around the coarse `estimates` (N, L, ndim) of the validation cases."""
    loss_of = _coarse_loss if estimates is None else _fine_loss
    return fit(
        network,
        lambda model, step: loss_of(model, step, learn, settings, seed=options["seed"]),
        validate=lambda model: float(radial_errors_mm(_every_point(model, judge, settings, estimates), judge).mean()),
        schedule=(settings.coarse if estimates is None else settings.fine).schedule,
        **options,
    )


def _every_point(model: nn.Module, store: Store, settings: Settings, estimates: Tensor | None) -> Tensor:
    """(N, L, ndim) what a stage finds in every case of a store."""
    model.eval()
    found = []
    for one in torch.arange(len(store)).split(1):
        images = store.batch(one)
        if estimates is None:
            found.append(run_coarse(model, images, settings)[0])
        else:
            found.append(run_fine(model, images, estimates[one.to(estimates.device)], settings)[0])
    return torch.cat(found)


def _coarse_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch of images, each seen through one window around a place near its centre."""
    stage = settings.coarse
    positions = step.positions(stage.schedule.batch)
    draws = Draws.of(seed, positions)
    extent = store.images.shape[:1:-1]
    middle = (torch.tensor(extent, device=store.points.device) - 1) / 2
    offset = draws.symmetric(1, len(extent)).to(middle) * stage.offset_voxel
    scale = overview_scale(extent, stage.window)
    return _window_loss(
        model, positions, store, middle + offset, settings, stage, seed=seed, draws=draws, scale=scale
    )  # fmt: skip


def _fine_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch: for every landmark of every image a window that contains it.

    Windows lie at any fraction of a voxel, so that every class is a label; the paper's lie at whole voxels, which with
    4 classes per voxel leaves 3 of 4 without an example (its own remark).
    """
    stage = settings.fine
    positions = step.positions(stage.schedule.batch)
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(store), seed=seed)
    points = store.points[index.to(store.points.device)]
    room = (torch.tensor(stage.window) / 2).clamp(max=stage.offset_voxel or math.inf)
    centres = torch.nan_to_num(points) + (draws.symmetric(*points.shape[1:]) * room).to(points)
    return _window_loss(model, positions, store, centres, settings, stage, seed=seed, draws=draws)


def _window_loss(
    model: nn.Module,
    positions: Sequence[int],
    store: Store,
    centres: Tensor,
    settings: Settings,
    stage: Stage,
    *,
    seed: int,
    draws: Draws,
    scale: float = 1.0,
) -> Tensor:
    """The loss of windows (B, 1 or L) around `centres`, changed at random; with L of them, each for its landmark."""
    index = cases_at(positions, len(store), seed=seed)
    images, points = store.batch(index), store.points[index.to(store.points.device)]
    warp = random_warp(centres, stage.window[::-1], stage.augmentation, spacing_mm=stage.spacing_mm, draws=draws)
    warp = replace(warp, matrices=warp.matrices * scale)
    windows = change_intensity(warp_images(images, warp)[:, :, 0], stage.augmentation, draws=draws)
    inside = warp_points(points, warp)
    one_each = centres.shape[1] > 1
    inside = torch.diagonal(inside, dim1=1, dim2=2).movedim(-1, 1) if one_each else inside[:, 0]
    channels = with_high_pass(windows.flatten(0, 1).unsqueeze(1), settings.high_pass_mm / (stage.spacing_mm * scale))
    logits = model(channels.unflatten(0, windows.shape[:2]))
    return class_loss(logits, inside, stage.window, label_sigma=stage.label_sigma_mm / (stage.spacing_mm * scale))


@dataclass(frozen=True)
class MDGRULocalizer:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    coarse: nn.Module = field(repr=False)
    fine: nn.Module | None = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1, and covariances in mm^2.

        They are the variances of the class distributions around the point, axis by axis. With `passes`, those of the
        passes with DropConnect instead, averaged, and to them the covariance of where the passes put the point. The
        point itself is that of the whole network. Nothing calibrates them.
        """
        point, variance, grid, spacing = self._find(image)
        covariance = torch.diag_embed(variance)
        if self.settings.passes > 1:
            points, variances = self._passes(image)
            away = points - points.mean(dim=0)
            spread = torch.einsum("pli,plj->lij", away, away) / (len(points) - 1)
            covariance = torch.diag_embed(variances.mean(dim=0)) + spread
        whole = np.zeros((len(point), 3, 3))
        whole[:, : image.ndim, : image.ndim] = covariance.cpu().numpy() * spacing**2  # axes are those of space
        landmarks = Landmarks(self.task.names, grid.index_to_mm(point.cpu().numpy()))
        return Localization(landmarks, dict(zip(self.task.names, whole, strict=True)))

    def _passes(self, image: Image) -> tuple[Tensor, Tensor]:
        """(P, L, ndim) points and variances with DropConnect on; the same every time for an image."""
        networks = [network for network in (self.coarse, self.fine) if network is not None]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            try:
                for network in networks:
                    network.train()
                found = [self._find(image) for _ in range(self.settings.passes)]
            finally:
                for network in networks:
                    network.eval()
        return torch.stack([each[0] for each in found]), torch.stack([each[1] for each in found])

    def _find(self, image: Image) -> tuple[Tensor, Tensor, Image, float]:
        """(L, ndim) voxel coordinates and their variances, the prepared image that they are of, and its spacing."""
        coarse, fine = self.settings.coarse, self.settings.fine
        grid = prepare(image, self.task, coarse.spacing_mm)
        points, variances = run_coarse(self.coarse, self._tensor(grid), self.settings)
        if not self.settings.refine or self.fine is None:
            return points[0].double(), variances[0].double(), grid, coarse.spacing_mm
        if fine.spacing_mm != coarse.spacing_mm:
            grid = prepare(image, self.task, fine.spacing_mm)
            points = rescale(points, spacing_from=coarse.spacing_mm, spacing_to=fine.spacing_mm)
        points, variances = run_fine(self.fine, self._tensor(grid), points, self.settings)
        return points[0].double(), variances[0].double(), grid, fine.spacing_mm

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)

    def _tensor(self, image: Image) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image.array))[None, None].to(self.device)


def load(model: Path, *, device: str = "cpu") -> MDGRULocalizer:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = from_plain(Settings, saved.settings, source=str(model / MODEL_FILE))
    ndim, landmarks = saved.task.dimension, len(saved.task.names)
    networks: dict[str, nn.Module] = {}
    for name, stage in (("coarse", settings.coarse), ("fine", settings.fine))[: 1 + settings.refine]:
        network = make_network(ndim, landmarks, stage)
        saved.load_weights(network, model, prefix=f"{name}.")
        networks[name] = for_inference(network.to(device))
    return MDGRULocalizer(saved, settings, networks["coarse"], networks.get("fine"), torch.device(device))


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    if preset not in PRESETS:
        raise ChallengeError(f"preset: wanted one of {', '.join(PRESETS)}, got '{preset}'")
    return PRESETS[preset](task)


VARIANTS = {"64 classes": 1, "256 classes": 4}  # the paper's n, for its fine window of 64 voxels


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings with another number of classes per voxel of the fine window; `256 classes` is the proposed one."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    return replace(settings, fine=replace(settings.fine, classes_per_voxel=VARIANTS[variant]))


# Table 1a. The paper does not say whether the first row has a parabola.
STUDY = (
    Row("Coarse localization", "256 classes", {"refine": False, "parabola": False}),
    Row("Fine, 64 classes", "64 classes", {"parabola": False}),
    Row("Fine+parab., 64 cl.", "64 classes", {"parabola": True}),
    Row("Fine, 256 classes", "256 classes", {"parabola": False}),
    Row("Fine+parab., 256 cl.", "256 classes", {"parabola": True}),
)
STUDY_NOTE = (
    "Coarse localization: the first network alone. 64 and 256 classes: 1 and 4 per voxel of the fine window, so named "
    "for the paper's window of 64 voxels; a preset with a smaller window has fewer. parab.: a parabola through the "
    "most probable class and its neighbours."
)
PUBLISHED = {
    "brainstem-mr-1": tuple(
        PublishedResult(
            method=f"MD-GRU, {row} (1004 training and 100 test images)",
            figures=f"median {median}, mean {mean} +- {deviation} mm",
            source="Andermatt et al., arXiv 1708.02766, Table 1a",
        )
        for row, median, mean, deviation in (
            ("fine, 64 classes", "1.74", "1.97", "1.02"),
            ("fine and parabola, 64 classes", "1.77", "1.89", "0.98"),
            ("fine, 256 classes", "1.47", "1.72", "1.03"),
        )
    )
}


def _paper(task: Task) -> Settings:
    """Section 2. In 2D, where there is no paper, the same counts of pixels, of 1 mm and of 0.4 mm."""
    ndim, spacing = task.dimension, min(task.working_spacing_mm)
    coarse_mm, fine_mm = (max(spacing, 1.0), max(spacing, 0.4)) if ndim == 2 else (spacing, spacing)
    schedule = Schedule(50_200, 1, 1e-3, validate_every=1004, rho=0.9)
    whole = Architecture(stem=16, stem_stride=4)
    return Settings(
        Stage(coarse_mm, (256,) * ndim, whole, schedule, offset_voxel=100),
        Stage(fine_mm, (64,) * ndim, Architecture(), schedule, classes_per_voxel=4),
    )


def _modern(schedule: Schedule) -> Schedule:
    return replace(schedule, policy="one-cycle", weight_decay=1e-4, gradient_norm=1.0, rho=0.0)


def _fast(task: Task) -> Settings:
    """The paper's trunks with light heads, soft labels, augmentation and a one-cycle schedule, for one GPU."""
    paper = _paper(task)

    def modern(stage: Stage, offset_voxel: float) -> Stage:
        return replace(
            stage,
            architecture=replace(stage.architecture, head="light"),
            schedule=_modern(Schedule(5000, 4, 1e-3, average=0.999, validate_every=500)),
            label_sigma_mm=stage.spacing_mm * stage.architecture.stem_stride,
            offset_voxel=offset_voxel,
            augmentation=FEW_IMAGES,
        )

    return replace(paper, coarse=modern(paper.coarse, 30), fine=modern(paper.fine, 20))


def _cpu(task: Task) -> Settings:
    """Two cores: narrow levels, filters of side 3 (7 in 2D), light heads; the image in few voxels, then windows of 32
    (64 in 2D).

    In 2D at 16 and 4 times the task's spacing (cephalograms: 1.6 and 0.4 mm), in 3D at 2 times and once.
    """
    flat, unit = task.dimension == 2, min(task.working_spacing_mm)
    small = bool(task.pad_to_voxels)
    levels = ((16, 24), (32, 48), (64, 96)) if flat else ((16, 24), (32, 48))
    plain = Architecture(levels, kernel=7 if flat else 3, drop=0.1, head="light", head_width=16 if flat else 32)
    whole = plain if small else replace(plain, stem=16, stem_stride=2 if flat else 4)
    schedule = _modern(Schedule(1500, 4, 3e-3, average=0.99, validate_every=150))
    coarse_mm, fine_mm = unit * (16 if flat else 2), unit * (4 if flat else 1)
    return Settings(
        Stage(coarse_mm, (), whole, schedule, 4, 4, whole.stem_stride / 2 * coarse_mm, FEW_IMAGES),
        Stage(fine_mm, (64,) * 2 if flat else (32,) * 3, plain, schedule, 4, 12, fine_mm, FEW_IMAGES),
    )


def _tiny(task: Task) -> Settings:
    """A minute or two to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    levels = ((8, 12), (16, 24))
    plain = replace(cpu.fine.architecture, levels=levels, kernel=3, head_width=8)
    whole = replace(plain, stem=cpu.coarse.architecture.stem and 8, stem_stride=cpu.coarse.architecture.stem_stride)
    schedule = replace(cpu.coarse.schedule, iterations=300, learning_rate=1e-2, average=0.97, validate_every=100)
    coarse_mm, fine_mm = 2 * cpu.coarse.spacing_mm, 2 * cpu.fine.spacing_mm
    side = 32 if task.dimension == 2 else 16
    return replace(
        cpu,
        coarse=replace(
            cpu.coarse, spacing_mm=coarse_mm, architecture=whole, schedule=schedule, label_sigma_mm=coarse_mm
        ),
        fine=replace(
            cpu.fine,
            spacing_mm=fine_mm,
            window=(side,) * task.dimension,
            architecture=plain,
            schedule=schedule,
            offset_voxel=side / 3,
            label_sigma_mm=fine_mm,
        ),
    )


PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
