"""Soft solids of the anatomy (ellipsoids, tubes along splines, sheets) and how they are painted onto a grid."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .curves import spline
from .grids import Grid

Block = NDArray[np.float32]
Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]


class Solid(Protocol):
    """A body in the anatomy frame (mm)."""

    def bounds(self) -> Bounds:
        """Lower and upper corner of a box around it."""
        ...

    def distance(self, x: Block, y: Block, z: Block) -> Block:
        """About the signed distance to its surface in mm, negative inside; exact sign."""
        ...


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """centre, radii: (3,) mm. turn: (3, 3), columns are its axes."""

    centre: ArrayLike
    radii: ArrayLike
    turn: NDArray[np.float64] | None = None

    def bounds(self) -> Bounds:
        """A box around it, whatever its turn."""
        centre, radii = np.asarray(self.centre, np.float64), np.asarray(self.radii, np.float64)
        reach = radii if self.turn is None else np.sqrt(((self.turn * radii) ** 2).sum(axis=1))
        return centre - reach, centre + reach

    def distance(self, x: Block, y: Block, z: Block) -> Block:
        """First order: exact on the surface, right to a few per cent near it."""
        c, r = np.asarray(self.centre, np.float32), np.asarray(self.radii, np.float32)
        p: list[Any] = [x - c[0], y - c[1], z - c[2]]
        if self.turn is not None:
            t = self.turn.astype(np.float32)
            p = [t[0, k] * p[0] + t[1, k] * p[1] + t[2, k] * p[2] for k in range(3)]
        scaled = [value / radius for value, radius in zip(p, r, strict=True)]
        level = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
        slope = np.sqrt(sum((value / radius) ** 2 for value, radius in zip(scaled, r, strict=True)))
        return level * (level - 1) / np.maximum(slope, np.float32(1e-6))


@dataclass(frozen=True, eq=False)
class Capsule:
    """A round rod from `first` to `last` ((3,) mm) whose radius changes evenly."""

    first: NDArray[np.float64]
    last: NDArray[np.float64]
    radius_first: float
    radius_last: float

    def bounds(self) -> Bounds:
        """A box around it."""
        reach = max(self.radius_first, self.radius_last)
        return np.minimum(self.first, self.last) - reach, np.maximum(self.first, self.last) + reach

    def distance(self, x: Block, y: Block, z: Block) -> Block:
        """Distance to the axis less the radius there."""
        a, step = self.first.astype(np.float32), (self.last - self.first).astype(np.float32)
        px, py, pz = x - a[0], y - a[1], z - a[2]
        along = np.clip((px * step[0] + py * step[1] + pz * step[2]) / max(float(step @ step), 1e-12), 0, 1)
        gap = np.sqrt((px - along * step[0]) ** 2 + (py - along * step[1]) ** 2 + (pz - along * step[2]) ** 2)
        return gap - (np.float32(self.radius_first) + along * np.float32(self.radius_last - self.radius_first))


@dataclass(frozen=True, eq=False)
class Shell:
    """The wall of a solid: `thickness_mm` about its surface."""

    solid: Solid
    thickness_mm: float

    def bounds(self) -> Bounds:
        """Those of the solid and half a wall."""
        lower, upper = self.solid.bounds()
        return lower - self.thickness_mm / 2, upper + self.thickness_mm / 2

    def distance(self, x: Block, y: Block, z: Block) -> Block:
        """From the middle of the wall."""
        return np.abs(self.solid.distance(x, y, z)) - np.float32(self.thickness_mm / 2)


@dataclass(frozen=True, eq=False)
class Cut:
    """The part of a solid behind planes: each is (point, normal), what lies along the normal goes."""

    solid: Solid
    planes: Sequence[tuple[ArrayLike, ArrayLike]]

    def bounds(self) -> Bounds:
        """Those of the solid, less what planes along an axis take away."""
        lower, upper = (np.array(side, np.float64) for side in self.solid.bounds())
        for point, normal in self.planes:
            direction = np.asarray(normal, np.float64)
            axis = int(np.argmax(np.abs(direction)))
            if np.count_nonzero(direction) == 1:
                if direction[axis] > 0:
                    upper[axis] = min(upper[axis], np.asarray(point)[axis])
                else:
                    lower[axis] = max(lower[axis], np.asarray(point)[axis])
        return lower, np.maximum(lower, upper)

    def distance(self, x: Block, y: Block, z: Block) -> Block:
        """The larger of the distances to the solid and to each plane."""
        result = self.solid.distance(x, y, z)
        for point, normal in self.planes:
            p, n = np.asarray(point, np.float64), np.asarray(normal, np.float64)
            n = (n / np.linalg.norm(n)).astype(np.float32)
            result = np.maximum(result, n[0] * x + n[1] * y + n[2] * z - np.float32(p @ n))
        return result


@dataclass(frozen=True, eq=False)
class Formula:
    """A solid by its own distance formula within a box (lower, upper)."""

    lower: ArrayLike
    upper: ArrayLike
    formula: Callable[[Block, Block, Block], Block]

    def bounds(self) -> Bounds:
        """The box."""
        return np.asarray(self.lower, np.float64), np.asarray(self.upper, np.float64)

    def distance(self, x: Block, y: Block, z: Block) -> Block:
        """What the formula says."""
        return self.formula(x, y, z)


def tube(controls: Sequence[ArrayLike], radii_mm: ArrayLike, *, step_mm: float = 3.0) -> tuple[Solid, ...]:
    """A round tube along a smooth curve through control points ((3,) mm each); radii per control point, or one.

    >>> len(tube([(0, 0, 0), (0, 0, 30)], 2.0, step_mm=10.0))
    3
    """
    points = spline(list(controls), step_mm=step_mm).points_mm
    radii = np.broadcast_to(np.asarray(radii_mm, np.float64), len(controls))
    # Radii follow the share of samples, as the curve spends the same number on a chord of the same length.
    chords = np.linalg.norm(np.diff(np.asarray(controls, np.float64), axis=0), axis=1)
    knots = np.concatenate([[0], np.cumsum(np.maximum(2, np.ceil(chords / step_mm)))])
    along = np.interp(np.arange(len(points)), knots, radii)
    return tuple(
        Capsule(points[i], points[i + 1], float(along[i]), float(along[i + 1])) for i in range(len(points) - 1)
    )


@dataclass(frozen=True, eq=False)
class Part:
    """Solids of one tissue: `value` replaces what lies below it (or is added to it) where they cover a voxel.

    edge_mm: how far the transition at the surface reaches; at least a voxel is always taken. opacity: 0..1.
    """

    solids: Sequence[Solid]
    value: float
    edge_mm: float = 0.5
    opacity: float = 1.0
    add: bool = False


def paint(grid: Grid, parts: Sequence[Part], *, background: float) -> Iterator[tuple[slice, Block]]:
    """Paint `parts` in order; yields (z range, values (z, y, x) float32) slab by slab."""
    voxel = float(grid.spacing_mm.mean())
    # Between the 27 points of a box at which the map is followed, its edges bend by less than the margin.
    ranges = iter(grid.box_indices([s.bounds() for part in parts for s in part.solids], margin_mm=2 * voxel + 2.0))
    boxes = [[next(ranges) for _ in part.solids] for part in parts]
    axes = grid.axes_mm()
    for slab in grid.slabs():
        coordinates = grid.placing.on_grid([axes[0], axes[1], axes[2][slab]])
        values = np.full(coordinates[0].shape, background, np.float32)
        for part, part_boxes in zip(parts, boxes, strict=True):
            _paint_part(values, coordinates, part, _within_slab(part_boxes, slab), max(part.edge_mm, voxel))
        yield slab, values


def _within_slab(boxes: list[list[slice]], slab: slice) -> list[tuple[slice, slice, slice] | None]:
    """(z, y, x) ranges relative to the slab; None where a box misses it."""
    result: list[tuple[slice, slice, slice] | None] = []
    for x, y, z in boxes:
        first, last = max(z.start, slab.start) - slab.start, min(z.stop, slab.stop) - slab.start
        empty = first >= last or x.start >= x.stop or y.start >= y.stop
        result.append(None if empty else (slice(first, last), y, x))
    return result


def _paint_part(
    values: Block,
    coordinates: Sequence[Block],
    part: Part,
    boxes: Sequence[tuple[slice, slice, slice] | None],
    edge_mm: float,
) -> None:
    there = [(solid, box) for solid, box in zip(part.solids, boxes, strict=True) if box is not None]
    if not there:
        return
    # The union first, so that overlapping pieces of a tube do not paint their common edge twice.
    lower = [min(box[i].start for _, box in there) for i in range(3)]
    upper = [max(box[i].stop for _, box in there) for i in range(3)]
    cover = np.zeros([b - a for a, b in zip(lower, upper, strict=True)], np.float32)
    for solid, box in there:
        distance = solid.distance(*(axis[box] for axis in coordinates))
        share = np.clip(np.float32(0.5) - distance / np.float32(edge_mm), 0, part.opacity)
        local = tuple(slice(side.start - a, side.stop - a) for side, a in zip(box, lower, strict=True))
        np.maximum(cover[local], share, out=cover[local])
    target = values[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))]
    if part.add:
        target += cover * np.float32(part.value)
    else:
        target += cover * (np.float32(part.value) - target)
