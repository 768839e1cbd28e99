"""Smooth curves through named points, strokes of varying width, and filled polygons with exact edges (2D)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SCANLINES_PER_PIXEL = 5


@dataclass(frozen=True, eq=False)
class Curve:
    """A densely sampled curve. points_mm: (m, 2). knots: where in `points_mm` each named control point lies."""

    points_mm: NDArray[np.float64]
    knots: Mapping[str, int]

    def between(self, first: str, last: str) -> NDArray[np.float64]:
        """(k, 2) the samples from one knot to another, in the order of the curve."""
        return self.points_mm[self.knots[first] : self.knots[last] + 1]

    def at(self, name: str) -> NDArray[np.float64]:
        """(2,) the control point of that name."""
        return self.points_mm[self.knots[name]]

    def moved(self, points_mm: NDArray[np.float64]) -> "Curve":
        """The same knots on moved samples."""
        return Curve(points_mm, self.knots)


def spline(
    controls: Sequence[Any], *, closed: bool = False, corners: Sequence[str] = (), step_mm: float = 0.1
) -> Curve:
    """A centripetal Catmull-Rom curve through control points: (x, y) mm each, or (name, (x, y)) for those to be found.

    The curve bends sharply at `corners` and smoothly elsewhere; samples are about `step_mm` apart along the chord.
    A closed curve does not repeat its first sample.
    """
    named = [item if isinstance(item[0], str) else ("", item) for item in controls]
    names = [name for name, _ in named]
    points = np.array([np.asarray(point, np.float64) for _, point in named])
    count = len(points)
    spans = count if closed else count - 1
    sharp = {names.index(name) for name in corners}
    if not closed:
        sharp |= {0, count - 1}
    samples: list[NDArray[np.float64]] = []
    knots: dict[str, int] = {}
    total = 0
    for i in range(spans):
        here, following = points[i], points[(i + 1) % count]
        before = 2 * here - following if i in sharp else points[i - 1]
        after = 2 * following - here if (i + 1) % count in sharp else points[(i + 2) % count]
        steps = max(2, int(np.ceil(np.linalg.norm(following - here) / step_mm)))
        samples.append(_catmull_rom(before, here, following, after, steps))
        if names[i]:
            knots[names[i]] = total
        total += steps
    if not closed:
        samples.append(points[-1:])
        if names[-1]:
            knots[names[-1]] = total
    return Curve(np.concatenate(samples), knots)


def _catmull_rom(
    before: NDArray[np.float64],
    here: NDArray[np.float64],
    following: NDArray[np.float64],
    after: NDArray[np.float64],
    steps: int,
) -> NDArray[np.float64]:
    """(steps, n) samples from `here` up to but without `following`."""
    chords = [float(np.linalg.norm(b - a)) for a, b in ((before, here), (here, following), (following, after))]
    knot = np.concatenate([[0.0], np.cumsum(np.sqrt(np.maximum(chords, 1e-9)))])
    t = (knot[1] + (knot[2] - knot[1]) * np.arange(steps) / steps)[:, None]
    a1 = (knot[1] - t) / (knot[1] - knot[0]) * before + (t - knot[0]) / (knot[1] - knot[0]) * here
    a2 = (knot[2] - t) / (knot[2] - knot[1]) * here + (t - knot[1]) / (knot[2] - knot[1]) * following
    a3 = (knot[3] - t) / (knot[3] - knot[2]) * following + (t - knot[2]) / (knot[3] - knot[2]) * after
    b1 = (knot[2] - t) / (knot[2] - knot[0]) * a1 + (t - knot[0]) / (knot[2] - knot[0]) * a2
    b2 = (knot[3] - t) / (knot[3] - knot[1]) * a2 + (t - knot[1]) / (knot[3] - knot[1]) * a3
    return (knot[2] - t) / (knot[2] - knot[1]) * b1 + (t - knot[1]) / (knot[2] - knot[1]) * b2


def extreme(points_mm: NDArray[np.float64], direction: ArrayLike) -> NDArray[np.float64]:
    """(2,) the sample that lies farthest along `direction`.

    >>> extreme(np.array([[0.0, 0.0], [2.0, 1.0]]), [1, 0])
    array([2., 1.])
    """
    return points_mm[int(np.argmax(points_mm @ np.asarray(direction, np.float64)))]


def midway(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) the point half the length along an open curve."""
    lengths = np.linalg.norm(np.diff(points_mm, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    return np.array([np.interp(along[-1] / 2, along, points_mm[:, axis]) for axis in range(points_mm.shape[1])])


def beside(points_mm: NDArray[np.float64], distance_mm: ArrayLike) -> NDArray[np.float64]:
    """(m, 2) an open curve moved sideways: to the left as it runs, seen with y up (one distance, or one per sample).

    >>> beside(np.array([[0.0, 0.0], [0.0, 1.0]]), 2.0)[0]
    array([-2.,  0.])
    """
    tangent = np.gradient(points_mm, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    distance = np.asarray(distance_mm, np.float64).reshape(-1, 1)
    return points_mm + np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * distance


def stroke(points_mm: NDArray[np.float64], width_mm: ArrayLike) -> NDArray[np.float64]:
    """The closed polygon of an open curve drawn `width_mm` wide (one width, or one per sample)."""
    half = np.asarray(width_mm, np.float64) / 2
    return np.concatenate([beside(points_mm, half), beside(points_mm, -half)[::-1]])


def ring(points_mm: NDArray[np.float64], width_mm: float) -> NDArray[np.float64]:
    """The polygon of a closed curve drawn `width_mm` wide."""
    return stroke(np.concatenate([points_mm, points_mm[:2]]), width_mm)


def oval(
    centre_mm: ArrayLike, radii_mm: tuple[float, float], *, angle_rad: float = 0.0, power: float = 2.0, step: int = 160
) -> NDArray[np.float64]:
    """(step, 2) a closed (super)ellipse; a power above 2 makes it boxier."""
    t = np.arange(step) * (2 * np.pi / step)
    c, s = np.cos(t), np.sin(t)
    x = radii_mm[0] * np.sign(c) * np.abs(c) ** (2 / power)
    y = radii_mm[1] * np.sign(s) * np.abs(s) ** (2 / power)
    turn = np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])
    return np.stack([x, y], axis=1) @ turn.T + np.asarray(centre_mm, np.float64)


def shrunk(points_mm: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """The polygon scaled about its mean point."""
    centre = points_mm.mean(axis=0)
    return centre + factor * (points_mm - centre)


def coverage(
    shape: tuple[int, int], polygon_index: NDArray[np.float64]
) -> tuple[tuple[slice, slice], NDArray[np.float32]] | None:
    """The covered share of each pixel of a (rows, columns) image inside a polygon, in the rows and columns it reaches.

    polygon_index: (m, 2) continuous indices x, y. Coverage is exact along x and sampled at SCANLINES_PER_PIXEL lines
    along y, so edges lie where the polygon lies, far below a pixel. None where the polygon misses the image.
    """
    height, width = shape
    low = np.floor(polygon_index.min(axis=0) + 0.5).astype(int)
    high = np.floor(polygon_index.max(axis=0) + 0.5).astype(int) + 1
    x0, y0, x1, y1 = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
    if x0 >= x1 or y0 >= y1:
        return None
    columns, lines = x1 - x0, (y1 - y0) * SCANLINES_PER_PIXEL
    x = polygon_index[:, 0] + 0.5 - x0
    y = (polygon_index[:, 1] + 0.5 - y0) * SCANLINES_PER_PIXEL - 0.5
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    down = next_y > y
    top, bottom = np.where(down, y, next_y), np.where(down, next_y, y)
    first = np.clip(np.ceil(top), 0, lines).astype(int)
    count = np.clip(np.ceil(bottom), 0, lines).astype(int) - first
    edge = np.repeat(np.arange(len(x)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    share = (line - y[edge]) / (next_y[edge] - y[edge])
    crossing = np.clip(x[edge] + share * (next_x[edge] - x[edge]), 0.0, columns)
    cell = np.minimum(crossing.astype(int), columns - 1)
    fraction = crossing - cell
    sign = np.where(down[edge], 1.0, -1.0)
    # Everything right of a crossing changes by its sign; the crossed pixel by the part of it that lies right of it.
    place = (line // SCANLINES_PER_PIXEL) * (columns + 1) + cell
    size = (y1 - y0) * (columns + 1)
    steps = np.bincount(place, sign * (1 - fraction), size) + np.bincount(place + 1, sign * fraction, size + 1)[:size]
    cover = np.abs(np.cumsum(steps.reshape(y1 - y0, columns + 1)[:, :columns], axis=1))
    return (slice(y0, y1), slice(x0, x1)), (cover / SCANLINES_PER_PIXEL).astype(np.float32)


def fill(target: NDArray[np.float32], polygon_index: NDArray[np.float64], value: float, *, over: bool = False) -> None:
    """Add `value` times the coverage of a closed polygon to `target`, or with `over` replace by it what lies below."""
    covered = coverage((target.shape[0], target.shape[1]), polygon_index)
    if covered is None:
        return
    place, share = covered
    if over:
        target[place] += share * (np.float32(value) - target[place])
    else:
        target[place] += share * np.float32(value)
