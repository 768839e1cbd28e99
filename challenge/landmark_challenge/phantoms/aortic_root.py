"""The aortic root: annulus, three sinuses, crown-shaped leaflets, commissures, hinges and coronary ostia.

Cylinder coordinates about the root's axis: azimuth (rad), height z (mm) above the annulus, radius. The wall's radius is
a smooth function of azimuth and height, and every landmark is a point of that wall.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .solids import Block, Ellipsoid, Formula, Part, tube

CUSPS = ("right", "left", "non-coronary")


@dataclass(frozen=True, eq=False)
class AorticRoot:
    """Shape of one root. cusp_rad: azimuth of the middle of each sinus (right, left, non-coronary).

    commissure_rad, commissure_mm: azimuth and height of the commissures right-left, left-non, non-right. ostium_rad,
    ostium_mm: azimuth and height of the right and left ostium.
    """

    cusp_rad: NDArray[np.float64]
    commissure_rad: NDArray[np.float64]
    commissure_mm: NDArray[np.float64]
    hinge_mm: NDArray[np.float64]
    bulge_mm: NDArray[np.float64]
    annulus_mm: float
    ellipticity: float
    ellipse_rad: float
    junction_mm: float
    junction_radius_mm: float
    coaptation_mm: float
    ostium_rad: NDArray[np.float64]
    ostium_mm: NDArray[np.float64]
    vessel_mm: NDArray[np.float64]
    landmarks_mm: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def radius(self, azimuth: Block, z: Block) -> Block:
        """Radius of the wall: an ellipse at the annulus, bulging sinuses, a circle from the sinotubular junction up."""
        share = np.clip(z / self.junction_mm, 0, 1)
        ring = self.annulus_mm * (1 + self.ellipticity * np.cos(2 * (azimuth - self.ellipse_rad)))
        base = ring + (self.junction_radius_mm - ring) * share * share * (3 - 2 * share)
        bulge = np.zeros_like(base)
        for angle, height in zip(self.cusp_rad, self.bulge_mm, strict=True):
            near = np.clip((1 + 2 * np.cos(azimuth - angle)) / 3, 0, 1)  # 1 in the middle, 0 at +-120 degrees
            bulge += height * near * near
        return base + bulge * np.sin(np.pi * share) ** 2

    def attachment(self, azimuth: Block) -> Block:
        """Height at which the leaflets meet the wall: lowest at the hinges, highest at the commissures."""
        knots, heights = _crown(self)
        # A parabola on both sides of each hinge: heights between knots follow the square of the share.
        turned = np.mod(azimuth - knots[0], 2 * np.pi) + knots[0]
        result = np.zeros_like(turned)
        for i in range(6):
            first, last = knots[i], knots[i + 1]
            share = np.clip((turned - first) / (last - first), 0, 1)
            rise = share * share if i % 2 == 0 else 1 - (1 - share) ** 2
            low, high = heights[i], heights[i + 1]
            inside = (turned >= first) & (turned < last)
            result = np.where(inside, low + (high - low) * rise, result)
        return result.astype(turned.dtype, copy=False)

    def point(self, azimuth: float, z: float) -> NDArray[np.float64]:
        """(3,) mm of the wall at an azimuth and a height."""
        radius = float(self.radius(np.array(azimuth), np.array(z)))
        return np.array([radius * np.cos(azimuth), radius * np.sin(azimuth), z])

    def parts(self, generator: np.random.Generator, *, blood: float, muscle: float) -> list[Part]:
        """Everything of the root in painting order; values in Hounsfield units."""
        top = 95.0
        reach = self.annulus_mm * 1.2 + self.bulge_mm.max() + 3

        def lumen(x: Block, y: Block, z: Block) -> Block:
            wide = np.hypot(x, y) - self.radius(np.arctan2(y, x), z)
            return np.maximum(np.maximum(wide, -18 - z), z - self.junction_mm - 4).astype(np.float32)

        def wall(x: Block, y: Block, z: Block) -> Block:
            return np.maximum(np.maximum(lumen(x, y, z) - np.float32(1.6), -4 - z), z - self.junction_mm - 4)

        def leaflets(x: Block, y: Block, z: Block) -> Block:
            azimuth, radius = np.arctan2(y, x), np.hypot(x, y)
            share = np.clip(radius / self.radius(azimuth, z), 0, 1.2)
            edge = self.attachment(azimuth)
            sheet = self.coaptation_mm + (edge - self.coaptation_mm) * share * share
            # The slope of the sheet turns a vertical gap into a distance.
            slope = 2 * np.abs(edge - self.coaptation_mm) * share / self.annulus_mm
            thin = np.abs(z - sheet) / np.sqrt(1 + slope * slope) - np.float32(0.55)
            return np.maximum(thin, radius - self.radius(azimuth, z)).astype(np.float32)

        def coaptation(x: Block, y: Block, z: Block) -> Block:
            azimuth, radius = np.arctan2(y, x), np.hypot(x, y)
            wide = self.radius(azimuth, z)
            share = np.clip(radius / wide, 0, 1)
            result = np.full(x.shape, 9.0, np.float32)
            for angle, height in zip(self.commissure_rad, self.commissure_mm, strict=True):
                aside = np.abs(-np.sin(angle) * x + np.cos(angle) * y)
                ahead = np.cos(angle) * x + np.sin(angle) * y
                sheet = self.coaptation_mm + (height - self.coaptation_mm) * share * share
                inside = np.maximum(np.maximum(sheet - 1.0 - z, z - sheet - 2.6 * (1 - share)), -ahead)
                result = np.minimum(result, np.maximum(aside - np.float32(0.55), np.maximum(inside, radius - wide)))
            return result.astype(np.float32)

        lean = generator.normal(0, 5.0, size=2)
        height = self.junction_mm
        ascending = [(0, 0, height - 1), (0.15 * lean[0], 0.15 * lean[1], height + 15), (*(0.5 * lean), height + 40)]
        ascending.append((lean[0] - 6.0, lean[1] + 8.0, top))
        wide = self.junction_radius_mm
        box = ((-reach, -reach, -20.0), (reach, reach, height + 6.0))
        parts = [
            Part(tube(ascending, [wide + 1.5] * 4), muscle * 0.7),
            Part([Formula(*box, wall)], muscle * 0.8),
            Part(tube(ascending, [wide, wide, wide + 1.0, wide + 1.5]), blood),
            Part([Formula(*box, lumen)], blood, edge_mm=0.4),
            Part([Formula(*box, leaflets)], muscle, edge_mm=0.4),
            Part([Formula(*box, coaptation)], muscle, edge_mm=0.4),
        ]
        return parts + self._coronaries(generator, blood) + self._calcium(generator)

    def _coronaries(self, generator: np.random.Generator, blood: float) -> list[Part]:
        parts = []
        for index, (azimuth, z, radius) in enumerate(zip(self.ostium_rad, self.ostium_mm, self.vessel_mm, strict=True)):
            ostium = self.point(float(azimuth), float(z))
            out = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
            side = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0]) * (1.0 if index else -1.0)
            bend = generator.normal(0, 2.0, size=3)
            controls = [
                ostium - 1.5 * out,
                ostium + 5 * out + [0, 0, 0.5],
                ostium + 13 * out + 3 * side + [0, 0, -1.0] + bend,
                ostium + 20 * out + 16 * side + [0, 0, -10.0] + bend,
                ostium + 16 * out + 30 * side + [0, 0, -30.0] + 2 * bend,
            ]
            parts.append(
                Part(tube(controls, [radius + 0.3, radius, radius, 0.85 * radius, 0.7 * radius]), blood * 0.95)
            )
            if index:  # the left main divides: the circumflex runs the other way round
                branch = [
                    controls[2],
                    ostium + 17 * out - 10 * side + [0, 0, -6.0],
                    ostium + 8 * out - 26 * side + [0, 0, -18.0],
                ]
                parts.append(Part(tube(branch, [0.85 * radius, 0.8 * radius, 0.65 * radius]), blood * 0.95))
        return parts

    def _calcium(self, generator: np.random.Generator) -> list[Part]:
        parts = []
        for _ in range(int(generator.poisson(1.3))):
            azimuth = float(generator.uniform(-np.pi, np.pi))
            at = self.point(azimuth, float(self.attachment(np.array(azimuth))))
            parts.append(
                Part([Ellipsoid(0.82 * at * [1, 1, 0] + [0, 0, at[2]], generator.uniform(0.8, 2.2, size=3))], 950.0)
            )
        return parts


def _crown(root: AorticRoot) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seven azimuths (hinge, commissure, hinge, ..., first hinge again) in rising order, and their heights."""
    angles = [root.cusp_rad[0], root.commissure_rad[0], root.cusp_rad[1], root.commissure_rad[1], root.cusp_rad[2]]
    knots = np.unwrap(np.array([*angles, root.commissure_rad[2], root.cusp_rad[0] + 2 * np.pi]))
    hinge, top = root.hinge_mm, root.commissure_mm
    return knots, np.array([hinge[0], top[0], hinge[1], top[1], hinge[2], top[2], hinge[0]])


