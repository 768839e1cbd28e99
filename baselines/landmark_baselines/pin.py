"""Patch-based iterative network: patches at a guess tell how far and in which direction the landmarks are; the guess
moves, again and again. Li et al., "Fast Multiple Landmark Localisation Using a Patch-based Iterative Network", MICCAI
2018.

PIN-Multiple walks in the space of landmark sets, PIN-Single (a network per landmark) in the image. Patches are sampled
where the guess is, between voxels; the paper's code cuts positions down to whole voxels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image, bounding_box_mm
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.shape_space import ShapeSpace, fit_space
from landmark_challenge.task import PublishedResult, Task

from .ablation import Row
from .augmentation import Augmentation, Draws, change_intensity, random_matrices
from .blocks import for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .pin_network import RULES, WITHIN, Architecture, PinNetwork, look, walk
from .planar_patches import OUTSIDE, PatchShape, Volumes, open_volume, sample_turned
from .presets import from_plain
from .single_network import train_single
from .store import Store
from .training import Schedule, Step, cases_at, set_threads

SPACE = ("mean_mm", "basis", "spread_mm", "unit_mm")
UNIT_DRAWS = 2000


@dataclass(frozen=True)
class Settings:
    """A preset. spacing_mm: of the voxels it works on and of the pixels of a patch; patch: pixels of its side.

    joint: all landmarks in the space of their principal components (PIN-Multiple) that explain the share `explained`,
    or a network for each in the image (PIN-Single). alpha: share of the classification in the loss. unit: what an
    output of 1 stands for, a `voxel` (the paper) or the root mean square of the training `displacement`s: in voxels the
    squared error is hundreds of times the cross-entropy, which then teaches nothing. nearness: training samples are
    drawn closer to the landmarks by a random factor of that power; the paper draws them anywhere (0). outside: see
    PatchShape. paper_start: the paper's weights to begin with.

    rule: of inference, see `step_of`. starts: how many in the space of shapes. iterations, pixel_iterations: steps of
    rules B and C, and of A. settled_mm: the walk ends where no landmark moves further; 0 always makes all steps.
    """

    spacing_mm: float
    patch: int
    architecture: Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)
    joint: bool = True
    explained: float = 0.995
    alpha: float = 0.5
    unit: str = "displacement"
    nearness: float = 1.0
    outside: str = "border"
    paper_start: bool = False
    rule: str = "C"
    starts: int = 6
    start_seed: int = 0
    iterations: int = 10
    pixel_iterations: int = 350
    settled_mm: float = 0.02

    @property
    def patch_shape(self) -> PatchShape:
        """The patches."""
        return PatchShape(self.patch, self.spacing_mm, self.outside)


def pin_loss(outputs: tuple[Tensor, Tensor], target_mm: Tensor, *, unit_mm: Tensor, alpha: float) -> Tensor:
    """Equation 2 of one batch: outputs of the network, target_mm (B, groups, size) from the guess to the landmarks.

    Means over the batch and, in the regression, over the coordinates; a group without a target (NaN) teaches nothing.
    """
    regressed, logits = outputs
    known = torch.isfinite(target_mm).all(dim=-1)
    target = torch.nan_to_num(target_mm)
    axis = target.abs().argmax(dim=-1)
    downwards = target.gather(-1, axis[..., None])[..., 0] <= 0
    entropy = F.cross_entropy(logits.movedim(-1, 1), 2 * axis + downwards, reduction="none")
    error = (regressed - target / unit_mm).square().mean(dim=-1)
    losses = (1 - alpha) * error + alpha * entropy
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)


def train(
    dataset: Dataset, *, preset: str = "cpu", seed: int = 0, settings: Settings | None = None, **options: Any
) -> None:
    """Train the network into a model folder; `options` are those of `train_single`."""
    chosen = _checked(settings or preset_settings(preset, dataset.task))
    truth_mm, extent_mm = training_sets(dataset, chosen.spacing_mm)
    space = None
    if chosen.joint:
        space, truth_mm = fit_space(truth_mm, explained=chosen.explained)
    truth, extent = torch.from_numpy(truth_mm).float(), torch.from_numpy(extent_mm).float()

    def network() -> PinNetwork:
        built = build_network(dataset.task, chosen, space)
        if chosen.paper_start:
            built.initialise_like_the_paper()
        built.unit_mm.fill_(_unit_mm(built, truth, extent, chosen))
        return built

    train_single(
        "pin",
        dataset,
        settings=chosen,
        network=network,
        loss_of=lambda model, step, store: _loss(model, step, store, truth, extent, chosen, seed=seed),
        points_of=lambda model, images: _points(model, images, chosen),
        spacing_mm=chosen.spacing_mm,
        schedule=chosen.schedule,
        preset=preset,
        seed=seed,
        exact=SPACE,
        kernel_axes=2,
        **options,
    )


def training_sets(dataset: Dataset, spacing_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Landmarks (N, L, ndim) of the training cases, NaN where absent, and (N, ndim) from first to last voxel, in mm.

    In the frame of `Volumes`: from the centre of the first voxel of the canonical grid, whose corner is the image's.
    """
    points, extents = [], []
    for case in dataset.wanted_cases("train"):
        lower, upper = bounding_box_mm(dataset.geometry(case.name))
        known = dataset.landmarks(case.name).aligned_mm(dataset.task.names)[:, : dataset.task.dimension]
        points.append(known - lower - spacing_mm / 2)
        extents.append(np.maximum(upper - lower - spacing_mm, 0))
    return np.array(points), np.array(extents)


