"""Global-to-local FCNN: patch-wise regression and classification, first over the image, then around each landmark.

Noothout et al., "Deep Learning-Based Regression and Classification for Automatic Landmark Localization in Medical
Images", IEEE TMI 39(12), 2020. What the paper leaves open is chosen where the comment says so.
"""

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from .augmentation import (
    FEW_IMAGES,
    Augmentation,
    Draws,
    augmented_batch,
    change_intensity,
    random_warp,
    warp_images,
    warp_points,
)
from .blocks import (
    autocast,
    channels_last,
    convolution,
    dense_head,
    for_inference,
    parameter_count,
    placed,
    residual_block,
)
from .checkpoints import MODEL_FILE, Model, mean_shape_of, provenance_of, read_model, save_model
from .grids import cell_centres, cell_of, on_device, rescale
from .patches import padded, sample_windows
from .presets import from_plain
from .slabs import streamed
from .stopwatch import span
from .store import Store, load_store, prepare, radial_errors_mm
from .training import Point, Schedule, Step, cases_at, clear_checkpoints, fit, launch, report, set_threads

if TYPE_CHECKING:
    from .vector_fields import VectorField


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
    regression: str = "log"
    classification: bool = True
    classification_weight: float = 1.0
    coordinate_weight: float = 0.0
    local_margin: int = 0
    decoding: str = "posterior"
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
    loss = logits.new_zeros(())
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


def choose_window(errors_mm: Tensor, settings: Settings) -> int:
    """Side in voxels of the local window: the global stage's validation errors decide (section V-A1).

    Twice the 98th percentile of the errors plus the margin, as a multiple of twice the stride.
    """
    stage = settings.local_stage
    unit = 2 * stage.architecture.stride
    wanted = 2 * float(torch.quantile(errors_mm, 0.98)) / stage.spacing_mm + settings.local_margin
    return int(min(max(math.ceil(wanted / unit) * unit, 16), 128))


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
    coarse, fine = settings.global_stage, settings.local_stage
    cases = {split: dataset.cases(split=split) for split in ("train", "validation")}
    for split, some in cases.items():
        if not some:
            raise ChallengeError(f"{dataset.folder}: wanted {split} cases, there are none")
    spacings = (coarse.spacing_mm, fine.spacing_mm) if settings.local else (coarse.spacing_mm,)
    coarse_train, *fine_train = load_store(dataset, cases["train"], spacing_mm=spacings, device=device)
    coarse_judge, *fine_judge = load_store(dataset, cases["validation"], spacing_mm=spacings, device=device)
    if main:
        report(
            f"{dataset.task.name}: {len(coarse_train)} training and {len(coarse_judge)} validation cases in memory "
            f"after {time.monotonic() - begun:.1f} s"
        )
    options: dict[str, Any] = {"fabric": fabric, "folder": output, "seed": seed, "resume": resume}
    network = placed(PatchNetwork(ndim, landmarks, coarse.architecture), device, ndim)
    if main:
        size = parameter_count(network) / 1e6
        report(f"global: {size:.2f} M weights, patches of {coarse.architecture.stride} voxels")
    global_curve = fit(
        network,
        lambda model, step: _global_loss(model, step, coarse_train, settings, seed=seed),
        validate=lambda model: float(
            radial_errors_mm(_global_points(model, coarse_judge, settings), coarse_judge).mean()
        ),
        schedule=coarse.schedule,
        stage="global",
        **options,
    )
    weights = {f"global.{key}": value for key, value in network.state_dict().items()}
    window, local_curve = 0, list[Point]()
    if settings.local:
        points = _global_points(network.eval(), coarse_judge, settings)
        specialists = placed(PatchNetwork(ndim, landmarks, fine.architecture, specialised=True), device, ndim)
        window, local_curve = _train_local(
            specialists, points, coarse_judge, fine_train[0], fine_judge[0], settings, options
        )
        weights |= {f"local.{key}": value for key, value in specialists.state_dict().items()}
    if not main:
        return
    halves = {
        key: value.to(torch.bfloat16) if preset == "tiny" and value.is_floating_point() else value
        for key, value in weights.items()
    }
    provenance = provenance_of(
        dataset,
        seed=seed,
        training_seconds=round(sum(curve[-1].seconds for curve in (global_curve, local_curve) if curve), 1),
        device=device,
        processes=fabric.world_size,
        validation_curve={
            "global": [[p.iteration, p.validation_mm] for p in global_curve],
            "local": [[p.iteration, p.validation_mm] for p in local_curve],
        },
    )
    described = {**asdict(settings), "window": window}
    save_model(
        output, Model("global_to_local", preset, described, dataset.task, provenance, mean_shape_of(dataset), halves)
    )
    clear_checkpoints(output)


