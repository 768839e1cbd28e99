"""Spans add up, count for themselves alone, and do nothing when nobody measures."""

import threading
import time

import pytest

from landmark_baselines.stopwatch import measured, span


def _busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_a_span_counts_without_those_inside_it() -> None:
    begun = time.perf_counter()
    with measured() as watch:
        with span("network"):
            _busy(0.02)
            with span("decode"):
                _busy(0.01)
            with span("network"):
                _busy(0.01)
        _busy(0.01)
        with span("write"):
            _busy(0.01)
    whole = time.perf_counter() - begun
    assert set(watch.seconds) == {"network", "decode", "write"}
    assert watch.seconds["network"] >= 0.03 and watch.seconds["decode"] >= 0.01 and watch.seconds["write"] >= 0.01
    assert sum(watch.seconds.values()) <= whole - 0.01


def test_an_error_ends_the_span() -> None:
    with measured() as watch:
        with pytest.raises(ValueError, match="inside"), span("network"):
            raise ValueError("inside")
        before = dict(watch.seconds)
        _busy(0.005)
        with span("write"):
            pass
    assert watch.seconds["network"] == before["network"]


def test_nothing_is_counted_when_nobody_measures_or_in_another_thread() -> None:
    with span("network"):
        pass
    with measured() as watch:
        other = threading.Thread(target=lambda: span("network").__enter__())
        other.start()
        other.join()
    assert watch.seconds == {}
    with span("network"):
        pass
    assert watch.seconds == {}
