import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from landmark_evaluation.metrics import score_points
from landmark_evaluation.presence import roc_area, summarise_presence


@pytest.mark.parametrize("seed", range(5))
def test_the_area_under_the_roc_is_what_scikit_learn_finds(seed):
    generator = np.random.default_rng(seed)
    truth = generator.random(200) < 0.7
    chance = np.round(generator.random(200) * 0.6 + 0.3 * truth, 1)  # many ties
    assert roc_area(chance[truth], chance[~truth]) == pytest.approx(roc_auc_score(truth, chance), abs=1e-12)


def test_the_four_outcomes_are_counted_over_assessed_landmarks():
    nan = np.nan
    reference = np.array([[[0.0] * 3, [0.0] * 3, [nan] * 3, [nan] * 3, [nan] * 3]])
    predicted = np.array([[[0.0] * 3, [nan] * 3, [1.0] * 3, [nan] * 3, [1.0] * 3]])
    assessed = np.array([[True, True, True, True, False]])
    scores = score_points(predicted, reference, assessed=assessed, dimension=3, missing_error_mm=9.0)
    found = summarise_presence(scores, np.array([[0.9, 0.4, 0.6, 0.1, 0.9]]), assessed=assessed)
    assert found == {
        "n_present": 2,
        "n_absent": 2,
        "n_missing": 1,
        "n_false_alarms": 1,
        "n_rejected": 1,
        "sensitivity": 0.5,
        "specificity": 0.5,
        "roc_area": 0.75,
    }


def test_rates_that_do_not_exist_are_left_out():
    points = np.zeros((2, 2, 3))
    everywhere = np.ones((2, 2), bool)
    scores = score_points(points, points, assessed=everywhere, dimension=3, missing_error_mm=9.0)
    found = summarise_presence(scores, np.ones((2, 2)), assessed=everywhere)
    assert found["sensitivity"] == 1.0 and "specificity" not in found and "roc_area" not in found