def far_states(network: PinNetwork, extent_mm: Tensor, symmetric: Tensor) -> Tensor:
    """Guesses for training from numbers in -1..1 (B, groups, size): anywhere within 3 standard deviations, or anywhere
    in the image of extent_mm (B, ndim).
    """
    if network.joint:
        return symmetric.to(network.spread_mm) * (WITHIN * network.spread_mm)
    return (symmetric.to(extent_mm) + 1) / 2 * extent_mm[:, None]


def _unit_mm(network: PinNetwork, truth: Tensor, extent: Tensor, settings: Settings) -> float:
    """The millimetres of an output of 1: a voxel, or the usual displacement per coordinate of a training sample."""
    if settings.unit == "voxel":
        return settings.spacing_mm
    draws = torch.Generator().manual_seed(0)
    index = torch.randint(len(truth), (UNIT_DRAWS,), generator=draws)
    symmetric = 2 * torch.rand(UNIT_DRAWS, network.groups, network.size, generator=draws) - 1
    nearer = torch.rand(UNIT_DRAWS, network.groups, 1, generator=draws) ** settings.nearness
    displacement = nearer * (far_states(network, extent[index], symmetric) - network.to_state(truth[index]))
    return float(displacement[torch.isfinite(displacement)].square().mean().sqrt())


def _loss(
    model: nn.Module, step: Step, store: Store, truth: Tensor, extent: Tensor, settings: Settings, *, seed: int
) -> Tensor:
    """The loss of one batch: from each of its cases patches around one guess, with the image changed at random."""
    network = _bare(model)
    positions = step.positions(settings.schedule.batch)
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(store), seed=seed)
    device, ndim = store.points.device, network.ndim
    points, extents = truth[index].to(device), extent[index].to(device)
    middle = extents[:, None] / 2
    change = settings.augmentation
    matrices = random_matrices(1, ndim, change, draws)[:, 0].to(device)
    shift = draws.symmetric(1, ndim).to(device) * change.shift_mm
    # The changed image at p shows the image at middle + matrix (p - middle) + shift.
    points = middle + torch.einsum("bij,blj->bli", torch.linalg.inv(matrices), points - middle - shift)
    goal = network.to_state(points)
    nearer = draws.uniform(network.groups, 1).to(device) ** settings.nearness
    symmetric = draws.symmetric(network.groups, network.size).to(device)
    away = nearer * (far_states(network, extents, symmetric) - torch.nan_to_num(goal))
    guess = network.to_points(torch.nan_to_num(goal) + away)
    volumes = Volumes.of(store.images, store.spacing_mm)
    which = index.to(store.images.device)
    if change.rotation_degrees or change.scale or change.stretch:
        seen = middle + torch.einsum("bij,blj->bli", matrices, guess - middle) + shift
        turned = matrices[:, None].expand(-1, seen.shape[1], -1, -1).reshape(-1, ndim, ndim)
        every = which.repeat_interleave(seen.shape[1])
        patches = sample_turned(volumes, every, seen.reshape(-1, ndim), settings.patch_shape, matrices=turned)
        patches = patches.reshape(len(seen), -1, settings.patch, settings.patch)
    else:
        patches = look(volumes, which, guess + shift, settings.patch_shape)
    patches = change_intensity(patches.flatten(1, 2)[:, None], change, draws=draws)[:, 0].view_as(patches)
    target = torch.where(torch.isfinite(goal), -away, goal)
    return pin_loss(model(patches), target, unit_mm=network.unit_mm, alpha=settings.alpha)


