"""Synthetic cardiac CT angiography for `ccta-8`: the contrast-filled aortic root in its surroundings.

Anatomy frame: origin in the middle of the annulus, z along the root towards the ascending aorta, mm. The eight points
lie on the drawn wall by construction (`aortic_root.py`).
"""

import numpy as np
from numpy.typing import NDArray

from ..task import load_task
from .aortic_root import AorticRoot, random_root
from .case import Plan, Streams
from .deformation import rotation
from .fields import blur, quantised, random_field
from .grids import Grid, random_grid
from .solids import Capsule, Ellipsoid, Formula, Part, Shell, paint, tube

TASK_NAME = "ccta-8"
SPACING_MM, FULL_SPACING_MM = 1.5, 0.4
EXTENT_MM = (204.8, 204.8, 128.0)
AIR_HU, FAT_HU, MUSCLE_HU, LUNG_HU = -1000.0, -95.0, 55.0, -840.0


def plan(streams: Streams, *, full_size: bool) -> Plan:
    """One scan: about 137x137x86 at 1.5 mm, or 512x512x320 at 0.4 mm; int16 Hounsfield units."""
    generator = streams.anatomy
    factor = generator.uniform(0.96, 1.04, size=2)[[0, 0, 1]]
    spacing = (FULL_SPACING_MM if full_size else SPACING_MM) * factor
    size = generator.uniform(0.9, 1.1)
    # The root leans forward and to the right of the body: its axis is the anatomy's z.
    lean = rotation(np.deg2rad(np.array([28.0, -24.0, 0.0]) + generator.normal(0, 7.0, size=3)))
    grid = random_grid(
        generator,
        extent_mm=EXTENT_MM * factor,
        spacing_mm=spacing,
        anatomy_from_lps=lean.T / size,
        anatomy_centre_mm=[0.0, 0.0, 0.0],
        shift_mm=[13.0, 13.0, 11.0],
        slice_axis=2,
        oblique_deg=3.0,
        wavelength_mm=(70.0, 160.0),
        strain=0.28,
    )
    root = random_root(generator)
    parts = _body(generator, lean) + _heart(generator, root)
    noise_hu = generator.uniform(18.0, 34.0) * (1.0 if full_size else 0.6)
    names = load_task(TASK_NAME).names
    points = np.array([root.landmarks_mm[name] for name in names])
    return grid.plan(names, points, lambda: _scan(grid, parts, streams, noise_hu))


def _scan(grid: Grid, parts: list[Part], streams: Streams, noise_hu: float) -> NDArray[np.int16]:
    """Paint, texture and add correlated quantum noise, slab by slab."""
    array = np.empty(grid.size[::-1], np.int16)
    uneven = random_field(streams.texture, knot_mm=12.0, extent_mm=grid.extent_mm)
    axes = grid.axes_mm()
    for slab, values in paint(grid, parts, background=LUNG_HU):
        values += 7.0 * uneven.on([axes[0], axes[1], axes[2][slab]])
        noise = blur(streams.noise.standard_normal(values.shape, dtype=np.float32), (0.0, 0.6, 0.6))
        # The blur lowers the deviation of the noise to 0.47 of what it was.
        array[slab] = quantised(values + np.float32(noise_hu / 0.47) * noise, np.int16)
    return array


