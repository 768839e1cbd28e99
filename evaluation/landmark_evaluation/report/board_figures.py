"""The plots of a leaderboard."""

import numpy as np
from matplotlib.figure import Figure

from ..leaderboard import Leaderboard
from ..ranking import ALPHA
from .theme import PALETTE, new_figure

CHARACTER_IN = 0.08


def intervals(board: Leaderboard) -> Figure:
    """The first ranking column of every submission with its 95 % interval, best on top."""
    column = board.rule.columns[0]
    figure = new_figure(7.2, 0.8 + 0.28 * len(board.rows))
    axes = figure.add_subplot()
    for place, row in enumerate(board.rows):
        height = len(board.rows) - place
        span = row.intervals[0]
        if span is not None:
            axes.plot(span, (height, height), color=PALETTE["--blue"], linewidth=2)
        axes.plot(row.values[0], height, "o", color=PALETTE["--blue"], markersize=5)
    axes.set_yticks([len(board.rows) - k for k in range(len(board.rows))], [row.entry.name for row in board.rows])
    ceiling = board.observers
    if ceiling is not None and column.path == "aggregates.mre_mm.mean":
        axes.axvline(
            ceiling.mean_mm, color=PALETTE["--muted"], linestyle="--", linewidth=1.4, label="mean of the observers"
        )
        axes.legend(loc="best", fontsize=8.5)
    axes.set(
        xlabel=f"{column.title}, 95 % interval over {board.rows[0].entry.metrics.protocol.drawn}",
        ylim=(0.3, len(board.rows) + 0.7),
    )
    axes.grid(axis="y", visible=False)
    return figure


def rank_stability(board: Leaderboard) -> Figure:
    """Share of the resamples in which each submission has each rank: the larger the disc, the more often."""
    if board.stability is None:
        raise ValueError("no ranks without errors per case")
    n = len(board.rows)
    figure = _grid_figure(board)
    axes = figure.add_subplot()
    share = board.stability.share
    places, ranks = np.nonzero(share >= 0.005)
    axes.scatter(ranks + 1, n - places, s=150 * share[places, ranks], color=PALETTE["--blue"], linewidths=0)
    if n <= 10:
        for place, rank in zip(places, ranks, strict=True):
            axes.annotate(f"{100 * share[place, rank]:.0f} %", (rank + 1, n - place), xytext=(8, -3),
                          textcoords="offset points", fontsize=7, color=PALETTE["--muted"])  # fmt: skip
    axes.set(xlim=(0.5, n + 0.9), ylim=(0.4, n + 0.6), xlabel="rank in resamples")
    axes.set_xticks(range(1, n + 1))
    axes.set_yticks([n - k for k in range(n)], [row.entry.name for row in board.rows])
    return figure


def significance(board: Leaderboard) -> Figure:
    """Which pairs differ: filled where the row is better than the column beyond chance (Holm, 5 %)."""
    n = len(board.rows)
    better = np.zeros((n, n), bool)
    for pair in board.pairs or ():
        if pair.p_holm < ALPHA:
            row, column = (pair.first, pair.second) if pair.effect < 0 else (pair.second, pair.first)
            better[row, column] = True
    figure = _grid_figure(board)
    axes = figure.add_subplot()
    for chosen, colour in ((better, "--green"), (~better & ~np.eye(n, dtype=bool), "--line")):
        rows, columns = np.nonzero(chosen)
        axes.scatter(columns, n - rows, s=60, marker="s", linewidths=0, color=PALETTE[colour])
    axes.set_xticks(range(n), [str(k + 1) for k in range(n)])
    axes.set_yticks([n - k for k in range(n)], [f"{row.entry.name}  {k + 1}" for k, row in enumerate(board.rows)])
    axes.set(xlim=(-0.6, n - 0.4), ylim=(0.4, n + 0.6))
    axes.grid(visible=False)
    return figure


def _grid_figure(board: Leaderboard) -> Figure:
    """A figure of one row and column per submission, wide enough for the longest name."""
    n = len(board.rows)
    names_in = CHARACTER_IN * max(len(row.entry.name) for row in board.rows)
    return new_figure(min(7.2, max(3.6, 0.6 + names_in + (0.6 if n <= 10 else 0.32) * n)), 0.8 + 0.3 * n)
