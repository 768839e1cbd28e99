"""Training of `cascade`: stage after stage, the middle one blind to where it looks, the fine ones not.

A middle stage sees crops that lie anywhere around their landmarks, so that it cannot lean on the whole image and errs
by itself: the mean of both, by precision, is better than either. The fine stages see crops that lie as far beside their
landmarks as what is before them errs in the validation cases, and so learn how far to trust it. (Training cases would
not tell that: a network that has seen them errs far less. Networks that have not, one training per fold, would cost as
many trainings; a normal distribution of the same width, with a share of far misses, costs none.)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landmark_challenge.dataset import Case, Dataset

from .augmentation import Draws, Warp, augmented_batch, change_intensity, random_warp, warp_images, warp_points
from .blocks import parameter_count, placed
from .cascade_network import (
    ANYWHERE,
    BEFORE,
    Found,
    Settings,
    Stage,
    checked,
    looked_around,
    make_network,
    run,
)
from .grids import rescale
from .heatmap_unet import MapTarget, heatmap_loss
from .heatmaps import centre_of_mass
from .neighbour_shape import NeighbourShape
from .pretrained import PretrainedUNet
from .references import reference_mm
from .scales import StoreReader
from .store import Store, load_store, radial_errors_mm
from .training import Point, Step, cases_at, fit, launch, report, set_threads

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FAR_SHARE = 0.1
SHAPE = "shape."  # before the names of its numbers in a model folder
SMALLEST_ERROR_MM = 0.3


@dataclass(frozen=True)
class Trained:
    """What `fit_stages` leaves in every process: the networks and their curves by stage, the training cases' shape."""

    networks: dict[str, nn.Module]
    curves: dict[str, list[Point]]
    shape: NeighbourShape | None
    fabric: "Fabric"

    def weights(self) -> dict[str, Tensor]:
        """Of all stages, each name after that of its stage, and the numbers of the shape."""
        weights = {
            f"{name}.{key}": part
            for name, network in self.networks.items()
            for key, part in network.state_dict().items()
        }
        shape = vars(self.shape) if self.shape else {}
        return weights | {f"{SHAPE}{key}": part for key, part in shape.items()}


def fit_stages(
    dataset: Dataset,
    settings: Settings,
    *,
    output: Path,
    device: str,
    seed: int = 0,
    resume: bool = False,
    devices: int = 1,
    nodes: int = 1,
    deterministic: bool = False,
    fingerprint: str = "",
) -> Trained:
    """Train all stages; their checkpoints lie in `output`. fingerprint: as in `fit`."""
    checked(settings)
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    begun = time.monotonic()
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    cases = {split: dataset.wanted_cases(split) for split in ("train", "validation")}
    learn, judge = (
        load_store(dataset, some, spacing_mm=settings.spacings_mm, device=device) for some in cases.values()
    )
    shape = NeighbourShape.of((learn[0].points + 0.5) * learn[0].spacing_mm)
    if settings.observers:
        learn = [with_observers(store, dataset, cases["train"]) for store in learn]
    if main:
        report(
            f"{dataset.task.name}: {len(cases['train'])} training and {len(judge[0])} validation cases in memory "
            f"after {time.monotonic() - begun:.1f} s"
        )
    trained = Trained({}, {}, shape, fabric)
    error_mm = torch.zeros(landmarks)
    for number, (name, stage) in enumerate(zip(settings.names, settings.stages, strict=True)):
        torch.manual_seed(seed + number)  # a resumed run begins a network as one in one go does
        network = make_network(ndim, landmarks, settings, number)
        if isinstance(network, PretrainedUNet) and network.architecture.imagenet:
            network.start_from_imagenet()
        network = trained.networks[name] = placed(network, device, ndim)
        if main:
            report(f"{name}: {parameter_count(network) / 1e6:.2f} M weights")
        judged = Judged(judge, settings, trained.networks, number, shape)
        blind = settings.blind and name == "middle"
        batches = Batches(learn[number], stage, settings, None if blind else error_mm, landmarks, seed + number)
        trained.curves[name] = fit(
            network,
            batches.crop_loss if number else batches.coarse_loss,
            fabric=fabric,
            validate=judged.mean_mm,
            schedule=stage.schedule,
            folder=output,
            stage=name,
            seed=seed,
            resume=resume,
            fingerprint=fingerprint,
        )
        if name in BEFORE:
            error_mm = judged.spread_mm()
        if main:
            report(f"{name}: {judged.mean_mm(network):.2f} mm in the validation cases")
    return trained


