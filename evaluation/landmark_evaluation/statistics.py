"""Confidence intervals by bootstrap over groups of cases: points of one image are not independent, nor are images of
one patient, so whole groups (patients) are drawn. Where every case is a group of its own, cases are drawn.

Everything is a product with the matrix of draws W (resamples, cases): sums for means and rates, and for quantiles of
the pooled points a search over blocks of sorted errors, exact and far cheaper than sorting every resample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import QUANTILES, success
from .sorted_points import SortedPoints

DEFAULT_RESAMPLES = 2000
DEFAULT_SEED = 20150416
LEVEL = 0.95
BLOCKS = 256
LANDMARK_BLOCKS = 24
CHUNK_ELEMENTS = 8_000_000

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """95 % percentile intervals. mre_mm: by statistic (mean, sd, ...); sdr: by threshold, in the given order.

    landmark_mre_mm: by landmark and statistic; landmark_sdr: by landmark and threshold. Empty, and None, where fewer
    than two groups have something scored.
    """

    mre_mm: dict[str, Interval]
    sdr: list[Interval | None]
    landmark_mre_mm: list[dict[str, Interval]]
    landmark_sdr: list[list[Interval | None]]


@dataclass(frozen=True, eq=False)
class Resampled:
    """Statistics of every resample. mre_mm: (resamples,) by statistic; sdr: (resamples, thresholds);
    landmark_sdr: (resamples, landmarks, thresholds). NaN where a resample has no such point."""

    mre_mm: dict[str, NDArray[np.float64]]
    sdr: NDArray[np.float64]
    landmark_sdr: NDArray[np.float64]


def resample(
    error_mm: NDArray[np.float64],
    thresholds_mm: Sequence[float],
    *,
    tie: str,
    groups: NDArray[np.int64] | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> Resampled:
    """Draw whole groups again and again; the same seed and groups draw the same cases for every submission.

    error_mm: (cases, landmarks), NaN where a landmark is not scored. groups: see `draw_cases`. The maximum is left
    out: a resample never passes the sample's own maximum, so its bootstrap says nothing about the population.
    """
    n_cases, n_landmarks = error_mm.shape
    n_thresholds = len(thresholds_mm)
    scored = np.isfinite(error_mm)
    errors = np.where(scored, error_mm, 0.0)
    hits = np.stack([success(error_mm, threshold, tie=tie) for threshold in thresholds_mm], axis=2)
    columns = np.concatenate(
        [
            scored.sum(axis=1, keepdims=True),
            errors.sum(axis=1, keepdims=True),
            (errors**2).sum(axis=1, keepdims=True),
            hits.sum(axis=1),
            scored,
            hits.reshape(n_cases, -1),
        ],
        axis=1,
        dtype=np.float64,
    )
    pooled = SortedPoints.of(error_mm, blocks=BLOCKS)
    sums: list[NDArray[np.float64]] = []
    quantiles: list[NDArray[np.float64]] = []
    for draws in draw_cases(n_cases, groups=groups, resamples=resamples, seed=seed):
        sums.append(draws @ columns)
        quantiles.append(pooled.quantiles(draws, list(QUANTILES.values())))
    widths = [1, 1, 1, n_thresholds, n_landmarks, n_landmarks * n_thresholds]
    n, s1, s2, hit, landmark_n, landmark_hit = np.split(np.concatenate(sums), np.cumsum(widths)[:-1], axis=1)
    by_name = dict(zip(QUANTILES, np.concatenate(quantiles).T, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Resampled(
            mre_mm=_summaries(n[:, 0], s1[:, 0], s2[:, 0], by_name),
            sdr=hit / n,
            landmark_sdr=landmark_hit.reshape(-1, n_landmarks, n_thresholds) / landmark_n[..., None],
        )


def _summaries(
    n: NDArray[np.float64], s1: NDArray[np.float64], s2: NDArray[np.float64], quantiles: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """(resamples,) by statistic, from counts, sums, sums of squares and quantiles of every resample."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mean": s1 / n,
            "sd": np.sqrt(np.maximum(s2 - s1**2 / n, 0.0) / (n - 1)),
            **quantiles,
            "iqr": quantiles["q75"] - quantiles["q25"],
            "rms": np.sqrt(s2 / n),
        }


def landmark_intervals(
    error_mm: NDArray[np.float64], *, groups: NDArray[np.int64] | None = None, resamples: int, seed: int
) -> list[dict[str, Interval]]:
    """The intervals of every landmark's own mean, SD, quantiles and RMS, on the draws of `resample`."""
    columns = [error_mm[:, [k]] for k in range(error_mm.shape[1])]
    return summary_intervals(columns, groups=groups, resamples=resamples, seed=seed)


