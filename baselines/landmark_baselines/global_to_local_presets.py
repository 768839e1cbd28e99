"""Presets of global-to-local, the rows of its ablation, and what its paper says of them (Noothout et al., 2020)."""

from dataclasses import replace

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import PublishedResult, Task

from .ablation import Row
from .augmentation import FEW_IMAGES
from .global_to_local_network import Architecture, Settings, Stage
from .presets import of_preset
from .training import Schedule, one_cycle


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


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


def _fast(task: Task) -> Settings:
    """The paper's architecture with a one-cycle schedule, augmentation and a wider local window, for one GPU."""
    paper = _paper(task)
    coarse, fine = paper.global_stage, paper.local_stage
    shifted = replace(FEW_IMAGES, shift_mm=8)
    return replace(
        paper,
        global_stage=replace(
            coarse,
            schedule=one_cycle(Schedule(12_000, 16, 2e-3, average=0.999, validate_every=1000)),
            augmentation=shifted,
        ),
        local_stage=replace(
            fine,
            window=0,
            schedule=one_cycle(Schedule(6_000, 16, 2e-3, average=0.999, validate_every=500)),
            augmentation=FEW_IMAGES,
        ),
        classification_weight=100.0,
    )


def _cpu(task: Task) -> Settings:
    """Two cores: coarser voxels, and a local stage that is deeper and sees more around its landmark.

    In 2D at 16 and 8 times the task's spacing (cephalograms: 1.6 and 0.8 mm), in 3D at 2 times and once. In 3D, where a
    window has as many voxels as a radiograph, local networks are narrower, batches smaller and global sub-images as
    large as the paper's in mm; the decoded point counts in the loss.
    """
    unit, shifted = min(task.working_spacing_mm), replace(FEW_IMAGES, shift_mm=8)
    overview = Architecture(16, (32, 64, 128, 256), (3, 4, 6, 3), (True, True, False, False), (256, 256))

    def schedule(iterations: int, batch: int, validate_every: int) -> Schedule:
        return one_cycle(Schedule(iterations, batch, 2e-3, average=0.99, validate_every=validate_every))

    if task.dimension == 2:
        detail = Architecture(0, (32, 64, 128), (1, 1, 1), (False, True, True), (128, 128))
        return Settings(
            Stage(16 * unit, 0, overview, schedule(1500, 8, 150), shifted),
            Stage(8 * unit, 0, detail, schedule(1500, 8, 150), FEW_IMAGES),
            classification_weight=100.0,
            local_margin=20,
        )
    detail = Architecture(0, (16, 32, 64), (1, 1, 1), (False, True, True), (64, 64))
    return Settings(
        Stage(2 * unit, 36, overview, schedule(800, 4, 100), shifted),
        Stage(unit, 0, detail, schedule(1000, 2, 100), FEW_IMAGES),
        classification_weight=100.0,
        coordinate_weight=1.0,
        local_margin=12,
    )


def _tiny(task: Task) -> Settings:
    """A minute to train in 2D, seven in 3D, under 2 MB with up to ten landmarks: for the demo and the tests.

    In 3D global patches are half as large, voxels at least 1.5 mm and deep layers wider: they cost little there.
    """
    cpu = _cpu(task)
    coarse, fine = cpu.global_stage, cpu.local_stage

    def schedule(iterations: int, batch: int) -> Schedule:
        return one_cycle(Schedule(iterations, batch, 5e-3, average=0.98, validate_every=100))

    if task.dimension == 2:
        overview = Architecture(8, (16, 24, 32), (1, 1, 1), (True, True, False), (32,))
        detail = Architecture(0, (8, 16, 16), (1, 1, 1), (False, True, True), (16,))
        coarse = replace(coarse, architecture=overview, schedule=schedule(1000, 8))
        fine = replace(fine, architecture=detail, schedule=schedule(300, 8))
    else:
        overview = Architecture(8, (16, 32, 64), (1, 1, 1), (True, False, False), (32,))
        detail = Architecture(0, (8, 24, 32), (1, 1, 1), (False, True, True), (32,))
        spacing = max(coarse.spacing_mm, 1.5)
        coarse = replace(coarse, spacing_mm=spacing, window=40, architecture=overview, schedule=schedule(1200, 4))
        fine = replace(fine, architecture=detail, schedule=schedule(1500, 2))
    return replace(cpu, global_stage=coarse, local_stage=fine, local_margin=8)


PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
