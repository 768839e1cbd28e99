"""The networks of `cascade` and how they run: a U-Net over the whole image, then U-Nets over crops around landmarks.

Grids of an image share their outer lower corner. What is found is in mm from that corner along x, y[, z]: the centre of
voxel k of a grid of spacing s lies at s (k + 1/2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landmark_challenge.errors import ChallengeError

from .augmentation import Augmentation
from .blocks import autocast
from .heatmaps import centre_of_mass, local_centre_of_mass, second_moments, window_radius
from .neighbour_shape import NeighbourShape
from .pretrained import Pretrained, PretrainedUNet
from .scales import Reader
from .stopwatch import span
from .training import Schedule
from .unet import Architecture, UNet

STAGES = ("coarse", "middle", "fine", "finest")
# Those whose points the others look around.
BEFORE = ("coarse", "middle")
# How far a crop may lie beside its landmark, as a share of its side.
ANYWHERE = 1 / 3
# Standard deviations from where the others expect a landmark.
IMPLAUSIBLE = 4.0


@dataclass(frozen=True)
class Stage:
    """One network. spacing_mm: of its voxels. sigma_mm: of the Gaussian that its maps are taught. crops: landmarks of
    an image that a training step looks at, drawn at random; 0 for all. A Pretrained one is for whole images in 2D.
    """

    spacing_mm: float
    architecture: Architecture | Pretrained
    schedule: Schedule
    augmentation: Augmentation
    sigma_mm: float
    crops: int = 0


@dataclass(frozen=True)
class Settings:
    """A preset. The first stage sees the whole image, the others crops of window_voxels around what was found before.

    The middle stage, if there is one, looks around what the whole image says, the two fine ones around what both of
    these say; see `looked_around` and `result`. skipped: stages over crops that are not run. passes: crops per landmark
    and stage, all but the first shifted by up to shift_mm along every axis; their points are averaged. blind:
    whether the middle stage is taught crops that lie anywhere around their landmarks, so that what it finds does not
    lean on the whole image, or crops as far beside them as that errs. observers: whether maps are taught the points of
    every observer whom the reference is made of (see `with_observers`), else the reference. told: whether a network
    over crops is told which landmark it looks at before its last layer. distance_weight: of the distance between a
    map's centre of mass and the reference in mm, beside the cross-entropy.
    """

    coarse: Stage
    middle: Stage | None
    fine: Stage
    finest: Stage
    window_voxels: int
    skipped: tuple[str, ...] = ()
    passes: int = 2
    shift_mm: float = 1.0
    blind: bool = True
    observers: bool = True
    told: bool = True
    distance_weight: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Of the stages that there are, coarse to fine."""
        return tuple(name for name in STAGES if name not in self.skipped and getattr(self, name) is not None)

    @property
    def stages(self) -> list[Stage]:
        """Those that there are, coarse to fine."""
        return [getattr(self, name) for name in self.names]

    @property
    def spacings_mm(self) -> tuple[float, ...]:
        """Of the stages that there are."""
        return tuple(stage.spacing_mm for stage in self.stages)


class CropUNet(UNet):
    """One U-Net for the crops of all landmarks: (N, 1, *size) and (N,) landmarks -> (N, *size) float32 logits.

    What landmarks have in common is shared. What they have not is a vector per landmark that is added on every level
    (zero at first), and the last layer. A network of its own for each would see a small part of the crops.
    """

    def __init__(self, ndim: int, landmarks: int, architecture: Architecture, *, told: bool = True) -> None:
        super().__init__(ndim, landmarks, architecture)
        self.told = nn.ModuleList(nn.Embedding(landmarks, width) for width in architecture.widths if told)
        for vectors in self.told:
            assert isinstance(vectors, nn.Embedding)
            nn.init.zeros_(vectors.weight)

    def forward(self, x: Tensor, landmarks: Tensor) -> Tensor:  # type: ignore[override]
        """The logits of the landmark that each crop was cut for."""
        features = self.features(x, added=[vectors(landmarks) for vectors in self.told])
        with torch.autocast(x.device.type, enabled=False):
            weights = self.output.weight.float()[landmarks].unsqueeze(1)
            logits = weights @ features.float().flatten(2) + self.output.bias.float()[landmarks].reshape(-1, 1, 1)
        return logits.reshape(len(x), *x.shape[2:])


