"""The network of Loc-Net and how it runs: one U-Net or several at each scale, chained by differentiable crops."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from landmark_challenge.errors import ChallengeError

from .augmentation import Augmentation
from .blocks import autocast
from .grids import rescale
from .heatmaps import argmax_points, centre_of_mass, second_moments
from .scales import Reader
from .stopwatch import span
from .training import Schedule
from .unet import Architecture, UNet

PASSES_AT_ONCE = 5


@dataclass(frozen=True)
class Settings:
    """A preset. spacings_mm: of the voxels of each scale, coarse to fine. crop_voxels: side of all other inputs.

    coarse, fine: the U-Net of the coarsest scale and those of the others. shared: one network for all landmarks at each
    scale, with a map for each, or one per landmark (the paper). anti_alias: whether shrinking averages; the paper
    decimates. maps: a map's weights are its `relu` (the paper) or `softmax`. loss: `squared` (the paper) or plain
    `distance` of the points in mm, or `heatmap`, the baseline, which learns Gaussians of sigma_mm and is read at its
    arg-max. weighting: of the scales, `schedule` (the paper) or `even`. map_weight: of a cross-entropy of softmax maps
    with a Gaussian; the paper has none (0). end_to_end: off trains scale after scale. noise_mm: the largest shift of
    the finest crop along an axis. passes: of an image, each with other shifts; 1: one without, and no covariance.
    map_spread: whether the covariance holds, beside the spread of the passes (the paper's), that of the finest maps.
    """

    spacings_mm: tuple[float, ...]
    crop_voxels: int
    coarse: Architecture
    fine: Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)
    shared: bool = False
    anti_alias: bool = False
    maps: str = "relu"
    loss: str = "squared"
    weighting: str = "schedule"
    map_weight: float = 0.0
    sigma_mm: float = 6.0
    end_to_end: bool = True
    noise_mm: float = 5.0
    passes: int = 50
    map_spread: bool = False

    @property
    def noise_voxel(self) -> float:
        """The largest shift in voxels of the finest scale; a chain of one scale has no crop to shift."""
        return self.noise_mm / self.spacings_mm[-1] if len(self.spacings_mm) > 1 else 0.0


class Found(NamedTuple):
    """What a scale finds. points: (B, L, ndim) voxels of its grid. maps: (B, L, *size). corner: (B, L, ndim) the voxel
    of the grid on which the first one of the map lies.
    """

    points: Tensor
    maps: Tensor
    corner: Tensor


class ScaleNetwork(nn.Module):
    """The U-Nets of one scale: one for all landmarks with a map for each, or one per landmark."""

    def __init__(self, ndim: int, landmarks: int, architecture: Architecture, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        count, outputs = (1, landmarks) if shared else (landmarks, 1)
        self.networks = nn.ModuleList(UNet(ndim, outputs, architecture) for _ in range(count))
        for network in self.networks:
            assert isinstance(network, UNet)
            nn.init.kaiming_normal_(network.output.weight, nonlinearity="relu")  # as the other layers

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, ...) an image for all landmarks, or (B, L, ...) a crop for each -> (B, L, ...) float32 maps."""
        if not self.shared:
            inputs = x.expand(-1, len(self.networks), *x.shape[2:]).split(1, dim=1)
            return torch.cat([network(one) for network, one in zip(self.networks, inputs, strict=True)], dim=1)
        if x.shape[1] == 1:
            maps: Tensor = self.networks[0](x)
            return maps
        every = self.networks[0](x.flatten(0, 1).unsqueeze(1)).unflatten(0, x.shape[:2])
        return every.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # of each crop the map of the landmark it was cut for


class Chain(nn.Module):
    """The scales, coarse to fine."""

    def __init__(self, ndim: int, landmarks: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.scales = nn.ModuleList(
            ScaleNetwork(ndim, landmarks, settings.fine if scale else settings.coarse, shared=settings.shared)
            for scale in range(len(settings.spacings_mm))
        )

    def forward(self, read: Reader, shifts: Tensor) -> list[Found]:
        """What every scale finds; shifts: (B, L, ndim) voxels by which the finest crops are put beside their points."""
        found: list[Found] = []
        for scale, network in enumerate(self.scales):
            before = found[-1].points if found else None
            last = scale == len(self.scales) - 1
            found.append(look(network, scale, read, self.settings, before=before, shifts=shifts if last else None))
        return found


def look(
    network: nn.Module,
    scale: int,
    read: Reader,
    settings: Settings,
    *,
    before: Tensor | None = None,
    shifts: Tensor | None = None,
) -> Found:
    """Run one scale around what the scale before found, (B, L, ndim) voxels of that scale; the coarsest on all.

    The crop is sampled linearly at an unrounded position and the same position is added to the point in it, so that
    gradients reach the coarser scales by both ways. (The released code crops at rounded positions and adds others.)
    """
    centres = None
    with torch.autocast(_device_type(network), enabled=False), span("resample"):
        if before is not None:
            centres = to_scale(before, scale - 1, scale, settings)
            centres = centres if shifts is None else centres + shifts
        images = read(scale, centres)
    with span("network"):
        maps = network(images).float()
    with torch.autocast(_device_type(network), enabled=False), span("decode"):
        inside = argmax_points(maps) if settings.loss == "heatmap" else centre_of_mass(weights_of(maps, settings.maps))
        corner = torch.zeros_like(inside)
        if centres is not None:
            corner = centres - (settings.crop_voxels - 1) / 2
        return Found(corner + inside, maps, corner)


def weights_of(maps: Tensor, kind: str) -> Tensor:
    """(B, L, ...) weights of the voxels whose centre of mass is the point.

    A map without a value above 0 has a ReLU of nothing but zeros, which the paper's division would put into a corner,
    and no gradient would revive it: its softmax is taken instead, for a flat map its middle.
    """
    soft = maps.flatten(2).softmax(dim=-1).view_as(maps)
    if kind == "softmax":
        return soft
    alive = (maps > 0).flatten(2).any(dim=-1)
    return torch.where(alive.reshape(*alive.shape, *[1] * (maps.ndim - 2)), maps.clamp(min=0), soft)


@torch.inference_mode()
def run(chain: Chain, read: Reader, *, passes: int) -> tuple[Tensor, Tensor]:
    """(passes, L, ndim) points of one image in voxels of the finest scale, and (passes, L, ndim, ndim) the second
    moments in voxel^2 of the maps around them, zeros without `map_spread`. Only the finest scale is run for every pass.

    The shifts are the same for every image; a single pass has none.
    """
    settings, points = chain.settings, None
    *coarser, finest = chain.scales
    with autocast(next(chain.parameters()).device):
        for scale, network in enumerate(coarser):
            points = look(network, scale, read, settings, before=points).points
        if points is None or passes == 1 or settings.noise_voxel == 0:
            return _spread_of([look(finest, len(coarser), read, settings, before=points)], settings)
        shifts = torch.rand(passes, *points.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
        parts = (shifts.to(points) * settings.noise_voxel).split(PASSES_AT_ONCE)
        found = [look(finest, len(coarser), read, settings, before=points, shifts=part) for part in parts]
        return _spread_of(found, settings)


def _spread_of(found: Sequence[Found], settings: Settings) -> tuple[Tensor, Tensor]:
    points = torch.cat([part.points for part in found])
    if not settings.map_spread:
        return points, points.new_zeros(*points.shape, points.shape[-1])
    with torch.autocast(points.device.type, enabled=False):
        spreads = [
            second_moments(part.maps.flatten(2).softmax(dim=-1).view_as(part.maps), part.points - part.corner)
            for part in found
        ]
    return points, torch.cat(spreads)


def to_scale(points: Tensor, scale_from: int, scale_to: int, settings: Settings) -> Tensor:
    """Voxel coordinates of one scale in those of another."""
    spacings = settings.spacings_mm
    return rescale(points, spacing_from=spacings[scale_from], spacing_to=spacings[scale_to])


def _device_type(network: nn.Module) -> str:
    return next(network.parameters()).device.type


CHOICES = {
    "maps": ("relu", "softmax"),
    "loss": ("squared", "distance", "heatmap"),
    "weighting": ("schedule", "even"),
}


def checked(settings: Settings) -> Settings:
    """The settings, if they name what is there. Raises ChallengeError."""
    for name, known in CHOICES.items():
        if getattr(settings, name) not in known:
            raise ChallengeError(f"{name}: wanted one of {', '.join(known)}, got '{getattr(settings, name)}'")
    spacings = settings.spacings_mm
    if not spacings or min(spacings) <= 0 or any(fine >= coarse for coarse, fine in pairwise(spacings)):
        raise ChallengeError(f"spacings_mm: wanted positive ones, coarse to fine, got {list(spacings)}")
    if settings.crop_voxels < 1 or settings.crop_voxels % settings.fine.multiple:
        raise ChallengeError(f"crop_voxels: wanted a multiple of {settings.fine.multiple}, got {settings.crop_voxels}")
    if settings.loss == "heatmap" and len(spacings) > 1:
        raise ChallengeError(f"loss: wanted a single scale with heatmap, got {len(spacings)}")
    if settings.map_weight > 0 and settings.maps != "softmax":
        raise ChallengeError("map_weight: wanted 0 unless maps are softmax")
    if settings.map_spread and settings.maps != "softmax":
        raise ChallengeError("map_spread: wanted false unless maps are softmax")
    if settings.passes < 1 or settings.noise_mm < 0:
        raise ChallengeError(
            f"passes, noise_mm: wanted 1 or more and 0 or more, got {settings.passes} and {settings.noise_mm}"
        )
    return settings
