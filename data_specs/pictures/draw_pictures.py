"""Draw the picture of every phantom that lies beside this file: python data_specs/pictures/draw_pictures.py

Three planes through one landmark at clinical size; crosses lie within 2 mm of the plane, rings are projected onto it.
"""

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image as Pillow

from landmark_challenge.files import write_bytes
from landmark_challenge.images import canonical, normalise
from landmark_challenge.phantoms import PHANTOMS, PhantomCase, make_case
from landmark_challenge.task import load_task

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MAX_BYTES = 150_000
SEED = 1
# Which landmark the planes pass through, the half width of the view (mm) and the voxel size it is shown at (mm).
VIEWS = {
    "brainstem-mr-1": ("medullopontine-sulcus", 118.0, 1.0),
    "carotid-cta-2": ("carotid-bifurcation-left", 90.0, 0.7),
    "ccta-8": ("ostium-right", 62.0, 0.5),
    "fetal-us-10": ("cavum-septi-pellucidi", 66.0, 0.6),
    "olfactory-mr-2": ("olfactory-bulb-right", 50.0, 0.5),
}


def main() -> None:
    """Draw them all."""
    for name in sorted(PHANTOMS):
        figure = _planes(name) if name in VIEWS else _pair(name)
        path = Path(__file__).parent / f"{name}.png"
        write_bytes(path, _png(figure))
        print(path.name, path.stat().st_size, "bytes")


def _planes(name: str) -> "plt.Figure":
    landmark, half_mm, spacing = VIEWS[name]
    case = make_case(name, SEED, index=0, full_size=True)
    picture = canonical(case.image, [spacing] * 3)
    grey = normalise(picture.array, load_task(name).intensity)
    points = picture.mm_to_index(case.landmarks.points_mm)
    centre = picture.mm_to_index(case.landmarks.point_mm(landmark))[0]
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.9))
    i, j, k = np.round(centre).astype(int)
    half = half_mm / spacing
    for axis, plane, (across, up, through) in zip(
        axes, (grey[k], grey[:, j], grey[:, :, i]), ((0, 1, 2), (0, 2, 1), (1, 2, 0)), strict=True
    ):
        axis.imshow(plane, cmap="gray", vmin=0, vmax=1)
        near = np.abs(points[:, through] - centre[through]) * spacing < 2
        axis.plot(points[near, across], points[near, up], "+", color="#ff4040", markersize=7)
        axis.plot(points[~near, across], points[~near, up], "o", color="#ffc000", markersize=3, fillstyle="none")
        axis.set_xlim(centre[across] - half, centre[across] + half)
        # LPS: y grows to the back, which belongs at the bottom; z grows to the head, which belongs at the top.
        sign = 1 if up == 1 else -1
        axis.set_ylim(centre[up] + sign * half, centre[up] - sign * half)
    return figure


def _pair(name: str) -> "plt.Figure":
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 5.2))
    for axis, index in zip(axes, (0, 2), strict=True):
        case: PhantomCase = make_case(name, SEED, index=index)
        low, high = np.percentile(case.image.array, (0.5, 99.5))
        axis.imshow(case.image.array, cmap="gray", vmin=low, vmax=high)
        points = case.image.mm_to_index(case.landmarks.points_mm)
        axis.plot(points[:, 0], points[:, 1], "+", color="#ff4040", markersize=6)
    return figure


def _png(figure: "plt.Figure") -> bytes:
    """The figure with few colours, so that noise stays small in the repository."""
    for axis in figure.axes:
        axis.set_axis_off()
        axis.set_facecolor("black")
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.02)
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=100, facecolor="black")
    plt.close(figure)
    for greys in (48, 32, 20, 12):
        small = io.BytesIO()
        image = Pillow.open(raw).convert("RGB").quantize(palette=_palette(greys), dither=Pillow.Dither.NONE)
        image.save(small, format="png", optimize=True)
        if small.tell() < MAX_BYTES:
            break
    return small.getvalue()


def _palette(greys: int) -> Pillow.Image:
    """Evenly spaced greys, and three shades of each marker's colour over grey."""
    colours = [(level,) * 3 for level in np.linspace(0, 255, greys).astype(int).tolist()]
    colours += [(255, 64, 64), (200, 70, 70), (130, 50, 50), (255, 192, 0), (200, 160, 40), (130, 100, 30)]
    palette = Pillow.new("P", (1, 1))
    palette.putpalette([part for colour in colours for part in colour])
    return palette


if __name__ == "__main__":
    main()
