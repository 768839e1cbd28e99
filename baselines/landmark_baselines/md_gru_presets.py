"""The presets of `md_gru`, its variants and the rows of the paper's Table 1a."""

from dataclasses import replace

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import PublishedResult, Task

from .ablation import Row
from .augmentation import FEW_IMAGES
from .md_gru_network import Architecture
from .md_gru_stages import Settings, Stage
from .presets import of_preset
from .training import Schedule, one_cycle


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


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


def _fast(task: Task) -> Settings:
    """The paper's trunks with light heads, soft labels, augmentation and a one-cycle schedule, for one GPU."""
    paper = _paper(task)

    def modern(stage: Stage, offset_voxel: float) -> Stage:
        return replace(
            stage,
            architecture=replace(stage.architecture, head="light"),
            schedule=one_cycle(Schedule(5000, 4, 1e-3, average=0.999, validate_every=500), gradient_norm=1.0),
            label_sigma_mm=stage.spacing_mm * stage.architecture.stem_stride,
            offset_voxel=offset_voxel,
            augmentation=FEW_IMAGES,
        )

    return replace(paper, coarse=modern(paper.coarse, 30), fine=modern(paper.fine, 20))


def _cpu(task: Task) -> Settings:
    """Two cores: narrow levels, filters of side 3 (7 in 2D), light heads; the image in few voxels, then windows of 32
    (64 in 2D; 24 in images that are cut to a size).

    In 2D at 16 and 4 times the task's spacing (cephalograms: 1.6 and 0.4 mm), in 3D at 2 times and once.
    """
    flat, unit = task.dimension == 2, min(task.working_spacing_mm)
    small = bool(task.pad_to_voxels)
    levels = ((16, 24), (32, 48), (64, 96)) if flat else ((16, 24), (32, 48))
    plain = Architecture(levels, kernel=7 if flat else 3, drop=0.1, head="light", head_width=16 if flat else 32)
    whole = plain if small else replace(plain, stem=16, stem_stride=2 if flat else 4)
    schedule = one_cycle(
        Schedule(500 if flat else 800, 4, 3e-3, average=0.99, validate_every=100 if flat else 200), gradient_norm=1.0
    )
    # A fine batch has a window per landmark and image.
    closer = replace(schedule, iterations=600 if flat else 1000, batch=2)
    coarse_mm, fine_mm = unit * (16 if flat else 2), unit * (4 if flat else 1)
    side = 64 if flat else 24 if small else 32
    return Settings(
        Stage(coarse_mm, (), whole, schedule, 4, 4, whole.stem_stride / 2 * coarse_mm, FEW_IMAGES),
        Stage(fine_mm, (side,) * task.dimension, plain, closer, 4, side / 3, fine_mm, FEW_IMAGES),
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