@dataclass(frozen=True)
class Found:
    """What a stage finds. points: (..., L, ndim) mm.

    moments: (..., L, ndim, ndim) mm^2, of its maps around their points and of the points of several passes around their
    mean.
    """

    points: Tensor
    moments: Tensor


def make_network(ndim: int, landmarks: int, settings: Settings, number: int) -> nn.Module:
    """The network of stage `number`. Raises ChallengeError for a Pretrained one in 3D."""
    architecture = settings.stages[number].architecture
    if isinstance(architecture, Pretrained):
        if ndim != 2:
            raise ChallengeError("architecture: wanted one of levels for volumes, got a pretrained one")
        return PretrainedUNet(landmarks, architecture)
    if number:
        return CropUNet(ndim, landmarks, architecture, told=settings.told)
    return UNet(ndim, landmarks, architecture)


def shifts_of(settings: Settings, ndim: int) -> Tensor:
    """(passes, 1, ndim) mm: none, then points that fill the box of +-shift_mm evenly (Sobol), the same for all."""
    drawn = torch.quasirandom.SobolEngine(ndim).draw(settings.passes + 1)[1:]  # the lower corner, then the middle
    return ((2 * drawn - 1) * settings.shift_mm).unsqueeze(1)


@torch.inference_mode()
def run(
    networks: Mapping[str, nn.Module],
    read: Reader,
    settings: Settings,
    *,
    shape: NeighbourShape | None = None,
    upto: int | None = None,
) -> dict[str, Found]:
    """What every stage finds in one image, by name; upto: number of the last one to run. read: see `scales`.

    shape: of the training cases; where it is known, no landmark is looked for where it cannot be, see `plausible`.
    """
    found = {"coarse": _search(networks["coarse"], read, settings.coarse, shape)}
    for number, name in enumerate(settings.names[: None if upto is None else upto + 1]):
        if number:
            found[name] = refine(networks[name], number, looked_around(found), read, settings)
    return found


def looked_around(found: Mapping[str, Found]) -> Tensor:
    """(..., L, ndim) mm: where the next stage looks, by what the whole image and the middle stage say."""
    return fused([part for name, part in found.items() if name in BEFORE]).points


def result(found: Mapping[str, Found]) -> Found:
    """What the stages say together: the points of the fine ones, and how sure they can be of them.

    The moments are those of the maps over crops, and how far the points of all stages lie from the result: a landmark
    that looks otherwise in the whole image than in a crop is one to doubt.
    """
    every = list(found.values())
    points = fused([part for name, part in found.items() if name not in BEFORE] or every).points
    maps = torch.stack([part.moments for part in every[1:] or every]).mean(dim=0)
    apart = torch.stack([part.points for part in every]) - points
    return Found(points, maps + torch.einsum("s...i,s...j->...ij", apart, apart) / len(found))


def fused(found: Sequence[Found]) -> Found:
    """The mean of what is found, each part weighted by its precision, as if they were independent."""
    precisions = [torch.linalg.inv(part.moments) for part in found]
    total = torch.linalg.inv(torch.stack(precisions).sum(dim=0))
    weighted = [weight @ part.points.unsqueeze(-1) for weight, part in zip(precisions, found, strict=True)]
    return Found((total @ torch.stack(weighted).sum(dim=0)).squeeze(-1), total)


def _search(network: nn.Module, read: Reader, stage: Stage, shape: NeighbourShape | None) -> Found:
    images = read(0, None)
    with span("network"), autocast(images.device):
        maps = network(images).float()
    with span("decode"):
        spacing_mm = stage.spacing_mm * images.shape[-1] / maps.shape[-1]  # maps may be coarser
        maps = maps.flatten(2).log_softmax(dim=-1).view_as(maps)
        if shape is not None:
            maps = plausible(maps[0], spacing_mm, window_radius(stage.sigma_mm / spacing_mm), shape).unsqueeze(0)
        maps = maps.exp()
        points = local_centre_of_mass(maps, window_radius(stage.sigma_mm / spacing_mm))
        return _in_mm(points[0], second_moments(maps, points)[0], spacing_mm)


