"""The plots of one evaluation. Every function returns a figure in the kit's style; errors in mm throughout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..metrics import success
from ..scoring import Evaluation
from ..uncertainty import LEVELS, REMOVED, UncertainPoints, sparsification
from .theme import PALETTE, colour, new_figure

CURVE_POINTS = 240
MAX_NAMED = 8
PERSON_LINES = ("--", ":", "-.")
# More dots than this are drawn as a picture: as shapes they would make the page slow and large.
MAX_DOTS = 4000
FEW_POINTS = 30
ELLIPSE_POINTS = 5  # fewer make needles
PLANES = (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2))
AXIS_TITLE = ("left (x)", "posterior (y)", "superior (z)")


def _label(name: str) -> str:
    """The name for a legend, which leaves out those that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def success_curve(
    curves: Sequence[tuple[str, NDArray[np.float64], bool]],
    *,
    limit_mm: float,
    tie: str,
    people: Sequence[tuple[str, Sequence[float], Sequence[float]]] = (),
) -> Figure:
    """Share of points within a distance. curves: (name, errors with NaN, whether a person); people are dashed.

    people: further ones of whom only (name, thresholds in mm, rates) are known.
    """
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    thresholds = np.linspace(0, limit_mm, CURVE_POINTS)
    methods = persons = 0
    for name, error_mm, person in curves:
        errors = error_mm[np.isfinite(error_mm)]
        rates = [100 * np.mean(success(errors, threshold, tie=tie)) for threshold in thresholds]
        style: dict[str, Any]
        label = _label(name)
        if person:
            style = {"color": PALETTE["--muted"], "linestyle": PERSON_LINES[persons % 3], "linewidth": 1.4}
            persons += 1
        elif methods < MAX_NAMED:
            style = {"color": colour(methods), "linestyle": ("-", "--")[methods // 6 % 2], "linewidth": 2.0}
            methods += 1
        else:
            label = "further submissions" if methods == MAX_NAMED else "_nolegend_"
            style = {"color": PALETTE["--line"], "linewidth": 1.2, "zorder": 1.5}
            methods += 1
        axes.plot(thresholds, rates, label=label, **style)
    for name, limits_mm, shares in people:
        axes.plot(
            [0, *limits_mm],
            [0, *(100 * share for share in shares)],
            label=_label(name),
            color=PALETTE["--muted"],
            linestyle=PERSON_LINES[persons % 3],
            linewidth=1.4,
            marker=".",
            markersize=4,
        )
        persons += 1
    axes.set(xlim=(0, limit_mm), ylim=(0, 101), xlabel="distance (mm)", ylabel="points within (%)")
    if len(curves) + len(people) > 1:
        axes.legend(loc="lower right", fontsize=8.5)
    return figure


def landmark_boxes(
    error_mm: NDArray[np.float64], names: Sequence[str], *, observers: Sequence[tuple[str, Sequence[float | None]]]
) -> Figure:
    """One box per landmark: quartiles, 5th to 95th percentile, mean; the observers' means as marks beside."""
    figure = new_figure(7.2, 0.75 + 0.27 * len(names))
    axes = figure.add_subplot()
    columns = [error_mm[:, k][np.isfinite(error_mm[:, k])] for k in range(len(names))]
    shown = [k for k, column in enumerate(columns) if column.size]
    positions = [len(names) - k for k in shown]
    axes.boxplot(
        [columns[k] for k in shown],
        positions=positions,
        orientation="horizontal",
        widths=0.55,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": PALETTE["--blue-soft"], "edgecolor": PALETTE["--blue"]},
        medianprops={"color": PALETTE["--blue"], "linewidth": 2},
        whiskerprops={"color": PALETTE["--blue"]},
        capprops={"color": PALETTE["--blue"]},
    )
    axes.plot([columns[k].mean() for k in shown], positions, "o", color=PALETTE["--ink"], markersize=3.5, label="mean")
    for number, (name, means) in enumerate(observers):
        known = [(mean, len(names) - k) for k, mean in enumerate(means) if mean is not None]
        if known:
            axes.plot(*zip(*known, strict=True), ("D", "s", "^", "v")[number % 4], color=PALETTE["--orange"],
                      markersize=3.5, fillstyle="none", label=f"mean of {name}")  # fmt: skip
    axes.set(xlabel="radial error (mm): quartiles, 5th to 95th percentile", ylim=(0.3, len(names) + 0.7))
    axes.set_xlim(left=0)
    axes.set_yticks([len(names) - k for k in range(len(names))], list(names))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def case_errors(error_mm: NDArray[np.float64], *, observers_mm: float | None = None) -> Figure:
    """Mean and largest error of every case, worst first; the observers' mean error as a line.

    Where a few cases lie far above the rest (a missing landmark) the axis ends below them, and arrows stand for them.
    """
    scored = error_mm[np.isfinite(error_mm).any(axis=1)]
    means, largest = np.nanmean(scored, axis=1), np.nanmax(scored, axis=1)
    order = np.argsort(-means, kind="stable")
    figure = new_figure(7.2, 2.9)
    axes = figure.add_subplot()
    place = np.arange(1, means.size + 1)
    usual = 1.5 * float(np.quantile(largest, 0.95))
    top = usual if largest.max() > 2 * usual > 0 else None
    axes.vlines(place, means[order], largest[order], color=PALETTE["--line"], linewidth=1.2)
    dot = float(np.clip(90 / means.size, 3, 8))
    axes.plot(place, largest[order], ".", color=PALETTE["--orange"], markersize=dot, label="largest error of the case")
    axes.plot(place, means[order], ".", color=PALETTE["--blue"], markersize=dot + 1, label="mean error of the case")
    if top is not None:
        beyond = place[largest[order] > top]
        label = f"beyond, up to {largest.max():.0f} mm"
        axes.plot(beyond, np.full(beyond.size, 0.97 * top), "^", color=PALETTE["--orange"], markersize=4, label=label)
    if observers_mm is not None:
        axes.axhline(
            observers_mm, color=PALETTE["--muted"], linestyle="--", linewidth=1.4, label="mean of the observers"
        )
    axes.set(xlabel="cases, worst first", ylabel="radial error (mm)", ylim=(0, top))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right", fontsize=8.5)
    return figure


def error_directions(evaluation: Evaluation) -> Figure:
    """Where predictions lie as seen from the reference: one panel per landmark in 2D, one per plane in 3D."""
    task = evaluation.reference.task
    offset = np.where(
        evaluation.scores.scored[..., None], evaluation.submission.points_mm - evaluation.reference.points_mm, np.nan
    )
    length = evaluation.scores.error_mm[np.isfinite(offset).all(axis=2)]
    reach = float(np.quantile(length, 0.98)) * 1.1 if length.size and np.any(length > 0) else 1.0
    if task.dimension == 2:
        return _direction_grid(offset, task.names, reach)
    points_are_many = length.size > MAX_DOTS
    figure = new_figure(7.2, 2.9)
    for number, (title, a, b) in enumerate(PLANES):
        axes = figure.add_subplot(1, 3, number + 1)
        for column in range(len(task.names)):
            points = offset[:, column][np.isfinite(offset[:, column]).all(axis=1)]
            axes.plot(
                points[:, a],
                points[:, b],
                ".",
                color=PALETTE["--blue"],
                alpha=0.25 if len(points) > FEW_POINTS else 0.7,
                markersize=2 if len(points) > FEW_POINTS else 5,
                rasterized=points_are_many,
            )
            if len(points):
                axes.plot(*points[:, [a, b]].mean(axis=0), "o", color=PALETTE["--orange"], markersize=3)
        _cross_hairs(axes, reach)
        axes.set(title=title, xlabel=f"{AXIS_TITLE[a]}, mm", ylabel=f"{AXIS_TITLE[b]}, mm")
        if b == 1:
            axes.invert_yaxis()
    return figure


def _direction_grid(offset: NDArray[np.float64], names: Sequence[str], reach: float) -> Figure:
    columns = 5
    points_are_many = offset.shape[0] * offset.shape[1] > MAX_DOTS
    rows = -(-len(names) // columns)
    figure = new_figure(7.2, 1.55 * rows)
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, number + 1)
        points = offset[:, number, :2][np.isfinite(offset[:, number, :2]).all(axis=1)]
        axes.plot(
            points[:, 0],
            points[:, 1],
            ".",
            color=PALETTE["--blue"],
            alpha=0.35 if len(points) > FEW_POINTS else 0.7,
            markersize=2.5 if len(points) > FEW_POINTS else 5,
            rasterized=points_are_many,
        )
        if len(points):
            mean = points.mean(axis=0)
            axes.plot(*mean, "o", color=PALETTE["--orange"], markersize=4)
            if len(points) >= ELLIPSE_POINTS:
                axes.plot(*_ellipse(mean, np.cov(points.T)), color=PALETTE["--orange"], linewidth=1.2)
        _cross_hairs(axes, reach)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=7)
        axes.tick_params(labelsize=6.5)
    return figure


def _ellipse(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 73) outline that holds 68 % of a normal distribution."""
    values, axes = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angle), np.sin(angle)]) * 1.5096  # root of the 68 % quantile of chi squared with 2 df
    return mean[:, None] + axes @ (np.sqrt(np.maximum(values, 0))[:, None] * circle)


def _cross_hairs(axes: object, reach: float) -> None:
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")  # type: ignore[attr-defined]
    axes.axhline(0, color=PALETTE["--muted"], linewidth=0.7)  # type: ignore[attr-defined]
    axes.axvline(0, color=PALETTE["--muted"], linewidth=0.7)  # type: ignore[attr-defined]


def uncertainty(points: UncertainPoints) -> Figure:
    """Announced against true error, calibration of the confidence regions, and sparsification."""
    from scipy import stats

    figure = new_figure(7.2, 2.7)
    axes = figure.add_subplot(1, 3, 1)
    points_are_many = points.error_mm.size > MAX_DOTS
    axes.plot(
        points.spread_mm,
        points.error_mm,
        ".",
        color=PALETTE["--blue"],
        alpha=0.3,
        markersize=2.5,
        rasterized=points_are_many,
    )
    axes.set(title="error", xlabel="announced RMS error (mm)", ylabel="true error (mm)")
    axes = figure.add_subplot(1, 3, 2)
    levels = np.linspace(0.02, 0.99, 60)
    squared = points.mahalanobis_squared
    n_given = squared.size + points.bare_case.size  # a given point without a covariance counts as outside

    def inside(level: float) -> float:
        return float(100 * np.sum(squared <= stats.chi2.ppf(level, points.offset_mm.shape[1])) / n_given)

    axes.plot([0, 100], [0, 100], color=PALETTE["--muted"], linewidth=1)
    axes.plot(100 * levels, [inside(level) for level in levels], color=PALETTE["--blue"], linewidth=2)
    axes.plot(100 * np.array(LEVELS), [inside(level) for level in LEVELS], "o", color=PALETTE["--blue"], markersize=4)
    axes.set(
        title="calibration", xlabel="confidence level (%)", ylabel="errors inside (%)", xlim=(0, 100), ylim=(0, 101)
    )
    axes = figure.add_subplot(1, 3, 3)
    left, ideal = sparsification(points)
    axes.plot(100 * REMOVED, left, color=PALETTE["--blue"], linewidth=2, label="by uncertainty")
    axes.plot(100 * REMOVED, ideal, color=PALETTE["--muted"], linestyle="--", label="by true error")
    axes.set(title="sparsification", xlabel="points removed (%)", ylabel="mean error left (mm)", ylim=(0, None))
    axes.legend(fontsize=7.5)
    return figure


def runtimes(cold_s: NDArray[np.float64], warm_s: NDArray[np.float64]) -> Figure:
    """Histograms of the run time per case, with start-up (cold) and without (warm)."""
    figure = new_figure(7.2, 2.3)
    axes = figure.add_subplot()
    for name, values, variable in (("cold: start-up included", cold_s, "--blue"), ("warm", warm_s, "--orange")):
        measured = values[np.isfinite(values)]
        if measured.size:
            axes.hist(measured, bins=30, color=PALETTE[variable], alpha=0.8, label=name)
    axes.set(xlabel="seconds per case", ylabel="cases", xlim=(0, None))
    axes.legend(fontsize=8.5)
    return figure
