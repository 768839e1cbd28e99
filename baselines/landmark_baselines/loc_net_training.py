"""Losses and training of Loc-Net: all scales together, or one after the other."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset

from .augmentation import warp_points
from .blocks import autocast, parameter_count, placed
from .finish import save_trained
from .heatmap_unet import MapTarget, heatmap_loss
from .loc_net_network import Chain, Found, Settings, checked, look, run, to_scale
from .loc_net_presets import preset_settings
from .resuming import already_trained, fingerprint_of
from .scales import Change, Reader, StoreReader
from .store import Store, load_store, radial_errors_mm
from .training import Point, Step, cases_at, fit, launch, report, set_threads

MAP_SIGMA_VOXEL = 1.5


def chain_loss(found: Sequence[Found], points: Tensor, settings: Settings, *, progress: float) -> Tensor:
    """Loss of one batch; points (B, L, ndim) in voxels of the coarsest scale, NaN where nobody knows.

    progress: share of the training that is done, 0..1. Errors of all scales are in millimetres, so that their weights
    compare them as they are (the paper does not say; its released code does the same by weights of 16, 4, 1 and 0.25).
    """
    losses = [scale_loss(part, points, settings, scale=scale) for scale, part in enumerate(found)]
    weights = scale_weights(len(losses), progress) if settings.weighting == "schedule" else [1.0] * len(losses)
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def scale_weights(count: int, progress: float) -> list[float]:
    """The weights of `count` scales: the coarsest falls from 1 to 0, the finest rises from 0 to 1, others peak between.

    The paper does not give the peak, 1 here. It keeps weights for an epoch; here they change with every batch.

    >>> scale_weights(4, 0.25)
    [0.75, 0.5, 0.5, 0.25]
    """
    if count == 1:
        return [1.0]
    return [1 - progress, *[1 - abs(2 * progress - 1)] * (count - 2), progress]


def scale_loss(found: Found, points: Tensor, settings: Settings, *, scale: int) -> Tensor:
    """Loss of one scale, mean over the known landmarks; points: as in `chain_loss`."""
    target, spacing = to_scale(points, 0, scale, settings), settings.spacings_mm[scale]
    if settings.loss == "heatmap":
        return heatmap_loss(found.maps, target - found.corner, MapTarget(settings.sigma_mm / spacing, "mse"))
    known = torch.isfinite(target).all(dim=-1)
    offset = torch.where(known.unsqueeze(-1), found.points - target, 0) * spacing
    squared = offset.square().sum(dim=-1)
    # a tenth of a micrometre keeps the slope of the root finite
    errors = squared if settings.loss == "squared" else (squared + 1e-8).sqrt() * known
    loss = errors.sum() / known.sum().clamp(min=1)
    if settings.map_weight > 0:
        taught = MapTarget(MAP_SIGMA_VOXEL)
        loss = loss + settings.map_weight * heatmap_loss(found.maps, target - found.corner.detach(), taught)
    return loss


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
    """Train the chain into a model folder; an interrupted run goes on with `resume`."""
    settings = checked(settings or preset_settings(preset, dataset.task))
    fingerprint = fingerprint_of(dataset, method="loc_net", preset=preset, settings=asdict(settings), seed=seed)
    if resume and already_trained(output, fingerprint):
        return
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    torch.manual_seed(seed)
    begun = time.monotonic()
    stores: list[list[Store]] = []
    for split in ("train", "validation"):
        cases = dataset.wanted_cases(split)
        spacings = settings.spacings_mm
        stores.append(load_store(dataset, cases, spacing_mm=spacings, device=device, average=settings.anti_alias))
    learn, judge = stores
    ndim, landmarks = dataset.task.dimension, len(dataset.task.names)
    chain = placed(Chain(ndim, landmarks, settings), device, ndim)
    assert isinstance(chain, Chain)
    if main:
        report(
            f"{dataset.task.name}: {len(learn[0])} training and {len(judge[0])} validation cases in memory after "
            f"{time.monotonic() - begun:.1f} s; {len(settings.spacings_mm)} scales, "
            f"{parameter_count(chain) / 1e6:.2f} M weights"
        )
    options: dict[str, Any] = {
        "fabric": fabric,
        "folder": output,
        "seed": seed,
        "resume": resume,
        "fingerprint": fingerprint,
    }
    fitted = _fit_together if settings.end_to_end else _fit_one_by_one
    curves = fitted(chain, learn, judge, settings, options)
    save_trained(
        output,
        dataset,
        method="loc_net",
        preset=preset,
        settings=asdict(settings),
        weights=chain.state_dict(),
        curves=curves,
        fabric=fabric,
        seed=seed,
        fingerprint=fingerprint,
    )


def _fit_together(
    chain: Chain, learn: Sequence[Store], judge: Sequence[Store], settings: Settings, options: dict[str, Any]
) -> dict[str, list[Point]]:
    """End to end: one training of all scales, whose losses reach the coarser ones through the crops."""

    def loss(model: nn.Module, step: Step) -> Tensor:
        read, points, shifts = draw_batch(learn, step, settings, seed=options["seed"])
        return chain_loss(model(read, shifts), points, settings, progress=step.number / settings.schedule.iterations)

    def validate(model: nn.Module) -> float:
        assert isinstance(model, Chain)
        model.eval()
        points = [run(model, read, passes=1)[0] for read in _cases(judge, settings)]
        return float(radial_errors_mm(torch.cat(points), judge[-1]).mean())

    return {"chain": fit(chain, loss, validate=validate, schedule=settings.schedule, stage="chain", **options)}


def _fit_one_by_one(
    chain: Chain, learn: Sequence[Store], judge: Sequence[Store], settings: Settings, options: dict[str, Any]
) -> dict[str, list[Point]]:
    """Multi-step: each scale has a training of its own, behind coarser ones that are finished."""
    curves = {}
    for scale in range(len(chain.scales)):
        curves[f"scale-{scale + 1}"] = _fit_scale(chain, scale, learn, judge, settings, options)
    return curves


def _fit_scale(
    chain: Chain,
    scale: int,
    learn: Sequence[Store],
    judge: Sequence[Store],
    settings: Settings,
    options: dict[str, Any],
) -> list[Point]:
    *coarser, network = chain.scales[: scale + 1]
    finest = scale == len(chain.scales) - 1

    def found_by(model: nn.Module, read: Reader, shifts: Tensor | None) -> Found:
        before = None
        with torch.no_grad(), autocast(options["fabric"].device):
            for number, finished in enumerate(coarser):
                before = look(finished.eval(), number, read, settings, before=before).points
        return look(model, scale, read, settings, before=before, shifts=shifts if scale and finest else None)

    def loss(model: nn.Module, step: Step) -> Tensor:
        read, points, shifts = draw_batch(learn, step, settings, seed=options["seed"])
        return scale_loss(found_by(model, read, shifts), points, settings, scale=scale)

    @torch.inference_mode()
    def validate(model: nn.Module) -> float:
        model.eval()
        with autocast(options["fabric"].device):
            points = [found_by(model, read, None).points for read in _cases(judge, settings)]
        return float(radial_errors_mm(torch.cat(points), judge[scale]).mean())

    schedule, stage = settings.schedule, f"scale-{scale + 1}"
    return fit(network, loss, validate=validate, schedule=schedule, stage=stage, **options)


def draw_batch(learn: Sequence[Store], step: Step, settings: Settings, *, seed: int) -> tuple[Reader, Tensor, Tensor]:
    """A batch, changed at random: its reader, its (B, L, ndim) points in the coarsest scale, shifts of finest crops."""
    positions = step.positions(settings.schedule.batch)
    change = Change.random(
        learn[0], positions, augmentation=settings.augmentation, multiple=settings.coarse.multiple, seed=seed
    )
    index = cases_at(positions, len(learn[0]), seed=seed)
    points = warp_points(learn[0].points[index.to(learn[0].points.device)], change.warp)[:, 0]
    shifts = change.draws.symmetric(*points.shape[1:]).to(points) * settings.noise_voxel
    reader = StoreReader(learn, index, settings.crop_voxels, settings.coarse.multiple, change)
    return reader.read, points, shifts


def _cases(stores: Sequence[Store], settings: Settings) -> Iterator[Reader]:
    """A reader of each case, as it is."""
    for index in torch.arange(len(stores[0])).split(1):
        yield StoreReader(stores, index, settings.crop_voxels, settings.coarse.multiple).read
