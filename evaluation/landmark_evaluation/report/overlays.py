"""Pictures of the worst and the median case with predicted and reference points: in 2D whole, in 3D as slices."""

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.dataset import Dataset
from landmark_challenge.images import Image, canonical

from ..scoring import Evaluation

MAX_SIDE_PIXELS = 900
SLICE_PIXELS = 320
MARKS_PER_SIDE = 140
MARKS_PER_SLICE = 60
# (title, horizontal axis, vertical axis): radiological, the patient's left on the right, superior up.
SLICES = (("axial", 0, 1), ("coronal", 0, 2), ("sagittal", 1, 2))


@dataclass(frozen=True)
class Overlay:
    """One case to look at: html holds one <svg> per picture, self-contained."""

    title: str
    case: str
    html: str


def make_overlays(evaluation: Evaluation, dataset: Dataset) -> list[Overlay]:
    """The worst and the median case by their mean error. Raises ChallengeError where the dataset lacks their image."""
    means = np.array([np.nanmean(row) if np.isfinite(row).any() else np.nan for row in evaluation.scores.error_mm])
    order = np.flatnonzero(np.isfinite(means))[np.argsort(means[np.isfinite(means)], kind="stable")]
    chosen = {"worst case": int(order[-1]), "median case": int(order[(len(order) - 1) // 2])}
    overlays = []
    for title, row in chosen.items():
        name = evaluation.reference.cases[row].name
        image = dataset.image(name)
        html = _whole(evaluation, row, image) if image.ndim == 2 else _slices(evaluation, row, image)
        overlays.append(Overlay(f"{title}: {name}, mean error {means[row]:.2f} mm", name, html))
    return overlays


def _whole(evaluation: Evaluation, row: int, image: Image) -> str:
    step = max(1, -(-max(image.size) // MAX_SIDE_PIXELS))
    reference, predicted = evaluation.reference.points_mm[row], evaluation.submission.points_mm[row]
    marks = []
    for column, name in enumerate(evaluation.reference.task.names):
        pair = [_pixel(image.mm_to_index(points[column])[0], step) for points in (reference, predicted)]
        error = evaluation.scores.error_mm[row, column]
        marks.append(_marks(pair[0], pair[1], _tooltip(name, error), size=max(image.size) / step / MARKS_PER_SIDE))
    return _picture(_shrink(image.array, step), marks)


def _slices(evaluation: Evaluation, row: int, image: Image) -> str:
    """Three orthogonal slices through the reference of the case's worst point."""
    errors = evaluation.scores.error_mm[row]
    column = int(np.nanargmax(errors))
    grid = canonical(image, [min(evaluation.reference.task.working_spacing_mm)] * 3)
    index = grid.mm_to_index(evaluation.reference.points_mm[row, column])[0]
    given = grid.mm_to_index(evaluation.submission.points_mm[row, column])[0]
    centre = np.clip(np.round(index).astype(int), 0, np.array(grid.size) - 1)
    tooltip = _tooltip(evaluation.reference.task.names[column], errors[column])
    parts = []
    for title, a, b in SLICES:
        through = 3 - a - b
        plane = np.take(grid.array, centre[through], axis=2 - through)  # rows along b, columns along a
        flip = b == 2
        points = [np.array([point[a], plane.shape[0] - 1 - point[b] if flip else point[b]]) for point in (index, given)]
        step = max(1, max(plane.shape) // SLICE_PIXELS)
        size = max(plane.shape) / step / MARKS_PER_SLICE
        marks = _marks(_pixel(points[0], step), _pixel(points[1], step), tooltip, size=size)
        picture = _picture(_shrink(plane[::-1] if flip else plane, step), [marks])
        parts.append(f"<figure>{picture}<figcaption>{title}</figcaption></figure>")
    return f"<p>{escape(tooltip)}</p><div class='slices'>{''.join(parts)}</div>"


def _pixel(index: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Continuous index of the full image -> position on the shrunk picture, whose first pixel spans 0 to 1."""
    return (index[:2] + 0.5) / step


def _shrink(array: NDArray, step: int) -> NDArray[np.float32]:
    """Mean over step x step blocks; a rest at the far border is cut."""
    rows, columns = (side // step for side in array.shape)
    cut = array[: rows * step, : columns * step].astype(np.float32)
    return cut.reshape(rows, step, columns, step).mean(axis=(1, 3))


def _picture(array: NDArray[np.float32], marks: list[str]) -> str:
    from PIL import Image as Picture

    low, high = np.percentile(array, (1, 99.5))
    grey = np.clip((array - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Picture.fromarray(grey).save(content, format="JPEG", quality=82)
    data = base64.b64encode(content.getvalue()).decode()
    height, width = grey.shape
    return (
        f'<svg class="overlay" viewBox="0 0 {width} {height}" role="img">'
        f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>{"".join(marks)}</svg>'
    )


def _marks(reference: NDArray[np.float64], predicted: NDArray[np.float64], tooltip: str, *, size: float) -> str:
    """A ring of radius `size` at the reference, a cross at the prediction, a line between them."""
    there, given = np.isfinite(reference).all(), np.isfinite(predicted).all()
    parts = [f"<title>{escape(tooltip)}</title>"]
    if there and given:
        parts.append(
            f'<line class="between" x1="{reference[0]:.2f}" y1="{reference[1]:.2f}" '
            f'x2="{predicted[0]:.2f}" y2="{predicted[1]:.2f}" stroke-width="{size / 4:.2f}"/>'
        )
    if there:
        at = f'cx="{reference[0]:.2f}" cy="{reference[1]:.2f}" r="{size:.2f}" stroke-width="{size / 4:.2f}"'
        parts.append(f'<circle class="reference" {at}/>')
    if given:
        at = f"translate({predicted[0]:.2f} {predicted[1]:.2f}) scale({size:.2f})"
        parts.append(f'<g transform="{at}"><path class="predicted" d="M-1-1 1 1M-1 1 1-1"/></g>')
    return f"<g>{''.join(parts)}</g>"


def _tooltip(name: str, error_mm: float) -> str:
    return f"{name}: {error_mm:.2f} mm" if np.isfinite(error_mm) else f"{name}: not scored"


def dataset_with_images(folder: Path) -> Dataset | None:
    """The dataset in a folder if it has images, else None."""
    if not (folder / "dataset.json").is_file():
        return None
    dataset = Dataset(folder)
    return dataset if dataset.has_images else None
