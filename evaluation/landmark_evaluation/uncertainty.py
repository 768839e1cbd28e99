"""Does a submission know how wrong it is? Its covariances against its errors, over points that are there and given.

Coverage counts a given point without a covariance as not covered, so that keeping quiet about hard points never pays.

Loc-Net's confidence ellipsoid (section 2.4 of its paper) generalised from uncorrelated axes to a full covariance.
"""

from dataclasses import dataclass, field
from math import gamma, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import Scores
from .ordered import Figure, kept_means, ordered_interval, spearman_figure
from .pairing import Submission
from .references import Reference
from .statistics import interval, resampled_sums, several_groups, summary_intervals

LEVELS = (0.50, 0.68, 0.90, 0.95)
ELLIPSOID_LEVEL = 0.90
REMOVED = np.arange(0, 100, 5) / 100
MIN_POINTS = 10
# Below this variance an axis counts as claimed to be exact: the error along it must then be zero to be covered.
EXACT_MM2 = 1e-12


@dataclass(frozen=True, eq=False)
class UncertainPoints:
    """Points with a covariance: error_mm (n,), offset_mm (n, dimension), covariance_mm2 (n, dimension, dimension), and
    case (n,), the row of the case that each belongs to, rising; bare_case (m,), that of given points without one."""

    error_mm: NDArray[np.float64]
    offset_mm: NDArray[np.float64]
    covariance_mm2: NDArray[np.float64]
    case: NDArray[np.int64]
    bare_case: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def spread_mm(self) -> NDArray[np.float64]:
        """(n,) root of the trace: the RMS radial error that the covariance announces."""
        return np.sqrt(np.maximum(np.einsum("nkk->n", self.covariance_mm2), 0.0))

    @property
    def mahalanobis_squared(self) -> NDArray[np.float64]:
        """(n,) squared Mahalanobis distances; infinite where an axis that was claimed exact is not."""
        values, axes = np.linalg.eigh(self.covariance_mm2)
        along = np.einsum("nik,ni->nk", axes, self.offset_mm) ** 2
        exact = values < EXACT_MM2
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(exact, np.where(along < EXACT_MM2, 0.0, np.inf), along / np.where(exact, 1.0, values))
        return terms.sum(axis=1)


def uncertain_points(
    error_mm: NDArray[np.float64],
    offset_mm: NDArray[np.float64],
    covariance_mm2: NDArray[np.float64],
    *,
    dimension: int,
) -> UncertainPoints | None:
    """The scored, given points that carry a covariance; None where fewer than ten do.

    error_mm: (cases, landmarks). offset_mm: (cases, landmarks, 3), NaN where either point is absent. covariance_mm2:
    (cases, landmarks, 3, 3), NaN where there is none; a 2D task uses its x, y block.
    """
    given = np.isfinite(error_mm) & np.isfinite(offset_mm[..., :dimension]).all(axis=2)
    carries = np.isfinite(covariance_mm2).all(axis=(2, 3))
    chosen = given & carries
    if chosen.sum() < MIN_POINTS:
        return None
    return UncertainPoints(
        error_mm[chosen],
        offset_mm[chosen][:, :dimension],
        covariance_mm2[chosen][:, :dimension, :dimension],
        np.nonzero(chosen)[0],
        np.nonzero(given & ~carries)[0],
    )


def uncertain_points_of(scores: Scores, submission: Submission, reference: Reference) -> UncertainPoints | None:
    """The points of a scored submission that carry a covariance; None where fewer than ten do."""
    return uncertain_points(
        scores.error_mm,
        submission.points_mm - reference.points_mm,
        submission.covariance_mm2,
        dimension=reference.task.dimension,
    )


def summarise_uncertainty(points: UncertainPoints) -> dict[str, Any]:
    """Correlation with the error, size of the 90 % ellipsoid, coverage at four levels, sparsification.

    share_with_covariance: of the points that are there and given. Coverage is over all of these, all else over those
    with a covariance, n_points.

    An ellipsoid has a volume in mm^3, in 2D an ellipse an area in mm^2. sparsification_error: area between the curve of
    the mean error of what is left when the least certain points are removed and the one of a perfect order, divided by
    the mean error; 0 is perfect.
    """
    from scipy import stats

    spread, error = points.spread_mm, points.error_mm
    n_given = error.size + points.bare_case.size
    result: dict[str, Any] = {"n_points": int(error.size), "share_with_covariance": error.size / n_given}
    if np.ptp(spread) > 0 and np.ptp(error) > 0:
        for name, test in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            # Their p-values take points as independent, which those of one image are not: the interval stands in.
            result[name] = {"r": float(test(spread, error).statistic)}
    dimension = points.offset_mm.shape[1]
    size = ellipsoid_size(points.covariance_mm2, float(stats.chi2.ppf(ELLIPSOID_LEVEL, dimension)))
    unit = "mm3" if dimension == 3 else "mm2"
    result[f"ellipsoid_90_{unit}"] = {"mean": float(size.mean()), "median": float(np.median(size))}
    squared = points.mahalanobis_squared
    result["coverage"] = {
        f"{round(100 * level)}": float(np.sum(squared <= stats.chi2.ppf(level, dimension))) / n_given
        for level in LEVELS
    }
    left, ideal = sparsification(points)
    if error.mean() > 0:
        result["sparsification_error"] = float(np.trapezoid(left - ideal, REMOVED) / error.mean())
    return result


