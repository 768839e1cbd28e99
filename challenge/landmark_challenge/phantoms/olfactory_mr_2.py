"""Synthetic coronal T2-weighted MR for `olfactory-mr-2`: the two olfactory bulbs between frontal lobes and nose.

Anatomy frame: origin midway between the bulbs, x to the patient's left, y backwards, z up, mm.
"""

import numpy as np
from numpy.typing import NDArray

from ..task import load_task
from .case import Plan, Streams
from .deformation import rotation
from .fields import quantised, random_field, rician
from .grids import Grid, random_grid
from .solids import Capsule, Ellipsoid, Part, Shell, Solid, paint, tube

TASK_NAME = "olfactory-mr-2"
IN_PLANE_MM, SLICE_MM = 0.8, 1.4
FULL_IN_PLANE_MM, FULL_SLICE_MM = 0.47, 1.0
EXTENT_MM = (120.0, 32.0, 120.0)
BONE, AIR = 60.0, 15.0


def plan(streams: Streams, *, full_size: bool) -> Plan:
    """One scan: about 150x150x23 at 0.8x0.8x1.4 mm, or 256x256x32 at 0.47x0.47x1 mm; uint16."""
    generator = streams.anatomy
    plane, slices = (FULL_IN_PLANE_MM, FULL_SLICE_MM) if full_size else (IN_PLANE_MM, SLICE_MM)
    factor = generator.uniform(0.96, 1.04, size=2)
    turn = rotation(np.deg2rad(generator.normal(0, [6.0, 5.0, 4.0])))
    grid = random_grid(
        generator,
        extent_mm=EXTENT_MM * factor[[0, 1, 0]],
        spacing_mm=np.array([plane, slices, plane]) * factor[[0, 1, 0]],
        anatomy_from_lps=turn.T / generator.uniform(0.9, 1.1),
        anatomy_centre_mm=[0.0, 0.0, 3.0],
        shift_mm=[12.0, 6.0, 13.0],
        slice_axis=1,
        oblique_deg=8.0,
        wavelength_mm=(50.0, 130.0),
        strain=0.22,
    )
    bulbs = _random_bulbs(generator)
    parts = _parts(generator, bulbs)
    noise, gain = generator.uniform(10.0, 22.0), generator.uniform(0.6, 1.6)
    # The order of the task: right first, and the patient's right is at negative x.
    points = np.array([bulb.centre for bulb in bulbs])
    return grid.plan(load_task(TASK_NAME).names, points, lambda: _scan(grid, parts, streams, noise, gain))


def _random_bulbs(generator: np.random.Generator) -> list[Ellipsoid]:
    """The right and the left bulb: ovoids of about 4x12x3 mm, each with its own place, size and turn."""
    bulbs = []
    for side in (-1.0, 1.0):
        centre = np.array([side * generator.uniform(4.8, 7.2), generator.normal(0, 1.5), generator.normal(0, 0.8)])
        radii = np.array([generator.uniform(1.7, 2.5), generator.uniform(4.8, 6.8), generator.uniform(1.3, 2.0)])
        bulbs.append(Ellipsoid(centre, radii, rotation(generator.normal(0, 0.08, size=3))))
    return bulbs


def _scan(grid: Grid, parts: list[Part], streams: Streams, noise: float, gain: float) -> NDArray[np.uint16]:
    array = np.empty(grid.size[::-1], np.uint16)
    axes = grid.axes_mm()
    bias = random_field(streams.texture, knot_mm=70.0, extent_mm=grid.extent_mm)
    grain = random_field(streams.texture, knot_mm=3.0, extent_mm=grid.extent_mm)
    for slab, values in paint(grid, parts, background=AIR):
        place = [axes[0], axes[1], axes[2][slab]]
        values *= 1 + 0.05 * grain.on(place)
        values *= np.exp(np.float32(0.16) * bias.on(place))
        array[slab] = quantised(np.float32(gain) * rician(streams.noise, np.maximum(values, 0), noise), np.uint16)
    return array


def _parts(generator: np.random.Generator, bulbs: list[Ellipsoid]) -> list[Part]:
    fat, csf, grey, white = (value * generator.uniform(0.85, 1.15) for value in (420.0, 900.0, 430.0, 330.0))
    muscle, mucosa, vitreous = (value * generator.uniform(0.85, 1.15) for value in (160.0, 620.0, 950.0))
    parts: list[Part] = [
        Part([Ellipsoid((0, 10, 4), (78, 200, 84))], fat, edge_mm=2.0),
        Part([Ellipsoid((0, 10, 4), (70, 200, 77))], muscle, edge_mm=2.0),
        # Skull around the frontal lobes, thin above the nose (cribriform plate).
        Part([Ellipsoid((0, 20, 42), (57, 90, 46))], BONE),
        Part([Ellipsoid((0, 20, 42), (53, 88, 42.5))], csf),
    ]
    parts += _frontal_lobes(generator, grey, white, csf)
    parts += _orbits(generator, fat, muscle, vitreous)
    parts += _nose(generator, mucosa)
    # The olfactory cleft: a trough of bright fluid under the straight gyri, closed below by the dark plate.
    trough: list[Solid] = [Ellipsoid((side * 6.0, 0, 0.3), (5.2, 24.0, 3.6)) for side in (-1.0, 1.0)]
    plate: list[Solid] = [Ellipsoid((side * 6.0, 0, -1.0), (6.8, 26.0, 4.2)) for side in (-1.0, 1.0)]
    parts += [
        Part(plate, BONE),
        Part(trough, csf),
        Part([Capsule(np.array([0.0, -30, 1.5]), np.array([0.0, 25, 1.5]), 1.3, 1.3)], BONE),
        Part([Ellipsoid((0, -10, 7), (1.4, 14.0, 8.0))], BONE),  # crista galli
    ]
    for bulb in bulbs:
        centre = np.asarray(bulb.centre)
        back = centre + [0.0, 9.0, 1.2]
        parts.append(
            Part(tube([centre, back, back + [0.5 * np.sign(centre[0]), 24, 2.5]], [0.9, 0.9, 0.8]), grey, edge_mm=0.3)
        )
        parts.append(Part([bulb], grey * 0.95, edge_mm=0.3))
    return parts


