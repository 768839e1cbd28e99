"""95 % intervals of what is neither the error of all points nor of one landmark.

Most figures are functions of sums over cases, so one product with the matrix of draws serves them all. Counts carry no
interval (their rates do), nor do maxima: a resample never passes the sample's own maximum.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.task import Task, threshold_key

from . import clinical, observers, uncertainty
from .metrics import Scores, success
from .ordered import ordered_interval, roc_figure
from .pairing import Submission
from .references import Reference
from .statistics import Interval, interval, resampled_sums, several_groups, summary_intervals

Path = tuple[str, ...]
# (cases, width) columns, and the figures by path that (resamples, width) sums of them make.
Figures = tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], dict[Path, NDArray[np.float64]]]]
RUNTIME_FIGURES = ("mean", "median", "p95")


def error_intervals(
    errors_mm: Sequence[NDArray[np.float64]],
    task: Task,
    *,
    groups: NDArray[np.int64],
    resamples: int,
    seed: int,
) -> list[dict[str, dict[str, Interval]]]:
    """For each (cases, landmarks) set of errors the intervals of its statistics and success rates.

    groups: (cases,) which are drawn together, here and below (`statistics.draw_cases`).
    """
    figures = []
    for number, errors in enumerate(errors_mm):
        count = np.isfinite(errors).sum(axis=1)
        for threshold in task.success_thresholds_mm:
            hits = success(errors, threshold, tie=task.success_tie).sum(axis=1)
            figures.append(_ratio((str(number), threshold_key(threshold)), hits, count))
    rates = _intervals(figures, groups=groups, resamples=resamples, seed=seed)
    summaries = summary_intervals(errors_mm, groups=groups, resamples=resamples, seed=seed)
    return [{"mre_mm": spans, "sdr": rates.get(str(number), {})} for number, spans in enumerate(summaries)]


def agreement_intervals(
    differences_mm: Sequence[NDArray[np.float64]], *, groups: NDArray[np.int64], resamples: int, seed: int
) -> list[dict[str, dict[str, Interval]]]:
    """For each (cases, landmarks, dimension) set of differences the intervals of its Bland-Altman figures by axis."""
    figures = [each for k, difference in enumerate(differences_mm) for each in _agreement((str(k),), difference)]
    found = _intervals(figures, groups=groups, resamples=resamples, seed=seed)
    return [found.get(str(k), {}) for k in range(len(differences_mm))]


def further_intervals(
    scores: Scores, submission: Submission, reference: Reference, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Intervals of the success curve's area, presence, bias, clinical classes, observers, uncertainty and run time."""
    task = reference.task
    draw: dict[str, Any] = {"groups": reference.groups, "resamples": resamples, "seed": seed}
    count = scores.scored.sum(axis=1)
    left = np.where(scores.scored, np.maximum(0.0, 1 - scores.error_mm / task.success_thresholds_mm[-1]), 0.0)
    absent = (scores.rejected | scores.false_alarm).sum(axis=1)
    figures = [
        _ratio(("success_curve_area",), left.sum(axis=1), count),
        _ratio(("presence", "sensitivity"), (scores.scored & ~scores.missing).sum(axis=1), count),
        _ratio(("presence", "specificity"), scores.rejected.sum(axis=1), absent),
        *_agreement(("bias",), observers.differences_mm(submission.points_mm, reference.points_mm, reference)),
        *_observers(scores, reference),
    ]
    if task.name == clinical.TASK:
        for key, row in clinical.agreement(submission.points_mm, reference.points_mm, names=task.names).items():
            figures.append(_ratio(("clinical", key, "success_classification_rate"), row.same, row.judged))
            figures.append(_ratio(("clinical", key, "mean_absolute_difference"), row.difference, row.both))
    found = _intervals(figures, **draw)
    area = _roc_area(scores, submission, reference, **draw)
    if area is not None:
        found.setdefault("presence", {})["roc_area"] = area
    times = {
        "runtime_s": submission.runtime_s,
        "runtime_cold_s": submission.cold_s,
        "runtime_warm_s": submission.warm_s,
    }
    spans = summary_intervals([seconds[:, None] for seconds in times.values()], **draw)
    for name, of_time in zip(times, spans, strict=True):
        if of_time:
            found[name] = {key: of_time[key] for key in RUNTIME_FIGURES}
    points = uncertainty.uncertain_points_of(scores, submission, reference)
    if points is not None:
        found["uncertainty"] = uncertainty.uncertainty_intervals(points, n_cases=len(count), **draw)
    return found


