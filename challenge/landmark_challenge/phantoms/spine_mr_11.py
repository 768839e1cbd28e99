"""Synthetic midsagittal T2-weighted MR for `spine-mr-11`: five lumbar vertebrae and six discs that look alike.

Anatomy frame: origin in the middle of L3, x to the back, y down, mm. The column follows a curve; every vertebra is a
quadrilateral on it, and each landmark is the middle of its drawn outline.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..landmarks import Landmarks
from ..task import load_task
from .case import Plan, Streams, empty_image
from .curves import fill, oval, spline, stroke
from .deformation import SmoothMap, random_map, rotation
from .fields import blur, quantised, rician, smooth_field

TASK_NAME = "spine-mr-11"
SPACING_MM, SIZE = 1.0, 288
FULL_SPACING_MM, FULL_SIZE = 0.5625, 512
LEVELS = ("t10", "t11", "t12", "l1", "l2", "l3", "l4", "l5")
POINTS_PER_SIDE = 40


@dataclass(frozen=True, eq=False)
class Column:
    """The column in the anatomy frame. bodies, discs: closed outlines (m, 2) by name.

    canal: its middle line, top down; trunk: the same, going on below the sacrum. frames: centre and downward direction.
    """

    bodies: dict[str, NDArray[np.float64]]
    discs: dict[str, NDArray[np.float64]]
    sacrum: list[NDArray[np.float64]]
    canal: NDArray[np.float64]
    trunk: NDArray[np.float64]
    frames: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True, eq=False)
class Shape:
    """A filled outline in the image's millimetres; its grey value replaces what lies below."""

    polygon_mm: NDArray[np.float64]
    value: float


def plan(streams: Streams, *, full_size: bool) -> Plan:
    """One slice: about 288x288 at 1 mm, or 512x512 at 0.5625 mm; uint16, origin 0."""
    generator = streams.anatomy
    factor, wide, high = generator.uniform([0.95, 0.92, 0.95], [1.05, 1.05, 1.05])
    spacing = (FULL_SPACING_MM if full_size else SPACING_MM) * factor
    full = FULL_SIZE if full_size else SIZE
    size = np.round(full * np.array([wide, high])).astype(int)
    extent_mm = SIZE * SPACING_MM * factor * np.array([wide, high])
    pose = rotation([np.deg2rad(generator.normal(0, 5.0))])
    placing = random_map(
        generator,
        pose * generator.uniform(0.88, 1.08),
        centre_mm=[0.0, 0.0],
        offset_mm=extent_mm * [0.5, 0.47] + generator.uniform(-1, 1, size=2) * [20.0, 22.0],
        wavelength_mm=(110.0, 240.0),
        strain=0.2,
    )
    column = _random_column(generator)
    shapes = _shapes(generator, column, placing)
    names = load_task(TASK_NAME).names
    outlines = {f"vertebra-{k}": v for k, v in column.bodies.items()} | {
        f"disc-{k}": v for k, v in column.discs.items()
    }
    points = np.array([_centroid(placing.apply(outlines[name])) for name in names])
    # Drawn from the image's corner; the file's origin is the centre of the first pixel.
    points_mm = np.column_stack([points - 0.5 * spacing, np.zeros(len(points))])
    noise, gain = generator.uniform(8.0, 20.0), generator.uniform(0.5, 2.0)
    return Plan(
        Landmarks(names, points_mm),
        empty_image(size, [spacing, spacing]),
        lambda: _slice(shapes, size, spacing, extent_mm, streams, noise, gain),
    )


