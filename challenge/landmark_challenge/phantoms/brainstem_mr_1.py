"""Synthetic T1-weighted MR of head and neck for `brainstem-mr-1`: the groove between pons and medulla.

Anatomy frame: origin in the middle of the pons, x to the patient's left, y backwards, z up, mm.
"""

import numpy as np
from numpy.typing import NDArray

from ..task import load_task
from .case import Plan, Streams
from .deformation import rotation
from .fields import quantised, random_field, rician
from .grids import Grid, random_grid
from .head_mr import Tissue, head_parts
from .solids import Block, Capsule, Ellipsoid, Part, Solid, paint

TASK_NAME = "brainstem-mr-1"
SPACING_MM, FULL_SPACING_MM = 1.7, 1.0
EXTENT_MM = (180.0, 240.0, 256.0)


def plan(streams: Streams, *, full_size: bool) -> Plan:
    """One scan: about 106x141x151 at 1.7 mm, or 180x240x256 at 1 mm; int16."""
    generator = streams.anatomy
    spacing = (FULL_SPACING_MM if full_size else SPACING_MM) * generator.uniform(0.96, 1.04, size=3)
    turn = rotation(np.deg2rad(generator.normal(0, [8.0, 5.0, 6.0])))
    grid = random_grid(
        generator,
        extent_mm=EXTENT_MM,
        spacing_mm=spacing,
        anatomy_from_lps=turn.T / generator.uniform(0.9, 1.08),
        # Some scans are centred on the head, some on the neck.
        anatomy_centre_mm=[0.0, -14.0, 0.0] + np.array([0.0, 0.0, 1.0]) * generator.choice([18.0, -12.0]),
        shift_mm=[10.0, 13.0, 18.0],
        slice_axis=None,
        oblique_deg=6.0,
        wavelength_mm=(90.0, 220.0),
        strain=0.25,
    )
    tissue = Tissue.random(generator)
    stem = _brainstem(generator)
    parts = head_parts(generator, tissue) + [
        Part(_grown(stem), tissue.csf, edge_mm=1.5),
        Part(stem, tissue.white * 0.93, edge_mm=0.6),
    ]
    groove = groove_mm(stem[0], stem[1])
    noise, gain = generator.uniform(9.0, 20.0), generator.uniform(0.5, 2.0)
    return grid.plan(load_task(TASK_NAME).names, groove[None], lambda: _scan(grid, parts, streams, noise, gain))


def _scan(grid: Grid, parts: list[Part], streams: Streams, noise: float, gain: float) -> NDArray[np.int16]:
    array = np.empty(grid.size[::-1], np.int16)
    axes = grid.axes_mm()
    bias = random_field(streams.texture, knot_mm=110.0, extent_mm=grid.extent_mm)
    grain = random_field(streams.texture, knot_mm=4.0, extent_mm=grid.extent_mm)
    for slab, values in paint(grid, parts, background=0.0):
        place = [axes[0], axes[1], axes[2][slab]]
        values *= 1 + 0.04 * grain.on(place)
        values *= np.exp(np.float32(0.18) * bias.on(place))
        array[slab] = quantised(np.float32(gain) * rician(streams.noise, np.maximum(values, 0), noise), np.int16)
    return array


def _brainstem(generator: np.random.Generator) -> list[Solid]:
    """Pons, medulla, cord, midbrain: the first two meet in the groove on the front."""
    tall, deep = generator.uniform(11.5, 14.5), generator.uniform(10.0, 12.5)
    pons = Ellipsoid((0, 0, 0), (16.0, deep, tall))
    lean = float(np.clip(generator.normal(0, 0.05), -0.1, 0.1))
    top = np.array([0.0, 3.0, -2.0])
    bottom = np.array([0.0, 6.5 + 22 * lean, -tall - 22.0])
    radius = generator.uniform(6.3, 7.6)
    medulla = Capsule(top, bottom, radius, radius - 1.4)
    cord = Capsule(bottom, bottom + [0, 6.0 + 60 * lean, -120], radius - 1.4, 4.6)
    midbrain = Capsule(np.array([0.0, 3.5, 6.0]), np.array([0.0, -1.0, 27.0]), 10.5, 11.5)
    return [pons, medulla, cord, midbrain]


def _grown(stem: list[Solid]) -> list[Solid]:
    """The cisterns: fluid around the brainstem, wide in front."""
    _, medulla, cord, midbrain = stem
    rods = [rod for rod in (medulla, cord, midbrain) if isinstance(rod, Capsule)]
    grown: list[Solid] = [
        Capsule(rod.first + [0, -2.5, 0], rod.last + [0, -1.0, 0], rod.radius_first + 4.5, rod.radius_last + 3.2)
        for rod in rods
    ]
    return [Ellipsoid((0, -2.0, 0), (19.5, 15.5, 17.0)), *grown]


def groove_mm(pons: Solid, medulla: Solid) -> NDArray[np.float64]:
    """(3,) mm: where the fronts of pons and medulla meet in the midline, the bottom of the groove.

    Both outlines are followed in the plane x = 0: along the lower front quarter of the pons the distance to the medulla
    falls from outside to inside, and the groove is where it is zero.
    """
    if not isinstance(pons, Ellipsoid):
        raise TypeError("the pons is an ellipsoid")
    radii = np.asarray(pons.radii, np.float64)

    def point(angle: float) -> NDArray[np.float64]:
        return np.array([0.0, -radii[1] * np.cos(angle), -radii[2] * np.sin(angle)])

    low, high = 0.0, np.pi / 2
    for _ in range(60):
        middle = 0.5 * (low + high)
        x, y, z = (np.array([value]) for value in point(middle))
        low, high = (middle, high) if _exact_rod(medulla, x, y, z) > 0 else (low, middle)
    return point(0.5 * (low + high))


def _exact_rod(rod: Solid, x: Block, y: Block, z: Block) -> float:
    """The rod's distance in float64."""
    return float(rod.distance(x.astype(np.float64), y.astype(np.float64), z.astype(np.float64))[0])
