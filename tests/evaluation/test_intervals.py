"""Every figure of a result has its interval, and it is the one of a plain bootstrap."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from landmark_evaluation import observers
from landmark_evaluation.metrics import success
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.scoring import evaluate_submission
from landmark_evaluation.statistics import draw_cases
from landmark_evaluation.uncertainty import UncertainPoints, summarise_uncertainty, uncertain_points_of

COVARIANCE = {name: np.diag([size, 1.0, 1.0]).tolist() for name, size in (("a", 0.2), ("b", 1.0), ("c", 3.0))}


@pytest.fixture
def evaluation(kit, points, tmp_path):
    return evaluate(kit, points, tmp_path)


def evaluate(kit, points, tmp_path, *, groups=None, twins=False):
    task = kit.task(observers=("one", "two"))
    generator = np.random.default_rng(4)
    points[1, 2] = points[4, 2] = np.nan
    raters = {name: points + generator.normal(0, 0.5, points.shape).round(1) for name in ("one", "two")}
    given = points + generator.normal(0, 1, points.shape)
    given[1, 2], given[2, 0] = 3.0, np.nan  # a false alarm and a missing one
    if twins:
        for each in (points, *raters.values(), given):
            each[3:] = each[:3]
    columns = {f"case{k}": {"scanner": "AB"[k % 3 % 2 if twins else k % 2]} for k in range(6)}
    data = kit.dataset(tmp_path / "data", task, {"reference": points, **raters}, columns=columns, groups=groups)
    kit.platform(tmp_path / "p", task, given, invoke_duration="PT0.5S", covariance=COVARIANCE)
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
    exact = (0.5, 0.5)
    assert found.runtime_s == found.runtime_warm_s == {"mean": exact, "median": exact, "p95": exact}
    assert found.runtime_cold_s is None and found.clinical is None


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
    pair = aggregates.observers.pairs[0]
    apart = observers.distances_mm(
        *(evaluation.reference.observer_mm(name) for name in pair.observers), evaluation.reference
    )
    assert pair.confidence.mre_mm["mean"] == drawn(np.nansum(apart, axis=1), np.isfinite(apart).sum(axis=1))


def samples(evaluation):
    """The cases of every resample, written down as often as they were drawn."""
    n_cases = len(evaluation.reference.cases)
    for draws in draw_cases(n_cases, resamples=300, seed=8):
        for weights in draws:
            yield np.repeat(np.arange(n_cases), weights.astype(int))


def span_of(evaluation, figure):
    """The interval of a plain figure of cases; a resample where it is None takes no part."""
    values = [figure(rows) for rows in samples(evaluation)]
    return pytest.approx(np.quantile([value for value in values if value is not None], [0.025, 0.975]), abs=1e-9)


def test_agreement_and_errors_relative_to_observers(evaluation):
    aggregates, reference = evaluation.metrics.aggregates, evaluation.reference
    given = evaluation.submission.points_mm
    for axis, name in enumerate("xyz"):
        for key in ("bias_mm", "sd_mm", "low_mm", "high_mm"):

            def plain(rows, key=key, name=name):
                drawn = replace(reference, points_mm=reference.points_mm[rows], assessed=reference.assessed[rows])
                return observers.bland_altman(given[rows], drawn.points_mm, drawn)[name][key]

            assert aggregates.confidence.bias[name][key] == span_of(evaluation, plain), (axis, key)
    people = [errors for _, _, errors in observers.scored_errors(reference)]
    found = aggregates.confidence.observers
    own = evaluation.scores.error_mm
    ceiling = [np.nanmean(np.stack([errors[rows] for errors in people])) for rows in samples(evaluation)]
    assert found.mean_mm == pytest.approx(np.quantile(ceiling, [0.025, 0.975]))
    ratios = [np.nanmean(own[rows]) / mean for rows, mean in zip(samples(evaluation), ceiling, strict=True)]
    assert found.relative_error == pytest.approx(np.quantile(ratios, [0.025, 0.975]))
    assert found.relative_error[0] < aggregates.observers.relative_error < found.relative_error[1]
    assert set(found.landmark_mean_mm) == set(aggregates.observers.landmark_mean_mm)


def test_the_area_under_the_roc(evaluation):
    reference, chance = evaluation.reference, evaluation.submission.probability

    def plain(rows):
        truth = evaluation.scores.scored[rows][reference.assessed[rows]]
        return None if truth.all() else roc_auc_score(truth, chance[rows][reference.assessed[rows]])

    assert evaluation.metrics.aggregates.confidence.presence["roc_area"] == span_of(evaluation, plain)


def test_every_figure_of_uncertainty(evaluation):
    found = evaluation.metrics.aggregates.confidence.uncertainty.model_dump(exclude_none=True)
    points = uncertain_points_of(evaluation.scores, evaluation.submission, evaluation.reference)

    def summary(rows):
        place = np.concatenate([np.flatnonzero(points.case == row) for row in rows])
        parts = (points.error_mm, points.offset_mm, points.covariance_mm2, points.case)
        return summarise_uncertainty(UncertainPoints(*(part[place] for part in parts)))

    drawn_figures = [summary(rows) for rows in samples(evaluation)]
    figures = [
        ("share_with_covariance",),
        ("pearson", "r"),
        ("spearman", "r"),
        ("sparsification_error",),
        ("coverage", "50"),
        ("coverage", "95"),
    ]
    for path in [*figures, ("ellipsoid_90_mm3", "mean"), ("ellipsoid_90_mm3", "median")]:
        value, values = found, drawn_figures
        for key in path:
            value, values = value[key], [each[key] for each in values]
        assert value == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-9), path


def test_every_figure_of_a_result_has_an_interval_but_counts_and_maxima(evaluation):
    value = evaluation.metrics.to_json()["aggregates"]
    confidence = value.pop("confidence")
    for section in ("n_missing", "n_false_alarms", "n_failures", "subgroups"):
        value.pop(section)
    for name in ("scored", "pairs"):
        for row in value["observers"].pop(name):
            assert set(row["confidence"]["mre_mm"]) == set(row["mre_mm"]) - {"max"}
    without = [path for path in leaves(value) if not is_count(path) and not has(confidence, path)]
    assert {path[-1] for path in without} <= {"max"}, without


def leaves(value, path=()):
    """The path of every number."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    else:
        yield path


