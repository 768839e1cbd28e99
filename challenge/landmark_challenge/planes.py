"""Standard planes: the plane that lies best in named landmarks, and how far two are apart. Millimetres, LPS."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .landmarks import Landmarks
from .task import PlaneSpec

# Points within this share of their longest extent of one line do not say how a plane turns about it.
LINE_SHARE = 1e-3


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane and how its picture lies in it, each (3,) mm or without unit.

    centre_mm: of the landmarks. right, down: unit vectors along the picture's rows and columns; their cross product is
    the normal.
    """

    centre_mm: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """(3,) unit vector away from the viewer."""
        return np.cross(self.right, self.down)


def fit_plane(points_mm: ArrayLike) -> Plane | None:
    """The plane of least squared distances to three or more points (n, 3); None where they lie on one line.

    The picture's rows run from the first point to the second, and the third lies in its upper half.

    >>> fit_plane([[0, 0, 5], [2, 0, 5], [1, -3, 5]]).normal.round(6).tolist()
    [0.0, 0.0, 1.0]
    """
    points = np.asarray(points_mm, np.float64).reshape(-1, 3)
    centre = points.mean(axis=0)
    _, extents, axes = np.linalg.svd(points - centre, full_matrices=False)
    if len(points) < 3 or extents[1] <= LINE_SHARE * extents[0]:
        return None
    right = points[1] - points[0]
    right = right - (right @ axes[2]) * axes[2]
    length = np.linalg.norm(right)
    if length <= LINE_SHARE * extents[0]:
        return None  # the first two lie behind each other
    right = right / length
    down = np.cross(axes[2], right)
    if (points[2] - points[0]) @ down > 0:
        down = -down
    return Plane(centre, right, down)


def task_plane(spec: PlaneSpec, landmarks: Landmarks) -> Plane | None:
    """The plane of a task in landmarks; None where one of its landmarks is absent or all lie on one line."""
    points = landmarks.aligned_mm(spec.landmarks)
    return fit_plane(points) if np.isfinite(points).all() else None


def angle_degrees(first: Plane, second: Plane) -> float:
    """The angle between two planes, 0 to 90 degrees."""
    # By the sine too: the arc cosine alone is blind to less than a millionth of a degree near 0.
    sine = np.linalg.norm(np.cross(first.normal, second.normal))
    return float(np.degrees(np.arctan2(sine, abs(first.normal @ second.normal))))


def offset_mm(plane: Plane, reference: Plane) -> float:
    """How far `plane` passes by the centre of the reference's landmarks: their distance along its normal."""
    return float(abs(plane.normal @ (reference.centre_mm - plane.centre_mm)))
