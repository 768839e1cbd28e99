"""Deep Q-learning of the agents: steps are gathered, remembered, and what was expected of them is corrected.

Alansary et al., "Evaluating reinforcement learning agents for anatomical landmark detection", Medical Image Analysis
53, 2019, and their code.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError

from .blocks import autocast
from .dqn_network import QNetwork, expected_rewards, run
from .dqn_presets import Settings, checked, preset_settings
from .single_network import train_single
from .store import Store
from .training import Step
from .walks import Memory, Walkers, directions, random_places


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
        self.extents = store.sizes
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
        ndim = self.extents.shape[1]
        actions = torch.randint(2 * ndim, shape, generator=generator).to(self.images.device)
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
        after = before + directions(ndim, device=self.images.device)[actions.flatten()] * steps
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
        extent = self.extents[image]
        places = random_places(count, extent, share=0.6, generator=generator)  # the original's central 3/5
        scale = torch.zeros_like(image)
        if exploration.near:
            scale = torch.randint(len(scales), (count,), generator=generator).to(image.device)
            reach = 2 * torch.tensor((0, *scales.steps[:-1]), device=image.device)[scale].unsqueeze(-1)
            draws = 2 * torch.rand(places.shape, generator=generator).to(image.device) - 1
            beside = torch.round(self._landmarks(image) + draws * reach).long()
            beside = torch.minimum(beside.clamp(min=0), extent - 1)
            places = torch.where(scale.unsqueeze(-1) > 0, beside, places)
        walkers = Walkers.at(places, image, extent, frames=self.settings.frames)
        walkers.scale = scale
        return walkers


def train(
    dataset: Dataset, *, preset: str = "cpu", seed: int = 0, settings: Settings | None = None, **options: Any
) -> None:
    """Train the agents into a model folder; `options` are those of `train_single`."""
    chosen = checked(settings or preset_settings(preset, dataset.task))
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