def _bare(model: nn.Module) -> PinNetwork:
    """The network itself, where it is wrapped for training."""
    network = getattr(model, "module", model)
    if not isinstance(network, PinNetwork):
        raise TypeError(f"wanted a PinNetwork, got {type(network).__name__}")
    return network


def _walk(network: PinNetwork, volumes: Volumes, settings: Settings) -> Tensor:
    """(T + 1, S, L, ndim) mm: where every start leads in the first image of `volumes`."""
    states = network.starts(volumes, settings.starts, seed=settings.start_seed)
    which = torch.zeros(len(states), dtype=torch.long, device=states.device)
    path = walk(
        network,
        volumes,
        which,
        states,
        shape=settings.patch_shape,
        rule=settings.rule,
        iterations=settings.pixel_iterations if settings.rule == "A" else settings.iterations,
        settled_mm=settings.settled_mm,
    )
    return network.to_points(path.flatten(0, 1)).unflatten(0, path.shape[:2])


def _points(model: nn.Module, images: Tensor, settings: Settings) -> Tensor:
    """(1, 1, ...) an image -> (1, L, ndim) voxel coordinates: the mean of where the starts lead."""
    network = _bare(model)
    path = _walk(network, Volumes.of(images, settings.spacing_mm), settings)
    return path[-1].mean(dim=0, keepdim=True) / settings.spacing_mm


@dataclass(frozen=True, eq=False)
class Walk:
    """The walk in one image. path_mm: (T + 1, S, L, 3) LPS mm, the position of every landmark of every start."""

    path_mm: NDArray[np.float64]

    @property
    def points_mm(self) -> NDArray[np.float64]:
        """(L, 3) the mean of where the starts lead."""
        points: NDArray[np.float64] = self.path_mm[-1].mean(axis=0)
        return points

    @property
    def covariance_mm2(self) -> NDArray[np.float64]:
        """(L, 3, 3) of the ends about their mean, with S - 1."""
        away = self.path_mm[-1] - self.points_mm
        covariance: NDArray[np.float64] = np.einsum("sli,slj->lij", away, away) / max(1, len(away) - 1)
        return covariance

    @property
    def last_step_mm(self) -> NDArray[np.float64]:
        """(S,) how far the last step moved a start's landmarks at most: what is left of its way."""
        steps: NDArray[np.float64] = np.linalg.norm(self.path_mm[-1] - self.path_mm[-2], axis=-1).max(axis=-1)
        return steps

    @property
    def from_mean_mm(self) -> NDArray[np.float64]:
        """(S,) how far from the answer a start ends, as the mean over its landmarks."""
        away: NDArray[np.float64] = np.linalg.norm(self.path_mm[-1] - self.points_mm, axis=-1).mean(axis=-1)
        return away

    @property
    def lines(self) -> list[str]:
        """How each start has converged, for people."""
        figures = zip(self.last_step_mm, self.from_mean_mm, strict=True)
        steps = len(self.path_mm) - 1
        return [
            f"start {number} of {len(self.last_step_mm)}: last of {steps} steps {step:.2f} mm, ends {away:.2f} mm from "
            "the mean of all starts"
            for number, (step, away) in enumerate(figures, 1)
        ]


