"""The neck around the carotids in CT: skin, muscles, airway, spine, jaw, hyoid, larynx, thyroid, shoulders, skull.

Anatomy frame: origin between the carotids at the level of C4, x to the patient's left, y backwards, z up, mm.
"""

import numpy as np

from .solids import Block, Capsule, Ellipsoid, Formula, Part, Shell, Solid, tube

FAT_HU, MUSCLE_HU, BONE_HU, AIR_HU = -95.0, 60.0, 650.0, -1000.0


def neck_parts(generator: np.random.Generator, blood: float) -> list[Part]:
    """Everything but the carotid arteries, in painting order."""
    return [
        *_soft_tissue(generator),
        *_spine(generator, blood),
        *_head(generator),
        *_airway(generator),
    ]


def _soft_tissue(generator: np.random.Generator) -> list[Part]:
    wide, deep = generator.uniform(58, 70), generator.uniform(58, 70)

    def skin(x: Block, y: Block, z: Block) -> Block:
        # The neck widens to the shoulders below and to the head above.
        low, high = np.clip((-55 - z) / 60, 0, 2) ** 1.5, np.clip((z - 45) / 50, 0, 1)
        level = np.sqrt(
            (x / (wide + 95 * low + 6 * high)) ** 2 + ((y - 22 + 12 * high) / (deep + 25 * low + 26 * high)) ** 2
        )
        return ((level - 1) * np.float32(60.0)).astype(np.float32)

    def deep_fascia(x: Block, y: Block, z: Block) -> Block:
        return skin(x, y, z) + np.float32(7.0)

    box = ((-330, -200, -260), (330, 230, 260))
    parts = [
        Part([Ellipsoid((0, -24, 66), (63, 66, 62)), Ellipsoid((0, -88, 92), (13, 22, 20))], FAT_HU, edge_mm=1.5),
        Part([Formula(*box, skin)], FAT_HU, edge_mm=1.5),
        Part([Formula(*box, deep_fascia), Ellipsoid((0, -20, 68), (55, 56, 54))], -40.0, edge_mm=2.0),
    ]
    for side in (-1.0, 1.0):
        strap = [(side * 14, -28, -170), (side * 36, -12, -40), (side * 46, 16, 40), (side * 56, 30, 95)]
        back = [(side * 30, 66, -170), (side * 27, 64, 0), (side * 30, 62, 110)]
        parts += [
            Part(tube(strap, [7, 10, 11, 9], step_mm=10.0), MUSCLE_HU + 5),
            Part(tube(back, [20, 18, 19], step_mm=15.0), MUSCLE_HU),
            Part(
                tube([(side * 40, 40, -170), (side * 34, 34, 0), (side * 32, 36, 100)], [16, 11, 10], step_mm=12.0),
                MUSCLE_HU - 5,
            ),
            Part(tube([(side * 17, 16, -160), (side * 14, 14, 90)], [8, 9], step_mm=15.0), MUSCLE_HU),
            Part([Ellipsoid((side * 40, -16, 30), (10, 14, 15))], 95.0),  # submandibular gland
            Part([Ellipsoid((side * 52, 6, 72), (13, 20, 22))], 20.0),  # parotid gland
            Part([Ellipsoid((side * 17, -10, -72), (9, 11, 24))], 170.0),  # thyroid
            Part([Ellipsoid((side * 46, 20, -178), (46, 40, 58))], -830.0, edge_mm=2.0),  # lung apex
            Part([Capsule(np.array([side * 8.0, -36, -120]), np.array([side * 130.0, 10, -98]), 7, 7)], BONE_HU * 0.7),
        ]
    return parts


