"""How well people agree: the yardstick beside every score of a method.

Each observer is scored like a submission; an observer who is part of the reference's mean is scored against the others.
Two sessions of one person (`rater01-1`, `rater01-2`) make an intra-observer pair.
"""

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import score_points, success_rates, summarise_errors
from .references import CONSENSUS, Reference, person

LIMITS_OF_AGREEMENT = 1.96
AXES = "xyz"


def score_observers(reference: Reference) -> list[dict[str, Any]]:
    """One row per observer: against whom, over how many cases and points, mean, SD, median, success rates."""
    task = reference.task
    rows = []
    for observer, against, errors in scored_errors(reference):
        rows.append(
            {
                "observer": observer,
                "against": against,
                "n_cases": int(np.isfinite(errors).any(axis=1).sum()),
                "n_points": int(np.isfinite(errors).sum()),
                "mre_mm": summarise_errors(errors),
                "sdr": success_rates(errors, task.success_thresholds_mm, tie=task.success_tie),
                "landmark_mean_mm": column_means(errors),
            }
        )
    return rows


def scored_errors(reference: Reference) -> list[tuple[str, str, NDArray[np.float64]]]:
    """Who is scored, against whom, and the (cases, landmarks) errors, for every observer with a point to score."""
    found = []
    for observer in reference.observers:
        if observer in (reference.observer, _sole_author(reference), CONSENSUS):
            continue  # scored against their own points they would be perfect, and a consensus is nobody
        against, errors = observer_errors(observer, reference)
        if np.isfinite(errors).any():
            found.append((observer, against, errors))
    return found


def score_pairs(reference: Reference) -> list[dict[str, Any]]:
    """One row per pair of observers who marked the same cases: `intra` or `inter`, their distance, their agreement."""
    rows = []
    people = [observer for observer in reference.observers if observer != CONSENSUS]
    for first, second in combinations(people, 2):
        a, b = reference.observer_mm(first), reference.observer_mm(second)
        errors = distances_mm(a, b, reference)
        if np.isfinite(errors).any():
            rows.append(
                {
                    "observers": [first, second],
                    "kind": "intra" if person(first) == person(second) else "inter",
                    "n_cases": int(np.isfinite(errors).any(axis=1).sum()),
                    "n_points": int(np.isfinite(errors).sum()),
                    "mre_mm": summarise_errors(errors),
                    "landmark_mean_mm": column_means(errors),
                    "agreement": bland_altman(a, b, reference),
                }
            )
    return rows


def bland_altman(
    points_mm: NDArray[np.float64], other_mm: NDArray[np.float64], reference: Reference
) -> dict[str, dict[str, float]]:
    """Per axis (LPS) the mean of `points - other`, its SD (n - 1) and the 95 % limits of agreement, in mm.

    Over all assessed landmarks that both gave. Bland and Altman, Lancet 1986.
    """
    difference = differences_mm(points_mm, other_mm, reference)
    result = {}
    for axis in range(reference.task.dimension):
        values = difference[..., axis][np.isfinite(difference[..., axis])]
        if values.size > 1:
            bias, sd = float(values.mean()), float(values.std(ddof=1))
            reach = LIMITS_OF_AGREEMENT * sd
            result[AXES[axis]] = {"bias_mm": bias, "sd_mm": sd, "low_mm": bias - reach, "high_mm": bias + reach}
    return result


def differences_mm(
    points_mm: NDArray[np.float64], other_mm: NDArray[np.float64], reference: Reference
) -> NDArray[np.float64]:
    """(cases, landmarks, dimension) `points - other`, NaN where one is not given or nobody assessed the landmark."""
    difference = np.where(reference.assessed[..., None], points_mm - other_mm, np.nan)
    return difference[..., : reference.task.dimension]


def observer_errors(observer: str, reference: Reference) -> tuple[str, NDArray[np.float64]]:
    """Against whom an observer is scored, and the (cases, landmarks) errors; NaN where either did not mark."""
    against = reference.leaving_out(observer) if reference.others(observer) else reference
    return against.rule, distances_mm(reference.observer_mm(observer), against.points_mm, reference)


def distances_mm(
    points_mm: NDArray[np.float64], other_mm: NDArray[np.float64], reference: Reference
) -> NDArray[np.float64]:
    """(cases, landmarks) distances where both gave the landmark, NaN elsewhere; capped like every error of the task."""
    scores = score_points(
        points_mm,
        other_mm,
        assessed=reference.assessed,
        dimension=reference.task.dimension,
        missing_error_mm=reference.task.missing_error_mm,
    )
    return np.where(scores.missing, np.nan, scores.error_mm)


def _sole_author(reference: Reference) -> str | None:
    """The observer whose points are the reference, where it is one person's."""
    rule = reference.task.reference
    return rule.observers[0] if rule.rule == "observer" and reference.observer == "reference" else None


def column_means(errors_mm: NDArray[np.float64]) -> list[float | None]:
    """The mean of each column; None where nothing is scored."""
    counts = np.isfinite(errors_mm).sum(axis=0)
    sums = np.nansum(errors_mm, axis=0)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
