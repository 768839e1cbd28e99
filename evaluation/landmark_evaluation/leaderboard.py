"""Submissions side by side: columns, ranks by the task's rule, tests between pairs, how firm the ranking is."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Ranking, RankingColumn, Task

from . import ranking
from .entries import Entry
from .redraws import redrawn_columns
from .results import Observers
from .statistics import DEFAULT_RESAMPLES, DEFAULT_SEED, Interval, interval, several_groups


@dataclass(frozen=True, eq=False)
class Row:
    """A submission on the leaderboard; values and intervals in the order of the ranking's columns."""

    rank: int
    entry: Entry
    values: tuple[float, ...]
    intervals: tuple[Interval | None, ...]


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Rows by rank. pairs and stability refer to `rows` by index, and are None where only headline scores are known.

    not_redrawn: the columns that the rule ranks by and that cannot be drawn again from errors per case, such as run
    time; where there are any, stability is None.
    """

    rule: Ranking
    rows: tuple[Row, ...]
    pairs: tuple[ranking.Pair, ...] | None
    stability: ranking.Stability | None
    not_redrawn: tuple[str, ...] = ()

    @property
    def observers(self) -> Observers | None:
        """The people behind the declared reference, as the best submission scored against it found them."""
        found = (row.entry.metrics for row in self.rows if row.entry.metrics.protocol.left_out is None)
        return next((each.aggregates.observers for each in found if each.aggregates.observers is not None), None)


def make_leaderboard(
    entries: Sequence[Entry], task: Task, *, resamples: int = DEFAULT_RESAMPLES, seed: int = DEFAULT_SEED
) -> Leaderboard:
    """Rank the entries by the task's rule. Raises ChallengeError for a column that a result does not have."""
    rule = task.ranking
    values = np.array([[_value(entry, column) for column in rule.columns] for entry in entries]).T
    open_errors = [entry.error_mm for entry in entries if entry.error_mm is not None]
    if len(open_errors) < len(entries):
        if rule.rule == "significance":
            raise ChallengeError("compare: rule 'significance' needs errors per case, and protected results have none")
        ranks = ranking.combine_ranks(_column_ranks(values, rule.columns), rule=rule.rule)
        return Leaderboard(
            rule,
            _rows(entries, ranks, values, None, columns=rule.columns, order=np.argsort(ranks, kind="stable")),
            None,
            None,
        )
    draw: dict[str, Any] = {"groups": entries[0].groups, "resamples": resamples, "seed": seed}
    redrawn = redrawn_columns(open_errors, task, **draw)
    case_means = np.stack([_case_means(errors) for errors in open_errors])
    pairs = ranking.compare_pairs(case_means, **draw)
    missing: tuple[str, ...] = ()
    resampled_ranks: NDArray[np.float64] | None
    if rule.rule == "significance":
        ranks = ranking.ranks_of(ranking.significance_points(case_means, pairs), descending=True)
        resampled_ranks = _resampled_significance_ranks(case_means, groups=entries[0].groups, seed=seed)
    else:
        ranks = ranking.combine_ranks(_column_ranks(values, rule.columns), rule=rule.rule)
        missing, resampled_ranks = _resampled_ranks(redrawn, rule)
    if not several_groups(np.isfinite(case_means).prod(axis=0), entries[0].groups):
        resampled_ranks = None  # one group, drawn again and again, makes any ranking look firm
    order = np.lexsort((values[0] if rule.columns[0].order == "asc" else -values[0], ranks))
    place = {int(old): new for new, old in enumerate(order)}
    moved = tuple(sorted((_moved(pair, place) for pair in pairs), key=lambda pair: (pair.first, pair.second)))
    return Leaderboard(
        rule,
        _rows(entries, ranks, values, redrawn, columns=rule.columns, order=order),
        moved,
        None if resampled_ranks is None else ranking.stability(ranks[order], resampled_ranks[:, order]),
        missing,
    )


def _resampled_significance_ranks(
    case_means: NDArray[np.float64], *, groups: NDArray[np.int64] | None, seed: int
) -> NDArray[np.float64]:
    if len(case_means) < 2:
        return np.ones((1, 1))
    points = ranking.resampled_significance_points(case_means, groups=groups, seed=seed)
    return ranking.ranks_of(points, descending=True)


def _resampled_ranks(
    redrawn: Sequence[NDArray[np.float64] | None], rule: Ranking
) -> tuple[tuple[str, ...], NDArray[np.float64] | None]:
    """The titles of columns that the rule needs and errors do not make; (resamples, submissions) ranks without any.

    A column that stays as it is would make its ranks look firm. A resample that lacks a landmark takes no part.
    """
    columns = rule.columns[:1] if rule.rule == "score" else rule.columns
    known = [values for values in redrawn[: len(columns)] if values is not None]
    if len(known) < len(columns):
        pairs = zip(columns, redrawn, strict=False)
        return tuple(column.title for column, values in pairs if values is None), None
    ranks = ranking.combine_ranks(_column_ranks(known, columns), rule=rule.rule)
    whole = np.isfinite(ranks).all(axis=1)
    return (), ranks[whole] if whole.any() else None