def _spine(generator: np.random.Generator, blood: float) -> list[Part]:
    parts: list[Part] = []
    curve = generator.normal(0, 4.0)
    for level in range(-7, 6):
        z = 19.0 * level + 4
        middle = np.array([0.0, 33 + curve * np.cos(z / 60), z])
        arch: list[Solid] = [Capsule(middle + [side * 17.0, 22, 0], middle + [0, 38, -3], 3.4, 3.4) for side in (-1, 1)]
        sides: list[Solid] = [Ellipsoid(middle + [side * 19.0, 9, 0], (6.5, 9, 7.5)) for side in (-1, 1)]
        spine: list[Solid] = [Capsule(middle + [0, 38, -3], middle + [0, 54, -10], 3.2, 4.2)]
        parts += [
            Part([Ellipsoid(middle, (13.5, 10.5, 8.2)), *arch, *sides, *spine], BONE_HU, edge_mm=1.0),
            Part([Ellipsoid(middle, (12.0, 9.0, 6.8))], BONE_HU * 0.45, edge_mm=1.0),
            Part([Ellipsoid(middle + [0, 0, 9.5], (13.0, 10.0, 2.2))], 90.0),
        ]
    canal: list[Solid] = [Capsule(np.array([0.0, 48, -180]), np.array([0.0, 48, 120]), 9.5, 9.5)]
    parts += [Part(canal, 15.0), Part([Capsule(np.array([0.0, 48, -180]), np.array([0.0, 48, 120]), 5.5, 5.5)], 45.0)]
    for side in (-1.0, 1.0):
        radius = generator.uniform(1.5, 2.3)
        path = [
            (side * 26, 20, -150),
            (side * 20, 36, -95),
            (side * 20, 37, 70),
            (side * 30, 48, 92),
            (side * 8, 50, 118),
        ]
        parts.append(Part(tube(path, radius, step_mm=7.0), blood * 0.92))
    return parts


def _head(generator: np.random.Generator) -> list[Part]:
    fall = generator.normal(0, 4.0)
    jaw = [(-50, 6, 82 + fall), (-47, 2, 44 + fall), (-32, -36, 34 + fall), (0, -62, 32 + fall)]
    mirrored = [(-x, y, z) for x, y, z in jaw[:-1]][::-1]
    hyoid_z = generator.uniform(-6, 12)
    hyoid = [
        (-20, 0, hyoid_z + 6),
        (-14, -18, hyoid_z + 2),
        (0, -27, hyoid_z),
        (14, -18, hyoid_z + 2),
        (20, 0, hyoid_z + 6),
    ]
    skull = Ellipsoid((0, 10, 158), (76, 98, 62))
    parts = [
        Part([skull], BONE_HU * 1.2, edge_mm=1.5),
        Part([Ellipsoid((0, 10, 158), (69, 91, 55))], 38.0, edge_mm=1.0),
        Part([Ellipsoid((0, -20, 92), (40, 36, 17))], BONE_HU * 0.6, edge_mm=3.0),
        Part(tube([*jaw, *mirrored], [5, 6, 7.5, 9, 7.5, 6, 5], step_mm=6.0), BONE_HU * 1.1, edge_mm=1.0),
        Part([Ellipsoid((0, -38, 46), (24, 26, 16))], MUSCLE_HU, edge_mm=1.5),
        Part(tube(hyoid, [1.8, 2.2, 3.4, 2.2, 1.8]), BONE_HU * 0.8),
    ]
    for index in range(-6, 7):
        tooth = (index * 5.2, -58 + 0.9 * index * index, 46 + fall)
        value = 2500.0 if generator.random() < 0.06 else 1500.0
        parts.append(Part([Ellipsoid(tooth, (2.3, 3.0, 9.0))], value))
    mastoids: list[Solid] = [Ellipsoid((side * 50, 42, 92), (11, 14, 18)) for side in (-1.0, 1.0)]
    return [*parts, Part(mastoids, 250.0, edge_mm=3.0)]


def _airway(generator: np.random.Generator) -> list[Part]:
    narrow = generator.uniform(5.0, 7.0)
    parts = [
        Part(tube([(0, 10, 90), (0, 4, 50), (0, -2, 15)], [11, narrow + 3, narrow + 2]), AIR_HU),
        Part([Shell(Ellipsoid((0, -17, -28), (17, 15, 22)), 3.0)], generator.uniform(120, 420)),  # thyroid cartilage
        Part(
            tube(
                [(0, -2, 15), (0, -10, -20), (0, -12, -36), (0, -8, -60), (0, 4, -170)],
                [narrow + 2, 5.5, 3.6, 8.5, 9.0],
            ),
            AIR_HU,
        ),
        Part(tube([(0, 17, -50), (0, 20, -170)], 5.5), 45.0),  # oesophagus
        Part([Ellipsoid((0, -13, 8), (9, 2, 9))], 60.0),  # epiglottis
    ]
    return parts
