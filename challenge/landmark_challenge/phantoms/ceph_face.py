"""The face behind a `ceph-19` phantom: its key points, and the pen that draws outlines and marks landmarks.

Anatomy frame: origin at the sella, x anterior, y down, Frankfort plane level, mm. Typical positions are those of an
adult cephalogram; every case draws its own face height, jaw, chin, bite, lips, nose, vault and neck.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .curves import Curve, shrunk, stroke
from .deformation import SmoothMap

Point = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shape:
    """A filled polygon ((m, 2) mm from the image corner), its attenuation and the softness of its edge."""

    polygon_mm: Point
    value: float
    blur_mm: float


@dataclass(frozen=True, eq=False)
class Cloud:
    """A polygon filled with a smooth random field (trabeculae, air cells)."""

    polygon_mm: Point
    value: float
    knot_mm: float


@dataclass(frozen=True, eq=False)
class Drawing:
    """Everything drawn, in the image's millimetres, and the landmarks that lie on it."""

    shapes: list[Shape] = field(default_factory=list)
    clouds: list[Cloud] = field(default_factory=list)
    landmarks_mm: dict[str, Point] = field(default_factory=dict)


@dataclass(frozen=True)
class Face:
    """Key points of one face in the anatomy frame (mm), from which the outlines are drawn."""

    nasion: Point
    orbitale: Point
    porion: Point
    ans: Point
    pns: Point
    subspinale: Point
    upper_incisor: Point
    lower_incisor: Point
    supramentale: Point
    pogonion: Point
    menton: Point
    gonion: Point
    articulare: Point
    upper_tilt_rad: float
    lower_tilt_rad: float
    lip_mm: float
    chin_mm: float
    nose_mm: float
    sella_radius_mm: float
    vault: Point
    neck_rad: float


def random_face(generator: np.random.Generator) -> Face:
    """Draw a face; correlated where growth correlates (a long face lowers everything below the palate)."""

    def around(x: float, y: float, sd_x: float, sd_y: float) -> Point:
        return np.array([x, y]) + generator.normal(size=2).clip(-2, 2) * [sd_x, sd_y]

    forward, height = generator.normal(0, 3.5), generator.normal(0, 3.5)  # of the jaws as a whole
    palate = np.array([0.4 * forward, 0.5 * height])
    ans = around(62, 41, 1.5, 1.2) + palate
    pns = around(16, 39.5, 1.5, 1.2) + palate * [0.2, 1.0]
    upper_incisor = ans + around(3.5, 26.0, 2.2, 1.6)
    # The concavity keeps its depth whatever the bite, so that its deepest point can be seen.
    deepest = min(ans[0], upper_incisor[0] - 3.2) - generator.uniform(2.4, 3.6)
    subspinale = np.array([deepest, ans[1] + 8.0 + generator.normal(0, 0.7)])
    overjet, overbite = np.clip(generator.normal(2.8, 1.8), -1.5, 6.5), np.clip(generator.normal(1.6, 1.6), -1.5, 4.5)
    lower_incisor = upper_incisor + [-overjet, -overbite]
    chin = generator.normal(0, 3.0) + 0.8 * forward
    supramentale = np.array([lower_incisor[0] - 5.5 + 0.3 * chin, lower_incisor[1] + 17.5]) + around(0, 0, 0.8, 1.2)
    pogonion = supramentale + [1.8 + np.clip(0.6 * chin, 0.0, 4.0), 13.5 + 0.35 * height]
    menton = pogonion + around(-7.0, 7.5, 0.8, 0.8)
    return Face(
        nasion=around(60, -7, 2.5, 2.0),
        orbitale=around(47, 19, 1.8, 1.5),
        porion=around(-20, 18.5, 2.2, 1.8),
        ans=ans,
        pns=pns,
        subspinale=subspinale,
        upper_incisor=upper_incisor,
        lower_incisor=lower_incisor,
        supramentale=supramentale,
        pogonion=pogonion,
        menton=menton,
        gonion=around(-5, 71, 3.0, 3.5) + [0.0, 0.5 * height],
        articulare=around(-13.5, 29, 1.6, 1.6),
        upper_tilt_rad=np.deg2rad(generator.normal(22, 6)),
        lower_tilt_rad=np.deg2rad(generator.normal(20, 5)),
        lip_mm=generator.normal(12.0, 1.4),
        chin_mm=generator.normal(10.5, 1.6),
        nose_mm=generator.normal(0, 2.0),
        sella_radius_mm=generator.uniform(4.4, 6.0),
        vault=generator.normal(0, 4.0, size=3),
        neck_rad=np.deg2rad(generator.normal(4, 5)),
    )


class Pen:
    """Maps outlines into the image and collects them."""

    def __init__(self, placing: SmoothMap, head_axes: NDArray[np.float64]) -> None:
        self.placing, self.head_axes = placing, head_axes
        self.drawing = Drawing()

    def move(self, curve: Curve) -> Curve:
        """The curve in the image's millimetres."""
        return curve.moved(self.placing.apply(curve.points_mm))

    def direction(self, x: float, y: float) -> Point:
        """A direction of the head (x anterior, y down) in the image."""
        return self.head_axes @ np.array([x, y])

    def area(self, points_mm: ArrayLike, value: float, *, blur_mm: float = 0.3) -> None:
        """Fill a closed outline of the anatomy frame."""
        self.drawing.shapes.append(Shape(self.placing.apply(points_mm), value, blur_mm))

    def dome(self, points_mm: Point, value: float, *, blur_mm: float = 0.3, rim: float = 0.45, levels: int = 6) -> None:
        """Fill an outline as a solid looks in projection: `rim` of the value at its edge, all of it inside."""
        self.area(points_mm, value * rim, blur_mm=blur_mm)
        for level in range(1, levels):
            share = (1 - rim) / (levels - 1)
            self.area(shrunk(points_mm, np.sqrt(1 - (level / levels) ** 1.5)), value * share, blur_mm=max(blur_mm, 0.8))

    def line(self, points_mm: Point, width_mm: ArrayLike, value: float, *, blur_mm: float = 0.3) -> None:
        """Draw an open curve of the anatomy frame."""
        self.area(stroke(points_mm, width_mm), value, blur_mm=blur_mm)

    def cloud(self, points_mm: Point, value: float, knot_mm: float) -> None:
        """Fill an outline with a random texture."""
        self.drawing.clouds.append(Cloud(self.placing.apply(points_mm), value, knot_mm))

    def mark(self, name: str, point_mm: Point) -> None:
        """Set a landmark, in the image's millimetres."""
        self.drawing.landmarks_mm[name] = point_mm
