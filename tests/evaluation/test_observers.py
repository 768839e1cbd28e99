import numpy as np
import pytest

from landmark_evaluation.observers import score_observers, score_pairs
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.scoring import evaluate_submission


@pytest.fixture
def truth(kit, points, tmp_path):
    raters = {
        "rater1-1": points,
        "rater1-2": points + [0.5, 0, 0],
        "other": points + [3.0, 4.0, 0],
    }
    raters["other"] = raters["other"].copy()
    raters["other"][0] = np.nan  # did not see anything in the first case
    task = kit.task(observers=("rater1-1",))
    kit.dataset(tmp_path / "data", task, raters)
    return open_reference(tmp_path / "data")


def test_every_observer_is_scored_and_every_pair_compared(truth):
    rows = {row["observer"]: row for row in score_observers(truth)}
    assert rows["rater1-2"]["mre_mm"]["mean"] == pytest.approx(0.5)
    assert rows["other"]["n_cases"] == 5 and rows["other"]["mre_mm"]["mean"] == pytest.approx(5.0)
    pairs = {tuple(row["observers"]): row for row in score_pairs(truth)}
    assert pairs["rater1-1", "rater1-2"]["kind"] == "intra"
    assert pairs["other", "rater1-1"]["kind"] == "inter"
    agreement = pairs["other", "rater1-2"]["agreement"]
    assert agreement["x"]["bias_mm"] == pytest.approx(2.5)
    assert agreement["y"]["bias_mm"] == pytest.approx(4.0)
    assert agreement["z"]["low_mm"] == pytest.approx(0.0)


def test_bland_altman_is_the_textbook_one(kit, points, tmp_path):
    other = points + np.random.default_rng(0).normal(0.3, 1.0, points.shape)
    kit.dataset(tmp_path / "data", kit.task(observers=("a",)), {"a": points, "b": other})
    found = score_pairs(open_reference(tmp_path / "data"))[0]["agreement"]["y"]
    difference = (points - other)[..., 1].ravel()
    sd = np.sqrt(((difference - difference.mean()) ** 2).sum() / (difference.size - 1))
    assert found["bias_mm"] == pytest.approx(difference.mean())
    assert found["high_mm"] == pytest.approx(difference.mean() + 1.96 * sd)


def test_a_method_is_measured_against_people(kit, points, truth, tmp_path):
    submission = read_submission(kit.plain(tmp_path / "p", truth.task, points + [1.0, 0, 0]), truth)
    found = evaluate_submission(submission, truth).metrics.aggregates.observers
    # 18 points of 0.5 mm and 15 of 5 mm; rater1-1 is the reference itself and takes no part.
    assert found.mean_mm == pytest.approx((18 * 0.5 + 15 * 5) / 33)
    assert found.relative_error == pytest.approx(1 / found.mean_mm)


def test_a_consensus_is_scored_without_the_rater_and_all_their_sessions(kit, points, tmp_path):
    raters = {
        "rater1-1": points,
        "rater1-2": points + [1.0, 0, 0],
        "rater2-1": points + [4.0, 0, 0],
        "rater3-1": points + [8.0, 0, 0],
    }
    raters["rater3-1"][:2] = np.nan
    raters["rater2-1"][0] = np.nan
    consensus = np.nanmean(list(raters.values()), axis=0)
    kit.dataset(tmp_path / "data", kit.task(observers=("consensus",)), {**raters, "consensus": consensus})
    truth = open_reference(tmp_path / "data")
    assert truth.members == ("rater1-1", "rater1-2", "rater2-1", "rater3-1")
    rows = {row["observer"]: row for row in score_observers(truth)}
    assert set(rows) == set(raters)
    # The first case was marked by rater1 alone, the second by rater2 as well, the other four by all.
    assert rows["rater1-1"]["n_cases"] == 5
    assert rows["rater1-1"]["mre_mm"]["mean"] == pytest.approx((4 + 4 * 6) / 5)
    assert rows["rater3-1"]["mre_mm"]["mean"] == pytest.approx(8 - (0 + 1 + 4) / 3)
    found = evaluate_submission(read_submission(tmp_path / "data/landmarks/rater1-1", truth), truth).metrics
    assert (found.protocol.left_out, found.protocol.reference) == ("rater1-1", "consensus of the others")
    assert found.aggregates.mre_mm.mean == pytest.approx((4 + 4 * 6) / 5)
    assert {tuple(row["observers"]) for row in score_pairs(truth) if row["kind"] == "intra"} == {
        ("rater1-1", "rater1-2")
    }
