"""Training of global-to-local: the global network, then the local ones around what it finds (Noothout et al., 2020)."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset

from .augmentation import (
    Draws,
    augmented_batch,
    change_intensity,
    random_warp,
    warp_images,
    warp_points,
    without_folds,
)
from .blocks import parameter_count, placed
from .finish import save_trained
from .global_to_local_network import PatchNetwork, Settings, patch_loss, run_global, run_local
from .global_to_local_presets import preset_settings
from .grids import on_device, rescale
from .resuming import already_trained, fingerprint_of
from .store import Store, load_store, radial_errors_mm
from .training import Point, Step, cases_at, fit, launch, report, set_threads


def choose_window(errors_mm: Tensor, settings: Settings) -> int:
    """Side in voxels of the local window: the global stage's validation errors decide (section V-A1).

    Twice the 98th percentile of the errors plus the margin, as a multiple of twice the stride.
    """
    stage = settings.local_stage
    unit = 2 * stage.architecture.stride
    wanted = 2 * float(torch.quantile(errors_mm, 0.98)) / stage.spacing_mm + settings.local_margin
    return int(min(max(math.ceil(wanted / unit) * unit, 16), 128))


def train(
    dataset: Dataset,
    *,
    output: Path,
    device: str,
    preset: str = "cpu",
    seed: int = 0,
    resume: bool = False,
    settings: Settings | None = None,
    devices: int = 1,
    nodes: int = 1,
    deterministic: bool = False,
) -> None:
    """Train both stages into a model folder; an interrupted run goes on with `resume`."""
    settings = settings or preset_settings(preset, dataset.task)
    fingerprint = fingerprint_of(dataset, method="global_to_local", preset=preset, settings=asdict(settings), seed=seed)
    if resume and already_trained(output, fingerprint):
        return
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    torch.manual_seed(seed)
    begun = time.monotonic()
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    coarse, fine = settings.global_stage, settings.local_stage
    cases = {split: dataset.wanted_cases(split) for split in ("train", "validation")}
    spacings = (coarse.spacing_mm, fine.spacing_mm) if settings.local else (coarse.spacing_mm,)
    coarse_train, *fine_train = load_store(dataset, cases["train"], spacing_mm=spacings, device=device)
    coarse_judge, *fine_judge = load_store(dataset, cases["validation"], spacing_mm=spacings, device=device)
    if main:
        report(
            f"{dataset.task.name}: {len(coarse_train)} training and {len(coarse_judge)} validation cases in memory "
            f"after {time.monotonic() - begun:.1f} s"
        )
    options: dict[str, Any] = {
        "fabric": fabric,
        "folder": output,
        "seed": seed,
        "resume": resume,
        "fingerprint": fingerprint,
    }
    network = placed(PatchNetwork(ndim, landmarks, coarse.architecture), device, ndim)
    if main:
        size = parameter_count(network) / 1e6
        report(f"global: {size:.2f} M weights, patches of {coarse.architecture.stride} voxels")
    global_curve = fit(
        network,
        lambda model, step: _global_loss(model, step, coarse_train, settings, seed=seed),
        validate=lambda model: float(
            radial_errors_mm(_global_points(model, coarse_judge, settings), coarse_judge).mean()
        ),
        schedule=coarse.schedule,
        stage="global",
        **options,
    )
    weights = {f"global.{key}": value for key, value in network.state_dict().items()}
    window, local_curve = 0, list[Point]()
    if settings.local:
        points = _global_points(network.eval(), coarse_judge, settings)
        torch.manual_seed(seed)  # a run resumed between the stages starts the second one alike
        specialists = placed(PatchNetwork(ndim, landmarks, fine.architecture, specialised=True), device, ndim)
        window, local_curve = _train_local(
            specialists, points, coarse_judge, fine_train[0], fine_judge[0], settings, options
        )
        weights |= {f"local.{key}": value for key, value in specialists.state_dict().items()}
    save_trained(
        output,
        dataset,
        method="global_to_local",
        preset=preset,
        settings={**asdict(settings), "window": window},
        weights=weights,
        curves={"global": global_curve, "local": local_curve},
        fabric=fabric,
        seed=seed,
        fingerprint=fingerprint,
    )


def _train_local(
    specialists: nn.Module,
    points: Tensor,
    coarse_judge: Store,
    fine_train: Store,
    fine_judge: Store,
    settings: Settings,
    options: dict[str, Any],
) -> tuple[int, list[Point]]:
    """Train the local networks around landmarks; the side of their window, and the curve of their training.

    points: what the global network finds in the validation cases.
    """
    stage = settings.local_stage
    errors_mm = radial_errors_mm(points, coarse_judge)
    window = stage.window or choose_window(errors_mm, settings)
    estimates = rescale(points, spacing_from=settings.global_stage.spacing_mm, spacing_to=stage.spacing_mm)
    if options["fabric"].global_rank == 0:
        report(
            f"local: {parameter_count(specialists) / 1e6:.2f} M weights, windows of {window} voxels "
            f"({window * stage.spacing_mm:.1f} mm), global validation error {float(errors_mm.mean()):.2f} mm"
        )
    curve = fit(
        specialists,
        lambda model, step: _local_loss(model, step, fine_train, settings, window=window, seed=options["seed"]),
        validate=lambda model: float(
            radial_errors_mm(_local_points(model, fine_judge, estimates, settings, window=window), fine_judge).mean()
        ),
        schedule=stage.schedule,
        stage="local",
        **options,
    )
    return window, curve


def _global_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch of random sub-images (or whole images), augmented."""
    stage = settings.global_stage
    stride = stage.architecture.stride
    windows, points = augmented_batch(
        store,
        step.positions(stage.schedule.batch),
        augmentation=stage.augmentation,
        multiple=stride,
        window=stage.window,
        seed=seed,
    )
    return patch_loss(model(windows), points, settings, stride=stride)


def _local_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, window: int, seed: int) -> Tensor:
    """The loss of one batch: for every landmark of every image a sub-image that contains it, augmented."""
    stage = settings.local_stage
    positions = step.positions(stage.schedule.batch)
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(store), seed=seed)
    images = store.batch(index)
    points = store.points_of(index)
    # uniform, so that every sub-image contains its landmark (section V-A1)
    offset = draws.symmetric(*points.shape[1:]) / 2 * max(window - 1 - settings.local_margin, 0)
    centres = torch.nan_to_num(points) + on_device(offset, images)
    size = (window,) * (images.ndim - 2)
    augmentation = without_folds(stage.augmentation, window * stage.spacing_mm)
    warp = random_warp(centres, size, augmentation, spacing_mm=stage.spacing_mm, draws=draws)
    windows = change_intensity(warp_images(images, warp)[:, :, 0], augmentation, draws=draws)
    inside = torch.diagonal(warp_points(points, warp), dim1=1, dim2=2).movedim(-1, 1)
    return patch_loss(model(windows), inside, settings, stride=stage.architecture.stride)


def _global_points(model: nn.Module, store: Store, settings: Settings) -> Tensor:
    """(N, L, ndim) global estimates of every case of a store."""
    model.eval()
    return torch.cat([run_global(model, store.alone(case), settings) for case in range(len(store))])


def _local_points(model: nn.Module, store: Store, estimates: Tensor, settings: Settings, *, window: int) -> Tensor:
    """(N, L, ndim) refined estimates of every case of a store."""
    model.eval()
    return torch.cat(
        [
            run_local(model, store.alone(case), estimates[case : case + 1], settings, window=window)
            for case in range(len(store))
        ]
    )