def _moved(pair: ranking.Pair, place: dict[int, int]) -> ranking.Pair:
    """The pair with indices on the leaderboard, the higher place first."""
    first, second = place[pair.first], place[pair.second]
    if first < second:
        return ranking.Pair(**{**vars(pair), "first": first, "second": second})
    low, high = pair.interval_mm if pair.interval_mm is not None else (0.0, 0.0)
    return ranking.Pair(
        first=second,
        second=first,
        difference_mm=-pair.difference_mm,
        interval_mm=None if pair.interval_mm is None else (-high, -low),
        p=pair.p,
        p_holm=pair.p_holm,
        effect=-pair.effect,
        cases_needed=pair.cases_needed,
    )


def _value(entry: Entry, column: RankingColumn) -> float:
    """The number at the column's dotted path."""
    value: Any = entry.metrics.to_json()
    for key in column.path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ChallengeError(f"compare: {entry.name}: wanted a number at {column.path}, there is none")
    return float(value)


def _column_ranks(
    values: Sequence[NDArray[np.float64]] | NDArray[np.float64], columns: Sequence[RankingColumn]
) -> list[NDArray[np.float64]]:
    return [
        ranking.ranks_of(value, descending=column.order == "desc")
        for value, column in zip(values, columns, strict=True)
    ]


def _rows(
    entries: Sequence[Entry],
    ranks: NDArray[np.float64],
    values: NDArray[np.float64],
    redrawn: Sequence[NDArray[np.float64] | None] | None,
    *,
    columns: Sequence[RankingColumn],
    order: NDArray[np.int64],
) -> tuple[Row, ...]:
    rows = []
    for index in order.tolist():
        spans = [None if column is None else _span(column[:, index]) for column in redrawn or [None] * len(values)]
        # What is not redrawn here, such as run time, has its interval in the submission's own result.
        spans = [span or _stated(entries[index], each) for span, each in zip(spans, columns, strict=True)]
        rows.append(Row(int(ranks[index]), entries[index], tuple(values[:, index].tolist()), tuple(spans)))
    return tuple(rows)


def _span(values: NDArray[np.float64]) -> Interval | None:
    finite = values[np.isfinite(values)]
    return interval(finite) if finite.size and np.ptp(finite) > 0 else None


def _stated(entry: Entry, column: RankingColumn) -> Interval | None:
    """The interval that a result states for the number at the column's path."""
    value: Any = entry.metrics.to_json()["aggregates"].get("confidence")
    for key in column.path.split(".")[1:]:
        value = value.get(key) if isinstance(value, dict) else None
    return (value[0], value[1]) if isinstance(value, list) else None


def _case_means(error_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.isfinite(error_mm).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 0, np.nansum(error_mm, axis=1) / counts, np.nan)


def leaderboard_csv(board: Leaderboard) -> str:
    """leaderboard.csv: one line per submission, a column with its interval per ranking column."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ["rank", "submission"]
    for column in board.rule.columns:
        head += [column.title, f"{column.title}: 95 % low", f"{column.title}: 95 % high"]
    table.writerow([*head, "missing", "false alarms", "mean run time (s)", "error relative to observers", "reference"])
    for row in board.rows:
        line: list[Any] = [row.rank, row.entry.name]
        for value, span in zip(row.values, row.intervals, strict=True):
            line += [f"{value:.6g}", *(("", "") if span is None else (f"{span[0]:.6g}", f"{span[1]:.6g}"))]
        scores = row.entry.metrics.aggregates
        runtime = "" if scores.runtime_s is None else f"{scores.runtime_s.mean:.4g}"
        reference = row.entry.metrics.protocol.reference
        ratio = None if scores.observers is None else scores.observers.relative_error
        relative = "" if ratio is None else f"{ratio:.4f}"
        table.writerow([*line, scores.n_missing, scores.n_false_alarms, runtime, relative, reference])
    return text.getvalue()


def pairs_csv(board: Leaderboard) -> str:
    """pairs.csv: one line per pair, the better placed first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([
        "first", "second", "difference of means (mm)", "95 % low", "95 % high", "p (signed rank)", "p (Holm)",
        "rank-biserial correlation", "cases needed for 80 % power",
    ])  # fmt: skip
    for pair in board.pairs or ():
        span = ("", "") if pair.interval_mm is None else tuple(f"{value:.6g}" for value in pair.interval_mm)
        table.writerow([
            board.rows[pair.first].entry.name, board.rows[pair.second].entry.name, f"{pair.difference_mm:.6g}", *span,
            f"{pair.p:.4g}", f"{pair.p_holm:.4g}", f"{pair.effect:.4f}", pair.cases_needed or "over a million",
        ])  # fmt: skip
    return text.getvalue()
