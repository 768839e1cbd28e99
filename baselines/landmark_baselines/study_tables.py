"""What a study prints: study.csv, study.md and the success curves. Errors in mm, shares of points in percent."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from landmark_challenge import files
from landmark_challenge.task import PublishedResult, Task, threshold_key

from .pictures import SERIES, save_figure, styled_figure
from .study import Plan, Result

CURVE_POINTS = 241
LINE_STYLES = ("-", "--", ":")


def write_study(plan: Plan, results: Sequence[Result], folder: Path, *, command: str) -> list[Path]:
    """Write study.csv, study.md and success.png/.svg; the paths."""
    task = plan.dataset.task
    files.write_text(folder / "study.csv", as_csv(results, task))
    files.write_text(folder / "study.md", as_markdown(plan, results, command=command))
    return [folder / "study.csv", folder / "study.md", *_draw_curves(results, task, folder)]


def as_csv(results: Sequence[Result], task: Task) -> str:
    """One line per row: all points, every threshold, and the median and interquartile range of each landmark."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ["row", "n_points", "n_missing", "median_mm", "iqr_mm", "mean_mm", "sd_mm", "p95_mm"]
    head += [f"sdr_{threshold_key(threshold)}" for threshold in task.success_thresholds_mm]
    head += [f"{name}_{kind}_mm" for name in task.names for kind in ("median", "iqr")]
    measures = list(results[0].measures) if results else []
    table.writerow([*head, *("_".join(re.findall(r"[a-z%]+", name)) for name in measures), "training_s", "case_s"])
    for result in results:
        found, whole = result.metrics["aggregates"], result.metrics["aggregates"]["mre_mm"]
        line = [result.row.name, len(result.errors_mm), found["n_missing"]]
        line += [_number(whole.get(key)) for key in ("median", "iqr", "mean", "sd", "p95")]
        line += [_number(found["sdr"].get(threshold_key(threshold))) for threshold in task.success_thresholds_mm]
        for name in task.names:
            own = found["landmarks"].get(name, {}).get("mre_mm", {})
            line += [_number(own.get("median")), _number(own.get("iqr"))]
        line += [_number(result.measures.get(name)) for name in measures]
        table.writerow([*line, f"{result.training_s:.1f}", _number(result.case_s)])
    return text.getvalue()


def as_markdown(plan: Plan, results: Sequence[Result], *, command: str) -> str:
    """The tables with the protocol they were measured under; published figures in a table of their own."""
    task, protocol = plan.dataset.task, results[0].metrics["protocol"]
    sign = "<" if protocol["tie"] == "strict" else "<="
    header = [
        f"# {plan.method} on {task.title}",
        f"`{command}`",
        f"Data: {plan.dataset.header.get('source', 'unknown source')}; {protocol['n_cases']} cases of the test split"
        f"{f', subset {plan.subset}' if plan.subset else ''}, {protocol['n_points']} points. "
        f"Reference: {_reference(task)}; success: error {sign} threshold; a missing point counts "
        f"{protocol['missing_error_mm']:g} mm. Preset `{plan.preset}`, seed {plan.seed}, device `{plan.device}`; every "
        "row has the same schedule and data.",
    ]
    if hasattr(plan.module, "STUDY_NOTE"):
        header.append(plan.module.STUDY_NOTE)
    if plan.assignments:
        header.append(f"Changed in the preset: {', '.join(f'`{text}`' for text in plan.assignments)}.")
    parts = [
        "\n\n".join(header),
        _overview(results, task),
        *([measure_table(results)] if results[0].measures else []),
        "## Median (interquartile range) in mm",
        _by_landmark(results, task),
    ]
    parts.append(
        "Success curves: success.png, success.svg. Every figure: study.csv. "
        "Rows can be tested against each other with `landmarks compare rows/*/result`."
    )
    published = [*getattr(plan.module, "PUBLISHED", {}).get(task.name, ()), *task.published]
    if published:
        parts += [
            "## Published figures (from the papers, not measured here, on other data or settings)",
            _published(published),
        ]
    return "\n\n".join(parts) + "\n"


def _overview(results: Sequence[Result], task: Task) -> str:
    shown = task.success_thresholds_mm
    head = ["", "median (IQR) mm", "mean ± SD mm", *(f"within {threshold:g} mm" for threshold in shown), "missing"]
    head += ["training s", "s/case"]
    lines = []
    for result in results:
        found, whole = result.metrics["aggregates"], result.metrics["aggregates"]["mre_mm"]
        line = [
            result.row.name,
            _spread(whole),
            f"{whole['mean']:.2f} ± {whole['sd']:.2f}",
        ]
        line += [f"{100 * found['sdr'][threshold_key(threshold)]:.1f} %" for threshold in shown]
        took = "" if result.case_s is None else f"{result.case_s:.3f}"
        lines.append([*line, str(found["n_missing"]), f"{result.training_s:.0f}", took])
    return _table(head, lines)


def measure_table(results: Sequence[Result]) -> str:
    """The method's own measures, one line per row of the study."""
    head = ["", *results[0].measures]
    lines = [[result.row.name, *(_rounded(value) for value in result.measures.values())] for result in results]
    return _table(head, lines)


def _rounded(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def _spread(figures: Mapping[str, float]) -> str:
    return f"{figures['median']:.2f} ({figures['iqr']:.2f})"


def _by_landmark(results: Sequence[Result], task: Task) -> str:
    lines = []
    for name in task.names:
        own = [result.metrics["aggregates"]["landmarks"].get(name, {}).get("mre_mm") for result in results]
        lines.append([name, *(_spread(mre) if mre else "" for mre in own)])
    return _table(["", *(result.row.name for result in results)], lines)


def _published(results: Sequence[PublishedResult]) -> str:
    return _table(["method", "figures", "source"], [[each.method, each.figures, each.source] for each in results])


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    safe = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    rows = [head, ["---"] * len(head), *safe]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _reference(task: Task) -> str:
    observers = ", ".join(task.reference.observers)
    return f"the mean of {observers}" if task.reference.rule == "mean" else observers


def _draw_curves(results: Sequence[Result], task: Task, folder: Path) -> list[Path]:
    """Fig. 4: the share of points within each distance."""
    thresholds = np.linspace(0, task.success_thresholds_mm[-1], CURVE_POINTS)
    with styled_figure(7.6, 4.6) as figure:
        axes = figure.add_subplot()
        for number, result in enumerate(results):
            side = "left" if task.success_tie == "strict" else "right"
            rates = np.searchsorted(np.sort(result.errors_mm), thresholds, side=side) / len(result.errors_mm)  # type: ignore[call-overload]
            axes.plot(
                thresholds,
                100 * rates,
                color=SERIES[number % len(SERIES)],
                linestyle=LINE_STYLES[number // len(SERIES) % len(LINE_STYLES)],
                linewidth=1.8,
                label=result.row.name,
            )
        axes.grid(visible=True)
        axes.set(xlim=(0, thresholds[-1]), ylim=(0, 101), xlabel="distance (mm)", ylabel="points within (%)")
        figure.legend(loc="outside lower left", ncols=2, fontsize=8)
        return save_figure(figure, folder, name="success")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