@dataclass(frozen=True)
class Judged:
    """What the networks up to stage `number` find in the validation cases, and how far off that is."""

    stores: Sequence[Store]
    settings: Settings
    networks: dict[str, nn.Module]
    number: int
    shape: NeighbourShape | None = None

    def found(self) -> dict[str, Found]:
        """By every stage, (N, L, ndim) mm."""
        for network in self.networks.values():
            network.eval()
        multiple, alone = self.settings.coarse.architecture.multiple, replace(self.settings, passes=1)
        cases = []
        for one in torch.arange(len(self.stores[0])).split(1):
            reader = StoreReader(self.stores, one, self.settings.window_voxels, multiple)
            cases.append(run(self.networks, reader.read, alone, shape=self.shape, upto=self.number))
        return {
            name: Found(*(torch.stack([getattr(case[name], part) for case in cases]) for part in ("points", "moments")))
            for name in cases[0]
        }

    def errors_mm(self, points: Tensor) -> Tensor:
        """(M,) radial errors of (N, L, ndim) points, of the landmarks that are there."""
        store = self.stores[self.number]
        return radial_errors_mm(points / store.spacing_mm - 0.5, store)

    def mean_mm(self, model: nn.Module) -> float:
        """Mean radial error of the stage itself, with `model` as its network."""
        name = self.settings.names[self.number]
        found = replace(self, networks=self.networks | {name: model}).found()
        return float(self.errors_mm(found[name].points).mean())

    def spread_mm(self) -> Tensor:
        """(L,) root mean square error along an axis of what the stages say together: half of the landmark, half of all,
        since cases are few.
        """
        store = self.stores[self.number]
        points = looked_around(self.found())
        squared = (points - (store.points + 0.5) * store.spacing_mm).square().mean(dim=-1)
        own = squared.nanmean(dim=0)
        everyone = squared.nanmean()
        return ((torch.nan_to_num(own, nan=float(everyone)) + everyone) / 2).sqrt().clamp(min=SMALLEST_ERROR_MM).cpu()