@dataclass(frozen=True)
class Pin:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    network: PinNetwork = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1; covariances in mm^2 of where the starts lead.

        They tell how far the starts agree, not how far all of them are wrong: nothing calibrates them.
        """
        found = self.walk(image)
        landmarks = Landmarks(self.task.names, found.points_mm)
        return Localization(landmarks, dict(zip(self.task.names, found.covariance_mm2, strict=True)))

    def walk(self, image: Image) -> Walk:
        """Every step of every start."""
        _checked(self.settings)
        volumes, first_mm = open_volume(image, self.task, self.settings.spacing_mm, device=self.device)
        path = _walk(self.network, volumes, self.settings).double().cpu().numpy()
        path_mm = np.zeros((*path.shape[:3], 3))
        path_mm[..., : image.ndim] = path + first_mm
        return Walk(path_mm)

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> Pin:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = _checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)))
    try:
        space = None
        if settings.joint:
            space = ShapeSpace(*(saved.weights[name].double().numpy() for name in SPACE[:3]))
        network = build_network(saved.task, settings, space)
    except KeyError:
        raise ChallengeError(f"{model}: wanted the weights of the model.json beside them, got others") from None
    saved.load_weights(network, model)
    placed(network, device, 2)
    for part in (network.body, network.regress, network.classify):  # the space stays exact
        for_inference(part)
    return Pin(saved, settings, network.eval(), torch.device(device))


def build_network(task: Task, settings: Settings, space: ShapeSpace | None) -> PinNetwork:
    """A network with new weights; `space` is that of the task's landmarks together, or None for PIN-Single."""
    return PinNetwork(space, len(task.names), task.dimension, settings.architecture, patch=settings.patch)


def _checked(settings: Settings) -> Settings:
    for name, value, wanted in (
        ("rule", settings.rule, RULES),
        ("outside", settings.outside, OUTSIDE),
        ("unit", settings.unit, ("displacement", "voxel")),
    ):
        if value not in wanted:
            raise ChallengeError(f"{name}: wanted one of {', '.join(wanted)}, got '{value}'")
    return settings


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    if preset not in PRESETS:
        raise ChallengeError(f"preset: wanted one of {', '.join(PRESETS)}, got '{preset}'")
    return PRESETS[preset](task)


# Each is trained once; the update rule is chosen afterwards (PIN1 is C with rule A, PIN5 is C+R with rule C).
LOSSES = {"C": 1.0, "R": 0.0, "C+R": 0.5}
VARIANTS = {
    f"{loss}, {kind}": {"alpha": alpha, "joint": kind == "multiple"}
    for kind in ("single", "multiple")
    for loss, alpha in LOSSES.items()
}


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings of a training of the paper's tables: its losses (Table 1), single or multiple (Table 2)."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    return replace(settings, **VARIANTS[variant])  # type: ignore[arg-type]


TABLE_1 = (("PIN1", "C", "A"), ("PIN2", "R", "B"), ("PIN3", "C+R", "A"), ("PIN4", "C+R", "B"), ("PIN5", "C+R", "C"))
LONGER = 40  # steps, of a row beside the paper's
WALKS: tuple[tuple[str, str, str, Mapping[str, Any]], ...] = (
    *((name, "", loss, {"rule": rule}) for name, loss, rule in TABLE_1),
    ("PIN5", f" in {LONGER} steps", "C+R", {"rule": "C", "iterations": LONGER}),
)
STUDY = tuple(
    Row(f"{name}-{kind.capitalize()}{more}", f"{loss}, {kind}", view)
    for kind in ("single", "multiple")
    for name, more, loss, view in WALKS
)
STUDY_NOTE = (
    "PIN1 is trained with the classification loss and walks by rule A, PIN2 with the regression loss and rule B, PIN3 "
    "to PIN5 with both and rules A, B and C (Table 1). Single: a network per landmark, walking in the image from 19 "
    "starts; Multiple: one network for all, walking in the space of landmark sets from 6 (Table 2: PIN5 of both). "
    f"Rules B and C make 10 steps, as in the paper; one row more lets rule C, whose steps are shorter, make {LONGER}."
)

