"""The network of PIN, the spaces it walks in, and the walk: patches, an answer, a step, patches at the new place.

Li et al., "Fast Multiple Landmark Localisation Using a Patch-based Iterative Network", MICCAI 2018, section 2.
"""

import itertools

import torch
from torch import Tensor, nn

from landmark_challenge.shape_space import ShapeSpace
from landmark_challenge.task import Task

from .blocks import autocast, channels_last
from .pin_presets import Architecture, Settings
from .planar_patches import PatchShape, sample_patches
from .stopwatch import span
from .volumes import Volumes

WITHIN = 3.0  # standard deviations of the random starts and of the training samples
PIXEL_SHARE = 1e-3  # of a step of rule A: two positions nearer than this are the same


class PinNetwork(nn.Module):
    """Patches -> displacement (regression) and direction (classification) in a space of `size` coordinates.

    One network for all landmarks; or one for each of `groups` landmarks, as one grouped computation. What the walk
    needs beside the weights is kept with them: the space (`mean_mm`, `basis`, `spread_mm`) and `unit_mm`, the
    millimetres that an output of 1 stands for.
    """

    mean_mm: Tensor
    basis: Tensor
    spread_mm: Tensor
    unit_mm: Tensor

    def __init__(
        self, space: ShapeSpace | None, landmarks: int, ndim: int, architecture: Architecture, *, patch: int
    ) -> None:
        """space: of all landmarks together, or None for one network per landmark in the coordinates of the image."""
        super().__init__()
        self.ndim, self.landmarks, self.joint = ndim, landmarks, space is not None
        channels = 3 if ndim == 3 else 1
        self.size = ndim if space is None else len(space.spread_mm)
        self.groups = landmarks if space is None else 1
        for name, value in (
            ("mean_mm", torch.zeros(0) if space is None else torch.from_numpy(space.mean_mm)),
            ("basis", torch.zeros(0) if space is None else torch.from_numpy(space.basis)),
            ("spread_mm", torch.zeros(0) if space is None else torch.from_numpy(space.spread_mm)),
            ("unit_mm", torch.ones(1)),
        ):
            self.register_buffer(name, value.float())
        layers: list[nn.Module] = []
        width, side = channels * landmarks, patch
        apart = landmarks if architecture.apart else self.groups
        for own in architecture.widths:
            layers += [nn.Conv2d(width, own * apart, 3, groups=apart, bias=not architecture.norm)]
            layers += [nn.BatchNorm2d(own * apart)] if architecture.norm else []
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            width, side = own * apart, (side - 2) // 2
        if side < 1:
            raise ValueError(f"patch of {patch} pixels: too small for {len(architecture.widths)} convolutions")
        self.body = nn.Sequential(*layers)
        self.regress = self._tower(width, side, self.size, architecture)
        self.classify = self._tower(width, side, 2 * self.size, architecture)

    def _tower(self, width: int, side: int, outputs: int, architecture: Architecture) -> nn.Sequential:
        """Dense layers as convolutions: the first spans what is left of the patch."""
        hidden = architecture.hidden * self.groups
        return nn.Sequential(
            nn.Conv2d(width, hidden, side, groups=self.groups), nn.ReLU(inplace=True), nn.Dropout(architecture.dropout),
            nn.Conv2d(hidden, hidden, 1, groups=self.groups), nn.ReLU(inplace=True), nn.Dropout(architecture.dropout),
            nn.Conv2d(hidden, outputs * self.groups, 1, groups=self.groups),
        )  # fmt: skip

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(B, landmarks * channels, s, s) -> displacement (B, groups, size) and logits (B, groups, 2 * size).

        Logit 2i stands for a move in the positive direction along coordinate i, logit 2i + 1 for one in the negative.
        """
        features = self.body(channels_last(patches))
        regressed, logits = (tower(features).float().reshape(len(patches), self.groups, -1)
                             for tower in (self.regress, self.classify))  # fmt: skip
        return regressed, logits

    def initialise_like_the_paper(self) -> None:
        """Weights from a normal distribution of standard deviation 0.1; the biases of 0.1 are those of its code."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 0.1)

    def to_points(self, state: Tensor) -> Tensor:
        """(B, groups, size) -> landmarks (B, L, ndim) in mm: X = mean + W b (equation 3), or the points themselves."""
        if not self.joint:
            return state
        return self.mean_mm + torch.einsum("bk,kld->bld", state[:, 0], self.basis)

    def to_state(self, points_mm: Tensor) -> Tensor:
        """(B, L, ndim) mm -> (B, groups, size): b = W^T (X - mean) (equation 4)."""
        if not self.joint:
            return points_mm
        return torch.einsum("bld,kld->bk", points_mm - self.mean_mm, self.basis)[:, None]

    def starts(self, volumes: Volumes, count: int, *, seed: int) -> Tensor:
        """(S, groups, size) where a walk begins in an image.

        In the space of shapes: the mean and `count` - 1 sets uniform within 3 standard deviations. In the image: its
        centre and 18 points at a quarter of its size from it, in 2D 8. The paper does not say which 18: the 26
        neighbours of the centre without the 8 in the corners.
        """
        device = volumes.values.device
        if self.joint:
            draws = torch.rand(count - 1, 1, self.size, generator=torch.Generator().manual_seed(seed))
            away = (2 * draws - 1).to(device) * (WITHIN * self.spread_mm)
            return torch.cat([torch.zeros(1, 1, self.size, device=device), away])
        steps = [step for step in itertools.product((0, -1, 1), repeat=self.ndim) if sum(map(abs, step)) < 3]
        places = volumes.extent_mm * (0.5 + 0.25 * torch.tensor(steps, dtype=torch.float32, device=device))
        return places[:, None].expand(-1, self.groups, -1)


