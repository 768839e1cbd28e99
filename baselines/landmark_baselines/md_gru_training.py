"""Training of the MD-GRU localizer: the coarse network, then the fine one (Andermatt et al., 2017, section 2)."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset

from .augmentation import Draws, change_intensity, random_warp, warp_images, warp_points, without_folds
from .blocks import parameter_count
from .finish import save_trained
from .grids import rescale
from .md_gru_network import class_loss, with_high_pass
from .md_gru_presets import preset_settings
from .md_gru_stages import Settings, Stage, choose_window, make_network, overview_scale, run_coarse, run_fine
from .resuming import already_trained, fingerprint_of
from .store import Store, load_store, radial_errors_mm
from .training import Point, Step, cases_at, fit, launch, report, set_threads


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
    fingerprint = fingerprint_of(dataset, method="md_gru", preset=preset, settings=asdict(settings), seed=seed)
    if resume and already_trained(output, fingerprint):
        return
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    torch.manual_seed(seed)
    begun = time.monotonic()
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    spacings = [settings.coarse.spacing_mm, *[settings.fine.spacing_mm] * settings.refine]
    stores = []
    for split in ("train", "validation"):
        cases = dataset.wanted_cases(split)
        stores.append(load_store(dataset, cases, spacing_mm=spacings, device=device))
    learn, judge = stores
    if not settings.coarse.window:
        window = choose_window(learn[0].images.shape[2:], settings.coarse)
        settings = replace(settings, coarse=replace(settings.coarse, window=window))
    if main:
        report(
            f"{dataset.task.name}: {len(learn[0])} training and {len(judge[0])} validation cases in memory "
            f"after {time.monotonic() - begun:.1f} s"
        )
    weights: dict[str, Tensor] = {}
    curves: dict[str, list[Point]] = {}
    estimates: Tensor | None = None
    for level, name in enumerate(("coarse", "fine")[: len(spacings)]):
        stage = settings.fine if level else settings.coarse
        torch.manual_seed(seed + level)  # a resumed run begins the fine network as one in one go does
        network = make_network(ndim, landmarks, stage).to(device)
        if main:
            size = " x ".join(str(side) for side in stage.window)
            report(f"{name}: {parameter_count(network) / 1e6:.2f} M weights, windows of {size} voxels")
        curves[name] = _fit_stage(
            network, learn[level], judge[level], settings, estimates,
            fabric=fabric, folder=output, stage=name, seed=seed, resume=resume, fingerprint=fingerprint,
        )  # fmt: skip
        weights |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        if level < len(spacings) - 1:
            found = _every_point(network, judge[0], settings, None)
            estimates = rescale(found, spacing_from=spacings[0], spacing_to=spacings[1])
    save_trained(
        output,
        dataset,
        method="md_gru",
        preset=preset,
        settings=asdict(settings),
        weights=weights,
        curves=curves,
        fabric=fabric,
        seed=seed,
        fingerprint=fingerprint,
    )


def _fit_stage(
    network: nn.Module, learn: Store, judge: Store, settings: Settings, estimates: Tensor | None, **options: Any
) -> list[Point]:
    """Train one stage; the fine one is judged around the coarse `estimates` (N, L, ndim) of the validation cases."""
    loss_of = _coarse_loss if estimates is None else _fine_loss
    return fit(
        network,
        lambda model, step: loss_of(model, step, learn, settings, seed=options["seed"]),
        validate=lambda model: float(radial_errors_mm(_every_point(model, judge, settings, estimates), judge).mean()),
        schedule=(settings.coarse if estimates is None else settings.fine).schedule,
        **options,
    )


def _every_point(model: nn.Module, store: Store, settings: Settings, estimates: Tensor | None) -> Tensor:
    """(N, L, ndim) what a stage finds in every case of a store."""
    model.eval()
    found = []
    for case in range(len(store)):
        image = store.alone(case)
        if estimates is None:
            found.append(run_coarse(model, image, settings)[0])
        else:
            found.append(run_fine(model, image, estimates[case : case + 1], settings)[0])
    return torch.cat(found)


def _coarse_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch of images, each seen through one window around a place near its centre."""
    stage = settings.coarse
    positions = step.positions(stage.schedule.batch)
    draws = Draws.of(seed, positions)
    extent = store.images.shape[:1:-1]
    # Of each image itself, as `run_coarse` has it.
    middle = (store.sizes[cases_at(positions, len(store), seed=seed).to(store.points.device)].unsqueeze(1) - 1) / 2
    offset = draws.symmetric(1, len(extent)).to(middle) * stage.offset_voxel
    scale = overview_scale(extent, stage.window)
    return _window_loss(
        model, positions, store, middle + offset, settings, stage, seed=seed, draws=draws, scale=scale
    )  # fmt: skip


def _fine_loss(model: nn.Module, step: Step, store: Store, settings: Settings, *, seed: int) -> Tensor:
    """The loss of one batch: for every landmark of every image a window that contains it.

    Windows lie at any fraction of a voxel, so that every class is a label; the paper's lie at whole voxels, which with
    4 classes per voxel leaves 3 of 4 without an example (its own remark).
    """
    stage = settings.fine
    positions = step.positions(stage.schedule.batch)
    draws = Draws.of(seed, positions)
    index = cases_at(positions, len(store), seed=seed)
    points = store.points[index.to(store.points.device)]
    room = (torch.tensor(stage.window) / 2).clamp(max=stage.offset_voxel or math.inf)
    centres = torch.nan_to_num(points) + (draws.symmetric(*points.shape[1:]) * room).to(points)
    return _window_loss(model, positions, store, centres, settings, stage, seed=seed, draws=draws)


def _window_loss(
    model: nn.Module,
    positions: Sequence[int],
    store: Store,
    centres: Tensor,
    settings: Settings,
    stage: Stage,
    *,
    seed: int,
    draws: Draws,
    scale: float = 1.0,
) -> Tensor:
    """The loss of windows (B, 1 or L) around `centres`, changed at random; with L of them, each for its landmark.

    scale: voxels of the image per voxel of a window.
    """
    index = cases_at(positions, len(store), seed=seed)
    images, points = store.batch(index), store.points[index.to(store.points.device)]
    augmentation = without_folds(stage.augmentation, min(stage.window) * stage.spacing_mm * scale)
    warp = random_warp(centres, stage.window[::-1], augmentation, spacing_mm=stage.spacing_mm, draws=draws)
    warp = replace(warp, matrices=warp.matrices * scale)
    windows = change_intensity(warp_images(images, warp)[:, :, 0], augmentation, draws=draws)
    inside = warp_points(points, warp)
    one_each = centres.shape[1] > 1
    inside = torch.diagonal(inside, dim1=1, dim2=2).movedim(-1, 1) if one_each else inside[:, 0]
    channels = with_high_pass(windows.flatten(0, 1).unsqueeze(1), settings.high_pass_mm / (stage.spacing_mm * scale))
    logits = model(channels.unflatten(0, windows.shape[:2]))
    return class_loss(logits, inside, stage.window, label_sigma=stage.label_sigma_mm / (stage.spacing_mm * scale))