def random_root(generator: np.random.Generator) -> AorticRoot:
    """Draw a root; in about one case of twelve the right ostium arises from the left sinus."""
    # Azimuth 0 points to the patient's left, pi/2 to the back: right sinus in front, left sinus left and behind.
    cusp = np.deg2rad(np.array([-95.0, 25.0, 145.0]) + generator.normal(0, 7.0, size=3) + generator.normal(0, 8.0))
    following = np.array([cusp[1], cusp[2], cusp[0] + 2 * np.pi])
    commissure = 0.5 * (cusp + following) + np.deg2rad(generator.normal(0, 4.0, size=3))
    junction = generator.uniform(19.0, 24.0)
    annulus = generator.uniform(10.8, 13.8)
    commissure_mm = junction - generator.uniform(2.5, 5.5, size=3)
    ostium = cusp[:2] + np.deg2rad(generator.normal(0, 9.0, size=2))
    if generator.random() < 0.08:
        ostium[0] = cusp[1] - np.deg2rad(generator.uniform(28, 40))
    root = AorticRoot(
        cusp_rad=cusp,
        commissure_rad=commissure,
        commissure_mm=commissure_mm,
        hinge_mm=generator.normal(0, 1.0, size=3),
        bulge_mm=generator.uniform(4.0, 6.5, size=3),
        annulus_mm=annulus,
        ellipticity=generator.uniform(0.02, 0.10),
        ellipse_rad=generator.uniform(0, np.pi),
        junction_mm=junction,
        junction_radius_mm=annulus * generator.uniform(1.02, 1.2),
        coaptation_mm=generator.uniform(6.5, 9.0),
        ostium_rad=ostium,
        ostium_mm=junction * generator.uniform(0.55, 0.85, size=2),
        vessel_mm=generator.uniform(1.6, 2.3, size=2) + [0.0, 0.3],
    )
    points = {
        "commissure-left-right": root.point(float(commissure[0]), float(commissure_mm[0])),
        "commissure-non-coronary-left": root.point(float(commissure[1]), float(commissure_mm[1])),
        "commissure-non-coronary-right": root.point(float(commissure[2]), float(commissure_mm[2])),
        "ostium-right": root.point(float(ostium[0]), float(root.ostium_mm[0])),
        "ostium-left": root.point(float(ostium[1]), float(root.ostium_mm[1])),
    }
    for name, azimuth, z in zip(CUSPS, cusp, root.hinge_mm, strict=True):
        points[f"hinge-{name}"] = root.point(float(azimuth), float(z))
    object.__setattr__(root, "landmarks_mm", points)
    return root
