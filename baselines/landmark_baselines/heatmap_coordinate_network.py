"""The two networks of `heatmap_coordinate`, and how their answers are multiplied."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_challenge.errors import ChallengeError

from . import unet, xception
from .augmentation import Augmentation
from .blocks import autocast
from .heatmap_unet import VARIANTS as LOSSES
from .heatmaps import DECODERS, argmax_points, centre_of_mass, window_radius
from .stopwatch import span
from .training import Schedule

VARIANTS = {combine: {"combine": combine} for combine in ("fitted", "fixed", "coordinate", "heatmap")}


@dataclass(frozen=True)
class CoordinateStage:
    """Xception and a fully connected layer (section 3.3). side: the voxels per axis that an image is resized to."""

    side: int
    architecture: xception.Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class HeatmapStage:
    """The U-Net (section 3.4). loss: `bce`, `mse` or `spatial_cross_entropy`. sigma_voxel: of the learned Gaussians."""

    side: int
    architecture: unet.Architecture
    schedule: Schedule
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: str = "bce"
    sigma_voxel: float = 1.2


@dataclass(frozen=True)
class Settings:
    """A preset. shift: greatest random shift along x, y[, z] as a share of the image.

    combine: `fitted`, the product with a sigma per landmark, the coordinates' RMS error per axis in the validation
    cases; `fixed`, the product with `fixed_sigma`, a share of the image; `coordinate` or `heatmap`, that network alone.
    decoding: `argmax` of the map (the paper); or `local`, where the product says which peak, and the map itself, within
    a window around it, where the peak is to a fraction of a voxel.
    """

    coordinate: CoordinateStage
    heatmap: HeatmapStage
    shift: tuple[float, ...]
    combine: str = "fitted"
    fixed_sigma: float = 0.03
    decoding: str = "local"


class CoordinateNetwork(nn.Module):
    """One point per landmark from the whole image: Xception, flattened, and a fully connected layer.

    Flattened and not pooled (the paper does not say), because a mean over the image forgets where things are.
    """

    def __init__(self, ndim: int, landmarks: int, architecture: xception.Architecture, *, side: int) -> None:
        super().__init__()
        self.ndim, self.landmarks = ndim, landmarks
        self.features = xception.Xception(ndim, architecture)
        self.output = nn.Linear(architecture.features * architecture.grid(side) ** ndim, landmarks * ndim)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, 0.5)

    def start_at(self, points: Tensor) -> None:
        """Begin with `points` (L, ndim), shares of the image (the paper does not say how it begins)."""
        with torch.no_grad():
            self.output.bias.copy_(points.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, ...) -> (B, L, ndim) shares of the image, float32: bfloat16 has steps of half a voxel."""
        features = self.features(x)
        with torch.autocast(x.device.type, enabled=False):
            # contiguous: the weights are for features in the order of channels, whatever their layout in memory;
            # scaled (the paper: as they are), or a step of Adam, which moves thousands of weights, moves a point far
            flat = features.float().contiguous().flatten(1)
            points = self.output(flat / math.sqrt(flat.shape[1]))
        return points.unflatten(1, (self.landmarks, self.ndim))


def coordinate_loss(found: Tensor, points: Tensor) -> Tensor:
    """Mean squared error of (B, L, ndim) shares of the image, over what is known."""
    known = torch.isfinite(points).all(dim=-1, keepdim=True)
    squared = (found - torch.nan_to_num(points)).square() * known
    return squared.sum() / (known.sum() * points.shape[-1]).clamp(min=1)


def log_heatmaps(outputs: Tensor, loss: str) -> Tensor:
    """(B, L, *grid) what the U-Net gives -> log h, up to a constant per map."""
    if loss == "spatial_cross_entropy":
        return outputs.flatten(2).log_softmax(dim=-1).view_as(outputs)
    tiny = torch.finfo(outputs.dtype).tiny
    return F.logsigmoid(outputs) if loss == "bce" else outputs.clamp(min=tiny).log()


