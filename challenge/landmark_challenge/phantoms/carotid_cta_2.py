"""Synthetic CT angiography of the neck for `carotid-cta-2`: two carotid bifurcations among bones, veins and muscle.

Anatomy frame: origin between the carotids at the level of C4, x to the patient's left, y backwards, z up, mm.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..task import load_task
from .case import Plan, Streams
from .deformation import rotation
from .fields import blur, quantised, random_field
from .grids import Grid, random_grid
from .neck_ct import neck_parts
from .solids import Capsule, Ellipsoid, Part, Solid, paint, tube

TASK_NAME = "carotid-cta-2"
SPACING_MM, FULL_SPACING_MM = 1.75, 0.5
EXTENT_MM = (224.0, 224.0, 224.0)
AIR_HU = -1000.0


@dataclass(frozen=True, eq=False)
class Fork:
    """One bifurcation: where the axes part (mm), the directions of the branches and the radii of all three vessels."""

    apex: NDArray[np.float64]
    internal: NDArray[np.float64]
    external: NDArray[np.float64]
    common_mm: float
    internal_mm: float
    external_mm: float


def plan(streams: Streams, *, full_size: bool) -> Plan:
    """One scan: about 128x128x128 at 1.75 mm, or 448x448x448 at 0.5 mm; int16 Hounsfield units."""
    generator = streams.anatomy
    spacing = (FULL_SPACING_MM if full_size else SPACING_MM) * generator.uniform(0.97, 1.03, size=3)
    spacing[1] = spacing[0]
    turn = rotation(np.deg2rad(generator.normal(0, [7.0, 5.0, 8.0])))
    grid = random_grid(
        generator,
        extent_mm=EXTENT_MM,
        spacing_mm=spacing,
        anatomy_from_lps=turn.T / generator.uniform(0.9, 1.1),
        anatomy_centre_mm=[0.0, 14.0, 4.0],
        shift_mm=[14.0, 14.0, 18.0],
        slice_axis=2,
        oblique_deg=3.0,
        wavelength_mm=(90.0, 200.0),
        strain=0.26,
    )
    blood = generator.uniform(280, 480)
    forks = [_random_fork(generator, side) for side in (-1.0, 1.0)]
    parts = neck_parts(generator, blood)
    narrowed = int(generator.integers(0, 2))
    for index, fork in enumerate(forks):
        parts += _vessels(generator, fork, -1.0 if index == 0 else 1.0, blood, narrowed=index == narrowed)
    noise_hu = generator.uniform(14.0, 30.0) * (1.0 if full_size else 0.6)
    points = np.array([crotch_mm(fork) for fork in forks])
    return grid.plan(load_task(TASK_NAME).names, points, lambda: _scan(grid, parts, streams, noise_hu))


def _scan(grid: Grid, parts: list[Part], streams: Streams, noise_hu: float) -> NDArray[np.int16]:
    """Paint, texture, and add noise that is stronger where shoulders and skull shade the detector."""
    array = np.empty(grid.size[::-1], np.int16)
    uneven = random_field(streams.texture, knot_mm=12.0, extent_mm=grid.extent_mm)
    strength = random_field(streams.texture, knot_mm=80.0, extent_mm=grid.extent_mm)
    axes = grid.axes_mm()
    for slab, values in paint(grid, parts, background=AIR_HU):
        place = [axes[0], axes[1], axes[2][slab]]
        values += 7.0 * uneven.on(place)
        noise = blur(streams.noise.standard_normal(values.shape, dtype=np.float32), (0.0, 0.6, 0.6))
        # The blur lowers the deviation of the noise to 0.47 of what it was.
        noise *= np.float32(noise_hu / 0.47) * np.exp(np.float32(0.25) * strength.on(place))
        array[slab] = quantised(values + noise, np.int16)
    return array


def _random_fork(generator: np.random.Generator, side: float) -> Fork:
    """Branches part by 30 to 56 degrees; the external one runs forward and inward, the internal back and outward."""
    apex = np.array([side * generator.uniform(23, 29), generator.normal(0, 3.5), generator.normal(0, 11.0)])
    half = np.deg2rad(generator.uniform(15, 28))
    turn = generator.normal(np.deg2rad(50.0), np.deg2rad(20.0))
    apart = np.array([side * np.cos(turn), np.sin(turn), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    internal, external = up * np.cos(half) + apart * np.sin(half), up * np.cos(half) - apart * np.sin(half)
    common = generator.uniform(3.1, 3.9)
    return Fork(
        apex, internal, external, common, common * generator.uniform(0.88, 1.0), common * generator.uniform(0.65, 0.8)
    )


def crotch_mm(fork: Fork) -> NDArray[np.float64]:
    """(3,) mm: the lowest point of the wall between the branches, on the plane of both axes.

    Both branches are straight cones of even radius about the apex; the point is as far from either axis as that
    branch is wide. In the plane of the axes, with t along the bisector direction and s across it, two lines give it.
    """
    cosine = float(np.clip(fork.internal @ fork.external, -1, 1))
    # p = a internal + b external; its distance to one axis is the other coefficient times the sine of the angle.
    sine = np.sqrt(1 - cosine * cosine)
    return fork.apex + (fork.external_mm / sine) * fork.internal + (fork.internal_mm / sine) * fork.external


def _vessels(generator: np.random.Generator, fork: Fork, side: float, blood: float, *, narrowed: bool) -> list[Part]:
    apex = fork.apex
    straight = 16.0  # branches run straight this far, well past the crotch
    low: list[Any] = [
        (side * 22.0, 8.0, -150.0),
        (side * 21.0, 6.0, -90.0),
        apex + [0, 2.0, -45.0],
        apex + [0, 0, -14.0],
    ]
    ends = [apex + straight * fork.internal, apex + straight * fork.external]
    wander = generator.normal(0, 3.0, size=(4, 3))
    internal: list[Any] = [
        ends[0],
        ends[0] + 14 * fork.internal + [0, 2, 2],
        (side * 32, 8, 75),
        (side * 30, 2, 110),
        (side * 24, -6, 150),
    ]
    external: list[Any] = [
        ends[1],
        ends[1] + 12 * fork.external + [side * 2, 0, 3],
        (side * 36, -8, 70),
        (side * 42, -4, 110),
    ]
    internal[2:4] = [np.asarray(point) + shift for point, shift in zip(internal[2:4], wander[:2], strict=True)]
    external[2] = np.asarray(external[2]) + wander[2]
    common, i, e = fork.common_mm, fork.internal_mm, fork.external_mm
    lumen: list[Solid] = [
        *tube([*low, apex], [4.2, 3.8, common, common, common], step_mm=5.0),
        Capsule(apex, ends[0], i, i),
        Capsule(apex, ends[1], e, e),
        *tube(internal, [i, 0.85 * i, 0.75 * i, 0.72 * i, 0.7 * i], step_mm=5.0),
        *tube(external, [e, 0.9 * e, 0.8 * e, 0.6 * e], step_mm=5.0),
    ]
    wall = [
        Capsule(rod.first, rod.last, rod.radius_first + 1.0, rod.radius_last + 1.0)
        for rod in lumen
        if isinstance(rod, Capsule)
    ]
    branches: list[Solid] = []
    for start, reach in ((6.0, (10, -14, 2)), (12.0, (6, -22, 12)), (16.0, (14, -26, 22))):
        root = ends[1] + (start - 4.0) * np.array([0, 0, 1.0]) if start > straight else apex + start * fork.external
        if start < 10:
            continue
        end = root + np.array([-side * reach[0], reach[1], reach[2]])
        branches += tube([root, 0.5 * (root + end) + [0, -2, -3], end], [0.5 * e, 0.45 * e, 0.3 * e])
    jugular = [(side * 38, 8, -150), (side * 36, 6, -60), (side * 37, 8, 0), (side * 36, 10, 60), (side * 30, 12, 120)]
    parts = [
        Part(tube(jugular, generator.uniform(4.0, 7.0, size=5), step_mm=8.0), generator.uniform(70, 230)),
        Part(wall, 65.0),
        Part(lumen, blood, edge_mm=0.4),
        Part(branches, blood * 0.9, edge_mm=0.4),
    ]
    outward = fork.internal - fork.external
    outward /= np.linalg.norm(outward)
    if narrowed:
        # Plaque on the outer wall of the internal carotid, away from the crotch, partly calcified.
        at = apex + generator.uniform(9, 14) * fork.internal + 0.75 * i * outward
        parts.append(Part([Ellipsoid(at, (0.75 * i, 0.75 * i, 6.0))], 45.0, edge_mm=0.4))
        parts.append(Part([Ellipsoid(at + 0.6 * outward, (1.0, 1.0, generator.uniform(1.0, 3.0)))], 900.0, edge_mm=0.4))
    elif generator.random() < 0.4:
        at = apex + generator.uniform(4, 12) * fork.internal + i * outward
        parts.append(Part([Ellipsoid(at, generator.uniform(0.6, 1.3, size=3))], 800.0, edge_mm=0.4))
    return parts
