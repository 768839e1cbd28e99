"""Deep Q-learning agents that walk to their landmarks, on coarse, middle and fine steps; several share one trunk.

Alansary et al., "Evaluating reinforcement learning agents for anatomical landmark detection", Medical Image Analysis
53, 2019, and their code; several agents on one convolutional trunk after Vlontzos et al., MICCAI 2019. What the walks
and the memory do is in `walks.py`.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .blocks import CONV, autocast, channels_last, for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .presets import from_plain
from .single_network import train_single
from .stopwatch import span
from .store import Store, prepare
from .training import Schedule, Step, set_threads
from .walks import Memory, Scales, Walkers, crops, directions, random_places

POOL = {2: F.max_pool2d, 3: F.max_pool3d}


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


class AgentDense(nn.Module):
    """A dense layer of every agent: (agents, N, inputs) -> (agents, N, outputs), in float32."""

    def __init__(self, agents: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(agents, inputs, outputs) * math.sqrt(2 / inputs))  # He et al.
        self.bias = nn.Parameter(torch.zeros(agents, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(agents, N, inputs) -> (agents, N, outputs)."""
        with torch.autocast(x.device.type, enabled=False):
            return torch.baddbmm(self.bias.float(), x.float(), self.weight.float())


class QNetwork(nn.Module):
    """What every agent expects of each action: one trunk over the views, dense layers of each agent's own."""

    def __init__(self, ndim: int, agents: int, architecture: Architecture, *, frames: int) -> None:
        super().__init__()
        self.agents, self.ndim, self.duelling = agents, ndim, architecture.duelling
        self.trunk, self.bend = nn.ModuleList(), nn.ModuleList()
        for before, width, kernel in zip(
            (frames, *architecture.channels), architecture.channels, architecture.kernels, strict=False
        ):
            self.trunk.append(CONV[ndim](before, width, kernel, padding="same"))
            self.bend.append(nn.PReLU())
        for layer in self.trunk.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, a=0.25)  # PReLU's first slope
                nn.init.zeros_(layer.bias)
        features = architecture.channels[-1] * (architecture.side // 2 ** (len(self.trunk) - 1)) ** ndim
        self.advantage = _tower(agents, features, architecture.nodes, 2 * ndim)
        self.value = _tower(agents, features, architecture.nodes, 1) if self.duelling else None

    def forward(self, views: Tensor) -> Tensor:
        """(agents, N, frames, *side) intensities of 0..1 -> (agents, N, actions) expected rewards."""
        x = channels_last(views.flatten(0, 1))
        for i, (layer, bend) in enumerate(zip(self.trunk, self.bend, strict=True)):
            x = bend(layer(x))
            if i < len(self.trunk) - 1:
                x = POOL[self.ndim](x, 2)
        features = x.flatten(1).unflatten(0, (self.agents, -1))
        advantage: Tensor = self.advantage(features)
        if self.value is None:
            return advantage
        return self.value(features) + advantage - advantage.mean(dim=-1, keepdim=True)


def _tower(agents: int, inputs: int, nodes: tuple[int, ...], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in pairwise((inputs, *nodes)):
        layers += [AgentDense(agents, before, width), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, AgentDense(agents, (inputs, *nodes)[-1], outputs))


def expected_rewards(
    network: nn.Module,
    images: Tensor,
    image: Tensor,
    history: Tensor,
    scale: Tensor,
    settings: Settings,
) -> Tensor:
    """(agents, N, actions) of agents at places; image and scale (agents, N), history (agents, N, frames, ndim)."""
    with span("resample"):
        strides = torch.tensor(settings.scales.strides, device=images.device)[scale.flatten()]
        views = crops(images, image.flatten(), history.flatten(0, 1), strides, side=settings.architecture.side)
        views = views.float().div_(255).unflatten(0, scale.shape)
    with span("network"):
        expected: Tensor = network(views)
    return expected


def exploring(step: int, settings: Settings) -> float:
    """The share of random actions: from 1 to 0.1 in the first part of the iterations, then to 0.01 (the original's)."""
    first = max(1, round(settings.exploration.first_share * settings.schedule.iterations))
    if step < first:
        return 1 - 0.9 * step / first
    return 0.1 - 0.09 * min(1.0, (step - first) / max(1, settings.schedule.iterations - first))


class Explorer:
    """Gathers steps with the network as it is and gives the loss on remembered ones.

    A resumed run fills its memory anew: the memory is no part of a checkpoint.
    """

    def __init__(self, network: nn.Module, store: Store, settings: Settings, *, seed: int, rank: int = 0) -> None:
        self.network, self.store, self.settings, self.seed, self.rank = network, store, settings, seed, rank
        self.target = copy.deepcopy(network).eval()
        self.images = store.images[:, 0].to(store.points.device)
        self.extent = torch.tensor(self.images.shape[:0:-1], device=self.images.device)
        self.agents, ndim = store.points.shape[1:]
        at_most = settings.schedule.iterations * settings.exploration.walkers + settings.exploration.warm_up
        self.memory = Memory(
            self.agents,
            min(settings.exploration.capacity, at_most),
            frames=settings.frames,
            ndim=ndim,
            device=self.images.device,
        )
        self.walkers = self._fresh(self._generator(-1))
        while len(self.memory) < min(settings.exploration.warm_up, self.memory.capacity):
            self._walk(1.0, self._generator(-2 - self.memory.count))

    def loss(self, model: nn.Module, step: Step) -> Tensor:
        """One step of every walker, then the Huber loss of a batch of the memory against the target network."""
        settings, generator = self.settings, self._generator(step.number)
        if step.number % settings.sync_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        self._walk(exploring(step.number, settings), generator)
        batch = max(1, settings.schedule.batch // step.world)
        return self.residual(model, self.memory.sample(batch, generator=generator))

    def residual(self, model: nn.Module, drawn: Mapping[str, Tensor]) -> Tensor:
        """The Huber loss of remembered steps (agents, N, ...): what is expected before a step against its reward and
        the discounted best of what the target network expects after it.
        """
        settings = self.settings
        with torch.no_grad(), autocast(self.images.device):
            state = (self.images, drawn["image"], drawn["after"], drawn["scale_after"], settings)
            after = expected_rewards(self.target, *state).float()
            chosen = expected_rewards(model, *state).float() if settings.double else after
            best = after.gather(-1, chosen.argmax(dim=-1, keepdim=True)).squeeze(-1)
        wanted = drawn["reward"] + settings.discount * torch.where(drawn["last"], 0, best)
        before = expected_rewards(model, self.images, drawn["image"], drawn["before"], drawn["scale_before"], settings)
        return F.huber_loss(before.float().gather(-1, drawn["action"].unsqueeze(-1)).squeeze(-1), wanted)

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number * 7919 + self.rank * 104_729) % 2**63)

    @torch.no_grad()
    def _walk(self, random_share: float, generator: torch.Generator) -> None:
        """One step of every walker into the memory; those that have arrived, or walked too long, start again."""
        walkers, settings = self.walkers, self.settings
        shape = (self.agents, settings.exploration.walkers)
        actions = torch.randint(2 * len(self.extent), shape, generator=generator).to(self.images.device)
        values = torch.zeros(shape, device=self.images.device)
        if random_share < 1:
            with autocast(self.images.device):
                expected = expected_rewards(
                    self.network,
                    self.images,
                    walkers.image.unflatten(0, shape),
                    walkers.history.unflatten(0, shape),
                    walkers.scale.unflatten(0, shape),
                    settings,
                )
            values, best = expected.max(dim=-1)
            at_random = torch.rand(shape, generator=generator).to(self.images.device) < random_share
            actions = torch.where(at_random, actions, best)
        landmarks = self._landmarks(walkers.image)
        before, history, scale = walkers.places, walkers.history, walkers.scale
        steps = torch.tensor(settings.scales.steps, device=self.images.device)[scale].unsqueeze(-1)
        after = before + directions(len(self.extent), device=self.images.device)[actions.flatten()] * steps
        left = walkers.move(actions.flatten(), values.flatten(), settings.scales)
        distances = [
            torch.linalg.vector_norm(place - landmarks, dim=-1) * self.store.spacing_mm for place in (before, after)
        ]
        reward = torch.where(left, -1.0, (distances[0] - distances[1]).clamp(-1, 1))
        # the original arrives within 1 mm of a landmark that it has rounded to a voxel
        arrived = ~left & (distances[1] <= max(1.0, self.store.spacing_mm))
        last = arrived | walkers.ended
        self.memory.add(
            image=walkers.image.unflatten(0, shape),
            before=history.unflatten(0, shape),
            after=walkers.history.unflatten(0, shape),
            scale_before=scale.unflatten(0, shape),
            scale_after=walkers.scale.unflatten(0, shape),
            action=actions,
            reward=reward.unflatten(0, shape),
            last=last.unflatten(0, shape),
        )
        over = last | (walkers.age >= settings.exploration.longest)
        if over.any():
            walkers.restart(over, self._fresh(generator))

    def _landmarks(self, image: Tensor) -> Tensor:
        """(W, ndim) each walker's landmark in voxels."""
        agent = torch.arange(self.agents, device=image.device).repeat_interleave(self.settings.exploration.walkers)
        return self.store.points[image, agent]

    def _fresh(self, generator: torch.Generator) -> Walkers:
        """Walkers at new places in new images, in which their landmark is known."""
        exploration, scales = self.settings.exploration, self.settings.scales
        known = torch.isfinite(self.store.points).all(dim=-1).T.float().cpu()
        if not known.any(dim=1).all():
            raise ChallengeError("training cases: wanted every landmark in at least one, got one that is in none")
        image = torch.multinomial(known, exploration.walkers, replacement=True, generator=generator)
        image = image.flatten().to(self.images.device)
        count = len(image)
        places = random_places(count, self.extent, share=0.6, generator=generator)  # the original's central 3/5
        scale = torch.zeros_like(image)
        if exploration.near:
            scale = torch.randint(len(scales), (count,), generator=generator).to(image.device)
            reach = 2 * torch.tensor((0, *scales.steps[:-1]), device=image.device)[scale].unsqueeze(-1)
            draws = 2 * torch.rand(places.shape, generator=generator).to(image.device) - 1
            beside = torch.round(self._landmarks(image) + draws * reach).long()
            beside = torch.minimum(beside.clamp(min=0), self.extent - 1)
            places = torch.where(scale.unsqueeze(-1) > 0, beside, places)
        walkers = Walkers.at(places, image, self.extent, frames=self.settings.frames)
        walkers.scale = scale
        return walkers


@torch.inference_mode()
def run(network: nn.Module, images: Tensor, settings: Settings, *, starts: int) -> Tensor:
    """(1, 1, ...) an image of 0..1 -> (agents, starts, ndim) voxels where the walks end.

    All walks of all agents go on together until the last has ended. Starts are the same for images of one size.
    """
    volumes = (images[:, 0] * 255).round().to(torch.uint8)
    agents = int(getattr(network, "agents"))  # noqa: B009 (nn.Module types every attribute as a tensor or module)
    extent = torch.tensor(volumes.shape[:0:-1], device=volumes.device)
    places = random_places(agents * starts, extent, share=0.5, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(agents * starts, dtype=torch.long, device=volumes.device)
    walkers = Walkers.at(places, image, extent, frames=settings.frames)
    shape = (agents, starts)
    for _ in range(settings.exploration.longest):
        with autocast(volumes.device):
            expected = expected_rewards(
                network,
                volumes,
                walkers.image.unflatten(0, shape),
                walkers.history.unflatten(0, shape),
                walkers.scale.unflatten(0, shape),
                settings,
            )
        values, actions = expected.float().max(dim=-1)
        walkers.move(actions.flatten(), values.flatten(), settings.scales)
        if walkers.ended.all():
            break
    return walkers.places.unflatten(0, shape)


def train(
    dataset: Dataset, *, preset: str = "cpu", seed: int = 0, settings: Settings | None = None, **options: Any
) -> None:
    """Train the agents into a model folder; `options` are those of `train_single`."""
    chosen = settings or preset_settings(preset, dataset.task)
    _checked(chosen)
    networks: list[QNetwork] = []
    explorers: list[Explorer] = []

    def network() -> QNetwork:
        ndim, agents = dataset.task.dimension, len(dataset.task.names)
        networks.append(QNetwork(ndim, agents, chosen.architecture, frames=chosen.frames))
        return networks[0]

    def loss(model: nn.Module, step: Step, store: Store) -> Tensor:
        if not explorers:
            explorers.append(Explorer(networks[0], store, chosen, seed=seed, rank=step.rank))
        return explorers[0].loss(model, step)

    train_single(
        "dqn_agent",
        dataset,
        settings=chosen,
        network=network,
        loss_of=loss,
        points_of=lambda model, images: run(model, images, chosen, starts=1).float().mean(dim=1).unsqueeze(0),
        spacing_mm=chosen.spacing_mm,
        schedule=chosen.schedule,
        preset=preset,
        seed=seed,
        **options,
    )


@dataclass(frozen=True)
class DQNAgent:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    network: nn.Module = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, the means of where the walks end, and covariances in mm^2 of one walk's end where there are
        several: their spread, and that of a step of one voxel. Nothing calibrates them.
        """
        grid = prepare(image, self.task, self.settings.spacing_mm)
        tensor = torch.from_numpy(np.ascontiguousarray(grid.array))[None, None].to(self.device)
        ends = run(self.network, tensor, self.settings, starts=self.settings.starts).double().cpu().numpy()
        landmarks = Landmarks(self.task.names, grid.index_to_mm(ends.mean(axis=1)))
        if self.settings.starts == 1:
            return Localization(landmarks)
        covariances = {}
        for name, own in zip(self.task.names, ends, strict=True):
            spread = np.cov(own, rowvar=False) + np.eye(image.ndim) / 12  # uniform within a voxel
            covariances[name] = np.zeros((3, 3))
            covariances[name][: image.ndim, : image.ndim] = spread * self.settings.spacing_mm**2
        return Localization(landmarks, covariances)

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> DQNAgent:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = from_plain(Settings, saved.settings, source=str(model / MODEL_FILE))
    _checked(settings)
    ndim = saved.task.dimension
    network = QNetwork(ndim, len(saved.task.names), settings.architecture, frames=settings.frames)
    saved.load_weights(network, model)
    return DQNAgent(saved, settings, for_inference(placed(network, device, ndim)), torch.device(device))


def preset_settings(preset: str, task: Task) -> Settings:
    """The settings of a preset for a task."""
    if preset not in PRESETS:
        raise ChallengeError(f"preset: wanted one of {', '.join(PRESETS)}, got '{preset}'")
    return PRESETS[preset](task)


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


def _checked(settings: Settings) -> None:
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
