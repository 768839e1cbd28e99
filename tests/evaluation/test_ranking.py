import numpy as np
import pytest
from scipy import stats

from landmark_evaluation import ranking


def case_means(n_cases=40, shifts=(0.0, 0.1, 0.6), seed=0):
    generator = np.random.default_rng(seed)
    common = generator.gamma(3, 0.4, n_cases)
    return np.stack([common + shift + generator.normal(0, 0.2, n_cases) for shift in shifts])


def test_pairs_are_scipys_signed_rank_tests_with_holms_correction():
    means = case_means()
    pairs = ranking.compare_pairs(means, resamples=500, seed=1)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    raw = [
        stats.wilcoxon(means[pair.first], means[pair.second], correction=True, method="asymptotic").pvalue
        for pair in pairs
    ]
    assert [pair.p for pair in pairs] == pytest.approx(raw)
    smallest = min(raw)
    assert min(pair.p_holm for pair in pairs) == pytest.approx(min(1, 3 * smallest))
    assert pairs[1].difference_mm == pytest.approx((means[0] - means[2]).mean())
    low, high = pairs[1].interval_mm
    assert low < pairs[1].difference_mm < high < 0


def test_holm_follows_its_definition():
    assert ranking.holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert ranking.holm([0.6, 0.9]) == [1.0, 1.0]


