"""report.html and leaderboard.html, with their tables and figures as files beside them.

All is made in memory, so that what cannot be shown costs nothing that was there before.
"""

from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from landmark_challenge.dataset import Dataset

from .. import uncertainty
from ..leaderboard import Leaderboard
from ..observers import observer_errors
from ..results import Metrics
from ..scoring import Evaluation
from ..tables import noise_line, not_redrawn_line, protocol_line, ranked_thresholds, threshold_text
from . import board_figures, exports, figures, further_tables
from .exports import Cell, Table
from .overlays import make_overlays
from .theme import drawn, inline_svg, styled

Files = dict[str, bytes]
WORST_CASES = 20
CURVE_REACH = 2.0
STABILITY_NOTE = (
    "How the ranking varies with the cases that are drawn. The shares are no error rates of a test: also of two equal "
    "submissions, one may be ahead, and significantly so, in far more than 5 % of resamples: all are of the same cases."
)
SIGNIFICANCE_NOTE = (
    "Green: the submission of the row is better than the one of the column, numbered as the rows (Holm, 5 %)."
)


def report_files(evaluation: Evaluation, *, title: str, images: Dataset | None) -> Files:
    """report.html, tables/ and figures/, by path. images: draws the worst and the median case, `open` only.

    Raises ChallengeError where these lack an image, or one cannot be read.
    """
    metrics = evaluation.metrics
    is_open = evaluation.reference.disclosure == "open"
    ranking = evaluation.reference.task.ranking
    tables = [exports.landmark_table(metrics, ranking)]
    plots: list[tuple[str, str, Figure]] = []
    overlays = []
    if is_open:
        further = (
            exports.observer_table(metrics, ranking),
            exports.agreement_table(metrics),
            *further_tables.convention_tables(metrics, ranking),
            further_tables.uncertainty_table(metrics),
            exports.clinical_table(metrics),
            exports.subgroup_table(metrics, ranking),
        )
        tables += [table for table in further if table is not None]
        tables.append(_worst_cases(evaluation))
        with styled():
            plots = _plots(evaluation)
        overlays = make_overlays(evaluation, images) if images is not None else []
    runtime = None if not np.isfinite(evaluation.submission.runtime_s).any() else metrics.aggregates.runtime_s
    times = further_tables.runtime_table(metrics)
    tables += [] if times is None else [times]
    return _rendered(
        "report.html",
        plots,
        tables,
        metrics,
        title=title,
        protocol=protocol_line(metrics),
        noise=None if metrics.aggregates.noise is None else noise_line(metrics.aggregates.noise),
        overlays=overlays,
        runtime=runtime,
        headlines=["2_0mm", "4_0mm", *ranked_thresholds(ranking)],
        largest=threshold_text(list(metrics.aggregates.sdr)[-1]),
    )


def leaderboard_files(board: Leaderboard, *, curve_limit_mm: float) -> Files:
    """leaderboard.html, tables/ and figures/, by path."""
    plots: list[tuple[str, str, Figure]] = []
    first = board.rows[0].entry.metrics
    with styled():
        plots.append(("intervals", "Score with 95 % intervals", board_figures.intervals(board)))
        curves = [(row.entry.name, row.entry.error_mm, False) for row in board.rows if row.entry.error_mm is not None]
        if curves:
            figure = figures.success_curve(
                curves, limit_mm=curve_limit_mm, tie=first.protocol.tie, people=_people_curves(board)
            )
            plots.append(("success", "Points within a distance", figure))
        if board.stability is not None and len(board.rows) > 1:
            plots.append(("stability", "Rank stability", board_figures.rank_stability(board)))
        if board.pairs:
            plots.append(("significance", "Significant differences", board_figures.significance(board)))
    tables = [_board_table(board)]
    if board.pairs:
        tables.append(_pair_table(board))
    return _rendered(
        "leaderboard.html",
        plots,
        tables,
        first,
        title=f"Leaderboard: {first.task}",
        protocol=protocol_line(first),
        noise=None if first.aggregates.noise is None else noise_line(first.aggregates.noise),
        rule=board.rule.rule,
        notes={"significance": SIGNIFICANCE_NOTE, "stability": STABILITY_NOTE},
        observers=board.observers,
        not_redrawn=not_redrawn_line(board) if board.not_redrawn else None,
        drawn=first.protocol.drawn,
        tau=None if board.stability is None else float(board.stability.kendall_tau.mean()),
        left_out=[row.entry for row in board.rows if row.entry.metrics.protocol.left_out],
    )


def _people_curves(board: Leaderboard) -> list[tuple[str, list[float], list[float]]]:
    """Name, thresholds in mm and success rates of each observer."""
    people = board.observers.scored if board.observers is not None else []
    return [
        (
            f"{person.observer} against {person.against}",
            [float(key.removesuffix("mm").replace("_", ".")) for key in person.sdr],
            list(person.sdr.values()),
        )
        for person in people
    ]


