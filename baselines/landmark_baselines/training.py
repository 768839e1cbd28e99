"""The training loop of every method: Lightning Fabric, mixed precision, averaged weights, checkpoints, resume.

Randomness is a function of the seed and a case's position in the order of training, so that a resumed run continues the
same curve, and several processes see what one would.
"""

import copy
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from landmark_challenge.errors import ChallengeError

from .blocks import compute_type
from .compilation import compiled
from .training_log import Point, TrainingLog, report
from .training_state import TrainingState, Validations, copied_state

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT_EVERY_S = 120.0
REPORT_EVERY_S = 15.0


@dataclass(frozen=True)
class Schedule:
    """How one network is trained. warm_up and the learning rate follow `policy`.

    policy: `constant`, or `one-cycle` (linear rise over the first `warm_up` share, then a cosine to 0). average: decay
    of the exponential moving average of the weights, 0 for none. validate_every: iterations; the first validation comes
    after a tenth of that, so that a mistake shows early. patience: validations without a better one before stopping,
    0 for never. momentum: Nesterov's, in stochastic gradient descent, whose weight decay is part of the gradient; rho:
    of AdaDelta, the decay of its averages; both 0 for AdamW. compile: by torch.compile, where that works; it takes a
    minute.
    """

    iterations: int
    batch: int
    learning_rate: float
    policy: Literal["constant", "one-cycle"] = "constant"
    warm_up: float = 0.1
    weight_decay: float = 0.0
    gradient_norm: float = 0.0
    average: float = 0.0
    validate_every: int = 1000
    patience: int = 0
    momentum: float = 0.0
    rho: float = 0.0
    compile: bool = False


def one_cycle(schedule: Schedule, *, gradient_norm: float = 5.0) -> Schedule:
    """The schedule by which the kit's own presets train: one cycle, a little weight decay, bounded gradients."""
    return replace(schedule, policy="one-cycle", weight_decay=1e-4, gradient_norm=gradient_norm)


@dataclass(frozen=True)
class Step:
    """One step of training as one of `world` processes sees it."""

    number: int
    rank: int = 0
    world: int = 1

    def positions(self, batch: int) -> list[int]:
        """Where the cases of this process's share of the global `batch` stand in the order of training."""
        return list(range(self.number * batch + self.rank, (self.number + 1) * batch, self.world))


def cases_at(positions: Sequence[int], count: int, *, seed: int) -> Tensor:
    """(B,) indices of the cases at `positions` of an endless order: one permutation of `count` cases after another."""
    orders: dict[int, Tensor] = {}
    chosen = []
    for position in positions:
        epoch, offset = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 9_176_731 + epoch))
        chosen.append(orders[epoch][offset])
    return torch.stack(chosen)


def launch(device: str, *, devices: int = 1, nodes: int = 1, deterministic: bool = False) -> "Fabric":
    """Start the processes of data-parallel training (this one alone by default); call it once, before anything else."""
    from lightning_fabric import Fabric  # here, because a container that only localizes does without it

    where = torch.device(device)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    torch.use_deterministic_algorithms(deterministic)
    if where.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not deterministic
    fabric = Fabric(
        accelerator="cuda" if where.type == "cuda" else "cpu",
        devices=[where.index] if devices == 1 and where.index is not None else devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=precision_for(where),
    )
    fabric.launch()
    return fabric


def precision_for(device: torch.device) -> Any:
    """Fabric's name for mixed precision in the device's own fast type."""
    names = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed", torch.float32: "32-true"}
    return names[compute_type(device)]


def learning_rate_at(schedule: Schedule, step: int) -> float:
    """The learning rate of a step."""
    if schedule.policy == "constant":
        return schedule.learning_rate
    if schedule.policy != "one-cycle":
        raise ChallengeError(f"policy: wanted constant or one-cycle, got '{schedule.policy}'")
    rise = max(1, round(schedule.warm_up * schedule.iterations))
    if step < rise:
        return schedule.learning_rate * (step + 1) / rise
    share = (step - rise) / max(1, schedule.iterations - rise)
    return schedule.learning_rate * (1 + math.cos(math.pi * share)) / 2


