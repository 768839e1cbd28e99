"""Logs of a training: the CSV is tested with the loop, here TensorBoard's events and running without it."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from landmark_baselines.training_log import Point, TrainingLog

CURVE = [Point(10, 2.0, 5.0, 1.0), Point(20, 1.5, float("nan"), 2.0)]


def _written(folder: Path, *, resumed: int = 0) -> TrainingLog:
    log = TrainingLog(folder, "demo", 100, resumed=resumed)
    for count in (1, 2):
        log.validated(CURVE[:count], 5.0, learning_rate=0.1 / count)
    log.close()
    return log


def test_without_tensorboard_the_csv_is_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert _written(tmp_path).events is None
    assert [path.name for path in tmp_path.iterdir()] == ["demo.csv"]
    assert (tmp_path / "demo.csv").read_text().splitlines()[1:] == ["10,2.000000,5.0000,1.0", "20,1.500000,nan,2.0"]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _written(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "demo"))
    events.Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found == {
        "loss": [(10, 2.0), (20, 1.5)],
        "validation_mm": [(10, 5.0)],  # a curve has no place for a value that is not a number
        "learning_rate": [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))],
    }
