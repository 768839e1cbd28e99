"""The presets of `heatmap_coordinate`, its variants and the rows of its study."""

from dataclasses import replace

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task

from . import unet, xception
from .ablation import Row
from .augmentation import FEW_IMAGES, Augmentation
from .heatmap_coordinate_network import VARIANTS, CoordinateStage, HeatmapStage, Settings
from .presets import of_preset
from .training import Schedule, one_cycle


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings of a row of the paper's comparison; `fitted` is the proposed method."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    return replace(settings, combine=variant)


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


def _fast(task: Task) -> Settings:
    """The paper's networks with one-cycle schedules, grey values changed at random too and sub-voxel decoding."""
    paper = _paper(task)
    shaken = replace(FEW_IMAGES, rotation_degrees=25, scale=0.3)
    coordinate = one_cycle(Schedule(6000, 32, 1e-3, average=0.999, validate_every=500))
    heatmap = one_cycle(Schedule(6000, 8, 5e-4, average=0.999, validate_every=500))
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
            one_cycle(Schedule(1500, 16, 3e-3, average=0.99, validate_every=150)),
            FEW_IMAGES,
        ),
        heatmap=HeatmapStage(
            256 if flat else 64,
            unet.Architecture((16, 32, 64, 128) if flat else (8, 16, 32, 64)),
            one_cycle(Schedule(1200, 4, 2e-3, average=0.99, validate_every=150)),
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
