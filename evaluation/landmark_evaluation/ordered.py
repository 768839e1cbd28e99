"""Figures that depend on the order of all points, for every resample of cases: no sum over cases makes them.

A resample gives each point the weight of its case, how often that case was drawn with its group. Every figure here is
the plain one of the points written down that often: ranks are midranks, ties in the ROC count half.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .statistics import Interval, draw_cases, interval, several_groups

CHUNK_WEIGHTS = 2_000_000
# Beyond this many weights (points times resamples) fewer resamples are drawn, 200 at least: 100,000 points get 1000.
MAX_WEIGHTS = 100_000_000
MIN_RESAMPLES = 200
Figure = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # (chunk, points) weights -> (chunk,) values


def ordered_interval(
    figure: Figure,
    case: NDArray[np.int64],
    *,
    n_cases: int,
    groups: NDArray[np.int64] | None = None,
    resamples: int,
    seed: int,
) -> Interval | None:
    """The 95 % interval of a figure of points, None where it has no value or the points are of one group; case:
    (points,) the case of each."""
    if not several_groups(np.bincount(case, minlength=n_cases), groups):
        return None
    resamples = min(resamples, max(MIN_RESAMPLES, MAX_WEIGHTS // max(1, case.size)))
    step = max(1, CHUNK_WEIGHTS // max(1, case.size))
    values = [
        figure(draws[start : start + step][:, case])
        for draws in draw_cases(n_cases, groups=groups, resamples=resamples, seed=seed)
        for start in range(0, len(draws), step)
    ]
    return interval(np.concatenate(values))


def roc_figure(probability: NDArray[np.float64], positive: NDArray[np.bool_]) -> Figure:
    """The area under the ROC; probability, positive: (points,). NaN where a resample lacks one kind."""
    levels = _Levels(probability)

    def figure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        above, below = levels.sums(weights * positive), levels.sums(weights * ~positive)
        wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return wins / (above.sum(axis=1) * below.sum(axis=1))

    return figure


def spearman_figure(x: NDArray[np.float64], y: NDArray[np.float64]) -> Figure:
    """Spearman's correlation of (points,) x and y. NaN where one of them is constant in a resample."""
    levels = (_Levels(x), _Levels(y))

    def figure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = weights.sum(axis=1, keepdims=True)
        ranks = [each.midranks(weights) for each in levels]
        a, b = (rank - (weights * rank).sum(axis=1, keepdims=True) / total for rank in ranks)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights * a * b).sum(axis=1) / np.sqrt((weights * a**2).sum(axis=1) * (weights * b**2).sum(axis=1))

    return figure


def kept_means(key: NDArray[np.float64], values: NDArray[np.float64], removed: NDArray[np.float64]) -> Figure:
    """Mean of the values that are left after the last `removed` shares of the points, by rising key, are taken away.

    key, values: (points,); the figure is (chunk, shares). Points of one key are kept in part by their mean, so that
    their order tells nothing; at least one is left. NaN where a row weighs nothing.
    """
    levels = _Levels(key)

    def figure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        weight, value = levels.sums(weights), levels.sums(weights * values)
        weights_up_to, values_up_to = np.cumsum(weight, axis=1), np.cumsum(value, axis=1)
        total = weights_up_to[:, -1:]
        kept = np.maximum(1, np.round((1 - removed) * total))
        # Rows are set apart by more than any of them holds, so that one search serves them all.
        rows = np.arange(len(weight))[:, None]
        apart = rows * (float(total.max()) + 1)
        at = np.searchsorted((weights_up_to + apart).ravel(), (kept + apart).ravel()).reshape(kept.shape)
        at = np.minimum(at - rows * weight.shape[1], weight.shape[1] - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            surplus = (weights_up_to[rows, at] - kept) * value[rows, at] / weight[rows, at]
        return np.where(total > 0, (values_up_to[rows, at] - surplus) / kept, np.nan)

    return figure


class _Levels:
    """The distinct values of points in ascending order."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self.starts = np.flatnonzero(first)
        self.of_point = np.empty(values.size, np.int64)
        self.of_point[self.order] = np.cumsum(first) - 1

    def sums(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(chunk, levels) weight of each value."""
        return np.add.reduceat(weights[:, self.order], self.starts, axis=1)

    def midranks(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(chunk, points) midrank of each point among as many as the weights say."""
        sums = self.sums(weights)
        return (np.cumsum(sums, axis=1) - sums / 2 + 0.5)[:, self.of_point]
