"""95 % intervals of what is neither the error of all points nor of one landmark: all of it means and rates.

Each is a sum over cases divided by another sum over cases, so one product with the matrix of draws serves them all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.task import Task, threshold_key

from . import clinical
from .metrics import Scores, success
from .pairing import Submission
from .references import Reference
from .statistics import Interval, ratio_intervals

Ratio = tuple[NDArray[Any], NDArray[Any]]  # (cases,) numerator and denominator


def error_intervals(
    errors_mm: Sequence[NDArray[np.float64]], task: Task, *, resamples: int, seed: int
) -> list[dict[str, dict[str, Interval]]]:
    """For each (cases, landmarks) set of errors the intervals of its mean and its success rates, as in metrics.json."""
    keys = ["mean", *(threshold_key(threshold) for threshold in task.success_thresholds_mm)]
    ratios: list[Ratio] = []
    for errors in errors_mm:
        count = np.isfinite(errors).sum(axis=1)
        ratios.append((np.nansum(errors, axis=1), count))
        hits = (success(errors, threshold, tie=task.success_tie) for threshold in task.success_thresholds_mm)
        ratios += [(hit.sum(axis=1), count) for hit in hits]
    found = iter(_intervals(ratios, resamples=resamples, seed=seed))
    rows = []
    for _ in errors_mm:
        spans = {key: span for key, span in ((key, next(found)) for key in keys) if span is not None}
        mean = {key: spans.pop(key) for key in ("mean",) if key in spans}
        rows.append({"mre_mm": mean, "sdr": spans})
    return rows


def further_intervals(
    scores: Scores, submission: Submission, reference: Reference, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Intervals of the area under the success curve, presence rates, clinical classes and the mean run time."""
    task = reference.task
    count = scores.scored.sum(axis=1)
    left = np.where(scores.scored, np.maximum(0.0, 1 - scores.error_mm / task.success_thresholds_mm[-1]), 0.0)
    timed = np.isfinite(submission.runtime_s)
    ratios: dict[tuple[str, str], Ratio] = {
        ("success_curve_area", ""): (left.sum(axis=1), count),
        ("presence", "sensitivity"): ((scores.scored & ~scores.missing).sum(axis=1), count),
        ("presence", "specificity"): (
            scores.rejected.sum(axis=1),
            (scores.rejected | scores.false_alarm).sum(axis=1),
        ),
        ("runtime_s", "mean"): (np.where(timed, submission.runtime_s, 0.0), timed),
    }
    if task.name == clinical.TASK:
        agreement = clinical.class_agreement(submission.points_mm, reference.points_mm, names=task.names)
        ratios |= {("clinical", key): ratio for key, ratio in agreement.items()}
    found: dict[str, Any] = {}
    for (group, key), span in zip(
        ratios, _intervals(list(ratios.values()), resamples=resamples, seed=seed), strict=True
    ):
        if span is not None and not key:
            found[group] = span
        elif span is not None:
            found.setdefault(group, {})[key] = span
    return found


def _intervals(ratios: Sequence[Ratio], *, resamples: int, seed: int) -> list[Interval | None]:
    if not ratios:
        return []
    numerators = np.stack([numerator for numerator, _ in ratios], axis=1).astype(np.float64)
    denominators = np.stack([denominator for _, denominator in ratios], axis=1).astype(np.float64)
    return ratio_intervals(numerators, denominators, resamples=resamples, seed=seed)
