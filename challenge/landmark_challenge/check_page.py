"""The page of `landmarks data check`: what was found, and thumbnails of the cases with their points."""

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import files
from .check import Contents, Finding
from .errors import ChallengeError
from .images import canonical
from .progress import track

SIDE_PX = 220
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }
.error { color: #b00020; font-weight: 600 } .warning { color: #9a5b00; font-weight: 600 } .note { color: #555 }
.cases { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem } figure { margin: 0 }
figcaption { font-size: 13px; max-width: 46rem } svg { background: #000; margin-right: 2px }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } td, th { border-color: #444 } }
"""


def write_page(path: Path, findings: Sequence[Finding], contents: Contents | None, *, thumbnails: int) -> None:
    """Write the page: every finding, and pictures of up to `thumbnails` cases, those with findings first."""
    title = "nothing" if contents is None else f"{contents.dataset.folder.name} ({contents.dataset.task.name})"
    rows = "\n".join(
        f"<tr><td class={finding.severity}>{finding.severity}</td><td>{finding.kind}</td>"
        f"<td>{_link(finding.case)}</td><td>{html.escape(finding.landmark)}</td><td>{html.escape(finding.text)}</td></tr>"
        for finding in findings
    )
    table = f"<table><tr><th></th><th>check</th><th>case</th><th>landmark</th><th>found</th></tr>\n{rows}</table>"
    pictures = "" if contents is None else _pictures(contents, findings, thumbnails)
    files.write_text(
        path,
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Data check: {html.escape(title)}</title>"
        f"<style>{STYLE}</style><h1>Data check: {html.escape(title)}</h1>\n"
        f"{table if findings else '<p>Nothing found.</p>'}\n<div class=cases>{pictures}</div></html>\n",
    )


def _link(case: str) -> str:
    return f'<a href="#{html.escape(case, quote=True)}">{html.escape(case)}</a>' if case else ""


def _pictures(contents: Contents, findings: Sequence[Finding], count: int) -> str:
    flagged = list(dict.fromkeys(finding.case for finding in findings if finding.case and finding.severity != "note"))
    names = (flagged + [case.name for case in contents.cases if case.name not in flagged])[:count]
    shown = [name for name in names if name in contents.geometry]
    return "\n".join(_figure(contents, name, findings) for name in track(shown, "drawing")) if shown else ""


def _figure(contents: Contents, name: str, findings: Sequence[Finding]) -> str:
    own = [finding for finding in findings if finding.case == name]
    caption = html.escape("; ".join(f"{finding.landmark or finding.kind}: {finding.text}" for finding in own))
    try:
        views = _views(contents, name, {finding.landmark for finding in own})
    except ChallengeError as error:
        views = f"<p class=error>{html.escape(str(error))}</p>"
    anchor = html.escape(name, quote=True)
    return f'<figure id="{anchor}">{views}<figcaption><b>{html.escape(name)}</b> {caption}</figcaption></figure>'


def _views(contents: Contents, name: str, wrong: set[str]) -> str:
    """The picture, or three planes through the middle of the landmarks, with the points on it."""
    image = contents.dataset.image(name)
    longest = float(max(image.spacing_mm * image.size))
    image = canonical(image, [longest / SIDE_PX] * image.ndim)
    row = next(index for index, case in enumerate(contents.cases) if case.name == name)
    index = image.mm_to_index(contents.points_mm[contents.main][row]) if contents.main else np.zeros((0, image.ndim))
    there: NDArray[np.bool_] = np.all(np.isfinite(index), axis=1)
    middle = np.median(index[there], axis=0) if there.any() else np.array(image.size) / 2
    planes = [(0, 1)] if image.ndim == 2 else [(0, 1), (0, 2), (1, 2)]
    low, high = np.percentile(image.array, (0.5, 99.5))
    grey = np.clip((image.array - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    return "".join(_view(grey, plane, middle, index, there, contents.dataset.task.names, wrong) for plane in planes)


def _view(
    grey: NDArray[np.uint8],
    plane: tuple[int, int],
    middle: NDArray,
    index: NDArray,
    there: NDArray,
    names: Sequence[str],
    wrong: set[str],
) -> str:
    across, down = plane
    cut = grey
    if grey.ndim == 3:
        axis = next(axis for axis in range(3) if axis not in plane)
        at = int(np.clip(round(middle[axis]), 0, grey.shape[2 - axis] - 1))
        cut = np.take(grey, at, axis=2 - axis)
    height, width = cut.shape
    upward = down == 2  # feet below, head above
    if upward:
        cut = cut[::-1]
    circles = ""
    for name, point, is_there in zip(names, index, there, strict=True):
        if is_there:
            x, y = point[across], height - 1 - point[down] if upward else point[down]
            colour = "#ff3b30" if name in wrong else "#34c759"
            circles += (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="none" stroke="{colour}"><title>{name}</title></circle>'
            )
    picture = base64.b64encode(png(cut)).decode()
    size = f'width="{width}" height="{height}"'
    return (
        f'<svg {size} viewBox="-.5 -.5 {width} {height}">'
        f'<image x="-.5" y="-.5" {size} href="data:image/png;base64,{picture}"/>{circles}</svg>'
    )


def png(grey: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey picture (height, width) as PNG (RFC 2083).

    >>> png(np.zeros((2, 3), np.uint8))[:4]
    b'\\x89PNG'
    """
    height, width = grey.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line starts with its filter, 0 for none
    lines[:, 1:] = grey

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
