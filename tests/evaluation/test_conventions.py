import numpy as np
import pytest

from landmark_evaluation.conventions import MIN_CASES
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.scoring import evaluate_submission

CASES = 400
# The mean length of a 2D Gaussian of SD 1 along each axis (Rayleigh).
RAYLEIGH = np.sqrt(np.pi / 2)


@pytest.fixture
def random():
    return np.random.default_rng(3)


def flat(points):
    """(..., 2) -> (..., 3) with z = 0."""
    return np.concatenate([points, np.zeros((*points.shape[:-1], 1))], axis=-1)


def result(kit, folder, truth, raters, submitted, **more):
    """The conventions of a submission of 2D points, scored against the mean of the raters."""
    observers = {name: flat(truth + apart) for name, apart in raters.items()}
    task = kit.task(dimension=2, observers=tuple(observers))
    kit.dataset(folder / "data", task, observers, **more)
    reference = open_reference(folder / "data")
    submission = read_submission(kit.plain(folder / "p", task, flat(submitted)), reference)
    return evaluate_submission(submission, reference, resamples=200).metrics.aggregates


@pytest.mark.parametrize("observers", [2, 3])
def test_offsets_and_the_noise_of_a_mean_are_found_again(kit, tmp_path, random, observers):
    truth = random.uniform(20, 80, (CASES, 3, 2))
    habits = {"first": [0.8, 0.0], "second": [0.0, -0.6], "third": [-0.4, 0.2]}
    raters = {
        name: np.array(habit) + random.normal(0, 1.0, truth.shape) for name, habit in list(habits.items())[:observers]
    }
    offset = np.array([1.0, 0.5]) - np.mean(list(habits.values())[:observers], axis=0)
    aggregates = result(kit, tmp_path, truth, raters, truth + [1.0, 0.5] + random.normal(0, 0.5, truth.shape))
    found = aggregates.conventions
    assert np.allclose([found.offset_mm[name] for name in "abc"], offset, atol=0.15)
    noise = 1 / np.sqrt(observers)
    assert found.reference_noise.mre_mm.mean == pytest.approx(noise * RAYLEIGH, rel=0.04)
    # What nobody can predict, and what this submission adds to it at random.
    assert found.without_offsets.mre_mm.mean == pytest.approx(np.hypot(noise, 0.5) * RAYLEIGH, rel=0.04)
    mean = np.mean(list(raters.values()), axis=0)
    alone = np.linalg.norm(np.array([1.0, 0.5]) - mean, axis=-1).mean()
    assert found.offsets_and_noise.mre_mm.mean == pytest.approx(alone, rel=0.03)
    low, high = found.without_offsets.confidence.mre_mm["mean"]
    assert low < found.without_offsets.mre_mm.mean < high < aggregates.mre_mm.mean


def test_offsets_of_other_cases_do_not_flatter(kit, tmp_path, random):
    # In a sample of twenty the sample's own medians would make errors smaller by about a fortieth.
    truth = random.uniform(20, 80, (MIN_CASES, 3, 2))
    raters = {"one": np.zeros(2)}
    aggregates = result(kit, tmp_path, truth, raters, truth + random.normal(0, 1.0, truth.shape))
    assert aggregates.conventions.without_offsets.mre_mm.mean > aggregates.mre_mm.mean
    assert aggregates.conventions.reference_noise is None, "one person's noise cannot be told"


def test_groups_are_not_judged_by_their_own_offsets(kit, tmp_path, random):
    # Two patients with habits of their own: each is judged by the other's.
    truth = random.uniform(20, 80, (MIN_CASES, 3, 2))
    groups = {f"case{row}": str(row % 2) for row in range(MIN_CASES)}
    submitted = truth + np.where(np.arange(MIN_CASES)[:, None, None] % 2, [2.0, 0.0], [-1.0, 0.0])
    aggregates = result(kit, tmp_path, truth, {"one": np.zeros(2)}, submitted, groups=groups)
    assert aggregates.conventions.without_offsets.mre_mm.mean == pytest.approx(3.0)


def test_a_missing_point_stays_missing_and_few_points_have_no_offset(kit, tmp_path, random):
    truth = random.uniform(20, 80, (MIN_CASES + 1, 3, 2))
    submitted = truth + [3.0, 0.0]
    submitted[0, 0] = np.nan
    submitted[:2, 1] = np.nan
    aggregates = result(kit, tmp_path, truth, {"one": np.zeros(2)}, submitted)
    assert set(aggregates.conventions.offset_mm) == {"a", "c"}
    kept = 3 * 50 + (MIN_CASES - 1) * 3.0  # three missing at 50 mm; the second landmark keeps its offset
    assert aggregates.conventions.without_offsets.mre_mm.mean == pytest.approx(kept / (3 * (MIN_CASES + 1)))


def test_too_few_cases_or_two_sessions_of_one_person_tell_nothing(kit, tmp_path, random):
    few = random.uniform(20, 80, (MIN_CASES - 1, 3, 2))
    assert result(kit, tmp_path / "few", few, {"one": np.zeros(2)}, few + 1.0).conventions is None
    truth = random.uniform(20, 80, (MIN_CASES, 3, 2))
    raters = {"rater1-1": np.zeros(2), "rater1-2": random.normal(0, 0.1, truth.shape)}
    found = result(kit, tmp_path / "sessions", truth, raters, truth + 1.0).conventions
    assert found is not None and found.reference_noise is None and found.offsets_and_noise is None


def test_a_rater_of_the_mean_is_measured_by_the_noise_of_the_others(kit, tmp_path, random):
    truth = random.uniform(20, 80, (CASES, 3, 2))
    raters = {name: random.normal(0, 1.0, truth.shape) for name in ("one", "two", "three")}
    found = result(kit, tmp_path, truth, raters, truth + raters["one"]).conventions
    assert found.reference_noise.mre_mm.mean == pytest.approx(RAYLEIGH / np.sqrt(2), rel=0.04)
    assert found.without_offsets.mre_mm.mean == pytest.approx(RAYLEIGH * np.sqrt(1.5), rel=0.04)


def test_the_report_shows_them(kit, tmp_path, random):
    from landmark_evaluation.report.page import report_files

    truth = random.uniform(20, 80, (MIN_CASES, 3, 2))
    raters = {"one": random.normal(0, 1.0, truth.shape), "two": random.normal(0, 1.0, truth.shape)}
    observers = {name: flat(truth + apart) for name, apart in raters.items()}
    task = kit.task(dimension=2, observers=tuple(observers))
    kit.dataset(tmp_path / "data", task, observers)
    reference = open_reference(tmp_path / "data")
    submission = read_submission(kit.plain(tmp_path / "p", task, flat(truth + 1.0)), reference)
    made = report_files(evaluate_submission(submission, reference, resamples=200), title="t", images=None)
    lines = made["tables/conventions.csv"].decode().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [
        "as scored",
        "without a fixed offset of each landmark",
        "these offsets and the noise of the reference alone",
        "the noise of the reference alone",
    ]
    assert made["tables/offsets.csv"].decode().splitlines()[0] == "landmark,x (mm),y (mm),length (mm)"