def is_count(path):
    return path[-1].startswith("n_")


def has(value, path):
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return isinstance(value, list) and len(value) == 2


def test_every_interval_draws_groups(kit, points, tmp_path):
    # Two patients whose cases are the same: whichever a resample draws, nothing varies.
    found = evaluate(kit, points, tmp_path, groups={f"case{k}": "pq"[k // 3] for k in range(6)}, twins=True).metrics
    assert (found.protocol.n_cases, found.protocol.n_groups) == (6, 2)
    value = found.to_json()["aggregates"]
    rows = [*value["observers"]["scored"], *value["observers"]["pairs"], *value["subgroups"]]
    spans = {**value["confidence"], **{str(k): row["confidence"] for k, row in enumerate(rows)}}
    assert len(list(spans_in(spans))) > 100
    wide = {path: span for path, span in spans_in(spans) if span[0] != pytest.approx(span[1])}
    assert not wide


def test_a_single_group_has_no_interval(kit, points, tmp_path):
    found = evaluate(kit, points, tmp_path, groups={f"case{k}": "patient" for k in range(6)}).metrics
    value = found.to_json()["aggregates"]
    rows = [*value["observers"]["scored"], *value["observers"]["pairs"], *value["subgroups"]]
    assert found.protocol.n_groups == 1
    assert not list(spans_in({**value["confidence"], **{str(k): row["confidence"] for k, row in enumerate(rows)}}))


def test_a_landmark_of_one_case_has_no_interval(kit, points, tmp_path):
    points[1:, 0] = np.nan
    found = evaluate(kit, points, tmp_path).metrics.aggregates
    assert found.landmarks["a"].mre_mm.sd is None
    assert found.confidence.landmarks["a"].mre_mm == {} and found.confidence.landmarks["a"].sdr == {}
    assert found.confidence.landmarks["b"].mre_mm["mean"] and found.confidence.mre_mm["mean"]
    assert "a" not in found.confidence.observers.landmark_mean_mm


def spans_in(value, path=()):
    """The path and value of every interval."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from spans_in(part, (*path, key))
    else:
        yield path, value
