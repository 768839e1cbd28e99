"""A head and neck in T1-weighted MR: scalp, skull, brain with folds, ventricles, cerebellum, face, spine.

Anatomy frame: origin in the middle of the pons, x to the patient's left, y backwards, z up, mm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .deformation import rotation
from .solids import Block, Capsule, Cut, Ellipsoid, Formula, Part, Shell, Solid, tube

Distance = Callable[[Block, Block, Block], Block]


@dataclass(frozen=True)
class Tissue:
    """Grey values of a scan."""

    fat: float
    white: float
    grey: float
    csf: float
    muscle: float
    bone: float = 35.0
    air: float = 8.0

    @classmethod
    def random(cls, generator: np.random.Generator) -> "Tissue":
        """T1 contrast that varies from scan to scan."""
        fat, white, grey, csf, muscle = (
            value * generator.uniform(0.9, 1.1) for value in (420.0, 330.0, 230.0, 75.0, 180.0)
        )
        return cls(fat, white, grey, csf, muscle)


def head_parts(generator: np.random.Generator, tissue: Tissue) -> list[Part]:
    """Everything but the brainstem, in painting order."""
    return [
        *_neck(generator, tissue),
        *_skull(generator, tissue),
        *_brain(generator, tissue),
        *_cerebellum(generator, tissue),
        *_face(generator, tissue),
    ]


def _skull(generator: np.random.Generator, tissue: Tissue) -> list[Part]:
    centre = (0, -8, 34)
    return [
        Part([Ellipsoid(centre, (78, 97, 86)), Ellipsoid((0, -48, -12), (52, 50, 62))], tissue.fat, edge_mm=1.5),
        Part([Ellipsoid((0, -46, -14), (47, 46, 57))], tissue.muscle, edge_mm=1.5),
        Part([Ellipsoid(centre, (73, 92, 81))], tissue.bone, edge_mm=1.0),
        Part([Shell(Ellipsoid(centre, (69.5, 88.5, 77.5)), 2.4)], tissue.fat * 0.55),
        Part([Ellipsoid(centre, (66, 85, 74))], tissue.csf, edge_mm=1.0),
        # Below the foramen magnum lie bone and neck, not brain.
        Part([Cut(Ellipsoid(centre, (68, 87, 76)), [((0, 0, -31), (0, -0.25, 1))])], tissue.bone, edge_mm=1.5),
        Part([Cut(Ellipsoid(centre, (66, 85, 74)), [((0, 0, -36), (0, -0.25, 1))])], tissue.muscle, edge_mm=1.5),
        # Skull base: clivus with bright marrow in front of the brainstem, sphenoid and petrous bone.
        Part([Ellipsoid((0, -44, -18), (48, 38, 24), rotation([0.35, 0, 0]))], tissue.bone, edge_mm=2.0),
        Part(tube([(0, -33, 12), (0, -25, -8), (0, -17, -30)], [6.0, 5.5, 4.0]), tissue.fat * 0.8, edge_mm=1.0),
        Part([Ellipsoid((0, -44, 6), (13, 10, 9))], tissue.air),
        Part([Ellipsoid((0, -30, 20), (6.5, 4.5, 3.6))], tissue.grey * 1.1),  # pituitary
        Part(
            [Capsule(np.array([side * 22.0, -14, -12]), np.array([side * 56.0, 6, -8]), 10, 15) for side in (-1, 1)],
            tissue.bone,
        ),
    ]


def _brain(generator: np.random.Generator, tissue: Tissue) -> list[Part]:
    phase = generator.uniform(0, 2 * np.pi, size=6)
    wave = 2 * np.pi / generator.uniform(17, 24, size=6)

    def folds(x: Block, y: Block, z: Block) -> Block:
        return (
            np.sin(wave[0] * x + 1.3 * np.sin(wave[1] * y + phase[0]) + phase[1])
            + np.sin(wave[2] * y + 1.3 * np.sin(wave[3] * z + phase[2]) + phase[3])
            + np.sin(wave[4] * z + 1.3 * np.sin(wave[5] * x + phase[4]) + phase[5])
        ).astype(np.float32)

    parts: list[Part] = []
    for side in (-1.0, 1.0):
        midline = [((side * 1.0, 0, 0), (-side, 0, 0))]
        hemisphere = Cut(Ellipsoid((side * 25.0, -8, 43), (40.0, 82, 62)), midline)
        temporal = Ellipsoid((side * 45.0, -26, 4), (17.0, 34, 19))

        def pial(x: Block, y: Block, z: Block, h: Solid = hemisphere, t: Solid = temporal) -> Block:
            return np.minimum(h.distance(x, y, z), t.distance(x, y, z))

        def cortex(x: Block, y: Block, z: Block, p: Distance = pial) -> Block:
            surface = p(x, y, z)
            # Sulci cut in where the folds are low, down to about 12 mm.
            return surface + np.clip((-0.5 - folds(x, y, z)) * 7, 0, 13) * (surface > -13)

        def core(x: Block, y: Block, z: Block, p: Distance = pial) -> Block:
            return p(x, y, z) + 7.0 + 2.6 * np.clip(0.4 - folds(x, y, z), -1.4, 2.6)

        box = ((min(side * 2, side * 68), -92, -20), (max(side * 2, side * 68), 76, 104))
        parts.append(Part([Formula(*box, cortex)], tissue.grey, edge_mm=1.0))
        parts.append(Part([Formula(*box, core)], tissue.white, edge_mm=1.0))
    parts += [
        Part(
            tube([(0, -38, 34), (0, -34, 47), (0, -8, 55), (0, 18, 50), (0, 28, 38)], [4.5, 4.0, 3.2, 3.6, 5.5]),
            tissue.white * 1.03,
        ),
        Part([Ellipsoid((side * 11, -2, 33), (9.5, 15, 9)) for side in (-1.0, 1.0)], tissue.grey * 1.15),  # thalami
        Part([Ellipsoid((0, -4, 31), (1.8, 17, 10))], tissue.csf),  # third ventricle
    ]
    wide = generator.uniform(2.6, 5.0)
    for side in (-1.0, 1.0):
        horn = [(side * 7, -34, 38), (side * 8, -10, 48), (side * 14, 20, 42), (side * 21, 38, 32)]
        parts.append(Part(tube(horn, [wide, wide, wide * 1.3, wide * 0.7]), tissue.csf))
        parts.append(
            Part(tube([(side * 15, 22, 40), (side * 27, 8, 22), (side * 31, -16, 8)], [wide, 2.4, 1.6]), tissue.csf)
        )
    return parts


def _cerebellum(generator: np.random.Generator, tissue: Tissue) -> list[Part]:
    pitch = generator.uniform(4.2, 5.4)

    def folia(x: Block, y: Block, z: Block) -> Block:
        # Leaves lie in layers about the fourth ventricle.
        layers = np.hypot(y - 12, z + 4)
        both = [Ellipsoid((side * 23.0, 35, -8), (27, 27, 22)).distance(x, y, z) for side in (-1.0, 1.0)]
        surface = np.minimum(np.minimum(both[0], both[1]), Ellipsoid((0, 33, -5), (10, 22, 22)).distance(x, y, z))
        return np.maximum(surface, np.where(surface > -9, np.cos(2 * np.pi * layers / pitch) - 0.72, -1.0) * 2).astype(
            np.float32
        )

    arbor: list[Solid] = [
        Ellipsoid((side * 21.0, 30, -8), (15, 11, 7), rotation([0.2, 0, side * 0.3])) for side in (-1.0, 1.0)
    ]
    branches = [
        Capsule(np.array([0.0, 16, -4]), np.array([0.0, 16 + 24 * np.cos(a), -4 + 17 * np.sin(a)]), 2.2, 0.9)
        for a in (-1.1, -0.4, 0.3, 1.0)
    ]
    peduncles: list[Solid] = [
        Capsule(np.array([side * 10.0, 4, -2]), np.array([side * 18.0, 24, -8]), 6.0, 5.0) for side in (-1.0, 1.0)
    ]
    return [
        Part([Ellipsoid((0, 34, -8), (53, 33, 27))], tissue.csf, edge_mm=1.5),
        Part([Formula((-51, 8, -31), (51, 63, 18), folia)], tissue.grey),
        Part([*arbor, *branches, *peduncles], tissue.white),
        Part([Ellipsoid((0, 13.5, -4), (5.5, 3.6, 13))], tissue.csf),
        Part([Ellipsoid((0, 11, 22), (9.0, 6.0, 6.5))], tissue.white * 0.95),  # tectum
    ]


def _face(generator: np.random.Generator, tissue: Tissue) -> list[Part]:
    parts = [
        Part([Ellipsoid((0, -72, -14), (14, 30, 26))], tissue.air, edge_mm=1.5),
        Part([Ellipsoid((0, -70, -14), (2.0, 28, 26))], tissue.muscle * 1.2),
        Part([Ellipsoid((0, -99, -22), (12, 12, 16))], tissue.fat * 0.7, edge_mm=2.0),
        Part([Ellipsoid((0, -60, -52), (24, 28, 14))], tissue.muscle * 1.15, edge_mm=2.0),  # tongue
        Part([Shell(Ellipsoid((0, -62, -46), (36, 38, 22)), 9.0)], tissue.bone, edge_mm=2.0),
        Part(
            tube([(0, -34, -14), (0, -22, -42), (0, -18, -80), (0, -22, -130)], [7, 6, 6.5, 8]), tissue.air, edge_mm=1.0
        ),
    ]
    for side in (-1.0, 1.0):
        eye = np.array([side * 31.0, -76.0, 12.0])
        parts += [
            Part([Ellipsoid(eye + [0, 14, 0], (17, 26, 16))], tissue.fat, edge_mm=1.5),
            Part([Ellipsoid(eye, (12, 12, 12))], tissue.csf * 1.1),
            Part([Capsule(eye + [0, 12, 0], eye + [-side * 18, 36, 4], 2.0, 2.0)], tissue.white),
            Part([Ellipsoid((side * 32, -58, -22), (13, 18, 14))], tissue.air),
        ]
    return parts


def _neck(generator: np.random.Generator, tissue: Tissue) -> list[Part]:
    bend = generator.normal(0, 6.0)
    parts = [
        Part([Capsule(np.array([0.0, 4, 0]), np.array([0.0, 8 + bend, -190]), 62, 64)], tissue.fat, edge_mm=2.0),
        Part([Capsule(np.array([0.0, 6, 0]), np.array([0.0, 10 + bend, -190]), 56, 57)], tissue.muscle, edge_mm=3.0),
        Part([Ellipsoid((0, 8, -190), (150, 70, 60))], tissue.muscle, edge_mm=3.0),
    ]
    place = np.array([0.0, -8.0, -44.0])
    for level in range(7):
        lower = place + [0.0, bend / 8, -17.0]
        parts.append(Part([Ellipsoid(place, (9.5, 8.5, 7.0))], tissue.fat * 0.62, edge_mm=1.0))
        parts.append(Part([Ellipsoid(0.5 * (place + lower), (9.0, 8.5, 2.0))], tissue.csf * 1.4))
        spine = place + [0, 36.0 + generator.normal(0, 1), -6 - level]
        parts.append(Part([Capsule(place + [0, 24, -2], spine, 3.5, 4.0)], tissue.fat * 0.6))
        place = lower
    parts += [
        Part(tube([(side * 26, -12, -20), (side * 28, -14, -80), (side * 30, -10, -140)], [4, 4.5, 5]), tissue.air)
        for side in (-1, 1)
    ]
    return parts