def log_product(log_maps: Tensor, means: Tensor, sigma_voxel: Tensor) -> Tensor:
    """log h - |x - mu|^2 / (2 sigma^2) (section 3.5): maps (B, L, *grid), means (B, L, ndim) voxels, sigma (L,) voxels.

    As logarithms, because both factors underflow where the other may decide.
    """
    shape = log_maps.shape[2:]
    for axis, count in enumerate(reversed(shape)):
        ramp = torch.arange(count, dtype=means.dtype, device=means.device)
        exponent = -0.5 * ((ramp - means[..., axis, None]) / sigma_voxel.unsqueeze(-1)).square()
        place = [1] * len(shape)
        place[len(shape) - 1 - axis] = count
        log_maps = log_maps + exponent.reshape(*means.shape[:2], *place)
    return log_maps


def around(log_maps: Tensor, peaks: Tensor, radius_voxel: int) -> Tensor:
    """exp(log_maps) within `radius_voxel` of `peaks` (B, L, ndim) along every axis, 0 elsewhere, largest value 1."""
    far = torch.zeros((), dtype=torch.bool, device=log_maps.device)
    for axis, count in enumerate(reversed(log_maps.shape[2:])):
        ramp = torch.arange(count, device=log_maps.device)
        place = [1] * (log_maps.ndim - 2)
        place[len(place) - 1 - axis] = count
        far = far | ((ramp - peaks[..., axis, None]).abs() > radius_voxel).reshape(*peaks.shape[:2], *place)
    inside = log_maps.masked_fill(far, -math.inf)
    top = inside.flatten(2).amax(dim=-1).reshape(*peaks.shape[:2], *[1] * (log_maps.ndim - 2))
    return (inside - top).exp()


def decode(log_maps: Tensor, means: Tensor | None, sigma_voxel: Tensor | None, settings: Settings) -> Tensor:
    """(B, L, ndim) voxel coordinates of the heatmaps, or of their product with the coordinates `means` in voxels."""
    stage = settings.heatmap
    if means is None or sigma_voxel is None:
        top = log_maps.flatten(2).amax(dim=-1).reshape(*log_maps.shape[:2], *[1] * (log_maps.ndim - 2))
        return DECODERS[settings.decoding]((log_maps - top).exp(), stage.sigma_voxel)
    peaks = argmax_points(log_product(log_maps, means, sigma_voxel))
    if settings.decoding == "argmax":
        return peaks
    return centre_of_mass(around(log_maps, peaks, window_radius(stage.sigma_voxel)))


def fitted_sigma(found: Tensor, points: Tensor, *, least: float) -> Tensor:
    """(L,) sigma of a Gaussian around the coordinates `found` (N, L, ndim), most likely to give `points`; shares.

    That is the RMS error per axis. least: where a landmark was never seen, or found better than a voxel.
    """
    squared = (found - points).square().mean(dim=-1)
    return squared.nanmean(dim=0).nan_to_num(0.0).sqrt().clamp(min=least)


@torch.inference_mode()
def run_coordinates(network: nn.Module, images: Tensor) -> Tensor:
    """(B, 1, ...) resized images -> (B, L, ndim) shares of the image."""
    with span("network"), autocast(images.device):
        return network(images)


@torch.inference_mode()
def run_heatmaps(network: nn.Module, images: Tensor, loss: str) -> Tensor:
    """(B, 1, ...) resized images -> (B, L, *grid) log h."""
    with span("network"), autocast(images.device):
        outputs = network(images)
    return log_heatmaps(outputs.float(), loss)


def checked(settings: Settings, *, ndim: int) -> Settings:
    for name, value, known in (
        ("combine", settings.combine, VARIANTS),
        ("loss", settings.heatmap.loss, LOSSES),
        ("decoding", settings.decoding, ("argmax", "local")),
    ):
        if value not in known:
            raise ChallengeError(f"{name}: wanted one of {', '.join(known)}, got '{value}'")
    if len(settings.shift) != ndim:
        raise ChallengeError(f"shift: wanted {ndim} numbers, got {len(settings.shift)}")
    multiple = settings.heatmap.architecture.multiple
    if settings.heatmap.side % multiple:
        raise ChallengeError(f"heatmap.side: wanted a multiple of {multiple}, got {settings.heatmap.side}")
    if settings.coordinate.architecture.grid(settings.coordinate.side) < 1:
        raise ChallengeError(f"coordinate.side: wanted more voxels, got {settings.coordinate.side}")
    return settings
