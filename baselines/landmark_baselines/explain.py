"""The paper's Fig. 5: where the patches of an image point, which of them hold the landmark, and what they agree on.

Noothout et al., IEEE TMI 39(12), 2020: orange displacement arrows, green squares around patches whose posterior is
above 0.5, a pink cross for the computed and a blue one for the reference landmark. Here every stage has a panel of its
own, and a volume is shown in the three planes through the final point.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.platform import Localizer

from .pictures import save_figure, styled_figure
from .vector_fields import VectorField

POSITIVE = 0.5
ARROWS_PER_SIDE = 30  # more than this cannot be told apart: every k-th arrow is drawn then
ARROW, SQUARE, COMPUTED, GLOBAL_POINT, REFERENCE = "#ff9a1f", "#35d06a", "#ff3fa4", "#ffe04a", "#3f8cff"
SCREEN = "#14161a"
TOWARDS = ("left (x)", "posterior (y)", "superior (z)")  # where the axes of LPS grow


@dataclass(frozen=True)
class Plane:
    """A slice: its name, the axes (0 x, 1 y, 2 z) shown to the right and along the picture, and whether up is up."""

    title: str
    right: int
    along: int
    upward: bool


FLAT = (Plane("", 0, 1, False),)
ORTHOGONAL = (Plane("axial", 0, 1, False), Plane("coronal", 0, 2, True), Plane("sagittal", 1, 2, True))


def fields_of(localizer: Localizer, image: Image, name: str) -> list[VectorField]:
    """What the stages of a method say of a landmark.

    Raises ChallengeError for a landmark the task does not have, and for a method that cannot explain itself.
    """
    if name not in localizer.task.names:
        raise ChallengeError(f"--landmark: wanted one of {', '.join(localizer.task.names)}, got '{name}'")
    if not hasattr(localizer, "vector_fields"):
        method = type(localizer).__module__.rpartition(".")[2]
        raise ChallengeError(f"{method} cannot explain itself: it has no patches that vote for a landmark")
    fields: list[VectorField] = localizer.vector_fields(image, name)
    return fields


def draw(
    fields: Sequence[VectorField],
    folder: Path,
    *,
    name: str,
    title: str,
    reference_mm: NDArray[np.float64] | None = None,
) -> list[Path]:
    """Write <name>.png and <name>.svg with one panel per stage (2D), or a row of three planes per stage (3D)."""
    flat = fields[0].image.ndim == 2
    planes = FLAT if flat else ORTHOGONAL
    rows, columns = (1, len(fields)) if flat else (len(fields), 3)
    final_mm = fields[-1].point_mm
    marks = [(fields[0].point_mm, GLOBAL_POINT, "global stage")] if len(fields) > 1 else []
    marks.append((final_mm, COMPUTED, "computed"))
    if reference_mm is not None:
        marks.append((reference_mm, REFERENCE, "reference"))
    size = (0.4 + 5.0 * columns, 6.6) if flat else (11.4, 0.9 + 4.1 * rows)
    with styled_figure(*size) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        shown = [(number, plane) for number in range(len(fields)) for plane in planes]
        for axes, (number, plane) in zip(panels, shown, strict=True):
            _panel(axes, fields[number], plane, final_mm=final_mm, marks=marks, outline=fields[number + 1 :])
        figure.legend(handles=_legend(fields, marks), loc="outside lower left", ncols=3 if flat else 6, fontsize=9)
        return save_figure(figure, folder, name=name)


def _panel(
    axes: Axes,
    field: VectorField,
    plane: Plane,
    *,
    final_mm: NDArray[np.float64],
    marks: Sequence[tuple[NDArray[np.float64], str, str]],
    outline: Sequence[VectorField],
) -> None:
    """One stage in one plane through the final point; axes in millimetres from the corner of the image."""
    image, spacing = field.image, float(field.image.spacing_mm[0])
    shown = (plane.right, plane.along)
    where = image.mm_to_index(final_mm)[0]
    picture = slice_through(image.array, where, shown)
    height, width = picture.shape
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(0, width * spacing, height * spacing, 0))
    centres, displacement, posterior = cells_through(field, where, shown)
    side = field.cell_voxels * spacing
    lower = centres.min(axis=(1, 2)) * spacing - side / 2
    upper = centres.max(axis=(1, 2)) * spacing + side / 2
    if posterior is not None:
        _squares(axes, centres[:, posterior > POSITIVE] * spacing, side)
    if displacement is not None:
        _arrows(axes, centres * spacing, displacement, side)
    for point_mm, colour, _ in marks:
        x, y = ((image.mm_to_index(point_mm)[0][list(shown)] + 0.5) * spacing).tolist()
        axes.plot(x, y, "+", color=SCREEN, markersize=13.5, markeredgewidth=3.8)
        axes.plot(x, y, "+", color=colour, markersize=12, markeredgewidth=2)
    for inner in outline:
        _window(axes, inner, shown)
    axes.set(xlim=(lower[0], upper[0]), ylim=(upper[1], lower[1]), facecolor=SCREEN)
    axes.set_xlabel(f"{TOWARDS[plane.right]}, mm" if plane.title else "mm")
    if plane.title:
        axes.set_ylabel(f"{TOWARDS[plane.along]}, mm")
    if plane.upward:
        axes.invert_yaxis()
    axes.set_aspect("equal")
    best = "" if field.posterior is None else f", largest posterior {field.posterior.max():.2f}"
    beginning = f"{field.stage}, {plane.title}" if plane.title else f"{field.stage} stage"
    axes.set_title(f"{beginning}: patches of {side:.3g} mm{best}", fontsize=9 if not plane.title else 8)


def slice_through(array: NDArray, where: NDArray[np.float64], shown: tuple[int, int]) -> NDArray:
    """The (along, right) picture through the index `where`; a point outside the image shows the nearest slice."""
    if array.ndim == 2:
        return array
    through = 3 - sum(shown)
    index = int(np.clip(np.rint(where[through]), 0, array.shape[2 - through] - 1))
    picture: NDArray = np.take(array, index, axis=2 - through)
    return picture  # the remaining axes are (z,) y, x, so the larger of the shown ones comes first: along, right


def cells_through(
    field: VectorField, where: NDArray[np.float64], shown: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Centres (2, a, b) from the image's corner, displacements (2, a, b) and posteriors (a, b), through `where`.

    All in voxels; displacements are cast on the plane.
    """
    pick: tuple[Any, ...] = ()
    if field.image.ndim == 3:
        through = 3 - sum(shown)
        axis = 2 - through  # of the grid, which is ordered z, y, x
        along = np.moveaxis(field.centres[through], axis, 0)[:, 0, 0]
        nearest = int(np.argmin(np.abs(along - where[through])))
        pick = tuple(nearest if k == axis else slice(None) for k in range(3))
    centres = field.centres[(list(shown), *pick)] + 0.5
    displacement = None if field.displacement is None else field.displacement[(list(shown), *pick)]
    posterior = None if field.posterior is None else field.posterior[pick]
    return centres, displacement, posterior


