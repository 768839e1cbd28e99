"""The summary that people read on a terminal: protocol, overall line, one line per landmark."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from landmark_challenge.task import Ranking

from .results import ErrorSummary, Metrics, Noise, Protocol

if TYPE_CHECKING:
    from .leaderboard import Leaderboard

SHOWN_THRESHOLDS = ("2_0mm", "2_5mm", "3_0mm", "4_0mm")


def protocol_line(metrics: Metrics) -> str:
    """One line that says what the numbers mean; it stands at every table and on every page."""
    protocol: Protocol = metrics.protocol
    left = f" ({protocol.left_out} is part of the {protocol.declared_reference}, so the others stand in)"
    reference = protocol.reference + (left if protocol.left_out else "")
    part = f", subset {protocol.subset}" if protocol.subset else ""
    sign = "<" if protocol.tie == "strict" else "<="
    groups = "" if protocol.drawn == "cases" else f" of {protocol.n_groups} group{'s' * (protocol.n_groups != 1)}"
    return (
        f"{metrics.task} v{metrics.task_version} | reference: {reference} | success: error {sign} threshold | "
        f"missing: {protocol.missing_error_mm:g} mm | {protocol.split}{part}: {protocol.n_cases} cases{groups}, "
        f"{protocol.n_points} points | {protocol.disclosure} | kit {metrics.kit_version}"
    )


def shown_thresholds(keys: Sequence[str], ranking: Ranking) -> list[str]:
    """The thresholds of a narrow table: 2, 2.5, 3 and 4 mm where the task has them, else up to four of its own, and
    those that it ranks by."""
    few = len(keys) <= len(SHOWN_THRESHOLDS)
    usual = list(keys) if few else [key for key in SHOWN_THRESHOLDS if key in keys] or list(keys)[:4]
    return [key for key in keys if key in (*usual, *ranked_thresholds(ranking))]


def ranked_thresholds(ranking: Ranking) -> list[str]:
    """The keys of the success rates over all points among the columns of a ranking."""
    paths = [column.path.split(".") for column in ranking.columns]
    return [path[2] for path in paths if path[:2] == ["aggregates", "sdr"] and len(path) == 3]


def threshold_text(key: str) -> str:
    """`2_5mm` -> `2.5 mm`."""
    return key.replace("_", ".").replace("mm", " mm").replace(".0 ", " ")


def noise_line(noise: Noise) -> str:
    """What must stand beside protected scores."""
    return (
        f"the references are protected: scores carry noise of SD {noise.mre_mm_sd:.3f} mm (mean) and "
        f"{100 * noise.sdr_sd:.2f} % (success rates), and in the mean the error of a given point counts as "
        f"{noise.error_cap_mm:g} mm at most; finding one point within {noise.locate_radius_mm:g} mm takes more than "
        f"{noise.locate_submissions} submissions"
    )


def summary(metrics: Metrics, ranking: Ranking) -> str:
    """The printed summary table; ranking: the task's, whose thresholds are shown too."""
    aggregates = metrics.aggregates
    keys = shown_thresholds(list(aggregates.sdr), ranking)
    width = max([12, *(len(name) for name in aggregates.landmarks or {})])
    lines = [protocol_line(metrics), _head(keys, tie=metrics.protocol.tie, width=width)]
    rows = [(name, row.mre_mm, row.sdr) for name, row in (aggregates.landmarks or {}).items()]
    lines += [_line(*row, keys=keys, width=width) for row in [*rows, ("all", aggregates.mre_mm, aggregates.sdr)]]
    span = None if aggregates.confidence is None else aggregates.confidence.mre_mm.get("mean")
    if span is not None:
        low, high = span
        interval = f"95 % interval {low:.3f} to {high:.3f}, over {metrics.protocol.drawn}"
        lines.append(f"mean radial error {aggregates.mre_mm.mean:.3f} mm ({interval})")
    elif metrics.protocol.n_groups == 1 and aggregates.noise is None:
        lines.append("no intervals: all is of one case, or of one group of cases")
    if aggregates.noise is not None:
        lines.append(noise_line(aggregates.noise))
    lines.append(f"missing {aggregates.n_missing}, false alarms {aggregates.n_false_alarms}")
    if aggregates.runtime_s is not None:
        time = aggregates.runtime_s
        lines.append(f"run time per case: mean {time.mean:.2f} s, median {time.median:.2f} s, maximum {time.max:.2f} s")
    return "\n".join(lines)


def _head(keys: Sequence[str], *, tie: str, width: int) -> str:
    sign = "<=" if tie == "inclusive" else "< "
    titles = " ".join(f"{sign + threshold_text(key):>9}" for key in keys)
    return f"{'':<{width}} {'mean':>8} {'SD':>8} {'median':>8} {'IQR':>8}  {titles}"


def _line(name: str, errors: ErrorSummary, sdr: Mapping[str, float], *, keys: Sequence[str], width: int) -> str:
    sd = "" if errors.sd is None else f"{errors.sd:.3f}"
    numbers = f"{errors.mean:8.3f} {sd:>8} {errors.median:8.3f} {errors.iqr:8.3f}"
    return f"{name:<{width}} {numbers}  " + " ".join(f"{100 * sdr[key]:7.2f} %" for key in keys)


def figures_text(board: "Leaderboard") -> str:
    """The radial errors in mm, success rates and run times of every submission, in the order of the leaderboard."""
    entries = [row.entry for row in board.rows]
    width = max([10, *(len(entry.name) for entry in entries)])
    keys = shown_thresholds(list(entries[0].metrics.aggregates.sdr), board.rule)
    lines = [_head(keys, tie=entries[0].metrics.protocol.tie, width=width) + "   s/case"]
    for entry in entries:
        aggregates = entry.metrics.aggregates
        time = "" if aggregates.runtime_s is None else f"{aggregates.runtime_s.median:.2f}"
        lines.append(_line(entry.name, aggregates.mre_mm, aggregates.sdr, keys=keys, width=width) + f" {time:>8}")
    return "\n".join(lines)


def not_redrawn_line(board: "Leaderboard") -> str:
    """Why a leaderboard does not say how firm its ranks are."""
    titles = ", ".join(board.not_redrawn)
    return f"how firm the ranks are is not known: the errors of each case do not tell how this would vary: {titles}"


def leaderboard_text(board: "Leaderboard") -> str:
    """The printed leaderboard: the protocol, one line per submission, how firm the ranking is."""
    width = max([10, *(len(row.entry.name) for row in board.rows)])
    titles = [column.title for column in board.rule.columns]
    lines = [protocol_line(board.rows[0].entry.metrics), f"{'rank':>4}  {'submission':<{width}}  " + "  ".join(titles)]
    for number, row in enumerate(board.rows):
        cells = []
        for title, value, span in zip(titles, row.values, row.intervals, strict=True):
            text = f"{value:.3f}" if span is None else f"{value:.3f} ({span[0]:.3f} to {span[1]:.3f})"
            cells.append(f"{text:<{len(title)}}")
        note = ""
        if board.stability is not None and len(board.rows) > 1:
            note = f"  rank {row.rank} in {100 * board.stability.share[number, row.rank - 1]:.0f} % of resamples"
        left = row.entry.metrics.protocol.left_out
        note += f"  [scored without {left}'s own part in the reference]" if left else ""
        lines.append(f"{row.rank:>4}  {row.entry.name:<{width}}  " + "  ".join(cells) + note)
    if board.not_redrawn:
        lines.append(not_redrawn_line(board))
    return "\n".join(lines)