def _frontal_lobes(generator: np.random.Generator, grey: float, white: float, csf: float) -> list[Part]:
    parts = []
    for side in (-1.0, 1.0):
        lobe = Ellipsoid((side * 26.5, 18, 45), (25.0, 84, 39.5))
        parts += [Part([lobe], grey), Part([Ellipsoid((side * 26.5, 18, 45), (20.5, 80, 35.0))], white, edge_mm=1.5)]
        # Straight gyrus and orbital gyri hang below; the olfactory sulcus between the first two.
        for x, wide, deep in ((4.6, 3.7, 8.0), (15.0, 5.2, 9.0), (27.0, 5.5, 8.0), (38.0, 5.0, 8.0)):
            low = 10.5 + generator.normal(0, 0.6) + 0.02 * (x - 14) ** 2 * 0.4
            parts.append(Part([Ellipsoid((side * x, 15, low + 4), (wide + 0.6, 80, deep + 0.6))], grey))
            parts.append(Part([Ellipsoid((side * x, 15, low + 5.5), (wide - 2.4, 78, deep - 1.0))], white, edge_mm=1.0))
        for _ in range(9):
            angle = generator.uniform(0.1, 2.6)
            outer = np.array([side * (26.5 + 25 * np.cos(angle)), 0.0, 45 + 39.5 * np.sin(angle)])
            inner = np.array([side * 26.5, 0.0, 45.0]) + 0.62 * (outer - [side * 26.5, 0, 45])
            tilt = generator.normal(0, 6, size=2)
            sulcus = [outer + [0, -40, 0], inner + [tilt[0], 0, tilt[1]], outer + [0, 45, 0]]
            parts.append(Part(tube(sulcus, [1.4, 1.2, 1.4], step_mm=6.0), csf * 0.8, opacity=0.85))
    parts.append(Part([Ellipsoid((0, 18, 48), (1.5, 84, 38))], csf))
    parts.append(Part([Ellipsoid((0, 18, 50), (0.5, 82, 36))], 120.0))
    return parts


def _orbits(generator: np.random.Generator, fat: float, muscle: float, vitreous: float) -> list[Part]:
    parts = []
    for side in (-1.0, 1.0):
        eye = np.array([side * generator.uniform(30, 33), -14 + generator.normal(0, 2), -14 + generator.normal(0, 1.5)])
        cone = eye + [0.0, 22.0, 1.0]
        parts += [
            Part([Ellipsoid(eye + [0, 12, 0], (20.5, 36, 18.5))], BONE),
            Part([Ellipsoid(eye + [0, 12, 0], (19.0, 35, 17.0))], fat),
            Part([Ellipsoid(eye, (12.2, 12.2, 12.2))], muscle * 0.6),
            Part([Ellipsoid(eye, (11.2, 11.2, 11.2))], vitreous),
            Part([Ellipsoid(eye - [0, 8.5, 0], (4.6, 2.2, 4.6))], muscle),
            Part([Capsule(eye + [0, 11, 0], cone + [-6 * side, 30, 0], 1.9, 1.9)], muscle * 1.6),
        ]
        for x, z in ((12, 0), (-12, 0), (0, 11), (0, -11)):
            start = eye + [x, 2, z]
            parts.append(
                Part(tube([start, cone + [0.8 * x, 0, 0.8 * z], cone + [-4 * side, 30, 0]], [2.0, 2.4, 1.5]), muscle)
            )
    return parts


def _nose(generator: np.random.Generator, mucosa: float) -> list[Part]:
    parts = [Part([Ellipsoid((0, 5, -26), (15.5, 60, 26))], BONE), Part([Ellipsoid((0, 5, -26), (14.5, 60, 25))], AIR)]
    parts.append(Part([Ellipsoid((generator.normal(0, 0.8), 5, -26), (1.3, 60, 25))], mucosa * 0.8))
    for side in (-1.0, 1.0):
        for z, wide in ((-12, 2.2), (-23, 3.2), (-37, 4.4)):
            x = side * (7.5 + generator.normal(0, 0.6))
            parts.append(Part([Ellipsoid((x, 6, z + generator.normal(0, 1)), (wide, 40, 4.2))], mucosa))
        for level in range(3):
            cell = (side * (12.5 + 1.5 * level), generator.normal(0, 4) + 6, -7.5 - 7.5 * level)
            parts.append(Part([Ellipsoid(cell, (4.2, 18, 3.4))], AIR))
            parts.append(Part([Shell(Ellipsoid(cell, (4.6, 18.4, 3.8)), 1.0)], mucosa * 0.8))
        sinus = Ellipsoid((side * 30, 8, -47), (13.5, 26, 15.5))
        parts += [Part([sinus], AIR), Part([Shell(sinus, generator.uniform(1.0, 2.5))], mucosa)]
    parts.append(Part([Ellipsoid((0, 0, -62), (28, 60, 9))], 250.0, edge_mm=2.0))
    return parts
