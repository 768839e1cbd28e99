"""The tables of conventions, uncertainty and run time."""

from typing import Any

from landmark_challenge.task import Ranking

from ..results import Metrics, PartOfError
from ..tables import shown_thresholds, threshold_text
from .exports import Cell, Table, number, percent, with_interval

SHARE_OF_ERROR = "of the mean error; 0 is a perfect order"


def convention_tables(metrics: Metrics, ranking: Ranking) -> list[Table]:
    """What fixed offsets and the noise of the reference explain, and the offsets by landmark."""
    scores, found = metrics.aggregates, metrics.aggregates.conventions
    if found is None:
        return []
    keys = shown_thresholds(list(scores.sdr), ranking)
    parts = (
        ("as scored", PartOfError(mre_mm=scores.mre_mm, sdr=scores.sdr, confidence=scores.confidence)),
        ("without a fixed offset of each landmark", found.without_offsets),
        ("these offsets and the noise of the reference alone", found.offsets_and_noise),
        ("the noise of the reference alone", found.reference_noise),
    )
    rows = []
    for title, part in parts:
        if part is not None:
            spans = None if part.confidence is None else part.confidence.mre_mm
            of_rate = {} if part.confidence is None else part.confidence.sdr
            rows.append(
                (
                    Cell(title),
                    with_interval(part.mre_mm.mean, (spans or {}).get("mean")),
                    number(part.mre_mm.median),
                    *(with_interval(part.sdr[k], of_rate.get(k), factor=100, digits=1) for k in keys),
                )
            )
    head = ("errors", "mean (mm)", "median", *(f"% within {threshold_text(k)}" for k in keys))
    note = (
        "No scores: the offsets are medians of this submission - the reference over other cases of the same reference. "
        "The noise of a mean of observers is what they differ by without offsets of their own; nobody can predict it"
    )
    parts_table = Table("conventions", "What conventions and the reference's noise explain", head, tuple(rows), note)
    axes = ("x", "y", "z")[: max(len(offset) for offset in found.offset_mm.values())]
    offsets = tuple(
        (Cell(name), *(number(value, 2) for value in offset), number(sum(v * v for v in offset) ** 0.5, 2))
        for name, offset in found.offset_mm.items()
    )
    title = "Fixed offsets (this submission - the reference, LPS)"
    return [
        parts_table,
        Table("offsets", title, ("landmark", *(f"{axis} (mm)" for axis in axes), "length (mm)"), offsets),
    ]


def uncertainty_table(metrics: Metrics) -> Table | None:
    """How announced uncertainty and errors go together, with their intervals."""
    found, confidence = metrics.aggregates.uncertainty, metrics.aggregates.confidence
    if found is None:
        return None
    spans = None if confidence is None else confidence.uncertainty
    values: dict[str, Any] = found.model_dump(exclude_none=True)
    within: dict[str, Any] = {} if spans is None else spans.model_dump(exclude_none=True)
    rows = []
    for name in ("pearson", "spearman"):
        if name in values:
            coefficient = with_interval(values[name]["r"], within.get(name, {}).get("r"))
            title = f"{name.capitalize()} correlation of announced and true error"
            rows.append((Cell(title), coefficient, Cell("-1 to 1")))
    for power, unit in ((3, "mm³"), (2, "mm²")):
        key = f"ellipsoid_90_mm{power}"
        for which, size in values.get(key, {}).items():
            title = f"{which} size of the 90 % region"
            rows.append((Cell(title), with_interval(size, within.get(key, {}).get(which), digits=2), Cell(unit)))
    if "share_with_covariance" in values:
        span = within.get("share_with_covariance")
        cell = with_interval(values["share_with_covariance"], span, factor=100, digits=1)
        rows.append((Cell("given points with a covariance"), cell, Cell("%")))
    for level, share in values["coverage"].items():
        span = within.get("coverage", {}).get(level)
        inside = percent(share) if span is None else with_interval(share, span, factor=100, digits=1)
        rows.append((Cell(f"errors inside the {level} % region"), inside, Cell("%")))
    if "sparsification_error" in values:
        area = with_interval(values["sparsification_error"], within.get("sparsification_error"))
        rows.append((Cell("area between the sparsification curves"), area, Cell(SHARE_OF_ERROR)))
    note = f"{found.n_points} points with a covariance; a given point without one counts as outside its region"
    return Table("uncertainty", "Uncertainty", ("figure", "value", "unit or range"), tuple(rows), note)


def runtime_table(metrics: Metrics) -> Table | None:
    """Seconds per case, over all timed cases, and with and without start-up."""
    scores = metrics.aggregates
    measured = (
        ("all", scores.runtime_s, "runtime_s"),
        ("cold (start-up included)", scores.runtime_cold_s, "runtime_cold_s"),
        ("warm", scores.runtime_warm_s, "runtime_warm_s"),
    )
    rows = []
    for title, times, key in measured:
        if times is not None:
            spans = (None if scores.confidence is None else getattr(scores.confidence, key)) or {}
            figures = times.model_dump()
            cells = [with_interval(seconds, spans.get(name), digits=2) for name, seconds in figures.items()]
            rows.append((Cell(title), *cells))
    head = ("cases", "mean (s)", "median (s)", "95th % (s)", "max (s)")
    return Table("runtime", "Run time per case", head, tuple(rows)) if rows else None
