"""The presets of `cascade` and its variants, each without one part."""

from dataclasses import replace

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task

from .augmentation import FEW_IMAGES, Augmentation
from .cascade_network import STAGES, Settings, Stage
from .presets import of_preset
from .training import Schedule
from .unet import Architecture

# Gentler than FEW_IMAGES: what a lowest or foremost point is depends on how the head is held, so that turned images
# teach wrong labels. A crop is a tenth of an image: the same nodes per axis bend it much more.
_WHOLE = replace(FEW_IMAGES, rotation_degrees=4, scale=0.1, shift_mm=8, cutout=0.3)
_CROPS = replace(FEW_IMAGES, rotation_degrees=6, scale=0.1, stretch=0.05, elastic_mm=0.25, elastic_nodes=3)
# Landmarks of volumes are often those of a slice, the first or last one that shows an organ.
_SLICES = replace(_CROPS, rotation_degrees=2, scale=0.06, stretch=0.04, elastic_mm=0.1, noise=0.02, gamma=0.2)


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


VARIANTS = ("seeing", "reference", "untold", "no_distance", "no_changes")


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings without one part."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    if variant == "no_changes":
        still = {name: replace(getattr(settings, name), augmentation=Augmentation()) for name in STAGES}
        return replace(settings, **still)
    if variant == "seeing":
        return replace(settings, blind=False)
    if variant == "reference":
        return replace(settings, observers=False)
    return replace(settings, told=False) if variant == "untold" else replace(settings, distance_weight=0.0)


def _schedule(iterations: int, batch: int, learning_rate: float = 2e-3) -> Schedule:
    return Schedule(
        iterations,
        batch,
        learning_rate,
        policy="one-cycle",
        weight_decay=1e-3,
        gradient_norm=5.0,
        average=0.995,
        validate_every=max(1, iterations // 8),
    )


def _cpu(task: Task) -> Settings:
    """Two cores. 2D at 1.6, 0.6, 0.3 and 0.2 mm; 3D at four, two and one times the task's spacing (cut: 2, 1, 1).

    The two fine stages of a volume are alike but for their random numbers.
    """
    if task.dimension == 2:
        unit = max(1.0, min(task.working_spacing_mm) / 0.4)
        spacings, window = (1.6 * unit, 0.6 * unit, 0.3 * unit, 0.2 * unit), 48
        whole, crops = Architecture((16, 32, 64, 96, 128)), Architecture((24, 48, 72, 96))
        batches, iterations, images = (8, 8, 8), (1200, 1800, 1800), 8
    else:
        unit = min(task.working_spacing_mm)
        small = task.pad_to_voxels is not None
        spacings, window = ((2 * unit, unit, unit, unit) if small else (4 * unit, 2 * unit, unit, unit)), 24
        whole, crops = Architecture((16, 32, 48, 64)), Architecture((16, 32, 48))
        batches, iterations, images = (2, 4, 4), (1000, 2000, 3000), 3
    coarse, middle, fine, finest = spacings
    shaken = replace(_WHOLE, shift_mm=8 * unit, elastic_mm=1.5 * unit)
    near = _CROPS if task.dimension == 2 else _SLICES
    near = replace(near, elastic_mm=near.elastic_mm * unit)
    schedule = _schedule(iterations[2], batches[2])
    last = Stage(finest, crops, schedule, near, max(1.0 * unit, 1.5 * finest), images)
    return Settings(
        Stage(coarse, whole, _schedule(iterations[0], batches[0]), shaken, coarse),
        Stage(middle, crops, _schedule(iterations[1], batches[1]), near, 1.5 * middle, images),
        replace(last, spacing_mm=fine, sigma_mm=max(1.0 * unit, 1.5 * fine)),
        last,
        window,
        shift_mm=window * finest / 16,
    )


def _tiny(task: Task) -> Settings:
    """A minute or two to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    flat = task.dimension == 2
    factor = 2 if flat else 1
    whole, crops = Architecture((8, 16, 24, 32), convolutions=1), Architecture((8, 16, 24), convolutions=1)

    def small(stage: Stage, architecture: Architecture, iterations: int = 300) -> Stage:
        schedule = replace(_schedule(iterations, 4, 5e-3), average=0.98)
        spacing = stage.spacing_mm * factor
        return replace(stage, spacing_mm=spacing, architecture=architecture, schedule=schedule, sigma_mm=1.5 * spacing)

    return replace(
        cpu,
        coarse=small(cpu.coarse, whole, 600),  # 300 may leave a landmark without a map
        middle=small(cpu.middle, crops),
        fine=small(cpu.fine, crops),
        finest=small(cpu.finest, crops),
        window_voxels=32 if flat else 16,
        shift_mm=cpu.shift_mm * factor / 2,
    )


def _fast(task: Task) -> Settings:
    """A GPU: twice the width, finer whole images, three times as long."""
    cpu = _cpu(task)

    def large(stage: Stage) -> Stage:
        architecture = replace(stage.architecture, widths=tuple(2 * width for width in stage.architecture.widths))
        schedule = replace(stage.schedule, iterations=3 * stage.schedule.iterations, batch=2 * stage.schedule.batch)
        schedule = replace(schedule, average=0.999, learning_rate=1e-3, validate_every=schedule.iterations // 8)
        return replace(stage, architecture=architecture, schedule=schedule)

    coarse = replace(cpu.coarse, spacing_mm=max(cpu.coarse.spacing_mm / 2, cpu.middle.spacing_mm))
    fine, finest = large(cpu.fine), large(cpu.finest)
    return replace(cpu, coarse=large(coarse), middle=large(cpu.middle), fine=fine, finest=finest, passes=8)


PRESETS = {"paper": _fast, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
