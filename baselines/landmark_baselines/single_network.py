"""Training of methods that are one network at one resolution: data in memory, the loop, the model folder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset

from .blocks import parameter_count, placed
from .finish import save_trained
from .resuming import already_trained, fingerprint_of
from .store import Store, load_store, radial_errors_mm
from .training import Schedule, Step, fit, launch, report, set_threads

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def train_single(
    method: str,
    dataset: Dataset,
    *,
    settings: "DataclassInstance",
    network: Callable[[], nn.Module],
    loss_of: Callable[[nn.Module, Step, Store], Tensor],
    points_of: Callable[[nn.Module, Tensor], Tensor],
    spacing_mm: float,
    schedule: Schedule,
    output: Path,
    preset: str,
    device: str,
    seed: int = 0,
    resume: bool = False,
    devices: int = 1,
    nodes: int = 1,
    deterministic: bool = False,
    exact: Sequence[str] = (),
    kernel_axes: int | None = None,
) -> None:
    """Train a network into a model folder, its state dict the weights (of `tiny` in bfloat16, all but `exact`).

    loss_of(model, step, store) draws its batch and is called outside of autocast: the network is for bfloat16, but in
    it a warp of 300 voxels would be half a voxel off. points_of(model, images): (1, 1, ...) -> (1, L, ndim) voxels.
    kernel_axes: of the network's convolutions, where the images have others. An interrupted run goes on with `resume`.
    """
    plain = asdict(settings)
    fingerprint = fingerprint_of(dataset, method=method, preset=preset, settings=plain, seed=seed)
    if resume and already_trained(output, fingerprint):
        return
    set_threads()
    fabric = launch(device, devices=devices, nodes=nodes, deterministic=deterministic)
    device, main = str(fabric.device), fabric.global_rank == 0
    torch.manual_seed(seed)
    begun = time.monotonic()
    stores = []
    for split in ("train", "validation"):
        cases = dataset.wanted_cases(split)
        stores += load_store(dataset, cases, spacing_mm=(spacing_mm,), device=device)
    learn, judge = stores
    model = placed(network(), device, kernel_axes or dataset.task.dimension)
    if main:
        report(
            f"{dataset.task.name}: {len(learn)} training and {len(judge)} validation cases in memory after "
            f"{time.monotonic() - begun:.1f} s; {parameter_count(model) / 1e6:.2f} M weights, "
            f"images of {' x '.join(str(count) for count in learn.images.shape[2:])} voxels"
        )

    def loss(model: nn.Module, step: Step) -> Tensor:
        return loss_of(model, step, learn)

    def validate(model: nn.Module) -> float:
        model.eval()
        points = torch.cat([points_of(model, judge.alone(case)) for case in range(len(judge))])
        return float(radial_errors_mm(points, judge).mean())

    curve = fit(
        model,
        loss,
        fabric=fabric,
        validate=validate,
        schedule=schedule,
        folder=output,
        stage="network",
        seed=seed,
        resume=resume,
        fingerprint=fingerprint,
    )
    save_trained(
        output,
        dataset,
        method=method,
        preset=preset,
        settings=plain,
        weights=model.state_dict(),
        curves={"network": curve},
        fabric=fabric,
        seed=seed,
        fingerprint=fingerprint,
        exact=exact,
    )
