"""Settings of PIN, its presets, the rows of the paper's tables and the paper's own figures (Li et al., 2018)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import PublishedResult, Task

from .ablation import Row
from .augmentation import Augmentation
from .planar_patches import OUTSIDE, PatchShape
from .presets import of_preset
from .training import Schedule, one_cycle

RULES = ("A", "B", "C")


@dataclass(frozen=True)
class Architecture:
    """widths: channels of the unpadded 3x3 convolutions, each followed by a max-pool of 2. hidden: nodes of the two
    dense layers of each tower. dropout: after each of them. norm: batch normalisation, which the paper does not have.
    apart: each landmark has `widths` channels of its own up to the dense layers; the paper's first convolution sees the
    patches of all landmarks at once: in a few thousand iterations that learns where a set lies, but not how it turns.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    hidden: int = 1024
    dropout: float = 0.5
    norm: bool = False
    apart: bool = False


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


def checked(settings: Settings) -> Settings:
    """The settings, or ChallengeError for a choice that there is not."""
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
    return of_preset(PRESETS, preset, task)


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


# A guess is anywhere already; the image itself is changed in its pose and its grey values. Without the turns a hundred
# cases are learnt by heart.
_SHAKEN = Augmentation(rotation_degrees=12, scale=0.12, contrast=0.3, brightness=0.15, gamma=0.4, noise=0.03)


def _fast(task: Task) -> Settings:
    """The paper's patches and convolutions with batch normalisation, a one-cycle schedule and augmentation: one GPU."""
    return replace(
        _paper(task),
        architecture=Architecture(norm=True),
        schedule=one_cycle(Schedule(12_000, 64, 1e-3, average=0.999, validate_every=1000)),
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
    # Mixed from the first, the patches of cephalograms taught more in as many minutes.
    slim = Architecture((32, 64, 128), hidden=256, dropout=0.3, norm=True)
    if task.dimension == 3:
        slim = Architecture((16, 32, 64), hidden=128, dropout=0.3, norm=True, apart=True)
    return replace(
        _fast(task),
        spacing_mm=spacing,
        patch=45 if task.dimension == 2 else 33,
        architecture=slim,
        schedule=one_cycle(Schedule(2500, 32, 2e-3, average=0.99, validate_every=250)),
        explained=0.999,
        # The paper: C, whose probabilities share 1 among all components; in large volumes starts stay on their way.
        rule="C" if task.pad_to_voxels else "B",
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
        architecture=replace(cpu.architecture, widths=(16, 32, 64), hidden=96, dropout=0.2),
        schedule=replace(cpu.schedule, iterations=800, learning_rate=3e-3, average=0.98, validate_every=200),
    )


PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
