"""The tables of a report as CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from landmark_challenge.task import Ranking

from ..confidence import Interval95, LandmarkConfidence, PairConfidence
from ..results import ErrorSummary, Metrics
from ..tables import protocol_line, shown_thresholds, threshold_text

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number it is sorted by (None sorts as text)."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with its name (file stem) and title; rows of cells under the head. total: the last row is over all."""

    name: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    total: bool = False

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers."""
        return tuple(any(row[k].value is not None for row in self.rows) for k in range(len(self.head)))


def number(value: float | None, digits: int = 3) -> Cell:
    """A number, or an empty cell."""
    return Cell("", None) if value is None else Cell(f"{value:.{digits}f}", value)


def percent(share: float | None) -> Cell:
    """A share in per cent."""
    return Cell("", None) if share is None else Cell(f"{100 * share:.2f}", 100 * share)


def with_interval(value: float, span: Interval95 | None, *, factor: float = 1.0, digits: int = 3) -> Cell:
    """A number with its 95 % interval in brackets."""
    if span is None:
        return Cell(f"{factor * value:.{digits}f}", factor * value)
    low, high = (f"{factor * bound:.{digits}f}" for bound in span)
    return Cell(f"{factor * value:.{digits}f} [{low}, {high}]", factor * value)


def landmark_table(metrics: Metrics, ranking: Ranking) -> Table:
    """One row per landmark and one over all, with intervals for the mean and the success rates."""
    scores = metrics.aggregates
    keys = shown_thresholds(list(scores.sdr), ranking)
    sign = "<" if metrics.protocol.tie == "strict" else "<="
    head = [
        "landmark",
        "mean (mm)",
        "SD",
        "median",
        "IQR",
        "RMS",
        "95th %",
        "max",
        *(f"% {sign} {threshold_text(k)}" for k in keys),
    ]
    confidence, people = scores.confidence, scores.observers
    rows = []
    for name, row in (scores.landmarks or {}).items():
        spans = None if confidence is None else confidence.landmarks.get(name)
        line = _error_row(name, row.mre_mm, row.sdr, spans, keys) + (Cell(str(row.n_missing), row.n_missing),)
        rows.append(line if people is None else (*line, number((people.landmark_mean_mm or {}).get(name))))
    total = (
        *_error_row("all", scores.mre_mm, scores.sdr, confidence, keys),
        Cell(str(scores.n_missing), scores.n_missing),
    )
    rows.append(total if people is None else (*total, number(people.mean_mm)))
    last = ("missing",) if people is None else ("missing", "observers (mm)")
    return Table("landmarks", "Radial error and success by landmark", (*head, *last), tuple(rows), total=True)


def _error_row(
    name: str, errors: ErrorSummary, sdr: dict[str, float], spans: LandmarkConfidence | None, keys: Sequence[str]
) -> tuple[Cell, ...]:
    of_mean = None if spans is None else spans.mre_mm.get("mean")
    of_rate = {} if spans is None else spans.sdr
    cells = [Cell(name), with_interval(errors.mean, of_mean)]
    cells += [
        number(errors.sd),
        number(errors.median),
        number(errors.iqr),
        number(errors.rms),
        number(errors.p95),
        number(errors.max),
    ]
    cells += [with_interval(sdr[k], of_rate.get(k), factor=100, digits=1) for k in keys]
    return tuple(cells)


def observer_table(metrics: Metrics, ranking: Ranking) -> Table | None:
    """The observers scored like submissions, and every pair of them."""
    found = metrics.aggregates.observers
    if found is None:
        return None
    keys = shown_thresholds(list(metrics.aggregates.sdr), ranking)
    rows = [
        _observer_row(f"{row.observer} against {row.against}", row.n_cases, row.mre_mm, row.sdr, keys, row.confidence)
        for row in found.scored
    ]
    for pair in found.pairs:
        title = f"{pair.kind}-observer: {pair.observers[0]} and {pair.observers[1]}"
        rows.append(_observer_row(title, pair.n_cases, pair.mre_mm, {}, keys, pair.confidence))
    spans = None if metrics.aggregates.confidence is None else metrics.aggregates.confidence.observers
    note = f"Mean error of the observers {found.mean_mm:.3f} mm" + _in_brackets(
        None if spans is None else spans.mean_mm
    )
    if found.relative_error is not None:
        ratio = _in_brackets(None if spans is None else spans.relative_error, digits=2)
        note += f"; this submission's mean error is {found.relative_error:.2f}{ratio} times that"
    head = ("observer", "cases", "mean (mm)", "SD", "median", *(f"% within {threshold_text(k)}" for k in keys))
    return Table("observers", "Observers", head, tuple(rows), note)


def _observer_row(
    title: str,
    n_cases: int,
    errors: ErrorSummary,
    sdr: dict[str, float],
    keys: Sequence[str],
    spans: LandmarkConfidence | PairConfidence | None = None,
) -> tuple[Cell, ...]:
    rates = spans if isinstance(spans, LandmarkConfidence) else None
    return (
        Cell(title),
        Cell(str(n_cases), n_cases),
        with_interval(errors.mean, None if spans is None else spans.mre_mm.get("mean")),
        number(errors.sd),
        number(errors.median),
        *(_rate(sdr.get(k), rates, k) for k in keys),
    )


def _in_brackets(span: Interval95 | None, *, digits: int = 3) -> str:
    return "" if span is None else f" [{span[0]:.{digits}f}, {span[1]:.{digits}f}]"


def _rate(share: float | None, spans: LandmarkConfidence | None, key: str) -> Cell:
    if share is None:
        return Cell("")
    return with_interval(share, None if spans is None else spans.sdr.get(key), factor=100, digits=1)


def agreement_table(metrics: Metrics) -> Table | None:
    """Bland-Altman per axis: of this submission against the reference, and of every pair of observers."""
    scores = metrics.aggregates
    own = {} if scores.confidence is None else scores.confidence.bias or {}
    compared = [("this submission against the reference", scores.bias or {}, own)]
    for pair in scores.observers.pairs if scores.observers is not None else ():
        spans = {} if pair.confidence is None else pair.confidence.agreement
        compared.append((f"{pair.observers[0]} against {pair.observers[1]}", pair.agreement, spans))
    rows = tuple(
        (
            Cell(title),
            Cell(axis),
            *(with_interval(value, spans.get(axis, {}).get(key)) for key, value in figures.model_dump().items()),
        )
        for title, axes, spans in compared
        for axis, figures in axes.items()
    )
    head = ("compared", "axis (LPS)", "mean difference (mm)", "SD", "95 % limits: low", "high")
    return Table("agreement", "Agreement by axis (Bland-Altman)", head, rows) if rows else None


def subgroup_table(metrics: Metrics, ranking: Ranking) -> Table | None:
    """One row per value of every column of cases.csv."""
    groups = metrics.aggregates.subgroups
    if not groups:
        return None
    keys = shown_thresholds(list(metrics.aggregates.sdr), ranking)
    rows = tuple(
        (
            Cell(f"{group.column} = {group.value}"),
            Cell(str(group.n_cases), group.n_cases),
            with_interval(group.mre_mm.mean, None if group.confidence is None else group.confidence.mre_mm.get("mean")),
            number(group.mre_mm.sd),
            number(group.mre_mm.median),
            *(_rate(group.sdr[k], group.confidence, k) for k in keys),
            Cell(str(group.n_missing), group.n_missing),
        )
        for group in groups
    )
    head = (
        "subgroup",
        "cases",
        "mean (mm)",
        "SD",
        "median",
        *(f"% within {threshold_text(k)}" for k in keys),
        "missing",
    )
    return Table("subgroups", "Subgroups", head, rows)


def clinical_table(metrics: Metrics) -> Table | None:
    """Success classification rate of every clinical analysis."""
    found = metrics.aggregates.clinical
    if not found:
        return None
    from ..clinical import ANALYSES

    confidence = metrics.aggregates.confidence
    spans = {} if confidence is None else confidence.clinical or {}

    rows = tuple(
        (
            Cell(ANALYSES[key].title if key in ANALYSES else key),
            _clinical(row.success_classification_rate, spans, key, "success_classification_rate", factor=100, digits=1),
            _clinical(row.mean_absolute_difference, spans, key, "mean_absolute_difference"),
            Cell(ANALYSES[key].unit if key in ANALYSES else ""),
            Cell(str(row.n_cases), row.n_cases),
        )
        for key, row in found.items()
    )
    head = ("analysis", "same class (%)", "mean absolute difference", "unit", "cases")
    note = "Borders of the classes as reports on the challenge repeat them, not checked against its own paper"
    return Table("clinical", "Clinical analyses of the ISBI 2015 challenge", head, rows, note)


def _clinical(
    value: float | None, spans: dict[str, dict[str, Interval95]], key: str, figure: str, **shown: int
) -> Cell:
    return Cell("") if value is None else with_interval(value, spans.get(key, {}).get(figure), **shown)


def table_csv(table: Table) -> str:
    """The table as CSV: numbers in full, intervals as shown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.head)
    writer.writerows([[cell.text for cell in row] for row in table.rows])
    return text.getvalue()


def table_latex(table: Table, metrics: Metrics) -> str:
    """The table as LaTeX (booktabs), its protocol in the caption."""
    columns = "l" + "r" * (len(table.head) - 1)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}. {_tex(protocol_line(metrics))}}}"]
    lines += [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(_tex(head) for head in table.head) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(_tex(cell.text) for cell in row) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _tex(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)
