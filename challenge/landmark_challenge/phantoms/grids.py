"""The voxel grid of a 3D phantom: where it lies in the patient, how it is stored, and how anatomy fills it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..landmarks import Landmarks
from .case import Plan, empty_image
from .deformation import SmoothMap, random_map, rotation

MAX_SLAB_VOXELS = 2**20


@dataclass(frozen=True, eq=False)
class Grid:
    """A stored voxel grid and the map from it to the anatomy.

    size: voxels along the stored axes x, y, z. extent_mm: outer size along them, whole voxels or not, so that it is the
    same at every resolution. spacing_mm: along the same axes. corner_mm: LPS position of the outer corner
    of the first voxel. direction: (3, 3), columns are the stored axes in LPS. placing: millimetres along these axes
    from that corner -> anatomy frame.
    """

    size: tuple[int, int, int]
    extent_mm: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    corner_mm: NDArray[np.float64]
    direction: NDArray[np.float64]
    placing: SmoothMap

    def axes_mm(self) -> list[NDArray[np.float64]]:
        """Voxel centres along each stored axis, from the corner."""
        return [(np.arange(count) + 0.5) * step for count, step in zip(self.size, self.spacing_mm, strict=True)]

    def slabs(self) -> list[slice]:
        """Consecutive ranges of z of at most about a million voxels, so that full size fits in memory."""
        depth = max(1, MAX_SLAB_VOXELS // (self.size[0] * self.size[1]))
        return [slice(start, min(start + depth, self.size[2])) for start in range(0, self.size[2], depth)]

    def to_lps_mm(self, anatomy_mm: ArrayLike) -> NDArray[np.float64]:
        """(n, 3) anatomy -> (n, 3) LPS millimetres, exact to 1e-10 mm."""
        return self.corner_mm + self.placing.inverse(anatomy_mm) @ self.direction.T

    def box_indices(
        self, boxes: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], *, margin_mm: float
    ) -> list[list[slice]]:
        """For each box of the anatomy (lower, upper), the index ranges x, y, z that hold it."""
        share = np.stack([g.ravel() for g in np.meshgrid(*[np.linspace(0, 1, 3)] * 3)], axis=1)
        points = np.concatenate([lower + share * (upper - lower) for lower, upper in boxes])
        inside = self.placing.inverse(points).reshape(len(boxes), len(share), 3)
        first = np.floor((inside.min(axis=1) - margin_mm) / self.spacing_mm - 0.5).astype(int)
        last = np.ceil((inside.max(axis=1) + margin_mm) / self.spacing_mm + 0.5).astype(int)
        first, last = np.clip(first, 0, self.size), np.clip(last, 0, self.size)
        return [[slice(int(a), int(b)) for a, b in zip(*ends, strict=True)] for ends in zip(first, last, strict=True)]

    def plan(self, names: Sequence[str], anatomy_mm: ArrayLike, array: Callable[[], NDArray]) -> Plan:
        """The case whose landmarks are given in the anatomy frame and whose values (z, y, x) `array` makes."""
        origin = self.corner_mm + self.direction @ (self.spacing_mm / 2)
        frame = empty_image(self.size, self.spacing_mm, origin, self.direction)
        return Plan(Landmarks(names, self.to_lps_mm(anatomy_mm)), frame, array)


def random_grid(
    generator: np.random.Generator,
    *,
    extent_mm: ArrayLike,
    spacing_mm: ArrayLike,
    anatomy_from_lps: NDArray[np.float64],
    anatomy_centre_mm: ArrayLike,
    shift_mm: Sequence[float],
    slice_axis: int | None,
    oblique_deg: float,
    wavelength_mm: tuple[float, float],
    strain: float,
) -> Grid:
    """A grid around an anatomy, stored in a random orientation.

    extent_mm, spacing_mm: along the patient's axes L, P, S. anatomy_from_lps: (3, 3) pose and size of the anatomy.
    anatomy_centre_mm: the anatomy point that lies at the middle of the grid, up to a uniform shift of +-shift_mm (L, P,
    S). slice_axis: the patient axis along which slices follow (stored last), None for any order. oblique_deg: the
    largest turn of the grid against the patient's axes. Draws are the same at every spacing.
    """
    order = list(generator.permutation(3))
    if slice_axis is not None:
        order = [axis for axis in order if axis != slice_axis] + [slice_axis]
    signs = generator.choice([-1.0, 1.0], size=3)
    stored = np.zeros((3, 3))
    stored[order, np.arange(3)] = signs
    tilt = rotation(np.deg2rad(generator.uniform(-oblique_deg, oblique_deg, size=3)))
    direction = tilt @ stored
    extent, spacing = np.asarray(extent_mm, np.float64)[order], np.asarray(spacing_mm, np.float64)[order]
    shift = generator.uniform(-1, 1, size=3) * shift_mm
    middle = extent / 2 - direction.T @ shift
    middle_lps = generator.uniform(-60.0, 60.0, size=3)
    placing = random_map(
        generator,
        anatomy_from_lps @ direction,
        centre_mm=middle,
        offset_mm=anatomy_centre_mm,
        wavelength_mm=wavelength_mm,
        strain=strain,
    )
    size = np.maximum(1, np.round(extent / spacing)).astype(int)
    corner = middle_lps - direction @ (extent / 2)
    return Grid((int(size[0]), int(size[1]), int(size[2])), extent, spacing, corner, direction, placing)