def _centroid(polygon_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) centre of the area of a closed polygon."""
    x, y = polygon_mm.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    cross = x * next_y - next_x * y
    return np.array([((x + next_x) * cross).sum(), ((y + next_y) * cross).sum()]) / (3 * cross.sum())


def _slice(
    shapes: list[Shape],
    size: NDArray[np.int_],
    spacing: float,
    extent_mm: NDArray[np.float64],
    streams: Streams,
    noise: float,
    gain: float,
) -> NDArray[np.uint16]:
    values = np.full((size[1], size[0]), 12.0, np.float32)
    for shape in shapes:
        fill(values, shape.polygon_mm / spacing - 0.5, shape.value, over=True)
    axes = [(np.arange(count) + 0.5) * spacing for count in size]
    values = blur(values, 0.45 / spacing)
    values *= 1 + 0.10 * smooth_field(streams.texture, axes, knot_mm=5.0, extent_mm=extent_mm)
    values *= 1 + 0.10 * smooth_field(streams.texture, axes, knot_mm=14.0, extent_mm=extent_mm)
    # A surface coil behind the back: bright there, fading to the front.
    coil = np.exp((axes[0] - extent_mm[0]) / _coil_depth_mm(extent_mm)).astype(np.float32)[None, :]
    bias = np.exp(0.15 * smooth_field(streams.texture, axes, knot_mm=90.0, extent_mm=extent_mm))
    signal = np.maximum(values, 0) * (0.45 + 0.75 * coil) * bias
    return quantised(np.float32(gain) * rician(streams.noise, signal.astype(np.float32), noise), np.uint16)


def _coil_depth_mm(extent_mm: NDArray[np.float64]) -> float:
    """How deep (mm) the coil sees: a fixed share of the slice."""
    return 0.45 * float(extent_mm[0])


def _random_column(generator: np.random.Generator) -> Column:
    """Stack discs and bodies along a lordotic curve, from L3 up to T10 and down to the sacrum."""
    lordosis, tilt = generator.uniform(0.75, 1.35), generator.normal(0, 0.03)
    heights = {name: (21.0 + 1.0 * i) * generator.uniform(0.95, 1.05) for i, name in enumerate(LEVELS)}
    depths = {name: 27.0 + 1.0 * i + generator.normal(0, 0.7) for i, name in enumerate(LEVELS)}
    gaps = {name: (5.0 + 0.95 * i) * generator.uniform(0.7, 1.15) for i, name in enumerate(LEVELS)}  # disc below
    # How far each body leans: forward (its lower end in front) where positive, back in the lower lumbar spine.
    angles = {
        name: tilt + np.deg2rad(lordosis * a) for name, a in zip(LEVELS, (-4, -2, 2, 6, 7, 2, -9, -24), strict=True)
    }
    centres: dict[str, NDArray[np.float64]] = {"l3": np.zeros(2)}
    down = {name: np.array([-np.sin(angle), np.cos(angle)]) for name, angle in angles.items()}
    order = list(LEVELS)
    for i in range(order.index("l3") + 1, len(order)):
        above, name = order[i - 1], order[i]
        centres[name] = centres[above] + (heights[above] / 2 + gaps[above] / 2) * down[above]
        centres[name] = centres[name] + (heights[name] / 2 + gaps[above] / 2) * down[name]
    for i in range(order.index("l3") - 1, -1, -1):
        below, name = order[i + 1], order[i]
        centres[name] = centres[below] - (heights[below] / 2 + gaps[name] / 2) * down[below]
        centres[name] = centres[name] - (heights[name] / 2 + gaps[name] / 2) * down[name]
    bodies = {n: _body(centres[n], depths[n], heights[n], angles[n]) for n in order}
    sacrum_angle = angles["l5"] - np.deg2rad(generator.uniform(10, 20))
    sacrum_down = np.array([-np.sin(sacrum_angle), np.cos(sacrum_angle)])
    top = centres["l5"] + (heights["l5"] / 2 + gaps["l5"] / 2) * down["l5"] + gaps["l5"] / 2 * sacrum_down
    sacrum = []
    ends = {n: (b[2 * POINTS_PER_SIDE : 3 * POINTS_PER_SIDE][::-1], b[:POINTS_PER_SIDE]) for n, b in bodies.items()}
    first_sacral = None
    for k in range(4):
        tall, deep = 24.0 - 3.5 * k, 30.0 - 5.0 * k
        middle = top + tall / 2 * sacrum_down
        piece = _body(middle, deep, tall, sacrum_angle, taper=0.82)
        first_sacral = piece if first_sacral is None else first_sacral
        sacrum.append(piece)
        top = top + (tall + 2.5) * sacrum_down
        sacrum_angle += np.deg2rad(generator.uniform(12, 22))
        sacrum_down = np.array([-np.sin(sacrum_angle), np.cos(sacrum_angle)])
    ends["s1"] = (np.empty((0, 2)), np.asarray(first_sacral)[:POINTS_PER_SIDE])
    discs = {}
    for above, below in zip([*order], [*order[1:], "s1"], strict=True):
        discs[f"{above}-{below}"] = _disc(ends[above][0], ends[below][1])
    back = [centres[n] + (depths[n] / 2 + 9.0) * _across(angles[n]) for n in order]
    last = np.asarray(sacrum[1]).mean(axis=0) + np.array([15.0, -9.0])
    above = back[0] - 70 * down[order[0]]
    canal = spline([above, *back, last, last + [14.0, 16.0]], step_mm=1.0).points_mm
    trunk = spline([above, *back, last, last + [2.0, 50.0], last + [0.0, 190.0]], step_mm=1.0).points_mm
    return Column(bodies, discs, sacrum, canal, trunk, {n: (centres[n], down[n]) for n in order})


def _across(angle: float) -> NDArray[np.float64]:
    """Unit vector to the back."""
    return np.array([np.cos(angle), np.sin(angle)])


def _body(
    centre: NDArray[np.float64], depth: float, height: float, angle: float, *, taper: float = 1.0
) -> NDArray[np.float64]:
    """A vertebral body: upper endplate (front to back), back wall, lower endplate, front wall; all a little hollow."""
    share = np.linspace(-1, 1, POINTS_PER_SIDE)
    dip = 1 - share**2
    corner = 1 - 0.06 * share**8
    upper = np.stack([share * depth / 2 * corner[::1], -height / 2 + 1.3 * dip], axis=1)
    lower = np.stack([-share * taper * depth / 2 * corner, height / 2 - 1.3 * dip], axis=1)
    wall = np.linspace(-1, 1, POINTS_PER_SIDE)
    lean = (1 + taper) / 2 + (taper - 1) / 2 * wall
    behind = np.stack([lean * depth / 2 - 1.2 * (1 - wall**2), wall * height / 2 * 0.97], axis=1)
    front = np.stack([-lean[::-1] * depth / 2 + 1.6 * (1 - wall**2), -wall * height / 2 * 0.97], axis=1)
    points = np.concatenate([upper, behind, lower, front])
    return np.asarray(centre + points @ rotation([angle]).T)


def _disc(upper_mm: NDArray[np.float64], lower_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outline between two endplates (each front to back), bulging a little in front and behind."""
    share = np.linspace(0, np.pi, 20)[1:-1, None]

    def bulge(start: NDArray[np.float64], end: NDArray[np.float64], out: NDArray[np.float64]) -> NDArray[np.float64]:
        way = (1 - np.cos(share)) / 2
        return np.asarray(start + way * (end - start) + 1.4 * np.sin(share) * out)

    back = upper_mm[-1] - upper_mm[0]
    back = back / np.linalg.norm(back)
    return np.concatenate(
        [upper_mm, bulge(upper_mm[-1], lower_mm[-1], back), lower_mm[::-1], bulge(lower_mm[0], upper_mm[0], -back)]
    )