def uncertainty_intervals(
    points: UncertainPoints,
    *,
    n_cases: int,
    groups: NDArray[np.int64] | None = None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The 95 % intervals of what `summarise_uncertainty` finds, but for the count; nested alike. None of a single
    group's points."""
    from scipy import stats

    if not several_groups(np.bincount(points.case, minlength=n_cases), groups):
        return {"coverage": {}}
    draw: dict[str, Any] = {"groups": groups, "resamples": resamples, "seed": seed}
    spread, error, dimension = points.spread_mm, points.error_mm, points.offset_mm.shape[1]
    squared = points.mahalanobis_squared
    inside = [squared <= stats.chi2.ppf(level, dimension) for level in LEVELS]
    x, y = spread - spread.mean(), error - error.mean()
    parts = [np.ones_like(x), x, y, x**2, y**2, x * y, *inside]
    sums = [np.bincount(points.case, part, minlength=n_cases) for part in parts]
    sums.append(np.bincount(points.bare_case, minlength=n_cases))
    columns = np.stack(sums, axis=1, dtype=np.float64)
    n, sx, sy, sxx, syy, sxy, *hits, bare = resampled_sums(columns, **draw).T
    with np.errstate(invalid="ignore", divide="ignore"):
        pearson = (sxy - sx * sy / n) / np.sqrt((sxx - sx**2 / n) * (syy - sy**2 / n))
        coverage = {
            f"{round(100 * level)}": interval(hit / (n + bare)) for level, hit in zip(LEVELS, hits, strict=True)
        }
        carried = interval(n / (n + bare))
    size = ellipsoid_size(points.covariance_mm2, float(stats.chi2.ppf(ELLIPSOID_LEVEL, dimension)))
    sizes = summary_intervals([_by_case(size, points.case, n_cases)], **draw)[0]
    unit = "mm3" if dimension == 3 else "mm2"
    result: dict[str, Any] = {"share_with_covariance": carried, "coverage": coverage}
    result[f"ellipsoid_90_{unit}"] = {key: sizes[key] for key in ("mean", "median")}
    if np.ptp(spread) > 0 and np.ptp(error) > 0:
        ranked = ordered_interval(spearman_figure(spread, error), points.case, n_cases=n_cases, **draw)
        spans = {"pearson": interval(pearson), "spearman": ranked}
        result |= {name: {"r": span} for name, span in spans.items() if span is not None}
    if error.mean() > 0:
        result["sparsification_error"] = _sparsification_interval(points, n_cases=n_cases, **draw)
    return result


def _by_case(values: NDArray[np.float64], case: NDArray[np.int64], n_cases: int) -> NDArray[np.float64]:
    """(cases, most points of a case) the values laid out by case, NaN where a case has fewer."""
    counts = np.bincount(case, minlength=n_cases)
    place = np.arange(case.size) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n_cases, int(counts.max())), np.nan)
    table[case, place] = values
    return table


def _sparsification_interval(points: UncertainPoints, *, n_cases: int, **draw: Any) -> Any:
    curves = _sparsification_curves(points)

    def area(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        left, ideal = (curve(weights) for curve in curves)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.trapezoid(left - ideal, REMOVED, axis=1) / left[:, 0]

    return ordered_interval(area, points.case, n_cases=n_cases, **draw)


def ellipsoid_size(covariance_mm2: NDArray[np.float64], chi_squared: float) -> NDArray[np.float64]:
    """(n,) volumes (areas in 2D) of {x: x' C^-1 x <= chi_squared}.

    >>> round(float(ellipsoid_size(np.eye(3)[None], 1.0)[0]), 4)
    4.1888
    """
    dimension = covariance_mm2.shape[1]
    unit_ball = pi ** (dimension / 2) / gamma(dimension / 2 + 1)
    determinant = np.maximum(np.linalg.det(covariance_mm2), 0.0)
    return unit_ball * chi_squared ** (dimension / 2) * np.sqrt(determinant)


def sparsification(points: UncertainPoints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean error of what is left after removing 0, 5 ... 95 % of the points: by uncertainty, and by true error.

    Points of equal uncertainty are removed in no order: the mean of theirs stands for each.
    """
    once = np.ones((1, points.error_mm.size))
    left, ideal = (curve(once)[0] for curve in _sparsification_curves(points))
    return left, ideal


def _sparsification_curves(points: UncertainPoints) -> tuple[Figure, Figure]:
    """The curves by uncertainty and by true error, as figures of weighted points."""
    by_spread, by_error = (kept_means(key, points.error_mm, REMOVED) for key in (points.spread_mm, points.error_mm))
    return by_spread, by_error