def fit(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Step], Tensor],
    *,
    fabric: "Fabric",
    validate: Callable[[nn.Module], float],
    schedule: Schedule,
    folder: Path,
    stage: str,
    seed: int,
    resume: bool = False,
    fingerprint: str = "",
) -> list[Point]:
    """Train `model` in place; it ends with the weights of the best validation.

    loss_of(model, step) draws its own share of the batch. validate(model) gives the mean radial error in mm; one that
    is not finite could choose no weights and stops the training. The state of a run lies in folder/<stage>.checkpoint,
    its curve where TrainingLog says; `resume` takes both up again, and a stage that was finished is not trained again.
    fingerprint: of `fingerprint_of`, kept in the checkpoint; a run of another one is refused, as are other schedules
    and seeds.
    """
    if schedule.batch % fabric.world_size:
        raise ChallengeError(f"batch: wanted a multiple of {fabric.world_size} processes, got {schedule.batch}")
    main = fabric.global_rank == 0
    network = compiled(model, fabric.device) if schedule.compile else model
    trained, optimizer = fabric.setup(network, _optimizer(model, schedule))
    averaged = copy.deepcopy(model) if schedule.average > 0 else None
    judged = averaged if averaged is not None else model
    found = Validations(copied_state(model))
    same = {"schedule": asdict(schedule), "seed": seed, "fingerprint": fingerprint}
    state = TrainingState(folder / f"{stage}.checkpoint", same, model, optimizer, averaged, found)
    start, spent, recent = state.resume(fabric.device) if resume else (0, 0.0, [])
    if main and start:
        report(f"{stage}: resumed at iteration {start} of {schedule.iterations}")
    begun = saved_at = reported_at = time.monotonic()
    log = TrainingLog(folder, stage, schedule.iterations, resumed=start) if main else None
    first = max(1, schedule.validate_every // 10)
    model.train()
    with _stop_on_signal() as stopped:
        for step in range(start, schedule.iterations):
            torch.manual_seed(seed * 1_000_003 + step)
            loss = _learn(trained, optimizer, loss_of, schedule, step, fabric)
            if averaged is not None:
                _average(averaged, model, min(schedule.average, (step + 1) / (step + 10)))
            recent.append(loss)
            done = step + 1
            now = time.monotonic()
            if done % schedule.validate_every == 0 or done in (first, schedule.iterations):
                mean_loss = float(torch.stack(recent).mean())
                error_mm = _judge(judged, validate, mean_loss, f"{stage}: iteration {done}", fabric)
                model.train()
                recent.clear()
                found.add(Point(done, mean_loss, error_mm, spent + time.monotonic() - begun), judged)
                if log is not None:
                    log.validated(found.curve, found.best_mm, learning_rate=learning_rate_at(schedule, step))
            if log is not None and (now - reported_at > REPORT_EVERY_S or done == schedule.iterations):
                reported_at = now
                log.show(done, float(loss), (now - begun) / (done - start))
            if stopped() or now - saved_at > CHECKPOINT_EVERY_S:
                saved_at = now
                if main:
                    state.save(done, spent + time.monotonic() - begun, recent)
                if stopped():
                    raise KeyboardInterrupt
            if schedule.patience and found.without_better >= schedule.patience:
                report(f"{stage}: stopped at iteration {done}, no better validation in {found.without_better}")
                break
    if log is not None:
        log.close()
    model.load_state_dict(found.weights)
    model.eval()
    if main:  # so that a method of several stages resumes after this one
        state.save(schedule.iterations, spent + time.monotonic() - begun, recent)
    fabric.barrier()
    return found.curve


def _learn(
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[nn.Module, Step], Tensor],
    schedule: Schedule,
    step: int,
    fabric: "Fabric",
) -> Tensor:
    """One step of the optimizer; the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(schedule, step)
    # Not under autocast: the wrapped network enters it by itself, and positions need all of float32.
    loss = loss_of(trained, Step(step, fabric.global_rank, fabric.world_size))
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    if schedule.gradient_norm > 0:
        fabric.clip_gradients(trained, optimizer, max_norm=schedule.gradient_norm, error_if_nonfinite=False)
    optimizer.step()
    return loss.detach()


def _judge(
    model: nn.Module, validate: Callable[[nn.Module], float], mean_loss: float, where: str, fabric: "Fabric"
) -> float:
    """The validation error in mm, of all processes that of the first. Raises ChallengeError where there is none.

    Theirs may differ by rounding, and with it what is the best and when patience ends.
    """
    if not math.isfinite(mean_loss):
        raise ChallengeError(f"{where}: the loss is not finite; lower the learning rate")
    error_mm = float(fabric.broadcast(validate(model)))
    if not math.isfinite(error_mm):
        raise ChallengeError(
            f"{where}: the validation error is not finite: no landmark is known in a validation case, or the network "
            "finds points that are not finite"
        )
    return error_mm


def _optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.momentum > 0:
        return torch.optim.SGD(
            model.parameters(), lr=rate, momentum=schedule.momentum, weight_decay=decay, nesterov=True, fused=True
        )
    if schedule.rho > 0:
        return torch.optim.Adadelta(model.parameters(), lr=rate, rho=schedule.rho, weight_decay=decay)
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)


def clear_checkpoints(folder: Path) -> None:
    """Remove the states of finished stages, once the model folder is written."""
    for path in folder.glob("*.checkpoint"):
        path.unlink(missing_ok=True)


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    targets, sources = averaged.state_dict(), model.state_dict()
    floats = [key for key, value in targets.items() if value.is_floating_point()]
    torch._foreach_lerp_([targets[key] for key in floats], [sources[key] for key in floats], 1 - decay)
    for key, value in targets.items():
        if not value.is_floating_point():
            value.copy_(sources[key])


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and Ctrl-C into a flag, so that a checkpoint is written at the end of the step."""
    seen: list[int] = []
    try:
        before = {name: signal.signal(name, lambda number, _: seen.append(number)) for name in _STOP_SIGNALS}
    except ValueError:  # not in the main thread: whoever runs us handles signals
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def set_threads() -> None:
    """Use the cores this process may run on (PyTorch counts the machine's), or as many as OMP_NUM_THREADS says."""
    if os.environ.get("OMP_NUM_THREADS"):
        return  # one of several workers on this machine
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, available))
