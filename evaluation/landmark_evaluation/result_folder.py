"""A result folder holds one evaluation: nothing of an earlier one may be taken for a part of it."""

from collections.abc import Mapping
from pathlib import Path

from landmark_challenge import files

from .results import DETAILS, METRICS

REPORT = "report.html"
# By name, so that what else somebody keeps in such folders stays.
TABLES = (
    "landmarks",
    "observers",
    "agreement",
    "conventions",
    "offsets",
    "uncertainty",
    "clinical",
    "subgroups",
    "worst-cases",
    "runtime",
)
FIGURES = ("success", "landmarks", "cases", "directions", "uncertainty", "runtime")
BOARD = "leaderboard.html"
LEADERBOARD = "leaderboard.csv"
PAIRS = "pairs.csv"
BOARD_TABLES = ("leaderboard", "pairs")
BOARD_FIGURES = ("intervals", "success", "stability", "significance")


def clear_result(folder: Path) -> None:
    """Remove what `landmarks evaluate` writes into a result folder; files of other names stay."""
    # metrics.json goes first: what is left after an interruption must not look like a result.
    _clear(folder, (METRICS, DETAILS, REPORT), TABLES, FIGURES)


def clear_board(folder: Path) -> None:
    """Remove what `landmarks compare` writes; files of other names stay."""
    _clear(folder, (LEADERBOARD, PAIRS, BOARD), BOARD_TABLES, BOARD_FIGURES)


def write_files(folder: Path, made: Mapping[str, bytes]) -> None:
    """Write files by their paths in `folder`."""
    for name, content in made.items():
        files.write_bytes(folder / name, content)


def _clear(folder: Path, names: tuple[str, ...], tables: tuple[str, ...], figures: tuple[str, ...]) -> None:
    paths = [folder / name for name in names]
    paths += [folder / "tables" / f"{name}{suffix}" for name in tables for suffix in (".csv", ".tex")]
    paths += [folder / "figures" / f"{name}{suffix}" for name in figures for suffix in (".svg", ".png")]
    for path in paths:
        path.unlink(missing_ok=True)
    for part in (folder / "tables", folder / "figures"):
        if part.is_dir() and not any(part.iterdir()):
            part.rmdir()