def _roc_area(scores: Scores, submission: Submission, reference: Reference, **draw: Any) -> Interval | None:
    positive = scores.scored[reference.assessed]
    if positive.all() or not positive.any():
        return None
    case = np.nonzero(reference.assessed)[0]
    figure = roc_figure(submission.probability[reference.assessed], positive)
    return ordered_interval(figure, case, n_cases=len(scores.scored), **draw)


def _observers(scores: Scores, reference: Reference) -> Iterator[Figures]:
    """The noise ceiling, by landmark too, and this submission's mean error divided by it, drawn together."""
    errors = [errors for _, _, errors in observers.scored_errors(reference)]
    if not errors:
        return
    counts = np.isfinite(np.stack(errors)).sum(axis=0).astype(np.float64)
    sums = np.nan_to_num(np.stack(errors)).sum(axis=0)
    yield _ratio(("observers", "mean_mm"), sums.sum(axis=1), counts.sum(axis=1))
    for column, name in enumerate(reference.task.names):
        yield _ratio(("observers", "landmark_mean_mm", name), sums[:, column], counts[:, column])
    ours = np.nansum(scores.error_mm, axis=1), scores.scored.sum(axis=1)
    columns = np.stack([*ours, sums.sum(axis=1), counts.sum(axis=1)], axis=1, dtype=np.float64)
    path = ("observers", "relative_error")
    yield columns, lambda drawn: {path: drawn[:, 0] / drawn[:, 1] / (drawn[:, 2] / drawn[:, 3])}


def _ratio(path: Path, numerator: NDArray[Any], denominator: NDArray[Any]) -> Figures:
    """A mean or a rate: a sum over cases divided by another."""
    columns = np.stack([numerator, denominator], axis=1, dtype=np.float64)
    return columns, lambda drawn: {path: drawn[:, 0] / drawn[:, 1]}


def _agreement(path: Path, difference_mm: NDArray[np.float64]) -> Iterator[Figures]:
    """Bland and Altman's bias, SD (n - 1) and limits along each axis."""
    for axis in range(difference_mm.shape[2]):
        values = difference_mm[..., axis]
        if np.isfinite(values).sum() < 2:
            continue
        sums = [np.isfinite(values).sum(axis=1), np.nansum(values, axis=1), np.nansum(values**2, axis=1)]
        yield np.stack(sums, axis=1, dtype=np.float64), _limits((*path, observers.AXES[axis]))


def _limits(path: Path) -> Callable[[NDArray[np.float64]], dict[Path, NDArray[np.float64]]]:
    def figures(drawn: NDArray[np.float64]) -> dict[Path, NDArray[np.float64]]:
        n, s1, s2 = drawn.T
        bias = s1 / n
        sd = np.sqrt(np.maximum(s2 - s1**2 / n, 0.0) / (n - 1))
        reach = observers.LIMITS_OF_AGREEMENT * sd
        named = {"bias_mm": bias, "sd_mm": sd, "low_mm": bias - reach, "high_mm": bias + reach}
        return {(*path, key): values for key, values in named.items()}

    return figures


def _intervals(figures: Sequence[Figures], **draw: Any) -> dict[str, Any]:
    """The interval of every figure that has one, nested by path; those of a single group have none."""
    found: dict[str, Any] = {}
    figures = [each for each in figures if several_groups(each[0], draw["groups"])]
    if not figures:
        return found
    columns = [each for each, _ in figures]
    sums = resampled_sums(np.concatenate(columns, axis=1), **draw)
    ends = np.cumsum([each.shape[1] for each in columns])
    for (_, make), drawn in zip(figures, np.split(sums, ends[:-1], axis=1), strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            values = make(drawn)
        for path, each in values.items():
            span = interval(each)
            if span is not None:
                _put(found, path, span)
    return found


def _put(tree: dict[str, Any], path: Path, span: Interval) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = span