def _train_local(
    specialists: nn.Module,
    points: Tensor,
    coarse_judge: Store,
    fine_train: Store,
    fine_judge: Store,
    settings: Settings,
    options: dict[str, Any],
) -> tuple[int, list[Point]]:
    """Train the local networks around landmarks; the side of their window, and the curve of their training.

    points: what the global network finds in the validation cases.
    """
    stage = settings.local_stage
    errors_mm = radial_errors_mm(points, coarse_judge)
    window = stage.window or choose_window(errors_mm, settings)
    estimates = rescale(points, spacing_from=settings.global_stage.spacing_mm, spacing_to=stage.spacing_mm)
    if options["fabric"].global_rank == 0:
        report(
            f"local: {parameter_count(specialists) / 1e6:.2f} M weights, windows of {window} voxels "
            f"({window * stage.spacing_mm:.1f} mm), global validation error {float(errors_mm.mean()):.2f} mm"
        )
    curve = fit(
        specialists,
        lambda model, step: _local_loss(model, step, fine_train, settings, window=window, seed=options["seed"]),
        validate=lambda model: float(
            radial_errors_mm(_local_points(model, fine_judge, estimates, settings, window=window), fine_judge).mean()
        ),
        schedule=stage.schedule,
        stage="local",
        **options,
    )
    return window, curve


def _global_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch of random sub-images (or whole images), augmented."""
    stage = settings.global_stage
    stride = stage.architecture.stride
    windows, points = augmented_batch(
        store,
        step.positions(stage.schedule.batch),
        augmentation=stage.augmentation,
        multiple=stride,
        window=stage.window,
        seed=seed,
    )
    return patch_loss(model(windows), points, settings, stride=stride)


def _local_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, window: int, seed: int) -> Tensor:
    """The loss of one batch: for every landmark of every image a sub-image that contains it, augmented."""
    stage = settings.local_stage
    positions = step.positions(stage.schedule.batch)
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(store), seed=seed)
    images = store.batch(index)
    points = store.points_of(index)
    # uniform, so that every sub-image contains its landmark (section V-A1)
    offset = draws.symmetric(*points.shape[1:]) / 2 * max(window - 1 - settings.local_margin, 0)
    centres = torch.nan_to_num(points) + on_device(offset, images)
    size = (window,) * (images.ndim - 2)
    warp = random_warp(centres, size, stage.augmentation, spacing_mm=stage.spacing_mm, draws=draws)
    windows = change_intensity(warp_images(images, warp)[:, :, 0], stage.augmentation, draws=draws)
    inside = torch.diagonal(warp_points(points, warp), dim1=1, dim2=2).movedim(-1, 1)
    return patch_loss(model(windows), inside, settings, stride=stage.architecture.stride)


def _global_points(model: nn.Module, store: Store, settings: Settings) -> Tensor:
    """(N, L, ndim) global estimates of every case of a store."""
    model.eval()
    every = torch.arange(len(store))
    return torch.cat([run_global(model, store.batch(part), settings) for part in every.split(4)])


def _local_points(model: nn.Module, store: Store, estimates: Tensor, settings: Settings, *, window: int) -> Tensor:
    """(N, L, ndim) refined estimates of every case of a store."""
    model.eval()
    every = torch.arange(len(store))
    return torch.cat(
        [run_local(model, store.batch(part), estimates[part], settings, window=window) for part in every.split(4)]
    )


@dataclass(frozen=True)
class GlobalToLocal:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    window: int
    global_network: nn.Module = field(repr=False)
    local_networks: nn.Module | None = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm. The method has no covariance; every landmark of the task is given with probability 1."""
        if not self.settings.local or self.local_networks is None:
            return self.localize_global(image)
        coarse, fine = self.settings.global_stage, self.settings.local_stage
        overview = prepare(image, self.task, coarse.spacing_mm)
        points = run_global(self.global_network, self.tensor(overview), self.settings)
        detail = overview if fine.spacing_mm == coarse.spacing_mm else prepare(image, self.task, fine.spacing_mm)
        estimates = rescale(points, spacing_from=coarse.spacing_mm, spacing_to=fine.spacing_mm)
        refined = run_local(self.local_networks, self.tensor(detail), estimates, self.settings, window=self.window)
        index = refined[0].double().cpu().numpy()
        return Localization(Landmarks(self.task.names, detail.index_to_mm(index)))

    def localize_global(self, image: Image) -> Localization:
        """The global stage alone."""
        overview = prepare(image, self.task, self.settings.global_stage.spacing_mm)
        points = run_global(self.global_network, self.tensor(overview), self.settings)
        return Localization(Landmarks(self.task.names, overview.index_to_mm(points[0].double().cpu().numpy())))

    def vector_fields(self, image: Image, name: str) -> list["VectorField"]:
        """What the patches of each stage say of the landmark `name` (Fig. 5 of the paper)."""
        from .vector_fields import global_to_local_fields  # only who looks at them needs it

        return global_to_local_fields(self, image, name)

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)

    def tensor(self, image: Image) -> Tensor:
        """(1, 1, ...) of a prepared image, on the device of the networks."""
        return torch.from_numpy(np.ascontiguousarray(image.array))[None, None].to(self.device)