@dataclass(frozen=True)
class Batches:
    """Draws the batches of a stage and gives their loss.

    error_mm: (L,) how far crops lie beside their landmarks along an axis (standard deviation); None for anywhere.

    The points of the store are those of every observer who is taught, and last the reference: (N, O * L, ndim).
    """

    store: Store
    stage: Stage
    settings: Settings
    error_mm: Tensor | None
    landmarks: int
    seed: int

    def coarse_loss(self, model: nn.Module, step: Step) -> Tensor:
        """Cross-entropy of the maps of whole images."""
        images, points = augmented_batch(
            self.store,
            step.positions(self.stage.schedule.batch),
            augmentation=self.stage.augmentation,
            multiple=self.stage.architecture.multiple,
            seed=self.seed,
        )
        maps = model(images).float()
        spacing_mm = self.stage.spacing_mm * images.shape[-1] / maps.shape[-1]  # maps may be coarser
        points = rescale(points, spacing_from=self.stage.spacing_mm, spacing_to=spacing_mm)
        taught = MapTarget(self.stage.sigma_mm / spacing_mm)
        return torch.stack([heatmap_loss(maps, part, taught) for part in self._observers(points)]).mean()

    def crop_loss(self, model: nn.Module, step: Step) -> Tensor:
        """Cross-entropy of the maps of crops, and the distance of their centres of mass from the reference."""
        crops, which, points = self.crops(step)
        maps = model(crops, which).float().unsqueeze(1)
        taught = MapTarget(self.stage.sigma_mm / self.stage.spacing_mm)
        loss = torch.stack([heatmap_loss(maps, part, taught) for part in self._observers(points)]).mean()
        reference = points[:, -1]
        extent = torch.tensor(crops.shape[:1:-1], dtype=reference.dtype, device=reference.device)
        seen = ((reference >= 0) & (reference <= extent - 1)).all(dim=-1)  # NaN is not
        offset = centre_of_mass(maps.flatten(2).softmax(dim=-1).view_as(maps))[:, 0] - torch.nan_to_num(reference)
        # a tenth of a micrometre keeps the slope of the root finite
        distance = (offset.square().sum(dim=-1) * self.stage.spacing_mm**2 + 1e-8).sqrt()
        return loss + self.settings.distance_weight * (distance * seen).sum() / seen.sum().clamp(min=1)

    def crops(self, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 1, *size) crops, (N,) which landmark each was cut for, (N, O, ndim) its points in voxels of the crop."""
        positions = step.positions(self.stage.schedule.batch)
        draws = Draws.of(self.seed, positions)
        index = cases_at(positions, len(self.store), seed=self.seed)
        every = self.store.points_of(index).unflatten(1, (-1, self.landmarks)).transpose(1, 2)  # (B, L, O, ndim)
        ndim, window = every.shape[-1], self.settings.window_voxels
        size = (window,) * ndim
        known = torch.isfinite(every[:, :, -1]).all(dim=-1).cpu()
        # those that are not there come last
        order = (draws.uniform(self.landmarks) - known.float()).argsort(dim=1)
        which = order[:, : self.stage.crops or self.landmarks].to(every.device)
        points = every.gather(1, which[..., None, None].expand(-1, -1, *every.shape[2:]))  # (B, W, O, ndim)
        count, furthest = which.shape[1], window * ANYWHERE
        beside = draws.symmetric(count, ndim) * furthest
        if self.error_mm is not None:
            near = draws.normal(count, ndim) * self.error_mm[which.cpu()].unsqueeze(-1) / self.stage.spacing_mm
            far = draws.uniform(count, 1) < FAR_SHARE
            beside = torch.where(far, beside, near.clamp(-furthest, furthest))
        # a landmark that nobody knows is looked for in the lower corner, and its loss is none
        centres = torch.nan_to_num(points[:, :, -1]) + beside.to(points)
        flat = centres.flatten(0, 1)
        images, first = cut(self.store, index.repeat_interleave(count), flat, 2 * window)
        warp = random_warp(centres, size, self.stage.augmentation, spacing_mm=self.stage.spacing_mm, draws=draws)
        moved = warp.centres.flatten(0, 1) - first
        nodes = None if warp.nodes is None else warp.nodes.flatten(0, 1).unsqueeze(1)
        each = Warp(moved.unsqueeze(1), warp.matrices.flatten(0, 1).unsqueeze(1), nodes, size)
        crops = warp_images(images, each)[:, :, 0].unflatten(0, (len(index), count)).squeeze(2)
        crops = change_intensity(crops, self.stage.augmentation, draws=draws)
        inside = warp_points(points.flatten(0, 1) - first.unsqueeze(1), each)[:, 0]
        return crops.flatten(0, 1).unsqueeze(1), which.flatten(), inside

    def _observers(self, points: Tensor) -> list[Tensor]:
        """The points that are taught, of (B, O * L, ndim) or (N, O, ndim): of each observer, or the reference alone."""
        whole = self.store.points.shape[1] // self.landmarks
        parts = list(points.chunk(whole, dim=1))
        return parts[:-1] or parts


def cut(store: Store, index: Tensor, centres: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(N, 1, *size) float32 parts of the images `index` around `centres` (N, ndim), and (N, ndim) their first voxels.

    A part is `side` voxels long, or as long as the image, and inside of it: what is sampled from the part is what would
    be sampled from the image, as long as it stays within half of `side`.
    """
    shape = store.images.shape[2:]
    size = [min(side, count) for count in shape]
    room = torch.tensor([count - length for count, length in zip(shape, size, strict=True)][::-1])
    first = torch.minimum((centres.cpu().round().long() - side // 2).clamp(min=0), room)
    parts = []
    for case, corner in zip(index.tolist(), first.tolist(), strict=True):
        box = tuple(slice(low, low + length) for low, length in zip(reversed(corner), size, strict=True))
        parts.append(store.images[(case, 0, *box)])
    return torch.stack(parts).unsqueeze(1).to(centres.device).float().div_(255), first.to(centres)


def with_observers(store: Store, dataset: Dataset, cases: Sequence[Case]) -> Store:
    """The store with the points of all observers of the reference before those of the reference itself.

    Where an observer means another place by a name than the others do, that says nothing about a case: of each
    landmark, every observer's points are moved by their mean distance from the reference. A case that an observer
    skipped has NaN there, which teaches nothing.
    """
    names = dataset.task.reference.observers
    if len(names) < 2 or any(name not in dataset.observers for name in names):
        return store
    every = []
    for name in names:
        apart = [_apart_mm(dataset, case, name) for case in cases]
        # the axes of a prepared grid are those of space
        offset = torch.from_numpy(np.array(apart, np.float32))[..., : store.points.shape[-1]] / store.spacing_mm
        offset -= torch.nan_to_num(offset.nanmean(dim=0))
        every.append(store.points + offset.to(store.points))
    return replace(store, points=torch.cat([*every, store.points], dim=1))


def _apart_mm(dataset: Dataset, case: Case, observer: str) -> NDArray[np.float64]:
    """(L, 3): from the reference to what an observer says, NaN where one of them says nothing."""
    reference = reference_mm(dataset, case)
    if not dataset.landmarks_path(case.name, observer=observer).is_file():
        return np.full_like(reference, np.nan)
    return reference_mm(dataset, case, observer=observer) - reference
