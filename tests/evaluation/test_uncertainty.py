import numpy as np
import pytest
from scipy import stats

from landmark_evaluation.results import Uncertainty
from landmark_evaluation.uncertainty import (
    UncertainPoints,
    ellipsoid_size,
    sparsification,
    summarise_uncertainty,
    uncertain_points,
    uncertainty_intervals,
)


def honest(n=20_000, *, dimension=3, claim=1.0, seed=0):
    """Errors drawn from covariances that differ from point to point, announced `claim` times too large."""
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(n, dimension, dimension)) * generator.uniform(0.3, 3, (n, 1, 1))
    covariance = factor @ factor.transpose(0, 2, 1)
    offset = np.einsum("nij,nj->ni", factor, generator.normal(size=(n, dimension)))
    return UncertainPoints(np.linalg.norm(offset, axis=1), offset, covariance * claim**2, np.arange(n) // 4)


@pytest.mark.parametrize("dimension", [2, 3])
def test_honest_covariances_cover_what_they_say(dimension):
    coverage = summarise_uncertainty(honest(dimension=dimension))["coverage"]
    for level, share in coverage.items():
        assert share == pytest.approx(int(level) / 100, abs=0.012)


def test_too_small_covariances_cover_too_little():
    assert summarise_uncertainty(honest(claim=0.3))["coverage"]["90"] < 0.3


def test_correlations_are_scipys_of_the_announced_error():
    points = honest(500)
    found = summarise_uncertainty(points)
    announced = np.sqrt(np.trace(points.covariance_mm2, axis1=1, axis2=2))
    assert found["pearson"]["r"] == pytest.approx(stats.pearsonr(announced, points.error_mm)[0])
    assert found["spearman"]["r"] == pytest.approx(stats.spearmanr(announced, points.error_mm)[0])


def test_no_p_value_takes_points_of_one_case_as_independent():
    found = summarise_uncertainty(honest(200))
    assert set(found["pearson"]) == set(found["spearman"]) == {"r"}
    # A chance correlation of twenty cases, each of ten points that share spread and error.
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        spread, error = np.repeat(generator.uniform(1, 2, (2, 20)), 10, axis=1)
        offset = np.stack([error, np.zeros(200), np.zeros(200)], axis=1)
        points = UncertainPoints(error, offset, spread[:, None, None] ** 2 * np.eye(3), np.repeat(np.arange(20), 10))
        spans = uncertainty_intervals(points, n_cases=20, resamples=200, seed=0)
        hits += spans["pearson"]["r"][0] <= 0 <= spans["pearson"]["r"][1]
    assert hits >= 88, "an interval over points would miss zero in half of the cases"


def test_results_with_a_p_value_still_read():
    found = Uncertainty.model_validate({"n_points": 20, "pearson": {"r": 0.5, "p": 0.01}, "coverage": {"50": 0.5}})
    assert found.pearson.model_dump() == {"r": 0.5}


def test_the_ellipsoid_of_independent_axes_is_the_one_of_the_loc_net_paper():
    sd = np.array([1.0, 2.0, 3.0])
    expected = 4 / 3 * np.pi * 6.251388631170325**1.5 * sd.prod()
    assert ellipsoid_size(np.diag(sd**2)[None], stats.chi2.ppf(0.9, 3))[0] == pytest.approx(expected)
    assert ellipsoid_size(np.diag(sd[:2] ** 2)[None], 1.0)[0] == pytest.approx(np.pi * 2)


def test_a_perfect_order_has_no_sparsification_error_and_a_reversed_one_a_large():
    error = np.linspace(0.1, 5, 100)
    offset = np.zeros((100, 3))
    offset[:, 0] = error
    sure = np.einsum("n,ij->nij", error**2, np.eye(3))
    perfect, reversed_ = (
        UncertainPoints(error, offset, matrices, np.arange(len(error))) for matrices in (sure, sure[::-1])
    )
    assert summarise_uncertainty(perfect)["sparsification_error"] == pytest.approx(0, abs=1e-12)
    assert summarise_uncertainty(reversed_)["sparsification_error"] > 0.4
    left, ideal = sparsification(perfect)
    assert left[0] == pytest.approx(error.mean()) and left[-1] == pytest.approx(error[:5].mean())
    assert np.array_equal(left, ideal)


def test_the_order_of_cases_tells_nothing_where_uncertainty_is_equal():
    generator = np.random.default_rng(1)
    offset = generator.normal(size=(200, 3)) * np.repeat([0.3, 1.0], 100)[:, None]
    error = np.linalg.norm(offset, axis=1)
    found = []
    for order in (np.arange(200), np.arange(200)[::-1], generator.permutation(200)):
        points = UncertainPoints(error[order], offset[order], np.repeat(np.eye(3)[None], 200, axis=0), np.arange(200))
        found.append(summarise_uncertainty(points)["sparsification_error"])
        left, ideal = sparsification(points)
        assert left == pytest.approx(np.full(20, error.mean()))
        assert ideal == pytest.approx([np.sort(error)[: 200 - 10 * k].mean() for k in range(20)])
    assert found == pytest.approx([found[0]] * 3)


def test_some_of_equally_uncertain_points_are_kept_by_their_mean():
    error = np.arange(1.0, 11.0)
    spread = np.repeat([1.0, 2.0], [4, 6])
    points = UncertainPoints(error, np.zeros((10, 3)), spread[:, None, None] * np.eye(3), np.arange(10))
    left, _ = sparsification(points)
    # 2 of the 4 sure points (mean 2.5); all 4 and 2 of the 6 others (mean 7.5).
    assert left[16] == pytest.approx(2.5) and left[8] == pytest.approx((4 * 2.5 + 2 * 7.5) / 6)


def test_keeping_quiet_about_hard_points_does_not_pay():
    generator = np.random.default_rng(0)
    sd = generator.choice([0.3, 3.0], (60, 10, 1))
    offset = generator.normal(size=(60, 10, 3)) * sd
    error = np.linalg.norm(offset, axis=2)
    everywhere = np.broadcast_to(0.09 * np.eye(3), (60, 10, 3, 3))
    easy = np.where((sd < 1)[..., None], everywhere, np.nan)
    whole, part = (uncertain_points(error, offset, given, dimension=3) for given in (everywhere, easy))
    found, full = summarise_uncertainty(part), summarise_uncertainty(whole)
    assert full["share_with_covariance"] == 1.0 and found["share_with_covariance"] == np.mean(sd < 1)
    assert all(found["coverage"][level] <= full["coverage"][level] for level in full["coverage"])
    assert found["coverage"]["95"] == pytest.approx(0.95 * np.mean(sd < 1), abs=0.03)
    spans = uncertainty_intervals(part, n_cases=60, resamples=200, seed=0)
    for key in ("coverage", "share_with_covariance"):
        low, high = spans[key]["95"] if key == "coverage" else spans[key]
        assert low < (found[key]["95"] if key == "coverage" else found[key]) < high < 1


def test_a_claim_of_exactness_is_covered_by_exactness_alone():
    offset = np.zeros((20, 3))
    offset[10:, 0] = 0.1
    points = UncertainPoints(np.linalg.norm(offset, axis=1), offset, np.zeros((20, 3, 3)), np.arange(20))
    assert summarise_uncertainty(points)["coverage"]["95"] == 0.5
    assert "pearson" not in summarise_uncertainty(points), "a constant has no correlation"


def test_points_without_a_covariance_are_counted_apart_and_too_few_make_no_section():
    covariance = np.full((5, 4, 3, 3), np.nan)
    offset, error = np.ones((5, 4, 3)), np.full((5, 4), 3**0.5)
    assert uncertain_points(error, offset, covariance, dimension=3) is None
    covariance[:4, :3] = np.eye(3)
    found = uncertain_points(error, offset, covariance, dimension=2)
    assert found.offset_mm.shape == (12, 2) and found.bare_case.tolist() == [0, 1, 2, 3, *[4] * 4]