def load(model: Path, *, device: str = "cpu") -> GlobalToLocal:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = from_plain(Settings, saved.settings, source=str(model / MODEL_FILE))
    ndim, landmarks = saved.task.dimension, len(saved.task.names)
    network = PatchNetwork(ndim, landmarks, settings.global_stage.architecture)
    specialists = (
        PatchNetwork(ndim, landmarks, settings.local_stage.architecture, specialised=True) if settings.local else None
    )
    for prefix, module in (("global.", network), ("local.", specialists)):
        if module is None:
            continue
        part = {key.removeprefix(prefix): value for key, value in saved.weights.items() if key.startswith(prefix)}
        try:
            module.load_state_dict(part)
        except RuntimeError:
            raise ChallengeError(f"{model}: wanted the weights of the model.json beside them, got others") from None
        for_inference(placed(module, device, ndim))
    return GlobalToLocal(saved, settings, int(saved.settings["window"]), network, specialists, torch.device(device))


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    if preset not in PRESETS:
        raise ChallengeError(f"preset: wanted one of {', '.join(PRESETS)}, got '{preset}'")
    return PRESETS[preset](task)


VARIANTS = {
    "R": {"regression": "linear", "classification": False},
    "R_log": {"regression": "log", "classification": False},
    "C": {"regression": "none", "classification": True},
    "R+C": {"regression": "linear", "classification": True},
    "R_log+C": {"regression": "log", "classification": True},
}


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings of a row of the paper's ablation (section V-B); `R_log+C` is the proposed method."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    return replace(settings, **VARIANTS[variant])  # type: ignore[arg-type]


# Table I and Fig. 4, and the predecessor (MIDL 2018). A row's `view` changes a trained model without training it again.
GLOBAL = {"local": False}
STUDY = (
    *(Row(f"{name}, global", name, GLOBAL) for name in VARIANTS),
    Row("R_log+C, global, 2018 vote", "R_log+C", {**GLOBAL, "decoding": "positive"}),
    *(Row(f"{name}, global-to-local", name, option="local") for name in VARIANTS if name != "R_log+C"),
    Row("R_log+C, global-to-local (proposed ML)", "R_log+C"),
    Row("R_log+C, global-to-local (proposed SL)", "R_log+C", option="single"),
)
STUDY_NOTE = (
    "R: regression of displacements, R_log: of their logarithms, C: classification of patches. Global: the first stage "
    "alone. 2018 vote: patches of a posterior above 0.5 count the same, the others not (Noothout et al., MIDL 2018). "
    "ML: one network for all landmarks, SL: a network for each."
)
# What the text of the paper says of its ablation; the figures stand in its Table I and Fig. 4.
PUBLISHED = {
    "ccta-8": (
        PublishedResult(
            method="the ablation (412 training and 200 test scans)",
            figures="errors of regression alone below those of classification alone; classification and the logarithm "
            "each improve regression; R_log+C best of the global networks; global-to-local (proposed ML) better still",
            source="Noothout et al., IEEE TMI 39(12), 2020, section V-B",
        ),
        PublishedResult(
            method="proposed SL against proposed ML",
            figures="ML better for all but two landmarks (LRC and LH), significantly so for NCH and RH; success at "
            "0.5 mm 0.6 points better with SL, at all other thresholds better with ML; 0.04 s (SL), 0.06 s (ML) a scan",
            source="Noothout et al., IEEE TMI 39(12), 2020, sections V-C and V-D1",
        ),
    )
}