def _plots(evaluation: Evaluation) -> list[tuple[str, str, Figure]]:
    """(name, title, figure) of everything that this evaluation can show."""
    reference, scores, task = evaluation.reference, evaluation.scores, evaluation.reference.task
    observers = evaluation.metrics.aggregates.observers
    people = observers.scored if observers is not None else []
    curves: list[tuple[str, Any, bool]] = [("this submission", scores.error_mm, False)]
    for person in people:
        errors = observer_errors(person.observer, reference)[1]
        curves.append((f"{person.observer} against {person.against}", errors, True))
    limit = CURVE_REACH * task.success_thresholds_mm[-1]
    boxes = figures.landmark_boxes(
        scores.error_mm, task.names, observers=[(p.observer, p.landmark_mean_mm) for p in people]
    )
    plots = [
        ("success", "Points within a distance", figures.success_curve(curves, limit_mm=limit, tie=task.success_tie)),
        ("landmarks", "Error by landmark", boxes),
        (
            "cases",
            "Error by case",
            figures.case_errors(scores.error_mm, observers_mm=None if observers is None else observers.mean_mm),
        ),
        ("directions", "Direction of the error, as seen from the reference", figures.error_directions(evaluation)),
    ]
    points = uncertainty.uncertain_points_of(scores, evaluation.submission, reference)
    if points is not None:
        plots.append(("uncertainty", "Does it know how wrong it is?", figures.uncertainty(points)))
    if np.isfinite(evaluation.submission.runtime_s).any():
        figure = figures.runtimes(evaluation.submission.cold_s, evaluation.submission.warm_s)
        plots.append(("runtime", "Run time", figure))
    return plots


def _worst_cases(evaluation: Evaluation) -> Table:
    scores, names = evaluation.scores, evaluation.reference.task.names
    rows = [row for row in range(len(scores.error_mm)) if scores.scored[row].any()]
    rows.sort(key=lambda row: -float(np.nanmean(scores.error_mm[row])))
    cells = []
    for row in rows[:WORST_CASES]:
        errors = scores.error_mm[row]
        worst = int(np.nanargmax(errors))
        n_missing = int(scores.missing[row].sum())
        cells.append(
            (
                Cell(evaluation.reference.cases[row].name),
                exports.number(float(np.nanmean(errors))),
                exports.number(float(errors[worst])),
                Cell(names[worst]),
                Cell(str(n_missing), n_missing),
            )
        )
    head = ("case", "mean error (mm)", "largest error (mm)", "landmark of the largest", "missing")
    return Table("worst-cases", f"Worst cases ({len(cells)} of {len(rows)})", head, tuple(cells))


def _board_table(board: Leaderboard) -> Table:
    head = ["rank", "submission", *(column.title for column in board.rule.columns), "missing", "false alarms"]
    head += [
        "run time (s)",
        *(["error relative to observers"] if board.observers is not None else []),
        "firmness of the rank",
    ]
    rows = []
    for place, row in enumerate(board.rows):
        scores = row.entry.metrics.aggregates
        marker = " *" if row.entry.metrics.protocol.left_out else ""
        people = scores.observers
        relative = [exports.number(None if people is None else people.relative_error, 2)]
        firm = Cell("") if board.stability is None else exports.percent(board.stability.share[place, row.rank - 1])
        rows.append(
            (
                Cell(str(row.rank), row.rank),
                Cell(row.entry.name + marker),
                *(exports.with_interval(v, s) for v, s in zip(row.values, row.intervals, strict=True)),
                Cell(str(scores.n_missing), scores.n_missing),
                Cell(str(scores.n_false_alarms), scores.n_false_alarms),
                exports.number(None if scores.runtime_s is None else scores.runtime_s.mean, 2),
                *(relative if board.observers is not None else []),
                Cell(f"{firm.text} %" if firm.text else "", firm.value),
            )
        )
    return Table("leaderboard", "Ranking", tuple(head), tuple(rows))


def _pair_table(board: Leaderboard) -> Table:
    rows = []
    for pair in board.pairs or ():
        needed = (
            Cell("over a million", 1e6)
            if pair.cases_needed is None
            else Cell(str(pair.cases_needed), pair.cases_needed)
        )
        rows.append(
            (
                Cell(board.rows[pair.first].entry.name),
                Cell(board.rows[pair.second].entry.name),
                exports.with_interval(pair.difference_mm, pair.interval_mm),
                Cell(f"{pair.p_holm:.2g}", pair.p_holm),
                exports.number(pair.effect, 2),
                needed,
            )
        )
    head = (
        "first",
        "second",
        "difference of means (mm)",
        "p (Holm)",
        "rank-biserial correlation",
        "cases for 80 % power",
    )
    return Table("pairs", "Every pair", head, tuple(rows))


def _rendered(
    page: str,
    plots: list[tuple[str, str, Figure]],
    tables: list[Table],
    metrics: Metrics,
    *,
    notes: dict[str, str] | None = None,
    **values: Any,
) -> Files:
    """The page, and its tables and figures as files of their own."""
    notes = notes or {}
    made: Files = {}
    environment = Environment(
        loader=PackageLoader("landmark_evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = []
    for name, title, figure in plots:
        text, pixels = drawn(figure, name=name)
        made |= {f"figures/{name}.svg": text.encode(), f"figures/{name}.png": pixels}
        svg = Markup(inline_svg(text, label=title, name=name, width_in=figure.get_figwidth()))
        shown.append({"name": name, "title": title, "svg": svg, "note": notes.get(name)})
    for table in tables:
        made[f"tables/{table.name}.csv"] = exports.table_csv(table).encode()
        made[f"tables/{table.name}.tex"] = exports.table_latex(table, metrics).encode()
    html = environment.get_template(f"{page}.j2").render(
        plots=shown, tables=tables, metrics=metrics, Markup=Markup, threshold_text=threshold_text, **values
    )
    return {**made, page: html.encode()}