def _body(generator: np.random.Generator, lean: NDArray[np.float64]) -> list[Part]:
    """Chest wall, spine, lungs' vessels, descending aorta: placed in the body's axes, then leaned with the root."""

    def lps(x: float, y: float, z: float) -> NDArray[np.float64]:
        return lean.T @ np.array([x, y, z])

    turn = lean.T
    spine = lps(-6, 82, 0)
    descending = generator.uniform(10.5, 13.5)
    contrast = generator.uniform(300, 420)
    wall = Ellipsoid(lps(0, 12, 0), (150.0, 96.0, 400.0), turn)

    def outside(x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]) -> NDArray[np.float32]:
        return -wall.distance(x, y, z)

    parts = [
        Part([Formula((-400,) * 3, (400,) * 3, outside)], MUSCLE_HU, edge_mm=4.0),
        Part([Shell(Ellipsoid(lps(0, 12, 0), (158.0, 103.0, 400.0), turn), 9.0)], FAT_HU, edge_mm=4.0),
    ]
    for level in range(-5, 6):
        for side in (-1.0, 1.0):
            start, end = lps(side * 20, 88, 30 * level + 12), lps(side * 118, 40, 30 * level - 6)
            front = lps(side * 60, -72, 30 * level - 26)
            parts.append(Part(tube([start, end, front], 4.5, step_mm=12.0), 320.0, edge_mm=2.0))
    parts += [
        Part([Capsule(spine + lps(0, 0, -160), spine + lps(0, 0, 160), 19.0, 19.0)], 190.0, edge_mm=2.0),
        Part([Capsule(spine + lps(0, 28, -160), spine + lps(0, 28, 160), 9.0, 9.0)], 40.0, edge_mm=2.0),
        Part([Capsule(lps(2, -82, -120), lps(2, -88, 120), 9.0, 9.0)], 180.0, edge_mm=3.0),
        Part([Capsule(lps(24, 62, -160), lps(20, 64, 160), descending, descending)], contrast, edge_mm=0.6),
        Part([Capsule(lps(4, 55, -160), lps(2, 58, 160), 7.0, 7.0)], 30.0, edge_mm=2.0),
    ]
    for side in (-1.0, 1.0):
        for _ in range(14):
            hilum = lps(side * 38, 30, generator.uniform(-20, 30))
            end = lps(side * generator.uniform(80, 130), generator.uniform(-40, 80), generator.uniform(-90, 90))
            middle = 0.5 * (hilum + end) + generator.normal(0, 8, size=3)
            parts.append(Part(tube([hilum, middle, end], [4.0, 2.5, 0.8], step_mm=8.0), 180.0))
    return parts


def _heart(generator: np.random.Generator, root: AorticRoot) -> list[Part]:
    """Chambers in fat, then the root with its leaflets, coronaries and calcium on top."""
    blood = generator.uniform(330, 480)
    right_blood = generator.uniform(90, 260)
    muscle = generator.uniform(80, 120)
    epicardium = Ellipsoid((18, -4, -32), (72, 62, 66), rotation([0.2, 0.4, 0.1]))
    parts = [
        Part([epicardium], FAT_HU, edge_mm=3.0),
        Part([Ellipsoid((0, 0, 36), (38, 34, 40))], FAT_HU, edge_mm=4.0),
        # Right atrium and ventricle, pulmonary trunk in front and to the left, left atrium behind.
        Part([Ellipsoid((-38, -2, -22), (24, 24, 34))], right_blood, edge_mm=1.0),
        Part([Ellipsoid((-2, -40, -30), (36, 22, 34), rotation([0.3, 0.2, 0.4]))], right_blood, edge_mm=1.0),
        Part(tube([(4, -38, -8), (12, -33, 12), (22, -18, 34), (20, 8, 52)], [14, 12.5, 12.5, 11]), right_blood * 1.1),
        Part([Ellipsoid((4, 38, 2), (32, 19, 24), rotation([0.3, 0.1, 0.0]))], blood * 0.95, edge_mm=1.0),
        Part(tube([(4, 38, 8), (-38, 44, 16), (-72, 48, 20)], [9, 7, 5]), blood * 0.95),
        Part(tube([(10, 40, 8), (42, 46, 14), (74, 50, 22)], [9, 7, 5]), blood * 0.95),
        # Left ventricle: muscle, cavity with papillary muscles, outflow tract.
        Part([Ellipsoid((24, -2, -50), (37, 33, 50), rotation([0.15, 0.5, 0.0]))], muscle, edge_mm=1.0),
        Part([Capsule(np.array([0.0, 0, 2]), np.array([4.0, 0, -20]), 17.0, 22.0)], muscle, edge_mm=1.0),
        Part([Ellipsoid((25, -2, -50), (25, 21, 38), rotation([0.15, 0.5, 0.0]))], blood, edge_mm=1.0),
        Part([Capsule(np.array([0.0, 0, -8]), np.array([12.0, 0, -30]), 11.0, 14.0)], blood, edge_mm=1.0),
        Part([Capsule(np.array([32.0, 8, -62]), np.array([28.0, 12, -44]), 4.5, 3.0)], muscle, edge_mm=1.0),
        Part([Capsule(np.array([36.0, -12, -62]), np.array([32.0, -12, -44]), 4.5, 3.0)], muscle, edge_mm=1.0),
    ]
    return parts + root.parts(generator, blood=blood, muscle=muscle)
