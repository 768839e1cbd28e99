"""A result folder holds one evaluation: nothing of an earlier one may be taken for a part of it."""

from pathlib import Path

from .results import DETAILS, METRICS

REPORT = "report.html"
# By name, so that what else somebody keeps in such folders stays.
TABLES = ("landmarks", "observers", "agreement", "uncertainty", "clinical", "subgroups", "worst-cases", "runtime")
FIGURES = ("success", "landmarks", "cases", "directions", "uncertainty", "runtime")


def clear_result(folder: Path) -> None:
    """Remove what `landmarks evaluate` writes into a result folder; files of other names stay."""
    written = [folder / name for name in (DETAILS, REPORT)]
    written += [folder / "tables" / f"{name}{suffix}" for name in TABLES for suffix in (".csv", ".tex")]
    written += [folder / "figures" / f"{name}{suffix}" for name in FIGURES for suffix in (".svg", ".png")]
    # metrics.json goes first: what is left after an interruption must not look like a result.
    for path in (folder / METRICS, *written):
        path.unlink(missing_ok=True)
    for part in (folder / "tables", folder / "figures"):
        if part.is_dir() and not any(part.iterdir()):
            part.rmdir()
