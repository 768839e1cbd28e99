"""Synthetic 3D ultrasound of the fetal head for `fetal-us-10`: skull, falx, cavum, ventricles, cerebellum in speckle.

Anatomy frame: origin in the middle of the transventricular plane, x to the fetus's left, y to its back, z to its
vertex, mm. The probe lies on the fetus's left, so its right side is the far one: the one that is seen and measured.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..task import load_task
from .case import Plan, Streams
from .deformation import rotation
from .fields import blur, quantised, random_field
from .grids import Grid, random_grid
from .solids import Block, Capsule, Cut, Ellipsoid, Part, Shell, Solid, paint, tube

TASK_NAME = "fetal-us-10"
SPACING_MM, FULL_SPACING_MM = 1.2, 0.5
EXTENT_MM = (103.5, 162.0, 139.5)
SPECKLE_MM = 0.55
# Echo amplitudes relative to a strong interface.
FLUID, BRAIN, WALL = 0.018, 0.13, 0.62


@dataclass(frozen=True)
class Probe:
    """Where the beam comes from and how the machine shows the echoes. apex_mm: from the middle of the grid, LPS."""

    apex_mm: NDArray[np.float64]
    axis: NDArray[np.float64]
    half_angle_rad: float
    penetration_mm: float
    dynamic_range: float
    gain: float


def plan(streams: Streams, *, full_size: bool) -> Plan:
    """One volume: about 86x135x116 at 1.2 mm, or 207x324x279 at 0.5 mm; uint8."""
    generator = streams.anatomy
    spacing = (FULL_SPACING_MM if full_size else SPACING_MM) * generator.uniform(0.96, 1.04)
    turn = rotation(np.deg2rad(generator.normal(0, [9.0, 7.0, 9.0])))
    grid = random_grid(
        generator,
        extent_mm=EXTENT_MM,
        spacing_mm=np.full(3, spacing),
        anatomy_from_lps=turn.T / generator.uniform(0.88, 1.12),
        anatomy_centre_mm=[0.0, 0.0, -4.0],
        shift_mm=[8.0, 14.0, 13.0],
        slice_axis=None,
        oblique_deg=10.0,
        wavelength_mm=(60.0, 140.0),
        strain=0.24,
    )
    parts, points = _head(generator)
    probe = Probe(
        apex_mm=turn @ np.array([generator.uniform(88, 110), generator.normal(0, 8), generator.normal(0, 8)]),
        axis=-turn[:, 0],
        half_angle_rad=np.deg2rad(generator.uniform(36, 44)),
        penetration_mm=generator.uniform(90, 170),
        dynamic_range=generator.uniform(3.4, 4.4),
        gain=generator.uniform(0.8, 1.5),
    )
    names = load_task(TASK_NAME).names
    return grid.plan(names, np.array([points[name] for name in names]), lambda: _scan(grid, parts, streams, probe))


def _scan(grid: Grid, parts: list[Part], streams: Streams, probe: Probe) -> NDArray[np.uint8]:
    """Echo strength times fully developed speckle, attenuated along the beam, log-compressed, cut to the fan."""
    array = np.empty(grid.size[::-1], np.uint8)
    axes = grid.axes_mm()
    patches = random_field(streams.texture, knot_mm=9.0, extent_mm=grid.extent_mm)
    shadow = random_field(streams.texture, knot_mm=28.0, extent_mm=grid.extent_mm)
    sigma = list(SPECKLE_MM / grid.spacing_mm[::-1])
    for slab, values in paint(grid, parts, background=FLUID):
        place = [axes[0], axes[1], axes[2][slab]]
        depth, inside = _beam(grid, place, probe)
        values *= np.exp(np.float32(0.35) * patches.on(place))
        values *= np.exp(np.float32(0.25) * shadow.on(place) - depth / np.float32(probe.penetration_mm))
        haze = np.float32(0.05) * np.exp(-depth / np.float32(22.0))
        echo = [blur(streams.noise.standard_normal(values.shape, dtype=np.float32), sigma) for _ in range(2)]
        # Rayleigh speckle of unit mean square, whatever the blur left of the noise.
        level = np.sqrt(np.mean(echo[0] ** 2) + np.mean(echo[1] ** 2))
        amplitude = np.hypot(echo[0], echo[1]) * (np.float32(probe.gain) / level) * (values + haze) + 2e-3
        shown = 255 * (1 + np.log(np.maximum(amplitude, 1e-6)) / np.float32(probe.dynamic_range))
        array[slab] = np.where(inside, quantised(shown, np.uint8), 0)
    return array


def _beam(grid: Grid, axes: list[NDArray[np.float64]], probe: Probe) -> tuple[Block, NDArray[np.bool_]]:
    """Depth below the probe (mm) and whether a voxel lies in the fan."""
    middle = grid.extent_mm / 2
    along: list[Block] = []
    for row, apex in zip(grid.direction, probe.apex_mm, strict=True):
        x, y, z = (((axis - half) * r).astype(np.float32) for axis, half, r in zip(axes, middle, row, strict=True))
        along.append(z[:, None, None] + y[None, :, None] + (x - np.float32(apex))[None, None, :])
    range_mm = np.sqrt(along[0] ** 2 + along[1] ** 2 + along[2] ** 2)
    ahead = sum(value * np.float32(part) for value, part in zip(along, probe.axis, strict=True))
    inside = np.asarray(ahead > range_mm * np.float32(np.cos(probe.half_angle_rad)))
    return np.maximum(range_mm - np.float32(30.0), 0), inside


def _head(generator: np.random.Generator) -> tuple[list[Part], dict[str, NDArray[np.float64]]]:
    wide, long, tall = generator.uniform(28, 32), generator.uniform(40, 45), generator.uniform(33, 38)
    skull = Ellipsoid((0, 0, 0), (wide, long, tall))
    points = {
        "head-centre": np.zeros(3),
        "head-front": np.array([0.0, -long, 0.0]),
        "head-back": np.array([0.0, long, 0.0]),
        "head-right": np.array([-wide, 0.0, 0.0]),
        "head-left": np.array([wide, 0.0, 0.0]),
    }
    womb = Ellipsoid((6, 0, 0), (wide + 26, long + 26, tall + 22))
    parts = [
        Part([Cut(Ellipsoid((0, 0, 0), (300, 300, 300)), [])], 0.16, edge_mm=3.0),
        Part([womb], FLUID, edge_mm=2.0),
        Part([Ellipsoid((wide * 0.4, -long * 0.2, -tall - 26), (26, 24, 26))], 0.2, edge_mm=4.0),  # trunk
        Part([Ellipsoid((0, -long * 0.62, -tall * 0.72), (17, 15, 18))], 0.24, edge_mm=2.0),  # face
        Part([Shell(Ellipsoid((0, 0, 0), (wide + 3, long + 3, tall + 3)), 3.4)], 0.2, edge_mm=1.0),
        Part([skull], BRAIN, edge_mm=1.0),
        Part([Shell(skull, 2.2)], 1.0, edge_mm=0.8),
        *_midline(generator, skull, long, points),
        *_ventricles(generator, points),
        *_cerebellum(generator, points),
    ]
    return parts, points


def _midline(
    generator: np.random.Generator, skull: Ellipsoid, long: float, points: dict[str, NDArray[np.float64]]
) -> list[Part]:
    """Falx (a thin sheet down to the callosum), cavum between its two walls, thalami with the third ventricle."""
    inner = np.asarray(skull.radii) - 1.0
    falx = Cut(Ellipsoid((0, 0, 0), (0.55, inner[1], inner[2])), [((0, 0, -5), (0, 0, -1))])
    cavum = np.array([0.0, -long * generator.uniform(0.30, 0.42), generator.uniform(-1.0, 2.0)])
    radii = np.array([generator.uniform(2.3, 3.4), generator.uniform(4.8, 6.6), generator.uniform(3.4, 4.8)])
    points["cavum-septi-pellucidi"] = cavum
    thalamus = [Ellipsoid((side * 6.5, 2, -5), (5.6, 9.0, 6.0), rotation([0, 0, side * 0.35])) for side in (-1.0, 1.0)]
    return [
        Part([falx], 0.5, edge_mm=0.8),
        Part([Shell(body, 1.0) for body in thalamus], 0.28),
        Part(list(thalamus), 0.06),
        Part([Ellipsoid((0, 2, -5), (0.8, 8, 5))], 0.4),
        Part([Ellipsoid(cavum, radii + 0.9)], WALL, edge_mm=0.6),
        Part([Ellipsoid(cavum, radii)], FLUID, edge_mm=0.6),
    ]


def _ventricles(generator: np.random.Generator, points: dict[str, NDArray[np.float64]]) -> list[Part]:
    """Lateral ventricles; the width of the right atrium is measured across its axis in the transventricular plane."""
    radius = generator.uniform(3.0, 4.6)
    parts: list[Part] = []
    for side in (-1.0, 1.0):
        atrium = np.array([side * generator.uniform(12.5, 15.0), 19.0 + generator.normal(0, 1.2), 0.0])
        axis = np.array([side * np.sin(0.22), np.cos(0.22), 0.0])
        across = np.array([side * np.cos(0.22), -np.sin(0.22), 0.0])
        front, back = atrium - 6 * axis, atrium + 6 * axis
        horn = [(side * 4.5, -20, 4), (side * 6.5, -4, 4.5), front - [0, 4, -1], front]
        tail: list[Solid] = [Capsule(back, back + 9 * axis + [0, 0, -2], radius, 1.4)]
        # Straight and of even width about the atrium, so that its two walls there are exact.
        middle: list[Solid] = [Capsule(front, back, radius, radius)]
        slim = tube(horn, [1.6, 1.8, 2.4, radius])
        wall = [_wider(rod, 0.5) for rod in (*slim, *middle, *tail)]
        parts += [
            Part(wall, WALL, edge_mm=0.6),
            Part([_wider(rod, -0.5) for rod in (*slim, *middle, *tail)], FLUID, edge_mm=0.6),
            Part(
                [Ellipsoid(atrium - 5.5 * axis, (0.5 * radius, 5.0, 0.7 * radius), rotation([0, 0, -side * 0.22]))],
                0.55,
            ),
        ]
        if side < 0:
            points["ventricle-right-inner"] = atrium - radius * across
            points["ventricle-right-outer"] = atrium + radius * across
    return parts


def _wider(rod: Solid, more_mm: float) -> Solid:
    if not isinstance(rod, Capsule):
        raise TypeError("a rod is wanted")
    return Capsule(rod.first, rod.last, rod.radius_first + more_mm, rod.radius_last + more_mm)


def _cerebellum(generator: np.random.Generator, points: dict[str, NDArray[np.float64]]) -> list[Part]:
    """Two lobes about the bright vermis, below and behind; their outer ends are the transcerebellar diameter."""
    centre = np.array([0.0, generator.uniform(22, 26), generator.uniform(-18, -14)])
    lobe_x, radii = generator.uniform(6.5, 8.5), generator.uniform([6.5, 5.2, 5.2], [8.5, 6.8, 6.5])
    lobes = [Ellipsoid(centre + [side * lobe_x, 0, 0], radii) for side in (-1.0, 1.0)]
    points["cerebellum-right"] = centre - [lobe_x + radii[0], 0, 0]
    points["cerebellum-left"] = centre + [lobe_x + radii[0], 0, 0]
    return [
        Part([Ellipsoid(centre + [0, 5.5, -1], (15, 6.5, 7.0))], FLUID),  # cisterna magna
        Part([Shell(lobe, 1.3) for lobe in lobes], WALL, edge_mm=0.6),
        Part([Ellipsoid(lobe.centre, radii - 0.6) for lobe in lobes], 0.075, edge_mm=0.6),
        Part([Ellipsoid(centre, (2.2, radii[1] * 0.9, radii[2] * 0.9))], 0.4),
        Part([Ellipsoid(centre - [0, radii[1] + 1.5, 0], (2.6, 1.6, 2.6))], FLUID),  # fourth ventricle
    ]
