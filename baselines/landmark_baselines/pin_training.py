"""Training of PIN: guesses around the landmarks of the training images, patches there, and the way back.

Li et al., "Fast Multiple Landmark Localisation Using a Patch-based Iterative Network", MICCAI 2018, section 2.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.images import bounding_box_mm
from landmark_challenge.shape_space import fit_space

from .augmentation import Draws, change_intensity, random_matrices
from .pin_network import WITHIN, PinNetwork, build_network, look, walk_to_landmarks
from .pin_presets import Settings, checked, preset_settings
from .planar_patches import sample_turned
from .references import reference_mm
from .single_network import train_single
from .store import Store
from .training import Step, cases_at
from .volumes import Volumes

SPACE = ("mean_mm", "basis", "spread_mm", "unit_mm")
UNIT_DRAWS = 2000


def pin_loss(outputs: tuple[Tensor, Tensor], target_mm: Tensor, *, unit_mm: Tensor, alpha: float) -> Tensor:
    """Equation 2 of one batch: outputs of the network, target_mm (B, groups, size) from the guess to the landmarks.

    Means over the batch and, in the regression, over the coordinates; a group without a target (NaN) teaches nothing.
    """
    regressed, logits = outputs
    known = torch.isfinite(target_mm).all(dim=-1)
    target = torch.nan_to_num(target_mm)
    axis = target.abs().argmax(dim=-1)
    downwards = target.gather(-1, axis[..., None])[..., 0] <= 0
    entropy = F.cross_entropy(logits.movedim(-1, 1), 2 * axis + downwards, reduction="none")
    error = (regressed - target / unit_mm).square().mean(dim=-1)
    losses = (1 - alpha) * error + alpha * entropy
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)


def train(
    dataset: Dataset, *, preset: str = "cpu", seed: int = 0, settings: Settings | None = None, **options: Any
) -> None:
    """Train the network into a model folder; `options` are those of `train_single`."""
    chosen = checked(settings or preset_settings(preset, dataset.task))
    truth_mm, extent_mm = training_sets(dataset, chosen.spacing_mm)
    space = None
    if chosen.joint:
        space, truth_mm = fit_space(truth_mm, explained=chosen.explained)
    truth, extent = torch.from_numpy(truth_mm).float(), torch.from_numpy(extent_mm).float()

    def network() -> PinNetwork:
        built = build_network(dataset.task, chosen, space)
        if chosen.paper_start:
            built.initialise_like_the_paper()
        built.unit_mm.fill_(_unit_mm(built, truth, extent, chosen))
        return built

    train_single(
        "pin",
        dataset,
        settings=chosen,
        network=network,
        loss_of=lambda model, step, store: _loss(model, step, store, truth, extent, chosen, seed=seed),
        points_of=lambda model, images: _points(model, images, chosen),
        spacing_mm=chosen.spacing_mm,
        schedule=chosen.schedule,
        preset=preset,
        seed=seed,
        exact=SPACE,
        kernel_axes=2,
        **options,
    )


def training_sets(dataset: Dataset, spacing_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Landmarks (N, L, ndim) of the training cases, NaN where nobody knows, and (N, ndim) from first to last voxel.

    In mm, in the frame of `Volumes`: from the centre of the first voxel of the canonical grid, whose corner is that of
    the image.
    """
    points, extents = [], []
    for case in dataset.wanted_cases("train"):
        lower, upper = bounding_box_mm(dataset.geometry(case.name))
        known = reference_mm(dataset, case)[:, : dataset.task.dimension]
        points.append(known - lower - spacing_mm / 2)
        extents.append(np.maximum(upper - lower - spacing_mm, 0))
    return np.array(points), np.array(extents)


def far_states(network: PinNetwork, extent_mm: Tensor, symmetric: Tensor) -> Tensor:
    """Guesses for training from numbers in -1..1 (B, groups, size): anywhere within 3 standard deviations, or anywhere
    in the image of extent_mm (B, ndim).
    """
    if network.joint:
        return symmetric.to(network.spread_mm) * (WITHIN * network.spread_mm)
    return (symmetric.to(extent_mm) + 1) / 2 * extent_mm[:, None]