def _arrows(axes: Axes, centres_mm: NDArray[np.float64], displacement: NDArray[np.float64], side_mm: float) -> None:
    """Arrows of true direction; the length grows with the logarithm of the true one, so that the far ones fit."""
    step = math.ceil(max(centres_mm.shape[1:]) / ARROWS_PER_SIDE)
    thinned = (slice(None), *[slice(step // 2 if step > 1 else 0, None, step)] * 2)
    start, arrow = centres_mm[thinned], displacement[thinned]
    length = np.hypot(*arrow)
    longest = float(np.log1p(length).max()) or 1.0
    arrow = arrow / np.maximum(length, 1e-9) * np.log1p(length) / longest * 0.95 * step * side_mm
    axes.quiver(
        *start, *arrow, color=ARROW, angles="xy", scale_units="xy", scale=1, units="inches", width=0.02, minlength=0,
        headwidth=3.8, headlength=4.2, headaxislength=3.8, edgecolor=SCREEN, linewidth=0.3,
    )  # fmt: skip


def _squares(axes: Axes, centres_mm: NDArray[np.float64], side_mm: float) -> None:
    squares = [Rectangle((x - side_mm / 2, y - side_mm / 2), side_mm, side_mm) for x, y in centres_mm.T]
    axes.add_collection(PatchCollection(squares, facecolor=SQUARE + "38", edgecolor=SQUARE, linewidth=1.4))


def _window(axes: Axes, inner: VectorField, shown: tuple[int, int]) -> None:
    """Outline what a later stage looks at."""
    spacing = float(inner.image.spacing_mm[0])
    grid = inner.centres[list(shown)].reshape(2, -1) + 0.5
    lower, upper = grid.min(axis=1) - inner.cell_voxels / 2, grid.max(axis=1) + inner.cell_voxels / 2
    width, height = ((upper - lower) * spacing).tolist()
    axes.add_patch(
        Rectangle(tuple((lower * spacing).tolist()), width, height, fill=False, edgecolor="white", linestyle="--")
    )


def _legend(fields: Sequence[VectorField], marks: Sequence[tuple[NDArray[np.float64], str, str]]) -> list[Any]:
    handles: list[Any] = []
    if any(field.displacement is not None for field in fields):
        handles.append(Line2D([], [], color=ARROW, marker=">", label="displacement of a patch (length logarithmic)"))
    if any(field.posterior is not None for field in fields):
        handles.append(Patch(facecolor=SQUARE + "38", edgecolor=SQUARE, label=f"posterior above {POSITIVE}"))
    if len(fields) > 1:
        handles.append(Patch(fill=False, edgecolor="gray", linestyle="--", label="window of the local stage"))
    return handles + [
        Line2D([], [], color=colour, marker="+", linestyle="", markersize=11, markeredgewidth=2.2, label=label)
        for _, colour, label in marks
    ]