def test_the_effect_size_is_the_balance_of_signed_ranks():
    rows = np.array([[-1.0, -2.0, -3.0], [1.0, 2.0, -3.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert ranking.SignedRanks.of(rows).effect.tolist() == [-1.0, 0.0, 1.0, 0.0]


def test_equal_submissions_differ_in_nothing():
    means = np.repeat(case_means()[:1], 2, axis=0)
    pair = ranking.compare_pairs(means, resamples=100, seed=0)[0]
    assert (pair.p, pair.effect, pair.difference_mm, pair.cases_needed) == (1.0, 0.0, 0.0, None)


def test_the_vectorised_test_equals_scipys_asymptotic_one():
    generator = np.random.default_rng(2)
    differences = generator.normal(0.1, 1, (30, 60)).round(1)
    found = ranking.SignedRanks.of(differences)
    for row, difference in enumerate(differences):
        expected = stats.wilcoxon(difference, zero_method="wilcox", correction=True, method="asymptotic")
        assert found.p[row] == pytest.approx(expected.pvalue, rel=1e-9)
        positive = stats.rankdata(np.abs(difference[difference != 0]))[difference[difference != 0] > 0].sum()
        total = stats.rankdata(np.abs(difference[difference != 0])).sum()
        assert found.effect[row] == pytest.approx(2 * positive / total - 1)


@pytest.mark.parametrize("n_cases", [5, 6, 8, 20])
def test_what_is_shown_and_what_is_drawn_again_are_one_test(n_cases):
    better = np.linspace(1.0, 2.0, n_cases)
    pair = ranking.compare_pairs(np.stack([better, 2 * better]), resamples=20, seed=0)[0]
    difference = -better
    assert pair.p == ranking.SignedRanks.of(difference[None]).p[0]
    exact = stats.wilcoxon(difference, method="exact").pvalue
    assert exact / 2 < pair.p < 4 * exact or n_cases > 8
    assert (pair.p < 0.05) == (exact < 0.05), "five cases of one sign are not significant, six are"


@pytest.mark.slow
def test_as_many_cases_as_are_needed_give_the_power():
    generator = np.random.default_rng(3)
    pilot = generator.normal(0.3, 1, 20_000)
    n = ranking.cases_needed(ranking.SignedRanks.of(pilot[None]).effect[0])
    assert 80 < n < 105  # a t-test would need about 90
    found = [stats.wilcoxon(generator.normal(0.3, 1, n)).pvalue < 0.05 for _ in range(800)]
    assert 0.75 < np.mean(found) < 0.86


def test_ranks_of_equal_values_share_the_smaller():
    assert ranking.ranks_of(np.array([0.5, 0.9, 0.9, 0.1]), descending=True).tolist() == [3, 1, 1, 4]


def test_mean_rank_weighs_columns_alike():
    columns = [np.array([1.0, 2.0, 3.0]), np.array([3.0, 1.0, 2.0])]
    assert ranking.combine_ranks(columns, rule="score").tolist() == [1, 2, 3]
    assert ranking.combine_ranks(columns, rule="mean-rank").tolist() == [2, 1, 3]


def test_significance_counts_who_is_surely_beaten():
    means = case_means(n_cases=60)
    pairs = ranking.compare_pairs(means, resamples=50, seed=0)
    points = ranking.significance_points(means, pairs)
    assert points[2] == 0 and points[0] >= 1 and points[1] >= 1
    redrawn = ranking.resampled_significance_points(means, seed=0)
    assert redrawn.shape == (200, 3) and redrawn[:, 2].max() == 0


def test_kendalls_tau_is_scipys():
    generator = np.random.default_rng(4)
    ranks = np.array([1.0, 2.0, 2.0, 4.0, 5.0])
    resampled = generator.integers(1, 6, (50, 5)).astype(float)
    expected = [stats.kendalltau(ranks, row).statistic for row in resampled]
    assert ranking.kendall_tau(ranks, resampled) == pytest.approx(np.nan_to_num(expected, nan=1.0))


def test_stability_is_the_share_of_resamples_at_each_rank():
    found = ranking.stability(np.array([1.0, 2.0]), np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))
    assert found.share.tolist() == [[0.75, 0.25], [0.5, 0.5]]


def test_tests_are_on_the_means_of_groups():
    means = case_means()
    groups = np.repeat(np.arange(40), 3)
    once = ranking.compare_pairs(means, resamples=200, seed=1)
    thrice = ranking.compare_pairs(np.repeat(means, 3, axis=1), groups=groups, resamples=200, seed=1)
    for one, three in zip(once, thrice, strict=True):
        assert (three.p, three.effect) == pytest.approx((one.p, one.effect))
        assert three.difference_mm == pytest.approx(one.difference_mm)
        assert three.interval_mm == pytest.approx(one.interval_mm)
        assert three.cases_needed == pytest.approx(3 * one.cases_needed, abs=2), "patients bring three images each"
    own = ranking.compare_pairs(means, groups=np.arange(40), resamples=200, seed=1)
    assert own == once
    redrawn = ranking.resampled_significance_points(np.repeat(means, 3, axis=1), groups=groups, seed=0)
    assert np.array_equal(redrawn, ranking.resampled_significance_points(means, seed=0))


def test_a_case_without_a_score_leaves_the_rest_of_its_group():
    means = np.array([[1.0, np.nan, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0]])
    assert ranking.group_means(means, np.array([0, 0, 1, 1])).tolist() == [[1.0, 3.5], [2.0, 2.0]]


def test_rounding_decides_no_tie():
    """Three submissions of one error whose float64 sums differ in the last digits."""
    offsets = {"right": [0.5, 0.0], "left": [-0.5, 0.0], "aslant": [0.3, 0.4]}
    places = np.random.default_rng(0).uniform(0, 100, (60, 2))
    means = np.stack([np.linalg.norm(places + offset - places, axis=1) for offset in offsets.values()])
    assert np.ptp(means) > 0
    for pair in ranking.compare_pairs(means, resamples=50, seed=0):
        assert (pair.p, pair.effect, pair.cases_needed) == (1.0, 0.0, None)
    assert ranking.ranks_of(means.mean(axis=1), descending=False).tolist() == [1.0, 1.0, 1.0]


def test_cases_that_tell_nothing_apart_are_needed_too():
    """Nine of ten cases are equal: the test must see ten times as many (power by simulation)."""
    random = np.random.default_rng(4)

    def differing(cases):
        difference = np.where(random.random(cases) < 0.1, random.uniform(0.5, 1.0, cases), 0.0)
        return np.stack([np.full(cases, 2.0), 2.0 + difference])

    needed = ranking.compare_pairs(differing(400), resamples=20, seed=0)[0].cases_needed
    powers = [
        np.mean([ranking.compare_pairs(differing(n), resamples=2, seed=0)[0].p < 0.05 for _ in range(200)])
        for n in (needed // 4, needed)
    ]
    assert powers[0] < 0.6 and powers[1] > 0.75


def test_a_ranking_of_ties_agrees_with_ties_alone():
    tied, ordered = np.array([1.0, 1.0]), np.array([1.0, 2.0])
    assert ranking.kendall_tau(tied, np.array([[1.0, 2.0], [1.0, 1.0]])).tolist() == [0.0, 1.0]
    assert ranking.kendall_tau(ordered, np.array([[1.0, 1.0]])).tolist() == [0.0]
