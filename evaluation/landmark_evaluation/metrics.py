"""Errors and success rates of one submission, as pure functions of (cases, landmarks) arrays.

The rules: a landmark that is in the image and was not given is charged `missing_error_mm`; the error of a given point
is capped at it; a landmark that nobody assessed in a case is left out of everything; one that the reference says is not
in the image has no error: giving it is a false alarm, leaving it out a correct rejection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TIE_TOLERANCE_MM = 1e-9
QUANTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75, "p95": 0.95}


@dataclass(frozen=True, eq=False)
class Scores:
    """What became of every landmark of every case; all arrays are (cases, landmarks).

    error_mm: float64, NaN where the landmark is not scored (absent, or not assessed). missing, false_alarm, rejected:
    bool. A missing landmark is scored, a false alarm and a correct rejection are not.
    """

    error_mm: NDArray[np.float64]
    missing: NDArray[np.bool_]
    false_alarm: NDArray[np.bool_]
    rejected: NDArray[np.bool_]

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Where there is an error."""
        return np.isfinite(self.error_mm)


def score_points(
    predicted_mm: NDArray[np.float64],
    reference_mm: NDArray[np.float64],
    *,
    assessed: NDArray[np.bool_],
    dimension: int,
    missing_error_mm: float,
) -> Scores:
    """Score (cases, landmarks, 3) points in mm, NaN where a landmark is not given or not in the image.

    assessed: (cases, landmarks), False where nobody looked. dimension: 2 compares x and y only.

    >>> predicted, reference = np.zeros((1, 2, 3)), np.array([[[3.0, 4.0, 9.0], [np.nan] * 3]])
    >>> scores = score_points(
    ...     predicted, reference, assessed=np.ones((1, 2), bool), dimension=2, missing_error_mm=100.0)
    >>> float(scores.error_mm[0, 0]), scores.false_alarm.tolist()
    (5.0, [[False, True]])
    """
    offset_mm = (predicted_mm - reference_mm)[..., :dimension]
    # hypot-like scaling is not needed: coordinates are millimetres, far from overflow, and were checked to be finite.
    distance_mm = np.minimum(np.sqrt(np.einsum("clk,clk->cl", offset_mm, offset_mm)), missing_error_mm)
    given = np.isfinite(predicted_mm[..., :dimension]).all(axis=2)
    there = np.isfinite(reference_mm[..., :dimension]).all(axis=2)
    error_mm = np.where(assessed & there, np.where(given, distance_mm, missing_error_mm), np.nan)
    return Scores(
        error_mm=error_mm,
        missing=assessed & there & ~given,
        false_alarm=assessed & ~there & given,
        rejected=assessed & ~there & ~given,
    )


def success(error_mm: NDArray[np.float64], threshold_mm: float, *, tie: str) -> NDArray[np.bool_]:
    """Whether each error counts as a success: `strict` is <, `inclusive` <=.

    An error within 1e-9 mm of the threshold equals it: points on a 0.1 mm grid lie exactly on thresholds, and float64
    sums would decide those ties by rounding. NaN is no success.

    >>> success(np.array([2.0 - 1e-12, 2.0 + 1e-12]), 2.0, tie="strict").tolist()
    [False, False]
    >>> success(np.array([2.0 - 1e-12, 2.0 + 1e-12]), 2.0, tie="inclusive").tolist()
    [True, True]
    """
    if tie not in ("strict", "inclusive"):
        raise ValueError(f"tie: wanted strict or inclusive, got {tie}")
    limit_mm = threshold_mm - TIE_TOLERANCE_MM if tie == "strict" else threshold_mm + TIE_TOLERANCE_MM
    return error_mm < limit_mm if tie == "strict" else error_mm <= limit_mm


def success_rates(error_mm: NDArray[np.float64], thresholds_mm: Sequence[float], *, tie: str) -> list[float]:
    """The share of the errors that are a success at each threshold; NaN entries take no part.

    Raises ValueError where there is no error at all.
    """
    errors = _scored(error_mm)
    return [float(np.mean(success(errors, threshold, tie=tie))) for threshold in thresholds_mm]


def summarise_errors(error_mm: NDArray[np.float64]) -> dict[str, float]:
    """Mean, SD (n - 1, absent for a single error), median, quartiles, IQR, RMS, 95th percentile, maximum, in mm.

    Quantiles interpolate linearly. NaN entries take no part. Raises ValueError where there is no error at all.
    """
    errors = _scored(error_mm)
    q25, median, q75, p95 = np.quantile(errors, list(QUANTILES.values())).tolist()
    result = {"mean": float(errors.mean())}
    if errors.size > 1:
        result["sd"] = float(errors.std(ddof=1))
    return {
        **result,
        "median": median,
        "q25": q25,
        "q75": q75,
        "iqr": q75 - q25,
        "rms": float(np.sqrt(np.mean(errors**2))),
        "p95": p95,
        "max": float(errors.max()),
    }


def summarise_runtime(runtime_s: NDArray[np.float64]) -> dict[str, float] | None:
    """Mean, median, 95th percentile and maximum of the measured run times in seconds; None where none was measured."""
    measured = runtime_s[np.isfinite(runtime_s)]
    if not measured.size:
        return None
    median, p95 = np.quantile(measured, [0.5, 0.95]).tolist()
    return {"mean": float(measured.mean()), "median": median, "p95": p95, "max": float(measured.max())}


def _scored(error_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    errors = error_mm[np.isfinite(error_mm)]
    if not errors.size:
        raise ValueError("no error to summarise")
    return errors