def _unit_mm(network: PinNetwork, truth: Tensor, extent: Tensor, settings: Settings) -> float:
    """The millimetres of an output of 1: a voxel, or the usual displacement per coordinate of a training sample."""
    if settings.unit == "voxel":
        return settings.spacing_mm
    draws = torch.Generator().manual_seed(0)
    index = torch.randint(len(truth), (UNIT_DRAWS,), generator=draws)
    symmetric = 2 * torch.rand(UNIT_DRAWS, network.groups, network.size, generator=draws) - 1
    nearer = torch.rand(UNIT_DRAWS, network.groups, 1, generator=draws) ** settings.nearness
    displacement = nearer * (far_states(network, extent[index], symmetric) - network.to_state(truth[index]))
    return float(displacement[torch.isfinite(displacement)].square().mean().sqrt())


def _loss(
    model: nn.Module, step: Step, store: Store, truth: Tensor, extent: Tensor, settings: Settings, *, seed: int
) -> Tensor:
    """The loss of one batch: from each of its cases patches around one guess, with the image changed at random."""
    network = _bare(model)
    positions = step.positions(settings.schedule.batch)
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(store), seed=seed)
    device, ndim = store.points.device, network.ndim
    points, extents = truth[index].to(device), extent[index].to(device)
    middle = extents[:, None] / 2
    change = settings.augmentation
    matrices = random_matrices(1, ndim, change, draws)[:, 0].to(device)
    shift = draws.symmetric(1, ndim).to(device) * change.shift_mm
    # The changed image at p shows the image at middle + matrix (p - middle) + shift.
    points = middle + torch.einsum("bij,blj->bli", torch.linalg.inv(matrices), points - middle - shift)
    goal = network.to_state(points)
    nearer = draws.uniform(network.groups, 1).to(device) ** settings.nearness
    symmetric = draws.symmetric(network.groups, network.size).to(device)
    away = nearer * (far_states(network, extents, symmetric) - torch.nan_to_num(goal))
    guess = network.to_points(torch.nan_to_num(goal) + away)
    volumes = Volumes.of(store.images, store.spacing_mm)
    which = index.to(store.images.device)
    if change.rotation_degrees or change.scale or change.stretch:
        seen = middle + torch.einsum("bij,blj->bli", matrices, guess - middle) + shift
        turned = matrices[:, None].expand(-1, seen.shape[1], -1, -1).reshape(-1, ndim, ndim)
        every = which.repeat_interleave(seen.shape[1])
        patches = sample_turned(volumes, every, seen.reshape(-1, ndim), settings.patch_shape, matrices=turned)
        patches = patches.reshape(len(seen), -1, settings.patch, settings.patch)
    else:
        patches = look(volumes, which, guess + shift, settings.patch_shape)
    patches = change_intensity(patches.flatten(1, 2)[:, None], change, draws=draws)[:, 0].view_as(patches)
    target = torch.where(torch.isfinite(goal), -away, goal)
    return pin_loss(model(patches), target, unit_mm=network.unit_mm, alpha=settings.alpha)


def _bare(model: nn.Module) -> PinNetwork:
    """The network itself, where it is wrapped for training."""
    network = getattr(model, "module", model)
    if not isinstance(network, PinNetwork):
        raise TypeError(f"wanted a PinNetwork, got {type(network).__name__}")
    return network


def _points(model: nn.Module, images: Tensor, settings: Settings) -> Tensor:
    """(1, 1, ...) an image -> (1, L, ndim) voxel coordinates: the mean of where the starts lead."""
    network = _bare(model)
    path = walk_to_landmarks(network, Volumes.of(images, settings.spacing_mm), settings)
    return path[-1].mean(dim=0, keepdim=True) / settings.spacing_mm
