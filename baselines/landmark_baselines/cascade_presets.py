"""The presets of `cascade` and its variants, each without one part."""

from dataclasses import replace

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task

from .augmentation import FEW_IMAGES, Augmentation
from .cascade_network import Settings, Stage
from .presets import of_preset
from .pretrained import Pretrained
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


VARIANTS = ("scratch", "middle", "reference", "untold", "no_distance", "no_changes")


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings without one part, or with a middle stage; unchanged where they have no such part."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    coarse, fine = settings.coarse, settings.fine
    if variant == "no_changes":
        still = {name: replace(getattr(settings, name), augmentation=Augmentation()) for name in settings.names}
        return replace(settings, **still)
    if variant == "scratch":
        if not isinstance(coarse.architecture, Pretrained):
            return settings
        return replace(settings, coarse=replace(coarse, architecture=replace(coarse.architecture, imagenet=False)))
    if variant == "middle":
        spacing_mm = coarse.spacing_mm
        return replace(
            settings, middle=settings.middle or replace(fine, spacing_mm=spacing_mm, sigma_mm=1.5 * spacing_mm)
        )
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
    """Two cores; see `_flat` and `_volume`."""
    return _flat(task) if task.dimension == 2 else _volume(task)


def _flat(task: Task) -> Settings:
    """The whole image at 0.4 mm, crops at 0.3 and 0.2 mm (all larger where the task's spacing is); no middle stage."""
    unit = max(1.0, min(task.working_spacing_mm) / 0.4)
    crops = Stage(
        0.2 * unit,
        Architecture((24, 48, 72, 96)),
        _schedule(1800, 8),
        replace(_CROPS, elastic_mm=_CROPS.elastic_mm * unit),
        1.0 * unit,
        crops=8,
    )
    whole = Stage(
        0.4 * unit,
        Pretrained(),
        _schedule(800, 4, 1e-3),
        replace(_WHOLE, shift_mm=8 * unit, elastic_mm=1.5 * unit),
        1.0 * unit,
    )
    return Settings(
        whole,
        None,
        replace(crops, spacing_mm=0.3 * unit),
        crops,
        window_voxels=48,
        shift_mm=0.6 * unit,
    )


def _volume(task: Task) -> Settings:
    """At four, two, one and one times the task's spacing; two, one, one and one times where volumes are small cuts.

    The two fine stages are alike but for their random numbers.
    """
    unit = min(task.working_spacing_mm)
    coarse, middle = (2 * unit, unit) if task.pad_to_voxels is not None else (4 * unit, 2 * unit)
    crops = Stage(
        unit,
        Architecture((16, 32, 48)),
        _schedule(3000, 4),
        replace(_SLICES, elastic_mm=_SLICES.elastic_mm * unit),
        1.5 * unit,
        crops=3,
    )
    whole = Stage(
        coarse,
        Architecture((16, 32, 48, 64)),
        _schedule(1000, 2),
        replace(_WHOLE, shift_mm=8 * unit, elastic_mm=1.5 * unit),
        coarse,
    )
    between = replace(crops, spacing_mm=middle, sigma_mm=1.5 * middle, schedule=_schedule(2000, 4))
    return Settings(whole, between, crops, crops, window_voxels=24, shift_mm=1.5 * unit)


def _tiny(task: Task) -> Settings:
    """A minute or two to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    flat = task.dimension == 2
    factor = 2 if flat else 1
    whole, crops = Architecture((8, 16, 24, 32), convolutions=1), Architecture((8, 16, 24), convolutions=1)

    def small(stage: Stage, architecture: Architecture, spacing_mm: float, iterations: int = 300) -> Stage:
        schedule = replace(_schedule(iterations, 4, 5e-3), average=0.98)
        return replace(
            stage, spacing_mm=spacing_mm, architecture=architecture, schedule=schedule, sigma_mm=1.5 * spacing_mm
        )

    return replace(
        cpu,
        # 300 iterations may leave a landmark without a map
        coarse=small(cpu.coarse, whole, (8 if flat else 1) * cpu.coarse.spacing_mm, 600),
        middle=cpu.middle and small(cpu.middle, crops, factor * cpu.middle.spacing_mm),
        fine=small(cpu.fine, crops, factor * cpu.fine.spacing_mm),
        finest=small(cpu.finest, crops, factor * cpu.finest.spacing_mm),
        window_voxels=32 if flat else 16,
        shift_mm=cpu.shift_mm * factor / 2,
    )


def _fast(task: Task) -> Settings:
    """A GPU: twice the width, finer whole images, three times as long."""
    cpu = _cpu(task)

    def large(stage: Stage) -> Stage:
        architecture = stage.architecture
        if isinstance(architecture, Pretrained):
            architecture = replace(architecture, width=2 * architecture.width)
        else:
            architecture = replace(architecture, widths=tuple(2 * width for width in architecture.widths))
        schedule = replace(stage.schedule, iterations=3 * stage.schedule.iterations, batch=2 * stage.schedule.batch)
        schedule = replace(schedule, average=0.999, learning_rate=1e-3, validate_every=schedule.iterations // 8)
        return replace(stage, architecture=architecture, schedule=schedule)

    finer = cpu.coarse.spacing_mm * (3 / 4 if task.dimension == 2 else 1 / 2)
    coarse = replace(cpu.coarse, spacing_mm=finer)
    middle = cpu.middle and large(replace(cpu.middle, spacing_mm=min(finer, cpu.middle.spacing_mm)))
    return replace(cpu, coarse=large(coarse), middle=middle, fine=large(cpu.fine), finest=large(cpu.finest), passes=8)


PRESETS = {"paper": _fast, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
