"""What a training carries from one iteration to the next: its best weights, and all that is saved and resumed."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError

from .training_log import Point


@dataclass
class Validations:
    """The validations of a training: their curve, and the weights of the best of them, at first those of the start.

    without_better: how many there were since the best.
    """

    weights: dict[str, Tensor]
    curve: list[Point] = field(default_factory=list)
    best_mm: float = math.inf
    without_better: int = 0

    def add(self, point: Point, judged: nn.Module) -> None:
        """Take in a validation of `judged`, whose weights are kept where it is the best so far."""
        self.curve.append(point)
        self.without_better += 1
        if point.validation_mm < self.best_mm:
            self.best_mm, self.weights, self.without_better = point.validation_mm, copied_state(judged), 0


@dataclass(frozen=True)
class TrainingState:
    """A training as a checkpoint holds it. same: what must be the same in the run that goes on with it."""

    checkpoint: Path
    same: Mapping[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: nn.Module | None
    validations: Validations

    def save(self, step: int, seconds: float, recent: Sequence[Tensor]) -> None:
        """Write the checkpoint after `step` iterations that took `seconds`.

        recent: the losses since the last validation.
        """
        found = self.validations
        state = {
            **self.same,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else {},
            "best_state": found.weights,
            "step": step,
            "best": found.best_mm,
            "without_better": found.without_better,
            "seconds": seconds,
            "recent": torch.stack(list(recent)) if recent else torch.zeros(0),
            "curve": [(p.iteration, p.loss, p.validation_mm, p.seconds) for p in found.curve],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files.write_bytes(self.checkpoint, buffer.getvalue())

    def resume(self, device: torch.device) -> tuple[int, float, list[Tensor]]:
        """Become what the checkpoint holds; what `save` was given, nothing without a checkpoint.

        Raises ChallengeError for the checkpoint of another run.
        """
        if not self.checkpoint.is_file():
            return 0, 0.0, []
        saved = torch.load(self.checkpoint, map_location=device, weights_only=True)
        if any(saved.get(key) != value for key, value in self.same.items()):
            raise ChallengeError(f"{self.checkpoint}: wanted the same settings, data and seed to resume, got others")
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(saved["averaged"])
        found = self.validations
        found.weights, found.best_mm, found.without_better = saved["best_state"], saved["best"], saved["without_better"]
        found.curve = [Point(*row) for row in saved["curve"]]
        return saved["step"], saved["seconds"], list(saved.get("recent", ()))


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model as they are now."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}
