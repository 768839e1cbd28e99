"""What every training ends with: the model folder."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landmark_challenge.dataset import Dataset

from .checkpoints import Model, mean_shape_of, provenance_of, save_model
from .training import clear_checkpoints
from .training_log import Point

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def save_trained(
    output: Path,
    dataset: Dataset,
    *,
    method: str,
    preset: str,
    settings: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    curves: Mapping[str, Sequence[Point]],
    fabric: "Fabric",
    seed: int,
    fingerprint: str = "",
    exact: Container[str] = (),
    rounded: bool = False,
    begun_from: str = "",
) -> None:
    """Write the model folder, in the main process alone; the checkpoints of the stages, whose curves these are, go.

    fingerprint: of `fingerprint_of`, by which a training that is taken up again knows that it is finished.
    The weights of `tiny`, and of others if `rounded`, are kept in bfloat16, all but those named `exact`. begun_from:
    what weights the training began from, and their licence; "" for random ones.
    """
    if fabric.global_rank != 0:
        return
    if rounded or preset == "tiny":
        weights = {
            key: value.to(torch.bfloat16) if value.is_floating_point() and key not in exact else value
            for key, value in weights.items()
        }
    provenance = provenance_of(
        dataset,
        seed=seed,
        fingerprint=fingerprint,
        **({"begun_from": begun_from} if begun_from else {}),
        training_seconds=round(sum(curve[-1].seconds for curve in curves.values() if curve), 1),
        device=str(fabric.device),
        processes=fabric.world_size,
        validation_curve={stage: [[p.iteration, p.validation_mm] for p in curve] for stage, curve in curves.items()},
    )
    save_model(output, Model(method, preset, settings, dataset.task, provenance, mean_shape_of(dataset), weights))
    clear_checkpoints(output)