def _shapes(generator: np.random.Generator, column: Column, placing: SmoothMap) -> list[Shape]:
    fat, muscle, marrow, fluid, cord = (v * generator.uniform(0.88, 1.12) for v in (520.0, 130.0, 270.0, 760.0, 300.0))
    shapes: list[Shape] = []

    def area(points_mm: NDArray[np.float64], value: float) -> None:
        shapes.append(Shape(placing.apply(points_mm), value))

    canal, trunk = column.canal, column.trunk
    skin = trunk + [generator.uniform(58, 75), 0.0]
    belly = trunk[::-1] - [generator.uniform(125, 160), 0.0]
    area(np.concatenate([skin, belly]), fat)
    area(np.concatenate([trunk + [44.0, 0.0], trunk[::-1] + [10.0, 0.0]]), muscle)
    area(np.concatenate([trunk - [22.0, 0.0], trunk[::-1] - [118.0, 0.0]]), muscle * 0.9)
    for _ in range(26):  # bowel and mesentery
        at = trunk[int(generator.integers(0, len(trunk)))] - [generator.uniform(55, 118), 0.0]
        area(
            oval(at, tuple(generator.uniform(5, 15, size=2)), angle_rad=generator.uniform(0, 3)),
            generator.uniform(40, 620),
        )
    area(stroke(canal - [44.0, 0.0], generator.uniform(13, 17)), 20.0)  # aorta: flow void
    area(stroke(canal - [58.0, 0.0], 4.0), fat * 0.8)
    area(stroke(canal + [2.5, 0.0], 17.0), fat * 0.8)
    for name, (centre, down) in column.frames.items():
        back = np.array([down[1], -down[0]])
        if name != "t10":
            spinous = centre + 34 * back + 13 * down
            area(
                oval(spinous, (12.0, 6.5), angle_rad=float(np.arctan2(back[1], back[0])) + 0.35, power=2.6),
                marrow * 1.05,
            )
        area(oval(centre + 24 * back + 22 * down, (4.0, 8.0)), fat * 0.9)
    area(stroke(canal, 13.5), fluid)
    conus = column.frames["l1"][0][1] + generator.normal(0, 9.0)
    upper = canal[canal[:, 1] < conus]
    area(
        stroke(upper - [0.6, 0.0], np.interp(np.arange(len(upper)), [0, len(upper) - 22, len(upper)], [7.5, 7.5, 0.6])),
        cord,
    )
    lower = canal[canal[:, 1] >= conus - 6]
    for offset in (1.0, 2.4, 3.8):
        area(stroke(lower + [offset, 0.0], 0.8), cord * 1.2)
    for outline in column.discs.values():
        area(outline, 90.0)
        wet = generator.uniform(110, 640)
        middle = outline.mean(axis=0)
        area(middle + (outline - middle) * [0.66, 0.62], wet)
    for outline in [*column.bodies.values(), *column.sacrum]:
        area(outline, 60.0)
        middle = outline.mean(axis=0)
        area(middle + (outline - middle) * 0.93, marrow * generator.uniform(0.92, 1.08))
    for centre, down in column.frames.values():
        back = np.array([down[1], -down[0]])
        area(oval(centre + 12.5 * back, (3.0, 1.2), angle_rad=float(np.arctan2(back[1], back[0]))), fat * 0.9)
    return shapes
