"""The presets of Loc-Net, its variants and the rows of its study."""

import math
from dataclasses import replace
from typing import Any

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task

from .ablation import Row
from .augmentation import FEW_IMAGES
from .loc_net_network import Settings
from .presets import of_preset
from .training import Schedule, one_cycle
from .unet import Architecture


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


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


def _fast(task: Task) -> Settings:
    """The paper's scales and widths with normalisation, softmax maps, one chain for all landmarks, and augmentation."""
    paper = _paper(task)
    network = replace(paper.coarse, norm=True, dropout=0.0)
    schedule = one_cycle(Schedule(6000, 8 if task.dimension == 2 else 4, 1e-3, average=0.999, validate_every=500))
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
    return Settings(spacings, crop, coarse, fine, one_cycle(schedule), _SHAKEN, noise_mm=crop * finest / 8, **_MODERN)


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
