"""How the pictures of this package look, and their files: every one as PNG and SVG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from landmark_challenge import files

INK, MUTED, LINE, PAPER = "#1b1e23", "#676d77", "#d8dce2", "#fdfdfc"
SERIES = ("#2563c9", "#c8610c", "#23834f", "#7b45c4", "#c22f3f", "#14808f")
RC: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.size": 9.5,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "legend.frameon": False,
}


@contextmanager
def styled_figure(width_in: float, height_in: float) -> Iterator[Figure]:
    """An empty figure; draw on it and save it inside the block."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save_figure(figure: Figure, folder: Path, *, name: str) -> list[Path]:
    """Write <name>.png and <name>.svg, the same bytes for the same picture; the paths."""
    paths = []
    with matplotlib.rc_context({"svg.hashsalt": f"landmarks-{name}"}):
        for extension in ("png", "svg"):
            content = io.BytesIO()
            metadata = {"Date": None} if extension == "svg" else None
            figure.savefig(content, format=extension, dpi=160, metadata=metadata)
            paths.append(folder / f"{name}.{extension}")
            files.write_bytes(paths[-1], content.getvalue())
    return paths