def plausible(maps: Tensor, spacing_mm: float, radius: int, shape: NeighbourShape) -> Tensor:
    """Logarithms of maps (L, *grid) that sum to 1, those of implausible landmarks times the density given the others.

    A landmark is implausible where it lies more than `IMPLAUSIBLE` standard deviations from where the others expect it.
    The furthest comes first, since it draws along what is expected of the others. radius: in voxels, of the local
    centre of mass.
    """
    axes = [(torch.arange(count, device=maps.device) + 0.5) * spacing_mm for count in maps.shape[1:]]
    grid_mm = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    maps = maps.clone()
    points_mm = (local_centre_of_mass(maps.exp().unsqueeze(0), radius)[0] + 0.5) * spacing_mm
    left = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
    for _ in range(len(maps)):
        expected_mm = shape.expected(points_mm)
        squared = shape.squared_distances(points_mm, expected_mm) * left
        furthest = int(squared.argmax())
        if squared[furthest] <= IMPLAUSIBLE**2:
            break
        product = maps[furthest] + shape.log_density(furthest, grid_mm, expected_mm)
        maps[furthest] = product - product.logsumexp(dim=tuple(range(product.ndim)))
        found = local_centre_of_mass(maps[furthest].exp()[None, None], radius)[0, 0]
        points_mm[furthest] = (found + 0.5) * spacing_mm
        left[furthest] = False
    return maps


def refine(network: nn.Module, number: int, around: Tensor, read: Reader, settings: Settings) -> Found:
    """Run a network over crops around points (L, ndim) mm, shifted a little in every pass."""
    stage, (landmarks, ndim) = settings.stages[number], around.shape
    centres = (around + shifts_of(settings, ndim).to(around)) / stage.spacing_mm - 0.5
    crops = read(number, centres)
    with span("network"), autocast(crops.device):
        which = torch.arange(landmarks, device=crops.device).repeat(len(centres))
        maps = network(crops.flatten(0, 1).unsqueeze(1), which).float().unflatten(0, centres.shape[:2])
    with span("decode"):
        maps = maps.flatten(2).softmax(dim=-1).view_as(maps)
        inside = centre_of_mass(maps)
        points = centres - (settings.window_voxels - 1) / 2 + inside
        apart = points - points.mean(dim=0)
        between = torch.einsum("kli,klj->lij", apart, apart) / len(points)
        moments = second_moments(maps, inside).mean(dim=0) + between
        return _in_mm(points.mean(dim=0), moments, stage.spacing_mm)


def _in_mm(points: Tensor, moments: Tensor, spacing_mm: float) -> Found:
    """From voxels, whose own moments are added: a map of a single voxel does not say where in it."""
    voxel = torch.eye(points.shape[-1]).to(moments) / 12
    return Found((points + 0.5) * spacing_mm, (moments + voxel) * spacing_mm**2)


def checked(settings: Settings) -> Settings:
    """The settings, if they fit each other. Raises ChallengeError."""
    if not set(settings.skipped) <= set(STAGES[1:]):
        raise ChallengeError(f"skipped: wanted some of {', '.join(STAGES[1:])}, got {', '.join(settings.skipped)}")
    spacings = settings.spacings_mm
    if min(spacings) <= 0 or list(spacings) != sorted(spacings, reverse=True):
        raise ChallengeError(f"spacing_mm: wanted positive ones, coarse to fine, got {list(spacings)}")
    for stage in settings.stages[1:]:
        if isinstance(stage.architecture, Pretrained):
            raise ChallengeError("architecture: wanted one of levels for a stage over crops, got a pretrained one")
        if settings.window_voxels < 1 or settings.window_voxels % stage.architecture.multiple:
            raise ChallengeError(
                f"window_voxels: wanted a multiple of {stage.architecture.multiple}, got {settings.window_voxels}"
            )
    if settings.passes < 1 or settings.shift_mm < 0:
        raise ChallengeError(
            f"passes, shift_mm: wanted 1 or more and 0 or more, got {settings.passes} and {settings.shift_mm}"
        )
    return settings
