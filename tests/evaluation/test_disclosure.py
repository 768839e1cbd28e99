"""The attacks that protected scores must withstand, performed; and that the scores stay useful all the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landmark_challenge.dataset import Case
from landmark_challenge.task import load_task
from landmark_evaluation import disclosure as protection
from landmark_evaluation.design import DISCLOSED
from landmark_evaluation.disclosure import CAP_MM, NoiseLevel, curve_thresholds_mm, noise_level, protect
from landmark_evaluation.metrics import score_points
from landmark_evaluation.pairing import Submission
from landmark_evaluation.references import Reference
from landmark_evaluation.scoring import evaluate_submission

TASK = load_task("ceph-19")
N_CASES, N_LANDMARKS = 150, 19
N_POINTS = N_CASES * N_LANDMARKS
PRIOR_MM = 10.0  # half of a prior 20 mm wide


def hidden_reference(seed=0, *, disclosure="protected"):
    generator = np.random.default_rng(seed)
    points = np.zeros((N_CASES, N_LANDMARKS, 3))
    points[..., :2] = generator.uniform(20, 180, (N_CASES, N_LANDMARKS, 2))
    return Reference(
        folder=Path("hidden"),
        task=TASK,
        cases=tuple(Case(f"{k}", "test", f"{k}") for k in range(N_CASES)),
        known_cases=frozenset(),
        points_mm=points,
        assessed=np.ones((N_CASES, N_LANDMARKS), bool),
        rule="mean of senior, junior",
        split="test",
        subset=None,
        disclosure=disclosure,
        details=False,
        secret=f"{seed:064x}",
        observer="reference",
        observers=(),
    )


def submission(points):
    untimed = np.full(N_CASES, np.nan)
    return Submission(
        points_mm=points,
        probability=np.isfinite(points[..., 0]).astype(float),
        covariance_mm2=np.full((*points.shape, 3), np.nan),
        cold_s=untimed,
        warm_s=untimed,
        beyond=0,
    )


def score(points, reference):
    """What a participant gets back."""
    given = submission(points)
    if reference.disclosure == "open":
        return evaluate_submission(given, reference, resamples=10).metrics.aggregates
    scores = score_points(
        points,
        reference.points_mm,
        assessed=reference.assessed,
        dimension=2,
        missing_error_mm=TASK.missing_error_mm,
    )
    return protect(scores, given, reference, runtimes={})


def only(position, case=7, landmark=3):
    """A submission that gives one point: all others are charged a known error, so the mean holds one unknown."""
    points = np.full((N_CASES, N_LANDMARKS, 3), np.nan)
    points[case, landmark] = [*position, 0.0]
    return points


def distance_in(mean_mm):
    return mean_mm * N_POINTS - (N_POINTS - 1) * TASK.missing_error_mm


def test_trilateration_finds_a_point_in_open_scores():
    reference = hidden_reference(disclosure="open")
    prior = reference.points_mm[7, 3, :2] + [9.0, -8.0]
    anchors = prior + np.array([[-40.0, -40.0], [40.0, -40.0], [-40.0, 40.0], [40.0, 40.0]])
    distances = np.array([distance_in(score(only(anchor), reference).mre_mm.mean) for anchor in anchors])
    # |x - a|^2 = d^2, minus the first: linear in x.
    left = 2 * (anchors[1:] - anchors[0])
    right = (anchors[1:] ** 2).sum(1) - (anchors[0] ** 2).sum() - distances[1:] ** 2 + distances[0] ** 2
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    assert np.linalg.norm(found - reference.points_mm[7, 3, :2]) < 0.01


def bayesian_attack(reference, centre, generator, *, submissions=200):
    """The best that is known: a posterior over a grid, with the mechanism and its noise known exactly.

    Every probe is, of a lattice around the point and some places far away, the one whose mean error and success curve
    tell most under the posterior; the guess is the place with the most posterior mass within 5 mm.
    """
    level = noise_level(N_POINTS, dimension=2, n_thresholds=len(curve_thresholds_mm(TASK)))
    thresholds = np.array(TASK.success_thresholds_mm)
    axis = np.linspace(-PRIOR_MM, PRIOR_MM, 21)
    places = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    axis = np.arange(-20, 21, 2.5)
    angles = np.arange(0, 2 * np.pi, np.pi / 8)
    far = 60 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    probes = np.concatenate([np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2), far])
    distances = np.linalg.norm(places - probes[:, None], axis=2)
    capped = np.minimum(distances, CAP_MM) / (level.mean_mm * N_POINTS)
    hits = (distances[:, None] < thresholds[:, None]).astype(np.float32)
    log_posterior = np.zeros(len(places))
    for _ in range(submissions):
        posterior = np.exp(log_posterior - log_posterior.max())
        posterior /= posterior.sum()
        told = capped**2 @ posterior - (capped @ posterior) ** 2
        rates = hits @ posterior.astype(np.float32)
        told += (rates * (1 - rates)).sum(axis=1) / (level.rate * N_POINTS) ** 2
        chosen = int(np.argmax(told * generator.uniform(0.9, 1, told.size)))
        found = score(only(centre + probes[chosen]), reference)
        log_posterior -= (distance_in(found.mre_mm.mean) / (level.mean_mm * N_POINTS) - capped[chosen]) ** 2 / 2
        expected = hits[chosen] / N_POINTS
        log_posterior -= ((np.array(list(found.sdr.values()))[:, None] - expected) ** 2).sum(axis=0) / 2 / level.rate**2
    posterior = np.exp(log_posterior - log_posterior.max())
    near = np.linalg.norm(places - places[:, None], axis=2) < 5.0
    return centre + places[np.argmax(near @ posterior)]


def bisection_attack(reference, centre, generator, *, submissions=200):
    """Halve the range of one coordinate at a time by comparing the scores of two mirrored probes, with repeats."""
    found = np.array(centre, float)
    width, repeats = PRIOR_MM, submissions // 20
    for _ in range(5):
        for axis in range(2):
            step = np.zeros(2)
            step[axis] = 40.0
            sides = []
            for sign in (-1, 1):
                dither = generator.normal(0, 1e-3, (repeats, 2))
                sides.append(np.mean([score(only(found + sign * step + d), reference).mre_mm.mean for d in dither]))
            found[axis] += width / 2 * np.sign(sides[0] - sides[1])
        width /= 2
    return found


def distances_after(attack, targets):
    """How far from the hidden point an attack ends, for one hidden reference after another."""
    found = []
    for seed in range(targets):
        generator = np.random.default_rng([seed, 99])
        reference = hidden_reference(seed)
        truth = reference.points_mm[7, 3, :2]
        centre = truth + generator.uniform(-PRIOR_MM, PRIOR_MM, 2)
        found.append(np.linalg.norm(attack(reference, centre, generator) - truth))
    return np.array(found)


@pytest.mark.parametrize(("attack", "targets"), [(bayesian_attack, 13), (bisection_attack, 7)])
def test_200_submissions_do_not_find_a_point_in_protected_scores(attack, targets):
    distances = distances_after(attack, targets)
    assert np.median(distances) > 5.0
    assert np.mean(distances < 5.0) < 0.5


@pytest.mark.slow
def test_200_submissions_come_near_hardly_more_points_than_guessing():
    # Guessing a place in the square gets the share of it that is within 5 mm, a fifth.
    guessing = np.pi * 5.0**2 / (2 * PRIOR_MM) ** 2
    distances = distances_after(bayesian_attack, 300)
    print(f"within 5 mm of {np.mean(distances < 5):.3f}, guessing {guessing:.3f}; median {np.median(distances):.2f} mm")
    assert np.median(distances) > 7.0
    assert np.mean(distances < 5.0) < guessing + 0.12


def test_the_strong_attack_works_where_the_noise_is_small():
    # What stops it is the noise: at a fortieth of it every point is found.
    quiet = noise_level(N_POINTS, dimension=2, n_thresholds=12).mean_mm / 40
    with pytest.MonkeyPatch.context() as patch:
        for module in ("landmark_evaluation.disclosure", __name__):
            patch.setattr(f"{module}.noise_level", lambda *_, **__: NoiseLevel(quiet, 40 * quiet, 1))
        patch.setattr("landmark_evaluation.disclosure.rounded", lambda value, _: value)
        assert (distances_after(bayesian_attack, 3) < 5.0).all()


def test_a_far_error_counts_as_the_cap_and_an_omission_in_full():
    reference = hidden_reference()
    points = reference.points_mm.copy()
    points[:75, :, 0] += 1.0
    points[75:, :, 0] += 60.0
    shown = score(points, reference)
    assert shown.mre_mm.mean == pytest.approx((1.0 + CAP_MM) / 2, abs=5 * shown.noise.mre_mm_sd)
    assert shown.noise.error_cap_mm == CAP_MM
    points[75:] = np.nan
    assert score(points, reference).mre_mm.mean == pytest.approx((1.0 + TASK.missing_error_mm) / 2, abs=0.2)


def test_the_bisection_would_work_without_noise():
    reference = hidden_reference(disclosure="open")
    truth = reference.points_mm[7, 3, :2]
    generator = np.random.default_rng(0)
    found = bisection_attack(reference, truth + [6.0, -7.0], generator, submissions=20)
    assert np.linalg.norm(found - truth) < 1.0


def test_the_median_gives_no_distance_away():
    # Half of the points exact, the others left out, one in the middle: the exact median then hangs on that one point.
    distances = np.linspace(5, 60, 12)
    leaks = {}
    for disclosure in ("open", "protected"):
        reference = hidden_reference(disclosure=disclosure)
        medians = []
        for distance in distances:
            points = reference.points_mm.copy()
            points.reshape(-1, 3)[: N_POINTS // 2] = np.nan
            points[-1, -1] += [distance, 0.0, 0.0]
            medians.append(score(points, reference).mre_mm.median)
        leaks[disclosure] = np.corrcoef(medians, distances)[0, 1] ** 2
    assert leaks["open"] > 0.999
    assert leaks["protected"] < 0.5


def test_the_same_submission_always_gets_the_same_score():
    reference = hidden_reference()
    points = reference.points_mm + 1.0
    first = score(points, reference)
    timed = replace(submission(points), cold_s=np.ones(N_CASES), probability=np.full(points.shape[:2], 0.7))
    scores = score_points(points, reference.points_mm, assessed=reference.assessed, dimension=2, missing_error_mm=100.0)
    assert protect(scores, timed, reference, runtimes={}) == first
    assert score(points, replace(reference, secret="f" * 64)) != first


def test_noise_has_the_stated_size_and_stays_inside_the_confidence_interval():
    reference = hidden_reference()
    generator = np.random.default_rng(5)
    base = reference.points_mm + generator.normal(0, 0.8, reference.points_mm.shape)
    shown = []
    for _ in range(300):
        points = base.copy()
        points[0, 0, 0] += generator.normal(0, 1e-6)
        shown.append(score(points, reference))
    exact = evaluate_submission(submission(base), replace(reference, disclosure="open")).metrics.aggregates
    means = np.array([aggregates.mre_mm.mean for aggregates in shown])
    assert exact.mre_mm.mean == pytest.approx(1.0, abs=0.03)
    assert means.std() == pytest.approx(shown[0].noise.mre_mm_sd, rel=0.12)
    assert 0.015 < shown[0].noise.mre_mm_sd < 0.03
    assert means.mean() == pytest.approx(exact.mre_mm.mean, abs=0.006)
    medians = np.array([aggregates.mre_mm.median for aggregates in shown])
    assert medians.mean() == pytest.approx(exact.mre_mm.median, abs=0.02) and medians.std() < 0.03
    for key, rate in exact.sdr.items():
        rates = np.array([aggregates.sdr[key] for aggregates in shown])
        # Where the true rate is 1 the noise can only take away.
        assert rates.mean() == pytest.approx(rate, abs=0.004 if rate < 0.97 else shown[0].noise.sdr_sd), key
        assert rates.std() <= 1.1 * shown[0].noise.sdr_sd


def test_the_ranking_of_submissions_that_differ_survives():
    generator = np.random.default_rng(6)
    kept = 0
    for seed in range(40):
        reference = hidden_reference(seed)
        noise = generator.normal(0, 0.8, reference.points_mm.shape)
        shown = [score(reference.points_mm + scale * noise, reference).mre_mm.mean for scale in (1.0, 1.15, 1.4, 2.0)]
        kept += shown == sorted(shown)
    assert kept >= 38


def test_few_points_make_much_noise_and_say_so():
    few = noise_level(50, dimension=2, n_thresholds=12)
    many = noise_level(10_000, dimension=2, n_thresholds=12)
    assert few.mean_mm == pytest.approx(200 * many.mean_mm)
    assert few.locate_submissions == many.locate_submissions > 200


def test_the_digest_of_protected_points_needs_the_secret():
    reference = hidden_reference(1)
    assert reference.digest == hidden_reference(1).digest
    assert replace(reference, secret="cd" * 32).digest != reference.digest
    assert replace(reference, points_mm=reference.points_mm + 1e-9).digest != reference.digest
    assert replace(reference, secret=None).digest != reference.digest


def test_counts_are_exact_and_the_documents_say_so():
    reference = hidden_reference(1)
    points = reference.points_mm.copy()
    points[7, 1] = np.nan
    reference = replace(reference, points_mm=points)
    for landmark, absent in ((0, 0), (1, 1)):
        given = score(only([50, 50], 7, landmark), reference)
        assert (given.n_false_alarms, given.n_missing) == (absent, N_POINTS - 1 - (1 - absent))
    assert "n_missing and n_false_alarms are counts without noise" in protection.__doc__
    assert "exact" in DISCLOSED["protected"]


def test_what_is_not_scored_draws_no_other_noise():
    reference = hidden_reference()
    points = reference.points_mm + 1.0
    first = score(points, reference)
    aside = points.copy()
    aside[..., 2] += 7.0  # a 2D task
    assert score(aside, reference) == first
    assessed = reference.assessed.copy()
    assessed[3, 5] = False
    fewer = replace(reference, assessed=assessed)
    moved = points.copy()
    moved[3, 5] += 2.0
    assert score(moved, fewer) == score(points, fewer)
