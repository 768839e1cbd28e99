"""Every mean and rate of a result has its interval, and it is the one of a plain bootstrap."""

import numpy as np
import pytest

from landmark_evaluation.metrics import success
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.scoring import evaluate_submission
from landmark_evaluation.statistics import draw_cases


@pytest.fixture
def evaluation(kit, points, tmp_path):
    task = kit.task(observers=("one", "two"))
    generator = np.random.default_rng(4)
    points[1, 2] = points[4, 2] = np.nan
    raters = {name: points + generator.normal(0, 0.5, points.shape).round(1) for name in ("one", "two")}
    columns = {f"case{k}": {"scanner": "AB"[k % 2]} for k in range(6)}
    data = kit.dataset(tmp_path / "data", task, {"reference": points, **raters}, columns=columns)
    given = points + generator.normal(0, 1, points.shape)
    given[1, 2], given[2, 0] = 3.0, np.nan  # a false alarm and a missing one
    kit.platform(tmp_path / "p", task, given, invoke_duration="PT0.5S")
    truth = open_reference(data.folder)
    return evaluate_submission(read_submission(tmp_path / "p", truth), truth, resamples=300, seed=8)


def drawn(numerator, denominator):
    """The interval of a ratio of sums, one resample at a time."""
    values = []
    for draws in draw_cases(len(numerator), resamples=300, seed=8):
        for weights in draws:
            below = float(weights @ denominator)
            if below:
                values.append(float(weights @ numerator) / below)
    return pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_presence_area_and_run_time(evaluation):
    found, scores = evaluation.metrics.aggregates.confidence, evaluation.scores
    count = scores.scored.sum(axis=1)
    area = np.where(scores.scored, np.maximum(0, 1 - np.nan_to_num(scores.error_mm) / 4.0), 0).sum(axis=1)
    assert found.success_curve_area == drawn(area, count)
    assert found.presence["sensitivity"] == drawn(count - scores.missing.sum(axis=1), count)
    absent = scores.rejected.sum(axis=1) + scores.false_alarm.sum(axis=1)
    assert found.presence["specificity"] == drawn(scores.rejected.sum(axis=1), absent)
    assert found.runtime_s == {"mean": (0.5, 0.5)} and found.clinical is None


def test_subgroups_and_observers(evaluation):
    aggregates, error = evaluation.metrics.aggregates, evaluation.scores.error_mm
    groups = {row.value: row for row in aggregates.subgroups}
    assert set(groups) == {"A", "B"}
    inside = (np.arange(6) % 2 == 0)[:, None] & np.isfinite(error)
    hit = inside & success(error, 2.0, tie="strict")
    assert groups["A"].confidence.mre_mm["mean"] == drawn(np.where(inside, error, 0).sum(axis=1), inside.sum(axis=1))
    assert groups["A"].confidence.sdr["2_0mm"] == drawn(hit.sum(axis=1), inside.sum(axis=1))
    for person in aggregates.observers.scored:
        low, high = person.confidence.mre_mm["mean"]
        assert low < person.mre_mm.mean < high
