"""Settings of the DQN agents, their presets, and the agents that the original compares (Alansary et al., 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task

from .presets import of_preset
from .training import Schedule
from .walks import Scales


@dataclass(frozen=True)
class Architecture:
    """side: voxels of a view along each axis. channels, kernels: of the four convolutions, the first three pooled.
    nodes: of the dense layers, which every agent has for itself. duelling: value and advantages have a tower each.
    """

    side: int
    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    nodes: tuple[int, ...]
    duelling: bool = True


@dataclass(frozen=True)
class Exploration:
    """How steps are gathered. walkers: per agent, each doing one step per iteration. capacity: steps remembered per
    agent. warm_up: random steps before learning. first_share: of the iterations in which the share of random actions
    falls from 1 to 0.1; in the rest it falls to 0.01. longest: steps of a walk. near: whether walks start at every
    scale, at the finer ones within two of the coarser steps of the landmark; the original starts all at the coarsest.
    """

    walkers: int = 4
    capacity: int = 100_000
    warm_up: int = 5_000
    first_share: float = 0.1
    longest: int = 200
    near: bool = False


@dataclass(frozen=True)
class Settings:
    """A preset. spacing_mm: of the voxels. frames: last places that an agent is shown. discount: gamma. sync_every:
    iterations between copies into the target network. double: the trained network says which action comes next, the
    target network what it is worth (van Hasselt et al., AAAI 2016). starts: walks per landmark when localizing; their
    ends are averaged.
    """

    spacing_mm: float
    architecture: Architecture
    schedule: Schedule
    exploration: Exploration = field(default_factory=Exploration)
    scales: Scales = field(default_factory=Scales)
    frames: int = 4
    discount: float = 0.9
    sync_every: int = 2500
    double: bool = False
    starts: int = 5


def checked(settings: Settings) -> Settings:
    """The settings, or ChallengeError for those that no agent can have."""
    scales, architecture = settings.scales, settings.architecture
    if len(scales.strides) != len(scales.steps) or not scales.strides or min(*scales.strides, *scales.steps, 1) < 1:
        raise ChallengeError(f"scales: wanted as many strides as steps, each at least 1, got {scales}")
    if len(architecture.channels) != len(architecture.kernels):
        raise ChallengeError(f"architecture: wanted as many channels as kernels, got {architecture}")
    if architecture.side < 2 ** (len(architecture.channels) - 1):
        raise ChallengeError(
            f"architecture: wanted a side that survives the pools, at least "
            f"{2 ** (len(architecture.channels) - 1)}, got {architecture.side}"
        )
    return settings


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    return of_preset(PRESETS, preset, task)


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "DQN": {"duelling": False},
    "DDQN": {"duelling": False, "double": True},
    "duelling DQN": {},
    "duelling DDQN": {"double": True},
    "duelling DQN, finest scale alone": {"scales": Scales((1,), (1,))},
}


def variant_settings(variant: str, settings: Settings) -> Settings:
    """The settings of another agent of the original's comparison."""
    if variant not in VARIANTS:
        raise ChallengeError(f"variant: wanted one of {', '.join(VARIANTS)}, got '{variant}'")
    changes = dict(VARIANTS[variant])
    architecture = replace(settings.architecture, duelling=changes.pop("duelling", True))
    return replace(settings, architecture=architecture, **changes)


def _paper(task: Task) -> Settings:
    """The original's agent and its memory. Its Adam has an epsilon of 1e-3, ours the usual one."""
    spacing = max(min(task.working_spacing_mm), 0.5 if task.dimension == 2 else 0.0)
    wide = Architecture(45, (32, 32, 64, 64), (5, 5, 4, 3), (512, 256, 128))
    schedule = Schedule(200_000, 48, 1e-3, gradient_norm=10.0, validate_every=10_000)
    return Settings(spacing, wide, schedule)


def _fast(task: Task) -> Settings:
    """The original's agent, more walkers, walks from every scale, averaged weights."""
    paper = _paper(task)
    schedule = replace(
        paper.schedule, iterations=20_000, policy="one-cycle", average=0.999, weight_decay=1e-4, validate_every=1000
    )
    exploration = Exploration(walkers=8, first_share=0.2, near=True)
    return replace(paper, schedule=schedule, exploration=exploration, sync_every=500)


def _cpu(task: Task) -> Settings:
    """Two cores: a narrow agent with smaller views; 2D at 0.8 mm (or the task's spacing), 3D at twice the task's
    spacing, or at the spacing itself where all images are cut to a small size.
    """
    spacing = min(task.working_spacing_mm)
    if task.dimension == 2:
        spacing, slim = max(spacing, 0.8), Architecture(45, (16, 32, 32, 32), (5, 5, 4, 3), (128, 64))
    else:
        spacing *= 1 if task.pad_to_voxels else 2
        slim = Architecture(25, (8, 16, 16, 16), (3, 3, 3, 3), (128, 64))
    exploration = Exploration(walkers=8, capacity=40_000, warm_up=1000, first_share=0.3, longest=120, near=True)
    iterations = 6000 if task.dimension == 2 else 4000
    schedule = Schedule(
        iterations, 10, 1e-3, "one-cycle", gradient_norm=10.0, average=0.99, weight_decay=1e-4, validate_every=500
    )
    return Settings(spacing, slim, schedule, exploration, sync_every=200)


def _tiny(task: Task) -> Settings:
    """A minute or two to train, under 2 MB: for the demo and the tests."""
    cpu = _cpu(task)
    nodes = (32,)
    slim = replace(cpu.architecture, channels=(8, 16, 16, 16), kernels=(3, 3, 3, 3), nodes=nodes)
    spacing = cpu.spacing_mm * (2 if task.dimension == 2 else 1)
    schedule = replace(cpu.schedule, iterations=1500, learning_rate=2e-3, average=0.98, validate_every=300)
    return replace(
        cpu,
        spacing_mm=spacing,
        architecture=replace(slim, side=25),
        schedule=schedule,
        exploration=replace(cpu.exploration, warm_up=400),
        starts=3,
    )


PRESETS = {"paper": _paper, "fast": _fast, "cpu": _cpu, "tiny": _tiny}