def summary_intervals(
    sets: Sequence[NDArray[np.float64]],
    *,
    groups: NDArray[np.int64] | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> list[dict[str, Interval]]:
    """For each (cases, any) set of values, NaN where there is none, the intervals of its mean, SD, quantiles and RMS.

    Empty where fewer than two groups hold a value. The same cases are drawn as in `resample`.
    """
    if not sets:
        return []
    scored = [np.isfinite(values) for values in sets]
    filled = [np.where(there, values, 0.0) for there, values in zip(scored, sets, strict=True)]
    parts = (scored, filled, [values**2 for values in filled])
    columns = np.stack([each.sum(axis=1) for part in parts for each in part], axis=1, dtype=np.float64)
    points = [SortedPoints.of(values, blocks=LANDMARK_BLOCKS) for values in sets]
    sums, quantiles = [], []
    for draws in draw_cases(len(columns), groups=groups, resamples=resamples, seed=seed):
        sums.append(draws @ columns)
        shares = list(QUANTILES.values())
        quantiles.append(np.stack([each.quantiles(draws, shares) for each in points], axis=1))
    n, s1, s2 = np.split(np.concatenate(sums), 3, axis=1)
    by_set = np.concatenate(quantiles)
    found: list[dict[str, Interval]] = []
    for k in range(len(sets)):
        if not several_groups(scored[k], groups):
            found.append({})
            continue
        by_name = dict(zip(QUANTILES, by_set[:, k].T, strict=True))
        spans = {key: interval(each) for key, each in _summaries(n[:, k], s1[:, k], s2[:, k], by_name).items()}
        found.append({key: span for key, span in spans.items() if span is not None})
    return found


def intervals(found: Resampled, landmark_mre_mm: list[dict[str, Interval]]) -> Intervals:
    """The 95 % percentile intervals of resampled statistics; landmark_mre_mm: empty for those that have none."""
    n_landmarks, n_thresholds = found.landmark_sdr.shape[1:]
    summaries = {name: interval(values) for name, values in found.mre_mm.items()}
    return Intervals(
        mre_mm={name: value for name, value in summaries.items() if value is not None},
        sdr=[interval(found.sdr[:, t]) for t in range(n_thresholds)],
        landmark_mre_mm=landmark_mre_mm,
        landmark_sdr=[
            [interval(found.landmark_sdr[:, k, t]) if landmark_mre_mm[k] else None for t in range(n_thresholds)]
            for k in range(n_landmarks)
        ],
    )


def bootstrap(
    error_mm: NDArray[np.float64],
    thresholds_mm: Sequence[float],
    *,
    tie: str,
    groups: NDArray[np.int64] | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> Intervals:
    """Percentile bootstrap intervals of error statistics and success rates; the same seed gives the same numbers."""
    by_landmark = landmark_intervals(error_mm, groups=groups, resamples=resamples, seed=seed)
    if not several_groups(np.isfinite(error_mm), groups):
        return Intervals(
            {}, [None] * len(thresholds_mm), by_landmark, [[None] * len(thresholds_mm) for _ in by_landmark]
        )
    found = resample(error_mm, thresholds_mm, tie=tie, groups=groups, resamples=resamples, seed=seed)
    return intervals(found, by_landmark)


def several_groups(there: NDArray[Any], groups: NDArray[np.int64] | None = None) -> bool:
    """Whether two groups or more have something: drawn again and again, one always says the same, and no interval.

    there: (cases, any), something where it is not zero. groups: see `draw_cases`.
    """
    rows = np.unique(np.nonzero(there)[0])
    return np.unique(rows if groups is None else groups[rows]).size > 1


def interval(values: NDArray[np.float64]) -> Interval | None:
    """The central 95 % of bootstrap values; None where none is finite.

    A resample that drew no case with the landmark has no value, and takes no part.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def resampled_sums(
    columns: NDArray[np.float64],
    *,
    groups: NDArray[np.int64] | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = DEFAULT_SEED,
) -> NDArray[np.float64]:
    """(resamples, width) sums of (cases, width) columns over the cases of every resample, drawn as in `resample`."""
    drawn = draw_cases(len(columns), groups=groups, resamples=resamples, seed=seed)
    return np.concatenate([draws @ columns for draws in drawn])


def draw_cases(
    n_cases: int, *, groups: NDArray[np.int64] | None = None, resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Chunks (chunk, n_cases) of how often each resample draws each case; chunked so that memory stays bounded.

    groups: (n_cases,) the number of each case's group, from 0 without gaps, whose cases are drawn together; None where
    every case is a group of its own.
    """
    n_groups = n_cases if groups is None else int(groups.max()) + 1
    generator = np.random.default_rng(seed)
    chunk = max(1, min(resamples, CHUNK_ELEMENTS // n_cases))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(0, n_groups, size=(size, n_groups), dtype=np.int32).astype(np.int64)
        drawn += np.arange(size)[:, None] * n_groups
        counts = np.bincount(drawn.ravel(), minlength=size * n_groups).reshape(size, n_groups).astype(np.float64)
        yield counts if groups is None else counts[:, groups]
