"""A submission against a reference: the whole evaluation, in memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from landmark_challenge import __version__
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import threshold_key

from . import disclosure, metrics, statistics
from .confidence import Confidence, LandmarkConfidence
from .intervals import further_intervals
from .pairing import Submission
from .references import Reference
from .results import (
    Aggregates,
    ErrorSummary,
    LandmarkResult,
    Metrics,
    Protocol,
    Runtime,
)
from .sections import further_sections


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was compared with what, the score of every point, and the result."""

    reference: Reference
    submission: Submission
    scores: metrics.Scores
    metrics: Metrics


def evaluate_submission(
    submission: Submission,
    reference: Reference,
    *,
    resamples: int = statistics.DEFAULT_RESAMPLES,
    seed: int = statistics.DEFAULT_SEED,
) -> Evaluation:
    """Score a submission. A rater who is part of the reference's mean is scored against the others instead.

    Raises ChallengeError where the reference holds no point to score.
    """
    declared = reference
    rater = rater_in_mean(submission, reference)
    if rater is not None:
        reference = reference.leaving_out(rater)
    task = reference.task
    scores = metrics.score_points(
        submission.points_mm,
        reference.points_mm,
        assessed=reference.assessed,
        dimension=task.dimension,
        missing_error_mm=task.missing_error_mm,
    )
    if not scores.scored.any():
        raise ChallengeError(f"{reference.folder}: wanted at least one landmark to score, all are absent")
    protected = reference.disclosure == "protected"
    aggregates = (
        disclosure.protect(scores, submission, reference, runtimes=_runtimes(submission))
        if protected
        else _aggregate(scores, submission, reference, resamples=resamples, seed=seed)
    )
    result = Metrics(
        task=task.name,
        task_version=task.version,
        kit_version=__version__,
        protocol=Protocol(
            reference=reference.rule,
            left_out=reference.left_out,
            declared_reference=None if reference.left_out is None else reference.declared_rule,
            reference_digest=declared.digest,
            tie=task.success_tie,
            missing_error_mm=task.missing_error_mm,
            split=reference.split,
            subset=reference.subset,
            n_cases=len(reference.cases),
            n_groups=reference.n_groups,
            n_points=int(scores.scored.sum()),
            disclosure=reference.disclosure,
        ),
        aggregates=aggregates,
    )
    return Evaluation(reference, submission, scores, result)


def rater_in_mean(submission: Submission, reference: Reference) -> str | None:
    """The observer whose own points the submission is, where the reference is a mean with that observer in it."""
    for observer in reference.members:
        points = reference.observer_mm(observer)
        same = np.isfinite(points).any() and np.array_equal(points, submission.points_mm, equal_nan=True)
        if same and reference.others(observer):
            return observer
    return None


def _runtimes(submission: Submission) -> dict[str, Any]:
    """All measured run times, and those with and without start-up apart."""
    found = {
        "runtime_s": metrics.summarise_runtime(submission.runtime_s),
        "runtime_cold_s": metrics.summarise_runtime(submission.cold_s),
        "runtime_warm_s": metrics.summarise_runtime(submission.warm_s),
    }
    return {key: None if value is None else Runtime(**value) for key, value in found.items()}


def _aggregate(
    scores: metrics.Scores, submission: Submission, reference: Reference, *, resamples: int, seed: int
) -> Aggregates:
    task = reference.task
    thresholds, tie = task.success_thresholds_mm, task.success_tie
    keys = [threshold_key(threshold) for threshold in thresholds]
    intervals = statistics.bootstrap(
        scores.error_mm, thresholds, tie=tie, groups=reference.groups, resamples=resamples, seed=seed
    )
    rows: dict[str, LandmarkResult] = {}
    spans: dict[str, LandmarkConfidence] = {}
    for column, name in enumerate(task.names):
        errors = scores.error_mm[:, column]
        # A landmark that is in no image has no error: it has no row, its false alarms count in the total.
        if not np.isfinite(errors).any():
            continue
        rows[name] = LandmarkResult(
            mre_mm=ErrorSummary(**metrics.summarise_errors(errors)),
            sdr=dict(zip(keys, metrics.success_rates(errors, thresholds, tie=tie), strict=True)),
            n_missing=int(scores.missing[:, column].sum()),
            n_false_alarms=int(scores.false_alarm[:, column].sum()),
        )
        spans[name] = LandmarkConfidence(
            mre_mm=intervals.landmark_mre_mm[column],
            sdr={key: span for key, span in zip(keys, intervals.landmark_sdr[column], strict=True) if span is not None},
        )
    return Aggregates(
        mre_mm=ErrorSummary(**metrics.summarise_errors(scores.error_mm)),
        sdr=dict(zip(keys, metrics.success_rates(scores.error_mm, thresholds, tie=tie), strict=True)),
        landmarks=rows,
        n_missing=int(scores.missing.sum()),
        n_false_alarms=int(scores.false_alarm.sum()),
        confidence=Confidence(
            mre_mm=intervals.mre_mm,
            sdr={key: span for key, span in zip(keys, intervals.sdr, strict=True) if span is not None},
            landmarks=spans,
            **further_intervals(scores, submission, reference, resamples=resamples, seed=seed),
        ),
        **_runtimes(submission),
        **further_sections(scores, submission, reference, resamples=resamples, seed=seed),
    )
