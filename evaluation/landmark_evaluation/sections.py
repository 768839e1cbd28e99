"""The parts of an `open` result beyond errors, from presence to subgroups."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.task import threshold_key

from . import clinical, conventions, metrics, observers, presence, uncertainty
from .intervals import agreement_intervals, error_intervals
from .metrics import Scores
from .pairing import Submission
from .references import Reference
from .statistics import summary_intervals

MAX_SUBGROUPS = 50


def further_sections(
    scores: Scores, submission: Submission, reference: Reference, *, resamples: int, seed: int
) -> dict[str, Any]:
    """All that applies to this task, reference and submission, by the name of its key in metrics.json."""
    task = reference.task
    found: dict[str, Any] = {
        "success_curve_area": success_curve_area(scores.error_mm, task.success_thresholds_mm[-1]),
        "n_failures": n_failures(scores, reference),
        "presence": presence.summarise_presence(scores, submission.probability, assessed=reference.assessed),
        "bias": observers.bland_altman(submission.points_mm, reference.points_mm, reference) or None,
        "observers": _observers(scores, reference, resamples=resamples, seed=seed),
        "conventions": conventions.summarise_conventions(scores, submission, reference, resamples=resamples, seed=seed),
        "subgroups": subgroups(scores, reference, resamples=resamples, seed=seed) or None,
    }
    points = uncertainty.uncertain_points_of(scores, submission, reference)
    if points is not None:
        found["uncertainty"] = uncertainty.summarise_uncertainty(points)
    if task.name == clinical.TASK:
        classes = clinical.compare_classes(submission.points_mm, reference.points_mm, names=task.names)
        found["clinical"] = classes or None
    return {key: value for key, value in found.items() if value is not None}


def success_curve_area(error_mm: NDArray[np.float64], limit_mm: float) -> float:
    """Area under the success rate as a function of its threshold from 0 to `limit_mm`, divided by `limit_mm`.

    >>> success_curve_area(np.array([0.0, 1.0, 4.0]), 2.0)
    0.5
    """
    errors = error_mm[np.isfinite(error_mm)]
    return float(np.mean(np.maximum(0.0, 1 - errors / limit_mm)))


def n_failures(scores: Scores, reference: Reference) -> dict[str, int]:
    """How many scored points are no success at each threshold of the task: its outliers."""
    task = reference.task
    n_points = int(scores.scored.sum())
    return {
        threshold_key(threshold): n_points
        - int(metrics.success(scores.error_mm, threshold, tie=task.success_tie).sum())
        for threshold in task.success_thresholds_mm
    }


def _observers(scores: Scores, reference: Reference, *, resamples: int, seed: int) -> dict[str, Any] | None:
    """Every observer as a submission, every pair, and how this submission's mean error compares with people's."""
    rows = observers.score_observers(reference)
    if not rows:
        return None
    keys = [threshold_key(threshold) for threshold in reference.task.success_thresholds_mm]
    errors = [observers.observer_errors(row["observer"], reference)[1] for row in rows]
    spans = error_intervals(errors, reference.task, groups=reference.groups, resamples=resamples, seed=seed)
    found: dict[str, Any] = {
        "scored": [
            {**row, "sdr": dict(zip(keys, row["sdr"], strict=True)), "confidence": span}
            for row, span in zip(rows, spans, strict=True)
        ],
        "pairs": _pairs(reference, resamples=resamples, seed=seed),
    }
    weights = np.array([row["n_points"] for row in rows])
    ceiling = float(np.average([row["mre_mm"]["mean"] for row in rows], weights=weights))
    found["mean_mm"] = ceiling
    by_landmark = observers.column_means(np.concatenate(errors))
    names = reference.task.names
    found["landmark_mean_mm"] = {name: mean for name, mean in zip(names, by_landmark, strict=True) if mean is not None}
    if ceiling > 0:
        found["relative_error"] = float(np.nanmean(scores.error_mm)) / ceiling
    return found


def _pairs(reference: Reference, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Every pair of observers with its intervals."""
    rows = observers.score_pairs(reference)
    points = [[reference.observer_mm(name) for name in row["observers"]] for row in rows]
    errors = [observers.distances_mm(a, b, reference) for a, b in points]
    apart = [observers.differences_mm(a, b, reference) for a, b in points]
    draw: dict[str, Any] = {"groups": reference.groups, "resamples": resamples, "seed": seed}
    of_errors = summary_intervals(errors, **draw)
    of_agreement = agreement_intervals(apart, **draw)
    return [
        {**row, "confidence": {"mre_mm": distances, "agreement": limits}}
        for row, distances, limits in zip(rows, of_errors, of_agreement, strict=True)
    ]


def subgroups(scores: Scores, reference: Reference, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """One row per value of every further column of cases.csv, and of `subset`: mean, SD, median, success rates.

    A column with one value, or with more than fifty (a number, an identifier), makes no subgroups.
    """
    task = reference.task
    columns = sorted({key for case in reference.cases for key in case.columns})
    rows: list[dict[str, Any]] = []
    parts: list[NDArray[np.float64]] = []
    for column in ["subset", *columns]:
        values = np.array(
            [case.subset if column == "subset" else case.columns.get(column, "") for case in reference.cases]
        )
        distinct = sorted(set(values.tolist()))
        if not 1 < len(distinct) <= MAX_SUBGROUPS:
            continue
        for value in distinct:
            errors = scores.error_mm[values == value]
            if not np.isfinite(errors).any():
                continue
            parts.append(np.where((values == value)[:, None], scores.error_mm, np.nan))
            rates = metrics.success_rates(errors, task.success_thresholds_mm, tie=task.success_tie)
            rows.append(
                {
                    "column": column,
                    "value": value,
                    "n_cases": int((values == value).sum()),
                    "n_points": int(np.isfinite(errors).sum()),
                    "n_missing": int(scores.missing[values == value].sum()),
                    "mre_mm": metrics.summarise_errors(errors),
                    "sdr": {threshold_key(t): rate for t, rate in zip(task.success_thresholds_mm, rates, strict=True)},
                }
            )
    spans = error_intervals(parts, task, groups=reference.groups, resamples=resamples, seed=seed)
    return [{**row, "confidence": span} for row, span in zip(rows, spans, strict=True)]
