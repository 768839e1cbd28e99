"""How figures look, on a page in light and dark and as files of their own.

Figures are drawn in the light palette; on a page every colour becomes a CSS variable, so that the page's theme rules.
"""

import io
import re
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = {
    "--paper": "#fdfdfc",
    "--ink": "#1b1e23",
    "--muted": "#676d77",
    "--line": "#d8dce2",
    "--blue": "#2563c9",
    "--orange": "#c8610c",
    "--green": "#23834f",
    "--purple": "#7b45c4",
    "--red": "#c22f3f",
    "--teal": "#14808f",
    "--blue-soft": "#d3e1f8",
}
REM_PER_INCH = 6.4
PNG_DPI = 160
SERIES = ("--blue", "--orange", "--green", "--purple", "--red", "--teal")
RC: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.size": 9.5,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALETTE["--muted"],
    "axes.labelcolor": PALETTE["--ink"],
    "axes.titlecolor": PALETTE["--ink"],
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["--line"],
    "grid.linewidth": 0.7,
    "text.color": PALETTE["--ink"],
    "text.parse_math": False,
    "xtick.color": PALETTE["--muted"],
    "ytick.color": PALETTE["--muted"],
    "xtick.labelcolor": PALETTE["--ink"],
    "ytick.labelcolor": PALETTE["--ink"],
    "figure.facecolor": PALETTE["--paper"],
    "axes.facecolor": PALETTE["--paper"],
    "legend.frameon": False,
    "path.simplify": True,
}


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure in the kit's style; draw on it inside `styled()`."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def styled() -> Any:
    """The context in which figures are made and saved."""
    return matplotlib.rc_context(RC)


def colour(index: int) -> str:
    """The colour of the index-th series; they come again after six, told apart by line style."""
    return PALETTE[SERIES[index % len(SERIES)]]


def drawn(figure: Figure, *, name: str) -> tuple[str, bytes]:
    """The figure as the text of an SVG, which goes into the page too (drawing is what a page costs), and as a PNG."""
    with styled(), matplotlib.rc_context({"svg.hashsalt": f"landmarks-{name}"}):
        # The layout is found once, not again for each format.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        pixels = io.BytesIO()
        figure.savefig(pixels, format="png", dpi=PNG_DPI)
    return text.getvalue(), pixels.getvalue()


def inline_svg(svg: str, *, label: str, name: str, width_in: float) -> str:
    """The figure as an <svg> element whose colours are the page's; `label` is what a screen reader says."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for variable, value in PALETTE.items():
        svg = svg.replace(value, f"var({variable})")
    # Ids must be unique on the page, and its width rules the size.
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="|url\()#([^")]+)', rf"\1#{name}-\2", svg)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    safe = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    width = f"--width: {width_in * REM_PER_INCH:.1f}rem"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{safe}" style="{width}" ', 1)