def look(volumes: Volumes, which: Tensor, points_mm: Tensor, shape: PatchShape) -> Tensor:
    """(B, L, ndim) mm -> (B, L * channels, s, s) the patches around all landmarks, a landmark's next to each other."""
    batch, landmarks, ndim = points_mm.shape
    patches = sample_patches(volumes, which.repeat_interleave(landmarks), points_mm.reshape(-1, ndim), shape)
    return patches.reshape(batch, -1, *patches.shape[-2:])


def step_of(regressed_mm: Tensor, logits: Tensor, rule: str, *, pixel_mm: float) -> Tensor:
    """(..., size) the move that a rule makes of a displacement (..., size) in mm and logits (..., 2 * size).

    A: one pixel in the most probable direction. B: the displacement. C: the displacement, each coordinate weighted by
    the larger probability of its two directions; all probabilities sum to 1, so that the surest coordinates move first.
    """
    if rule == "B":
        return regressed_mm
    if rule == "A":
        best = logits.argmax(dim=-1, keepdim=True)
        move = torch.zeros_like(regressed_mm)
        return move.scatter_(-1, best // 2, pixel_mm * (1 - 2 * (best % 2)).to(move))
    chances = logits.softmax(dim=-1).unflatten(-1, (-1, 2)).amax(dim=-1)
    return regressed_mm * chances


@torch.inference_mode()
def walk(
    network: PinNetwork,
    volumes: Volumes,
    which: Tensor,
    states: Tensor,
    *,
    shape: PatchShape,
    rule: str,
    iterations: int,
    settled_mm: float,
) -> Tensor:
    """All starts of all landmarks, step by step as one batch: states (S, groups, size) -> (T + 1, S, groups, size).

    Ends after `iterations`, or earlier where no landmark moves by more than `settled_mm`. Under rule A, where all go to
    and fro between two positions, the rest of their steps is known and not computed.
    """
    path = [states]
    for done in range(1, iterations + 1):
        with span("resample"):
            patches = look(volumes, which, network.to_points(path[-1]), shape)
        with span("network"), autocast(patches.device):
            regressed, logits = network(patches)
        with span("decode"):
            step = step_of(regressed * network.unit_mm, logits, rule, pixel_mm=volumes.spacing_mm)
            path.append(path[-1] + step)
            if rule == "A" and done > 1 and (path[-1] - path[-3]).abs().max() < PIXEL_SHARE * volumes.spacing_mm:
                path.append(path[-1 - (iterations - done) % 2])
                break
            moved = torch.linalg.vector_norm(network.to_points(path[-1]) - network.to_points(path[-2]), dim=-1)
            if moved.max() < settled_mm:
                break
    return torch.stack(path)


def build_network(task: Task, settings: Settings, space: ShapeSpace | None) -> PinNetwork:
    """A network with new weights; `space` is that of the task's landmarks together, or None for PIN-Single."""
    return PinNetwork(space, len(task.names), task.dimension, settings.architecture, patch=settings.patch)


def walk_to_landmarks(network: PinNetwork, volumes: Volumes, settings: Settings) -> Tensor:
    """(T + 1, S, L, ndim) mm: where every start leads in the first image of `volumes`."""
    states = network.starts(volumes, settings.starts, seed=settings.start_seed)
    which = torch.zeros(len(states), dtype=torch.long, device=states.device)
    path = walk(
        network,
        volumes,
        which,
        states,
        shape=settings.patch_shape,
        rule=settings.rule,
        iterations=settings.pixel_iterations if settings.rule == "A" else settings.iterations,
        settled_mm=settings.settled_mm,
    )
    return network.to_points(path.flatten(0, 1)).unflatten(0, path.shape[:2])
