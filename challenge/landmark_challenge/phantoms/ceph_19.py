"""Synthetic lateral cephalograms for `ceph-19`.

The skull is drawn from outlines in millimetres (origin at the sella, x anterior, y down, Frankfort plane level). All
outlines pass through one smooth map, and the landmarks are read off the mapped outlines by their definitions ("most
anterior", "lowest", in the frame of the head), so they are exact at any resolution.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..landmarks import Landmarks
from ..task import load_task
from .case import Plan, Streams, empty_image
from .ceph_face import Drawing, Pen, random_face
from .ceph_jaws import mandible, maxilla, teeth
from .ceph_skull import cranial_base, neck, orbit_and_sinuses, soft_tissue, vault
from .curves import fill
from .deformation import SmoothMap, random_map, rotation
from .fields import blur, smooth_field, x_ray_counts

TASK_NAME = "ceph-19"
SPACING_MM, SIZE = 0.4, (484, 600)
FULL_SPACING_MM, FULL_SIZE = 0.1, (1935, 2400)
EXTENT_MM = np.array([193.5, 240.0])
REGIONS = (soft_tissue, neck, vault, cranial_base, orbit_and_sinuses, maxilla, mandible, teeth)
SELLA_MM = np.array([82.0, 103.0])  # where it lies on average, from the upper left corner of the image


@dataclass(frozen=True)
class Exposure:
    """How the detector turns attenuation into grey values."""

    photons: float
    blur_mm: float
    centre: float
    contrast: float
    floor: float
    ceiling: float
    ruler: bool
    ear_rod: bool
    bars: bool


def plan(streams: Streams, *, full_size: bool) -> Plan:
    """One cephalogram: about 484x600 at 0.4 mm, or about 1935x2400 at 0.1 mm; uint8, origin 0."""
    generator = streams.anatomy
    spacing_factor, size_factor = generator.uniform(0.96, 1.04), generator.uniform(0.98, 1.02, size=2)
    extent_mm = EXTENT_MM * size_factor * spacing_factor
    spacing = (FULL_SPACING_MM if full_size else SPACING_MM) * spacing_factor
    size = np.round(np.array(FULL_SIZE if full_size else SIZE) * size_factor).astype(int)
    pose_rad = np.deg2rad(generator.normal(0.0, 5.0))
    placing = _random_pose(generator, extent_mm, pose_rad)
    exposure = Exposure(
        photons=generator.uniform(1500, 5000),
        blur_mm=generator.uniform(0.15, 0.35),
        centre=generator.uniform(1.05, 1.6),
        contrast=generator.uniform(1.3, 2.2),
        floor=generator.uniform(0, 30),
        ceiling=generator.uniform(235, 255),
        ruler=bool(generator.random() < 0.6),
        ear_rod=bool(generator.random() < 0.5),
        bars=bool(generator.random() < 0.5),
    )
    face, pen = random_face(generator), Pen(placing, rotation([pose_rad]))
    for draw_region in REGIONS:
        draw_region(pen, face, generator)
    names = load_task(TASK_NAME).names
    points = np.array([pen.drawing.landmarks_mm[name] for name in names])
    # Drawn from the image's corner; the file's origin is the centre of the first pixel.
    points_mm = np.column_stack([points - 0.5 * spacing, np.zeros(len(points))])
    return Plan(
        Landmarks(names, points_mm),
        empty_image(size, [spacing, spacing]),
        lambda: _draw(pen.drawing, size, spacing, extent_mm, exposure, streams),
    )


def _draw(
    drawing: Drawing,
    size: NDArray[np.int_],
    spacing: float,
    extent_mm: NDArray[np.float64],
    exposure: Exposure,
    streams: Streams,
) -> NDArray[np.uint8]:
    axes = [(np.arange(count) + 0.5) * spacing for count in size]
    attenuation = _attenuation(drawing, axes, spacing, extent_mm, streams.texture)
    _add_artefacts(attenuation, streams.anatomy, spacing, extent_mm, exposure, drawing)
    attenuation = blur(attenuation, exposure.blur_mm / spacing)
    return _film(attenuation, axes, extent_mm, exposure, streams)


def _random_pose(generator: np.random.Generator, extent_mm: NDArray[np.float64], pose_rad: float) -> SmoothMap:
    size = generator.uniform(0.92, 1.08)
    stretch = np.diag(generator.uniform(0.97, 1.03, size=2))
    shift = generator.uniform(-1, 1, size=2) * [11.5, 12.5]
    return random_map(
        generator,
        rotation([pose_rad]) @ stretch * size,
        centre_mm=[30.0, 50.0],
        offset_mm=SELLA_MM * extent_mm / EXTENT_MM + [30.0, 48.0] + shift,
        wavelength_mm=(90.0, 220.0),
        strain=0.3,
    )


def _attenuation(
    drawing: Drawing,
    axes: list[NDArray[np.float64]],
    spacing: float,
    extent_mm: NDArray[np.float64],
    texture: np.random.Generator,
) -> NDArray[np.float32]:
    shape = (len(axes[1]), len(axes[0]))
    total = np.zeros(shape, np.float32)
    for blur_mm in sorted({shape_.blur_mm for shape_ in drawing.shapes}):
        layer = np.zeros(shape, np.float32)
        for item in drawing.shapes:
            if item.blur_mm == blur_mm:
                fill(layer, item.polygon_mm / spacing - 0.5, item.value)
        total += blur(layer, blur_mm / spacing)
    for cloud in drawing.clouds:
        mask = np.zeros(shape, np.float32)
        fill(mask, cloud.polygon_mm / spacing - 0.5, 1.0)
        field = smooth_field(texture, axes, knot_mm=cloud.knot_mm, extent_mm=extent_mm)
        total += mask * field * np.float32(cloud.value)
    return np.maximum(total, 0.0, out=total)


def _add_artefacts(
    attenuation: NDArray[np.float32],
    generator: np.random.Generator,
    spacing: float,
    extent_mm: NDArray[np.float64],
    exposure: Exposure,
    drawing: Drawing,
) -> None:
    """Ruler of the nasal rest, ring of the ear rod and collimator bars: metal that belongs to no anatomy."""
    ruler_x, ruler_y = extent_mm[0] - generator.uniform(22, 34), generator.uniform(78, 100)
    ring_at = drawing.landmarks_mm["porion"] + generator.normal(0, 2.5, size=2) + [-1.0, 5.5]
    bars_at = generator.uniform(0.15, 0.3) + np.array([0.0, 0.27, 0.54])

    def rectangle(x: float, y: float, width: float, height: float, value: float) -> None:
        corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
        fill(attenuation, corners / spacing - 0.5, value)

    if exposure.ruler:
        rectangle(ruler_x, -1.0, 1.6, ruler_y, 1.3)
        rectangle(ruler_x - 4.0, -1.0, 9.0, ruler_y * 0.55, 0.5)
        rectangle(ruler_x - 2.5, 4.0, 6.0, ruler_y * 0.45, -0.2)
        for tick in range(10):
            rectangle(ruler_x, ruler_y - 22 + 2 * tick, 3.0, 0.9, 1.6)
        rectangle(ruler_x - 5.0, ruler_y - 15.0, 10.0, 22.0, 0.45)
    if exposure.ear_rod:
        angle = np.arange(120) * (2 * np.pi / 120)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        for radius, value in ((7.6, 1.0), (6.4, -1.0), (5.6, 0.25)):
            fill(attenuation, (ring_at + radius * circle) / spacing - 0.5, value)
    if exposure.bars:
        for x in bars_at * extent_mm[0]:
            rectangle(x, -1.0, 11.0, 6.5, 3.0)
            rectangle(x, extent_mm[1] - 5.0, 11.0, 6.5, 3.0)


def _film(
    attenuation: NDArray[np.float32],
    axes: list[NDArray[np.float64]],
    extent_mm: NDArray[np.float64],
    exposure: Exposure,
    streams: Streams,
) -> NDArray[np.uint8]:
    heel = 0.10 * smooth_field(streams.texture, axes, knot_mm=90.0, extent_mm=extent_mm)
    counts = x_ray_counts(streams.noise, attenuation + heel, exposure.photons)
    density = np.log(np.float32(exposure.photons)) - np.log(counts)
    grey = exposure.floor + (exposure.ceiling - exposure.floor) / (
        1 + np.exp(-exposure.contrast * (density - exposure.centre))
    )
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
