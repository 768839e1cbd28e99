"""Standard planes of a volume: resampled through located landmarks, as an image with its geometry and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_challenge.images import Image, bounding_box_mm, write_image
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.planes import Plane, angle_degrees, offset_mm, task_plane
from landmark_challenge.task import PlaneSpec, Task

from .pictures import save_figure, styled_figure
from .planar_patches import sample_positions
from .volumes import Volumes

PERCENTILES = (0.5, 99.5)
PREDICTED, REFERENCE = "#ff3fa4", "#3f8cff"
LONGEST_PICTURE_IN = 6.5


@dataclass(frozen=True, eq=False)
class PlaneCut:
    """A plane through a volume. image: one slice (1, rows, columns) of the volume's grey values where it lies in space,
    the volume's least value outside of it. plane: as located. reference: that of the reference's landmarks, if known.
    """

    spec: PlaneSpec
    plane: Plane
    image: Image
    reference: Plane | None = None

    @property
    def comparison(self) -> str:
        """Angle and offset to the reference's plane; empty where there is none."""
        if self.reference is None:
            return ""
        angle, offset = angle_degrees(self.plane, self.reference), offset_mm(self.plane, self.reference)
        return f"{angle:.1f} degrees and {offset:.2f} mm from the reference's plane"


def cut_planes(
    image: Image, task: Task, landmarks: Landmarks, *, reference: Landmarks | None = None
) -> tuple[list[PlaneCut], list[str]]:
    """The planes of a task through a volume, and the names of those that the landmarks do not give."""
    cuts, lost = [], []
    for spec in task.planes:
        plane = task_plane(spec, landmarks)
        if plane is None:
            lost.append(spec.name)
            continue
        truth = None if reference is None else task_plane(spec, reference)
        cuts.append(PlaneCut(spec, plane, resample(image, plane), truth))
    return cuts, lost


def resample(image: Image, plane: Plane) -> Image:
    """The slice of a volume in a plane, linear, with square pixels of the volume's finest spacing.

    It covers the part of the plane inside the volume's bounding box, and has the box's least extent where it misses it.
    """
    spacing = float(image.spacing_mm.min())
    lower, upper = _covered(image, plane)
    columns, rows = (int(count) for count in np.maximum(1, np.floor((upper - lower) / spacing + 0.5)))
    across = lower[0] + (np.arange(columns) + 0.5) * spacing
    along = lower[1] + (np.arange(rows) + 0.5) * spacing
    points = plane.centre_mm + along[:, None, None] * plane.down + across[None, :, None] * plane.right
    index = torch.from_numpy(image.mm_to_index(points.reshape(-1, 3))).reshape(1, -1, 3)
    low, high = float(image.array.min()), float(image.array.max())
    high = max(high, low + 1.0)  # one grey value only
    values = torch.from_numpy(np.ascontiguousarray(image.array, np.float32))[None, None]
    volume = Volumes.of(values, 1.0)
    scaled = Volumes(volume.values, volume.first, volume.shape, volume.strides, low, high, 1.0)
    shares = sample_positions(scaled, torch.tensor([0]), index, outside="zero")  # 0 is the least value
    array = (low + shares.double().numpy() * (high - low)).reshape(1, rows, columns)
    if image.array.dtype.kind in "ui":
        array = np.rint(array)
    direction = np.stack([plane.right, plane.down, plane.normal], axis=1)
    return Image.of(array.astype(image.array.dtype), [spacing] * 3, points[0, 0], direction)


def _covered(image: Image, plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper corner (2,) in mm along right and down from the centre: the plane's part in the bounding box."""
    box = np.array(bounding_box_mm(image))
    corners = np.array(np.meshgrid(*box.T, indexing="ij")).reshape(3, -1).T
    away = (corners - plane.centre_mm) @ plane.normal
    crossings = []
    for first, second in _EDGES:
        if away[first] * away[second] <= 0 and away[first] != away[second]:
            share = away[first] / (away[first] - away[second])
            crossings.append(corners[first] + share * (corners[second] - corners[first]))
    # A plane that passes by the volume shows nothing, but has a picture.
    met = np.array(crossings or [plane.centre_mm]) - plane.centre_mm
    flat = np.stack([met @ plane.right, met @ plane.down], axis=1)
    return flat.min(axis=0), flat.max(axis=0)


# Corners are numbered with z fastest: two are joined where their numbers differ in one bit.
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]


def write_cut(
    cut: PlaneCut, folder: Path, *, name: str, landmarks: Landmarks, reference: Landmarks | None = None
) -> list[Path]:
    """Write <name>.mha (grey values and geometry), <name>.png and .svg with the landmarks cast on it; the paths."""
    write_image(folder / f"{name}.mha", cut.image)
    pixels = cut.image.array[0]
    low, high = np.percentile(pixels, PERCENTILES)
    rows, columns = pixels.shape
    scale = LONGEST_PICTURE_IN / max(rows, columns)
    with styled_figure(scale * columns + 0.2, scale * rows + 1.1) as figure:
        title = "\n".join(filter(None, (cut.spec.title, cut.comparison)))
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        axes = figure.add_subplot()
        axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        sets = [(reference, REFERENCE, "o", "reference")] if reference is not None else []
        for points, colour, mark, label in [*sets, (landmarks, PREDICTED, "+", "located")]:
            if points is not None:
                index = _in_picture(cut, points)
                axes.plot(*index.T, mark, color=colour, markersize=8, markerfacecolor="none", label=label)
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
        axes.set_axis_off()
        figure.legend(loc="outside lower left", ncols=2)
        pictures: Sequence[Path] = save_figure(figure, folder, name=name)
    return [folder / f"{name}.mha", *pictures]


def _in_picture(cut: PlaneCut, landmarks: Landmarks) -> NDArray[np.float64]:
    """(n, 2) column and row of the plane's landmarks, cast on it."""
    points = landmarks.aligned_mm(cut.spec.landmarks)
    index: NDArray[np.float64] = cut.image.mm_to_index(points[np.isfinite(points).all(axis=1)])[:, :2]
    return index
