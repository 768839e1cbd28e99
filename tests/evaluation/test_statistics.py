import numpy as np
import pytest

from landmark_evaluation import metrics, statistics


def errors_mm(seed=3, cases=23, landmarks=5, lost=0.15):
    generator = np.random.default_rng(seed)
    errors = generator.gamma(2.0, 1.0, (cases, landmarks)) * generator.uniform(0.5, 2, (cases, 1))
    errors[generator.random(errors.shape) < lost] = np.nan
    return errors.round(1)


def naive(errors, thresholds, tie, resamples, seed):
    """The same resamples, one by one, through the plain summaries."""
    rows = []
    for draws in statistics.draw_cases(len(errors), resamples=resamples, seed=seed):
        for weights in draws:
            sample = np.repeat(errors, weights.astype(int), axis=0)
            summary = metrics.summarise_errors(sample)
            rates = metrics.success_rates(sample, thresholds, tie=tie)
            rows.append((summary, rates, metrics.summarise_errors(sample[:, 1])))
    return rows


@pytest.mark.parametrize("lost", [0.0, 0.15])
@pytest.mark.parametrize("tie", ["strict", "inclusive"])
def test_the_fast_bootstrap_equals_the_plain_one(tie, lost):
    errors, thresholds = errors_mm(lost=lost), [1.0, 2.0, 4.0]
    found = statistics.bootstrap(errors, thresholds, tie=tie, resamples=300, seed=5)
    rows = naive(errors, thresholds, tie, 300, 5)
    for name in ("mean", "sd", "median", "q25", "q75", "iqr", "rms", "p95"):
        expected = np.quantile([row[0][name] for row in rows], [0.025, 0.975])
        assert found.mre_mm[name] == pytest.approx(expected, abs=1e-9), name
    for column in range(3):
        assert found.sdr[column] == pytest.approx(np.quantile([row[1][column] for row in rows], [0.025, 0.975]))
    for name, span in found.landmark_mre_mm[1].items():
        assert span == pytest.approx(np.quantile([row[2][name] for row in rows], [0.025, 0.975]), abs=1e-9), name
    assert set(found.landmark_mre_mm[1]) == {"mean", "sd", "median", "q25", "q75", "iqr", "rms", "p95"}


def test_many_points_per_block_give_the_same_quantiles(monkeypatch):
    errors = errors_mm(cases=200)
    many = statistics.bootstrap(errors, [2.0], tie="strict", resamples=50)
    monkeypatch.setattr(statistics, "BLOCKS", 3)
    assert statistics.bootstrap(errors, [2.0], tie="strict", resamples=50) == many


def test_chunks_do_not_change_the_numbers_of_a_chunk_size_that_divides(monkeypatch):
    errors = errors_mm()
    whole = statistics.bootstrap(errors, [2.0], tie="strict", resamples=64)
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 16 * len(errors))
    assert statistics.bootstrap(errors, [2.0], tie="strict", resamples=64) == whole


def test_the_same_seed_repeats_and_another_does_not():
    errors = errors_mm()
    assert statistics.bootstrap(errors, [2.0], tie="strict") == statistics.bootstrap(errors, [2.0], tie="strict")
    assert statistics.bootstrap(errors, [2.0], tie="strict") != statistics.bootstrap(
        errors, [2.0], tie="strict", seed=1
    )


def test_equal_cases_leave_no_width():
    found = statistics.bootstrap(np.full((10, 4), 1.5), [1.0, 2.0], tie="strict", resamples=100)
    assert found.mre_mm["mean"] == (1.5, 1.5)
    assert found.mre_mm["sd"] == (0.0, 0.0)
    assert found.sdr == [(0.0, 0.0), (1.0, 1.0)]


def test_whole_cases_are_drawn_and_not_points():
    # Every case is constant, so points are worth one per case: the interval is that of the case means.
    generator = np.random.default_rng(0)
    cases = generator.gamma(2, 1, 50)
    wide = statistics.bootstrap(np.repeat(cases[:, None], 40, axis=1), [2.0], tie="strict").mre_mm["mean"]
    standard_error = cases.std(ddof=1) / 50**0.5
    assert wide[1] - wide[0] == pytest.approx(2 * 1.96 * standard_error, rel=0.12)


def test_a_landmark_that_is_nowhere_has_no_interval():
    errors = errors_mm(lost=0.0)
    errors[:, 2] = np.nan
    assert statistics.bootstrap(errors, [2.0], tie="strict", resamples=50).landmark_mre_mm[2] == {}


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = np.random.default_rng(11)
    hits = 0
    for _ in range(300):
        sample = generator.gamma(2, 1, (60, 3)) + generator.gamma(2, 0.5, (60, 1))
        low, high = statistics.bootstrap(sample, [2.0], tie="strict", resamples=400).mre_mm["mean"]
        hits += low <= 3.0 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_sums_are_those_of_the_same_draws():
    errors = errors_mm()
    columns = np.stack([np.nansum(errors, axis=1), np.isfinite(errors).sum(axis=1)], axis=1)
    sums = statistics.resampled_sums(columns, resamples=300, seed=5)
    whole = statistics.bootstrap(errors, [2.0], tie="strict", resamples=300, seed=5)
    assert statistics.interval(sums[:, 0] / sums[:, 1]) == pytest.approx(whole.mre_mm["mean"])


def test_sets_of_values_have_the_intervals_of_the_whole_bootstrap():
    errors = errors_mm()
    whole = statistics.bootstrap(errors, [2.0], tie="strict", resamples=300, seed=5)
    found, nothing = statistics.summary_intervals([errors, np.full_like(errors, np.nan)], resamples=300, seed=5)
    assert set(found) == set(whole.mre_mm) and nothing == {}
    for name, span in found.items():
        assert span == pytest.approx(whole.mre_mm[name]), name


def test_groups_are_drawn_whole_and_cases_of_their_own_as_ever():
    groups = np.array([0, 1, 1, 2, 0, 1])
    grouped = next(statistics.draw_cases(6, groups=groups, resamples=40, seed=2))
    whole = next(statistics.draw_cases(3, resamples=40, seed=2))
    assert np.array_equal(grouped, whole[:, groups])
    own = next(statistics.draw_cases(6, groups=np.arange(6), resamples=40, seed=2))
    assert np.array_equal(own, next(statistics.draw_cases(6, resamples=40, seed=2)))


def test_three_images_of_a_patient_are_worth_one():
    errors = errors_mm(cases=40, lost=0.0)
    once = statistics.bootstrap(errors, [2.0], tie="strict", resamples=300)
    groups = np.repeat(np.arange(40), 3)
    thrice = statistics.bootstrap(np.repeat(errors, 3, axis=0), [2.0], tie="strict", groups=groups, resamples=300)
    assert thrice.mre_mm["mean"] == pytest.approx(once.mre_mm["mean"])
    assert thrice.sdr[0] == pytest.approx(once.sdr[0])


@pytest.mark.slow
def test_intervals_cover_the_truth_where_patients_have_several_images():
    generator = np.random.default_rng(0)
    groups, hits = np.repeat(np.arange(40), 3), 0
    for _ in range(300):
        patient = np.repeat(generator.normal(0, 0.5, 40), 3)[:, None]
        errors = 3 + patient + generator.normal(0, 0.3, (120, 1)) + generator.normal(0, 0.5, (120, 5))
        low, high = statistics.bootstrap(errors, [2.0], tie="strict", groups=groups, resamples=300).mre_mm["mean"]
        hits += low <= 3.0 <= high
    assert 0.90 <= hits / 300 <= 0.98
