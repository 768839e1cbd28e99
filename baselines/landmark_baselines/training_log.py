"""What a training tells: progress with the time left, its curve as CSV and, where installed, as TensorBoard events."""

import csv
import io
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landmark_challenge import files


@dataclass(frozen=True)
class Point:
    """One point of a training curve; validation_mm is the mean radial error of the validation cases."""

    iteration: int
    loss: float
    validation_mm: float
    seconds: float


def report(text: str) -> None:
    """A plain line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)


class TrainingLog:
    """Progress of a stage: one line that renews itself on a terminal, plain lines elsewhere; its curve in files.

    folder/<stage>.csv holds the curve, folder/tensorboard/<stage> the same for TensorBoard; resumed runs go on.
    """

    def __init__(self, folder: Path, stage: str, total: int, *, resumed: int = 0) -> None:
        self.stage, self.total = stage, total
        self.curve = folder / f"{stage}.csv"
        self.events = _event_writer(folder / "tensorboard" / stage, resumed)

    def show(self, done: int, loss: float, seconds_each: float) -> None:
        """How far the training is."""
        left = seconds_each * (self.total - done)
        rate = f"{1 / seconds_each:.1f} it/s" if seconds_each < 1 else f"{seconds_each:.1f} s/it"
        text = f"{self.stage}: {done}/{self.total}  loss {loss:.4f}  {rate}  {_clock(left)} left"
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        else:
            report(text)

    def validated(self, curve: Sequence[Point], best: float, *, learning_rate: float) -> None:
        """A validation, the last point of the curve."""
        point = curve[-1]
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        report(
            f"{self.stage}: {point.iteration}/{self.total}  training loss {point.loss:.4f}  "
            f"validation {point.validation_mm:.3f} mm (best {best:.3f})  {_clock(point.seconds)} so far"
        )
        _write_curve(self.curve, curve)
        if self.events is not None:
            values = {"loss": point.loss, "validation_mm": point.validation_mm, "learning_rate": learning_rate}
            for name, value in values.items():
                if math.isfinite(value):
                    self.events.add_scalar(name, value, point.iteration)
            self.events.flush()

    def close(self) -> None:
        """The stage is over."""
        if self.events is not None:
            self.events.close()


def _event_writer(folder: Path, resumed: int) -> Any:
    """TensorBoard's writer, None where it is not installed; events after `resumed` of a broken run are taken back."""
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=resumed + 1 if resumed else None)
    return None


def _write_curve(path: Path, curve: Sequence[Point]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["iteration", "loss", "validation_mm", "seconds"])
    table.writerows([p.iteration, f"{p.loss:.6f}", f"{p.validation_mm:.4f}", f"{p.seconds:.1f}"] for p in curve)
    files.write_text(path, text.getvalue())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
