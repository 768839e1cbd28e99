"""What the DQN agents expect of their actions, and the walks that follow from it.

Alansary et al., Medical Image Analysis 53, 2019; one trunk for several agents after Vlontzos et al., MICCAI 2019.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CONV, autocast, channels_last
from .dqn_presets import Architecture, Settings
from .stopwatch import span
from .walks import Walkers, crops, random_places

POOL = {2: F.max_pool2d, 3: F.max_pool3d}


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


@torch.inference_mode()
def run(network: nn.Module, images: Tensor, settings: Settings, *, starts: int) -> Tensor:
    """(1, 1, ...) an image of 0..1 -> (agents, starts, ndim) voxels where the walks end.

    All walks of all agents go on together, each until it has ended. Starts are the same for images of one size.
    """
    volumes = (images[:, 0] * 255).round().to(torch.uint8)
    agents = int(getattr(network, "agents"))  # noqa: B009 (nn.Module types every attribute as a tensor or module)
    extent = torch.tensor(volumes.shape[:0:-1], device=volumes.device)
    places = random_places(agents * starts, extent, share=0.5, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(agents * starts, dtype=torch.long, device=volumes.device)
    walkers = Walkers.at(places, image, extent, frames=settings.frames)
    first = starts * torch.arange(agents, device=volumes.device).unsqueeze(1)
    for _ in range(settings.exploration.longest):
        # Those that still walk are the first of each agent's; of the rest, only as many are looked at as one agent has.
        ended = walkers.ended.unflatten(0, (agents, starts))
        walking = first + ended.int().argsort(dim=1, stable=True)[:, : int((~ended).sum(dim=1).max())]
        with autocast(volumes.device):
            places_of = walkers.image[walking], walkers.history[walking], walkers.scale[walking]
            expected = expected_rewards(network, volumes, *places_of, settings)
        best = expected.float().max(dim=-1)
        values = torch.zeros(agents * starts, device=volumes.device).index_put((walking,), best.values)
        actions = torch.zeros_like(walkers.image).index_put((walking,), best.indices)
        walkers.move(actions, values, settings.scales)
        if walkers.ended.all():
            break
    return walkers.places.unflatten(0, (agents, starts))
