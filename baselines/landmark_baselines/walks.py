"""Walks of agents through images: what an agent sees, how it moves, when it oscillates, and a memory of its steps.

The environment of Alansary et al., "Evaluating reinforcement learning agents for anatomical landmark detection",
Medical Image Analysis 53, 2019. Positions are whole voxels x, y[, z]; walker w of any number of them stands in the
image `image[w]`. All walkers move at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TRAIL = 28  # steps that are searched for a place seen too often
SEEN_TOO_OFTEN = 3
LAST = 4  # of which the best becomes the start of the next scale


@dataclass(frozen=True)
class Scales:
    """From coarse to fine. strides: voxels between the voxels that an agent sees. steps: voxels that it moves."""

    strides: tuple[int, ...] = (3, 2, 1)
    steps: tuple[int, ...] = (9, 3, 1)

    def __len__(self) -> int:
        return len(self.strides)


def crops(images: Tensor, image: Tensor, centres: Tensor, strides: Tensor, *, side: int) -> Tensor:
    """What is seen around places, 0 outside of the image.

    images: (N, (z,) y, x) of any type. image: (W,) index. centres: (W, F, ndim) int64 x, y[, z]. strides: (W,) voxels
    between the voxels that are seen. Returns (W, F, *side per axis) in the type of the images.
    """
    shape = images.shape[1:]
    ndim = len(shape)
    reach = torch.arange(side, device=images.device) - side // 2
    flat = image.reshape(-1, *[1] * (ndim + 1)) * images[0].numel()
    inside = torch.ones((), dtype=torch.bool, device=images.device)
    pitch = 1
    for axis, count in enumerate(reversed(shape)):
        index = centres[..., axis, None] + strides[:, None, None] * reach
        place = [side if i == ndim - 1 - axis else 1 for i in range(ndim)]
        flat = flat + (index.clamp(0, count - 1) * pitch).reshape(*index.shape[:2], *place)
        inside = inside & ((index >= 0) & (index < count)).reshape(*index.shape[:2], *place)
        pitch *= count
    return torch.where(inside, images.reshape(-1)[flat], images.new_zeros(()))


def directions(ndim: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(2 ndim, ndim) int64: what each action does: one step up or down one axis."""
    unit = torch.eye(ndim, dtype=torch.long, device=device)
    return torch.stack([unit, -unit], dim=1).reshape(2 * ndim, ndim)


@dataclass
class Walkers:
    """The state of W walkers, changed in place by `move`.

    image: (W,). extent: (W, ndim) voxels x, y[, z] of its image. history: (W, frames, ndim) places whose views an agent
    is shown, the newest last. scale: (W,) index into the scales. ended: (W,) bool. trail: (W, TRAIL, ndim) places of
    this scale, the newest last, -1 where there is none yet. trail_value: (W, TRAIL) what the agent expected there. age:
    (W,) steps.
    """

    image: Tensor
    extent: Tensor
    history: Tensor
    scale: Tensor
    ended: Tensor
    trail: Tensor
    trail_value: Tensor
    age: Tensor

    @classmethod
    def at(cls, places: Tensor, image: Tensor, extent: Tensor, *, frames: int) -> "Walkers":
        """Walkers that start at `places` (W, ndim), at the coarsest scale, and have seen nothing else. extent: (ndim,)
        where that of all images is the same, or (W, ndim).
        """
        count, ndim = places.shape
        return cls(
            image=image.clone(),
            extent=extent.expand(count, ndim).clone(),
            history=places.unsqueeze(1).repeat(1, frames, 1),
            scale=torch.zeros_like(image),
            ended=torch.zeros_like(image, dtype=torch.bool),
            trail=torch.full((count, TRAIL, ndim), -1, device=places.device),
            trail_value=torch.zeros(count, TRAIL, device=places.device),
            age=torch.zeros_like(image),
        )

    @property
    def places(self) -> Tensor:
        """(W, ndim) where they stand."""
        return self.history[:, -1]

    def restart(self, which: Tensor, fresh: "Walkers") -> None:
        """Replace the walkers `which` (W,) bool by those of `fresh`."""
        for name in ("image", "extent", "history", "scale", "ended", "trail", "trail_value", "age"):
            getattr(self, name)[which] = getattr(fresh, name)[which]

    def move(self, actions: Tensor, values: Tensor, scales: Scales) -> Tensor:
        """Do `actions` (W,), of which the agents expected `values` (W,). Returns (W,) bool, who would have left.

        Who would leave the image stays. Who comes to a place for more than the third time oscillates: of the last four
        places the one that promised least, since the nearest, starts the next scale, and after the last the walk ends.
        """
        steps = torch.tensor(scales.steps, device=actions.device)[self.scale]
        walking = ~self.ended
        target = self.places + directions(self.extent.shape[1], device=actions.device)[actions] * steps.unsqueeze(-1)
        left = ((target < 0) | (target >= self.extent)).any(dim=-1) & walking
        target = torch.where((walking & ~left).unsqueeze(-1), target, self.places)
        self.trail = _pushed(self.trail, self.places, walking)
        self.trail_value = _pushed(self.trail_value, values, walking)
        self.history = _pushed(self.history, target, walking)
        self.age = self.age + walking
        seen = (self.trail == target.unsqueeze(1)).all(dim=-1).sum(dim=1)
        self._finer((seen > SEEN_TOO_OFTEN) & walking, scales)
        return left

    def _finer(self, which: Tensor, scales: Scales) -> None:
        last = self.trail_value[:, -LAST:].masked_fill((self.trail[:, -LAST:] < 0).any(dim=-1), torch.inf)
        rows = torch.arange(len(last), device=last.device)
        best = self.trail[:, -LAST:][rows, last.argmin(dim=1)]
        self.history = torch.where(which[:, None, None], best.unsqueeze(1), self.history)
        self.trail = torch.where(which[:, None, None], -1, self.trail)
        self.ended = self.ended | (which & (self.scale == len(scales) - 1))
        self.scale = torch.where(which & ~self.ended, self.scale + 1, self.scale)