PUBLISHED = {
    "fetal-us-10": tuple(
        PublishedResult(
            method=f"{row} (single landmark: cavum septi pellucidi)",
            figures=f"mean {error} mm in {seconds} s",
            source="Li et al., MICCAI 2018, arXiv 1806.06987, Table 1",
        )
        for row, error, seconds in (
            ("PIN1", "7.53 +- 6.48", "3.56"),
            ("PIN2", "6.45 +- 3.96", "0.09"),
            ("PIN3", "6.34 +- 3.62", "3.50"),
            ("PIN4", "6.08 +- 3.90", "0.09"),
            ("PIN5", "5.47 +- 4.23", "0.09"),
        )
    )
}


def _paper(task: Task) -> Settings:
    """Section 3: patches of 101 voxels of 0.5 mm. What is not stated is that of the authors' code."""
    return Settings(
        min(task.working_spacing_mm),
        101,
        Architecture(),
        Schedule(100_000, 64, 1e-3, validate_every=5000),
        unit="voxel",
        nearness=0.0,
        outside="zero",
        paper_start=True,
        settled_mm=0.0,
    )


def _modern(schedule: Schedule) -> Schedule:
    return replace(schedule, policy="one-cycle", weight_decay=1e-4, gradient_norm=5.0)


# A guess is anywhere already; the image itself is changed in its pose and its grey values. Without the turns a hundred
# cases are learnt by heart.
_SHAKEN = Augmentation(rotation_degrees=12, scale=0.12, contrast=0.3, brightness=0.15, gamma=0.4, noise=0.03)


def _fast(task: Task) -> Settings:
    """The paper's patches and convolutions with batch normalisation, a one-cycle schedule and augmentation: one GPU."""
    return replace(
        _paper(task),
        architecture=Architecture(norm=True),
        schedule=_modern(Schedule(12_000, 64, 1e-3, average=0.999, validate_every=1000)),
        augmentation=_SHAKEN,
        unit="displacement",
        nearness=1.0,
        outside="border",
        paper_start=False,
        settled_mm=0.02,
    )


_PIXEL_WAY_MM = 175.0  # 350 steps of 0.5 mm


def _cpu(task: Task) -> Settings:
    """Two cores. 2D at 12 times the task's spacing (cephalograms: 1.2 mm); 3D at 4 times (fetal heads: 2 mm), or at the
    spacing itself where all images are cut to a small size.
    """
    spacing = min(task.working_spacing_mm) * (12 if task.dimension == 2 else 1 if task.pad_to_voxels else 4)
    return replace(
        _fast(task),
        spacing_mm=spacing,
        patch=45 if task.dimension == 2 else 33,
        architecture=Architecture((32, 64, 128), hidden=256, dropout=0.3, norm=True),
        schedule=_modern(Schedule(6000, 32, 2e-3, average=0.99, validate_every=500)),
        explained=0.999,
        rule="B",  # the paper: C, whose probabilities share 1 among all components and leave far starts on their way
        pixel_iterations=round(_PIXEL_WAY_MM / spacing),
    )


def _tiny(task: Task) -> Settings:
    """About a minute to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    spacing = cpu.spacing_mm * 1.5
    return replace(
        cpu,
        spacing_mm=spacing,
        pixel_iterations=round(_PIXEL_WAY_MM / spacing),
        patch=23,
        architecture=Architecture((16, 32, 64), hidden=96, dropout=0.2, norm=True),
        schedule=replace(cpu.schedule, iterations=800, learning_rate=3e-3, average=0.98, validate_every=200),
    )


PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
