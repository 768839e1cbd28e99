"""Training of `heatmap_coordinate`: the coordinates, then the heatmaps, then the width of their product."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset

from . import unet
from .blocks import parameter_count, placed
from .finish import save_trained
from .heatmap_coordinate_network import (
    CoordinateNetwork,
    CoordinateStage,
    HeatmapStage,
    Settings,
    checked,
    coordinate_loss,
    decode,
    fitted_sigma,
    run_coordinates,
    run_heatmaps,
)
from .heatmap_coordinate_presets import preset_settings
from .heatmap_unet import heatmap_loss
from .resuming import already_trained, fingerprint_of
from .training import Point, Step, fit, launch, report, set_threads
from .whole_image import Frames, augmented_frames, errors_mm, load_frames, to_shares, to_voxels

_Loss = Callable[[nn.Module, Step, Frames, Settings, int], Tensor]
_Points = Callable[[nn.Module, Tensor, Settings], Tensor]


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
    """Train both networks, one after the other, into a model folder; an interrupted run goes on with `resume`."""
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    settings = checked(settings or preset_settings(preset, dataset.task), ndim=ndim)
    fingerprint = fingerprint_of(
        dataset, method="heatmap_coordinate", preset=preset, settings=asdict(settings), seed=seed
    )
    if resume and already_trained(output, fingerprint):
        return
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    begun = time.monotonic()
    sides = (settings.coordinate.side, settings.heatmap.side)
    frames = {}
    for split in ("train", "validation"):
        cases = dataset.wanted_cases(split)
        frames[split] = load_frames(dataset, cases, sides=sides, device=device)
    if main:
        counts = " and ".join(f"{len(parts[0])} {split}" for split, parts in frames.items())
        report(f"{dataset.task.name}: {counts} cases in memory after {time.monotonic() - begun:.1f} s")
    curves: dict[str, list[Point]] = {}
    weights: dict[str, Tensor] = {}

    def stage(name: str, level: int, build: Callable[[], nn.Module], loss_of: _Loss, points_of: _Points) -> nn.Module:
        learn, judge = (parts[level] for parts in frames.values())
        torch.manual_seed(seed + level)  # a resumed run begins the second network as one in one go does
        model = placed(build(), device, ndim)
        if main:
            size = " x ".join([str(sides[level])] * ndim)
            report(f"{name}: {parameter_count(model) / 1e6:.2f} M weights, images of {size} voxels")

        def loss(model: nn.Module, step: Step) -> Tensor:
            return loss_of(model, step, learn, settings, seed)

        curves[name] = fit(
            model,
            loss,
            fabric=fabric,
            validate=lambda judged: float(errors_mm(_every(judged, judge, points_of, settings), judge).mean()),
            schedule=(settings.coordinate, settings.heatmap)[level].schedule,
            folder=output,
            stage=name,
            seed=seed,
            resume=resume,
            fingerprint=fingerprint,
        )
        weights.update({f"{name}.{key}": value for key, value in model.state_dict().items()})
        return model

    sigma = [math.nan] * landmarks
    if settings.combine != "heatmap":
        learn, judge = (parts[0] for parts in frames.values())

        def coordinate_network() -> CoordinateNetwork:
            network = CoordinateNetwork(ndim, landmarks, settings.coordinate.architecture, side=sides[0])
            network.start_at(learn.points.nanmean(dim=0).nan_to_num(0.5))
            return network

        trained = stage("coordinate", 0, coordinate_network, _coordinate_loss, _coordinates)
        # Fitted on the cases that chose the weights, hence a little narrow; the training cases' are far too narrow.
        found = _every(trained, judge, _coordinates, settings)
        sigma = fitted_sigma(found, judge.points, least=1 / settings.heatmap.side).tolist()
        if main:
            report(f"coordinate: sigma {min(sigma):.3f} to {max(sigma):.3f} of the image")
    if settings.combine != "coordinate":
        build = partial(unet.UNet, ndim, landmarks, settings.heatmap.architecture)
        stage("heatmap", 1, build, _heatmap_loss, _heatmap_points)
    described = {**asdict(settings), "sigma": [None if math.isnan(value) else value for value in sigma]}
    flat = {key for key, value in weights.items() if value.ndim < 2}  # half a voxel is lost in rounded biases
    save_trained(
        output,
        dataset,
        method="heatmap_coordinate",
        preset=preset,
        settings=described,
        weights=weights,
        curves=curves,
        fabric=fabric,
        seed=seed,
        fingerprint=fingerprint,
        exact=flat,
    )


def _every(model: nn.Module, frames: Frames, points_of: _Points, settings: Settings) -> Tensor:
    """(N, L, ndim) shares found in every case."""
    model.eval()
    every = torch.arange(len(frames)).split(4)
    return torch.cat([points_of(model, frames.batch(part), settings) for part in every])


def _coordinates(model: nn.Module, images: Tensor, _: Settings) -> Tensor:
    return run_coordinates(model, images)


def _heatmap_points(model: nn.Module, images: Tensor, settings: Settings) -> Tensor:
    log_maps = run_heatmaps(model, images, settings.heatmap.loss)
    return to_shares(decode(log_maps, None, None, settings), settings.heatmap.side)


def _coordinate_loss(model: nn.Module, step: Step, frames: Frames, settings: Settings, seed: int) -> Tensor:
    images, points = _batch(settings.coordinate, step, frames, settings, seed)
    return coordinate_loss(model(images), points)


def _heatmap_loss(model: nn.Module, step: Step, frames: Frames, settings: Settings, seed: int) -> Tensor:
    images, points = _batch(settings.heatmap, step, frames, settings, seed)
    return heatmap_loss(model(images).float(), to_voxels(points, frames.side), settings.heatmap)


def _batch(
    stage: CoordinateStage | HeatmapStage, step: Step, frames: Frames, settings: Settings, seed: int
) -> tuple[Tensor, Tensor]:
    return augmented_frames(
        frames,
        step.positions(stage.schedule.batch),
        augmentation=stage.augmentation,
        shift=settings.shift,
        seed=seed,
    )
