"""The columns of a ranking in every resample of cases, as far as errors per case make them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.task import Task, threshold_key

from .statistics import Resampled, resample, resampled_sums


def redrawn_columns(
    errors_mm: Sequence[NDArray[np.float64]], task: Task, **draw: Any
) -> list[NDArray[np.float64] | None]:
    """(resamples, submissions) values of each column of the ranking; None where errors per case do not make it.

    errors_mm: (cases, landmarks) of each submission, NaN where nothing is scored. draw: groups, resamples and seed.
    Error statistics but the maximum follow from them, success rates, both of single landmarks too, and the area under
    the success curve.
    """
    thresholds = task.success_thresholds_mm
    keys = [threshold_key(threshold) for threshold in thresholds]

    def of(columns: slice) -> list[Resampled]:
        return [resample(errors[:, columns], thresholds, tie=task.success_tie, **draw) for errors in errors_mm]

    def redrawn(path: list[str]) -> NDArray[np.float64] | None:
        part = whole
        if path[0] == "landmarks" and len(path) == 4 and path[1] in task.names:
            column = task.names.index(path[1])
            part, path = of(slice(column, column + 1)), path[2:]
        if path[0] == "mre_mm" and path[-1] in part[0].mre_mm:
            return np.stack([each.mre_mm[path[-1]] for each in part], axis=1)
        if path[0] == "sdr" and path[-1] in keys:
            return np.stack([each.sdr[:, keys.index(path[-1])] for each in part], axis=1)
        if path == ["success_curve_area"]:
            return np.stack([_curve_areas(errors, thresholds[-1], **draw) for errors in errors_mm], axis=1)
        return None

    whole = of(slice(None))
    return [redrawn(column.path.split(".")[1:] or [""]) for column in task.ranking.columns]


def _curve_areas(error_mm: NDArray[np.float64], limit_mm: float, **draw: Any) -> NDArray[np.float64]:
    """(resamples,) areas under the success curve up to `limit_mm`, as in `sections.success_curve_area`."""
    scored = np.isfinite(error_mm)
    left = np.where(scored, np.maximum(0.0, 1 - error_mm / limit_mm), 0.0)
    area, count = resampled_sums(np.stack([left.sum(axis=1), scored.sum(axis=1)], axis=1), **draw).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return area / count
