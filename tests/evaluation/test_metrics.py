from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark_evaluation import metrics


def score(predicted, reference, *, assessed=None, dimension=3, missing_error_mm=100.0):
    predicted, reference = np.array(predicted, float), np.array(reference, float)
    there = np.ones(predicted.shape[:2], bool) if assessed is None else np.array(assessed)
    return metrics.score_points(
        predicted, reference, assessed=there, dimension=dimension, missing_error_mm=missing_error_mm
    )


NAN = [np.nan] * 3


def test_distances_are_euclidean_in_3d_and_leave_z_out_in_2d():
    predicted, reference = [[[1.0, 2.0, 2.0]]], [[[0.0, 0.0, 0.0]]]
    assert score(predicted, reference).error_mm.tolist() == [[3.0]]
    assert score(predicted, reference, dimension=2).error_mm[0, 0] == pytest.approx(5**0.5, abs=1e-15)


def test_each_landmark_gets_the_state_its_presence_asks_for():
    reference = [[[0, 0, 0], [0, 0, 0], NAN, NAN, [0, 0, 0], NAN]]
    predicted = [[[3, 4, 0], NAN, [1, 1, 1], NAN, [1, 0, 0], [1, 1, 1]]]
    scores = score(predicted, reference, assessed=[[True, True, True, True, False, False]], missing_error_mm=30.0)
    assert scores.error_mm[0, :2].tolist() == [5.0, 30.0]
    assert np.isnan(scores.error_mm[0, 2:]).all()
    assert scores.missing.tolist() == [[False, True, False, False, False, False]]
    assert scores.false_alarm.tolist() == [[False, False, True, False, False, False]]
    assert scores.rejected.tolist() == [[False, False, False, True, False, False]]


def test_an_error_is_capped_so_that_leaving_a_point_out_never_pays():
    assert score([[[500.0, 0, 0]]], [[[0, 0, 0]]], missing_error_mm=30.0).error_mm.tolist() == [[30.0]]


@pytest.mark.parametrize(("tie", "counts"), [("strict", [0, 1, 1]), ("inclusive", [1, 2, 1])])
def test_ties_are_decided_by_the_rule_and_not_by_rounding(tie, counts):
    # 0.1 mm pixels: sqrt((0.1*12)^2 + (0.1*16)^2) is 2.0000000000000004 or 2.0 or 1.9999999999999998 by chance.
    offset = np.array([[12, 16], [7, 11], [5, 5]]) * 0.1
    errors = np.hypot(offset[:, 0], offset[:, 1])
    thresholds = [1.9, 2.0, 1.0]
    assert metrics.success(np.array([1.0, 1.2]), 1.0, tie=tie).sum() == counts[0]
    assert metrics.success(errors[:2], thresholds[1], tie=tie).sum() == counts[1]
    assert metrics.success(errors[2:], thresholds[2], tie=tie).sum() == counts[2]


@given(st.lists(st.tuples(st.integers(-60, 60), st.integers(-60, 60)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_success_counts_on_a_pixel_grid_equal_exact_rational_arithmetic(offsets):
    base = np.array([123.4, 77.7, 0.0])
    predicted = np.array([[[base[0] + 0.1 * x, base[1] + 0.1 * y, 0.0] for x, y in offsets]])
    errors = score(predicted, np.broadcast_to(base, predicted.shape), dimension=2).error_mm
    for threshold in (Fraction(2), Fraction(5, 2), Fraction(5)):
        squares = [Fraction(x * x + y * y, 100) for x, y in offsets]
        strict = sum(square < threshold**2 for square in squares)
        inclusive = sum(square <= threshold**2 for square in squares)
        assert metrics.success(errors, float(threshold), tie="strict").sum() == strict
        assert metrics.success(errors, float(threshold), tie="inclusive").sum() == inclusive


def test_summary_is_what_textbook_formulas_give():
    errors = np.array([[1.0, 2.0, np.nan], [4.0, 9.0, np.nan]])
    found = metrics.summarise_errors(errors)
    assert found["mean"] == 4.0
    assert found["sd"] == pytest.approx(((9 + 4 + 0 + 25) / 3) ** 0.5)
    assert found["median"] == 3.0
    assert (found["q25"], found["q75"], found["iqr"]) == (1.75, 5.25, 3.5)
    assert found["rms"] == pytest.approx(((1 + 4 + 16 + 81) / 4) ** 0.5)
    assert found["p95"] == pytest.approx(4 + 0.85 * 5)
    assert found["max"] == 9.0


def test_one_point_has_no_sd_and_no_point_no_summary():
    assert "sd" not in metrics.summarise_errors(np.array([2.0]))
    with pytest.raises(ValueError, match="no error"):
        metrics.summarise_errors(np.array([np.nan]))


def test_runtime_leaves_cases_that_were_not_timed_out():
    found = metrics.summarise_runtime(np.array([1.0, np.nan, 3.0]))
    assert found == {"mean": 2.0, "median": 2.0, "p95": pytest.approx(2.9), "max": 3.0}
    assert metrics.summarise_runtime(np.array([np.nan])) is None


POINTS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(0, 20, (2, 5, 4, 3)))


@given(POINTS, st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_laws_of_every_score(pair, seed):
    predicted, reference = pair
    plain = score(predicted, reference, missing_error_mm=1e6).error_mm
    order = np.random.default_rng(seed).permutation(5)
    shuffled = score(predicted[order], reference[order], missing_error_mm=1e6).error_mm
    assert np.array_equal(shuffled, plain[order]), "the order of cases does not matter"
    assert np.allclose(score(reference, predicted, missing_error_mm=1e6).error_mm, plain), "a distance is symmetric"
    assert np.allclose(score(3 * predicted, 3 * reference, missing_error_mm=1e6).error_mm, 3 * plain), "it scales"
    assert (score(reference, reference).error_mm == 0).all(), "perfect is best"
    rates = metrics.success_rates(plain, [1.0, 2.0, 10.0, 1e5], tie="strict")
    assert rates == sorted(rates) and rates[-1] == 1.0, "success grows with the threshold"


def test_hits_and_false_alarms_agree_with_grand_challenge_metrics():
    # An independent count: each landmark of each case is one target of a detection task, found within the threshold.
    scorers = pytest.importorskip("grand_challenge_metrics.scorers")
    generator = np.random.default_rng(12)
    reference = generator.uniform(-50, 50, (8, 5, 3))
    predicted = reference + generator.normal(0, 1.5, reference.shape)
    reference[generator.random((8, 5)) < 0.2] = np.nan
    predicted[generator.random((8, 5)) < 0.2] = np.nan
    found, threshold_mm = score(predicted, reference), 2.0
    hits = misses = alarms = 0
    for case in range(8):
        for landmark in range(5):
            truth, guess = reference[case, landmark], predicted[case, landmark]
            counts = scorers.score_detection(
                ground_truth=[] if np.isnan(truth).any() else [truth],
                predictions=[] if np.isnan(guess).any() else [guess],
                radius=threshold_mm,
            )
            hits, misses = hits + counts.true_positives, misses + counts.false_negatives
            alarms += counts.false_positives
    success = metrics.success(found.error_mm, threshold_mm, tie="inclusive")
    far = found.scored & ~found.missing & ~success
    assert (hits, misses) == (success.sum(), (found.scored & ~success).sum())
    assert alarms == found.false_alarm.sum() + far.sum() and found.false_alarm.any() and far.any()