def _paper(task: Task) -> Settings:
    """Sections II and V-A. In 2D, as for the cephalograms, every block pools; in 3D the first two do."""
    flat = task.dimension == 2
    coarse = Architecture(16, (32, 64, 128, 256), (3, 4, 6, 3), (True, True, flat, flat), (256, 256))
    fine = Architecture(0, (32, 64), (1, 1), (False, True), (64, 64))
    schedule = Schedule(300_000, 4, 1e-3, validate_every=10_000)
    spacing = min(task.working_spacing_mm)
    return Settings(
        Stage(spacing, 592 if flat else 72, coarse, schedule),
        Stage(spacing, 16, fine, schedule),
    )


def _modern(schedule: Schedule) -> Schedule:
    return replace(schedule, policy="one-cycle", weight_decay=1e-4, gradient_norm=5.0)


def _fast(task: Task) -> Settings:
    """The paper's architecture with a one-cycle schedule, augmentation and a wider local window, for one GPU."""
    paper = _paper(task)
    coarse, fine = paper.global_stage, paper.local_stage
    shifted = replace(FEW_IMAGES, shift_mm=8)
    return replace(
        paper,
        global_stage=replace(
            coarse,
            schedule=_modern(Schedule(12_000, 16, 2e-3, average=0.999, validate_every=1000)),
            augmentation=shifted,
        ),
        local_stage=replace(
            fine,
            window=0,
            schedule=_modern(Schedule(6_000, 16, 2e-3, average=0.999, validate_every=500)),
            augmentation=FEW_IMAGES,
        ),
        classification_weight=100.0,
    )


def _cpu(task: Task) -> Settings:
    """Two cores: coarser voxels, and a local stage that is deeper and sees more around its landmark.

    In 2D at 16 and 8 times the task's spacing (cephalograms: 1.6 and 0.8 mm), in 3D at 2 times and once.
    """
    unit, flat = min(task.working_spacing_mm), task.dimension == 2
    coarse = Architecture(16, (32, 64, 128, 256), (3, 4, 6, 3), (True, True, False, False), (256, 256))
    fine = Architecture(0, (32, 64, 128), (1, 1, 1), (False, True, True), (128, 128))
    schedule = _modern(Schedule(1500, 8, 2e-3, average=0.99, validate_every=150))
    return Settings(
        Stage(unit * (16 if flat else 2), 0, coarse, schedule, replace(FEW_IMAGES, shift_mm=8)),
        Stage(unit * (8 if flat else 1), 0, fine, schedule, FEW_IMAGES),
        classification_weight=100.0,
        local_margin=20,
    )


def _tiny(task: Task) -> Settings:
    """Seconds to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    coarse = Architecture(8, (16, 24, 32), (1, 1, 1), (True, True, False), (32,))
    fine = Architecture(0, (8, 16, 16), (1, 1, 1), (False, True, True), (16,))
    return replace(
        cpu,
        global_stage=replace(
            cpu.global_stage,
            architecture=coarse,
            schedule=_modern(Schedule(1000, 8, 5e-3, average=0.98, validate_every=100)),
        ),
        local_stage=replace(
            cpu.local_stage,
            architecture=fine,
            schedule=_modern(Schedule(300, 8, 5e-3, average=0.98, validate_every=100)),
        ),
        local_margin=8,
    )


PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