def random_places(count: int, extent: Tensor, *, share: float, generator: torch.Generator) -> Tensor:
    """(count, ndim) int64 places, uniform in the central `share` of each axis; extent: (ndim,) or (count, ndim)."""
    draws = torch.rand(count, extent.shape[-1], generator=generator).to(extent.device)
    return ((0.5 + share * (draws - 0.5)) * extent).long()


class Memory:
    """The last `capacity` steps of every agent, from which training draws.

    A step keeps places, from which its views are cropped again: 10^5 steps of 45^3 voxels would take 9 GB as images
    (the original's way), and take 10 MB here.
    """

    def __init__(self, agents: int, capacity: int, *, frames: int, ndim: int, device: torch.device | str) -> None:
        def room(*shape: int, kind: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(agents, capacity, *shape, dtype=kind, device=device)

        self.capacity, self.count = capacity, 0
        self._fields = {
            "image": room(),
            "before": room(frames, ndim, kind=torch.int16),
            "after": room(frames, ndim, kind=torch.int16),
            "scale_before": room(kind=torch.uint8),
            "scale_after": room(kind=torch.uint8),
            "action": room(kind=torch.uint8),
            "reward": room(kind=torch.float32),
            "last": room(kind=torch.bool),
        }

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(part.nbytes for part in self._fields.values())

    def add(self, **fields: Tensor) -> None:
        """One step each of E walkers of every agent: tensors (agents, E, ...)."""
        count = next(iter(fields.values())).shape[1]
        slots = (torch.arange(count) + self.count) % self.capacity
        for name, values in fields.items():
            self._fields[name][:, slots] = values.to(self._fields[name].dtype)
        self.count += count

    def sample(self, count: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """`count` steps of every agent, drawn alike: tensors (agents, count, ...), whole numbers as int64."""
        agents = len(self._fields["image"])
        index = torch.randint(len(self), (agents, count), generator=generator).to(self._fields["image"].device)
        rows = torch.arange(agents, device=index.device).unsqueeze(1)
        drawn = {name: values[rows, index] for name, values in self._fields.items()}
        return {name: value if name in ("reward", "last") else value.long() for name, value in drawn.items()}


def _pushed(line: Tensor, newest: Tensor, which: Tensor) -> Tensor:
    """`line` (W, T, ...) with `newest` (W, ...) at its end and its oldest dropped, for the walkers `which`."""
    moved = torch.cat([line[:, 1:], newest.unsqueeze(1)], dim=1)
    return torch.where(which.reshape(-1, *[1] * (line.ndim - 1)), moved, line)
