"""Skull, skin and neck of the `ceph-19` phantom; every function draws one region and marks its landmarks."""

from typing import Any

import numpy as np

from .ceph_face import Face, Pen
from .curves import Curve, extreme, oval, ring, shrunk, spline


def soft_tissue(pen: Pen, face: Face, _: np.random.Generator) -> None:
    """Draw the skin profile; marks subnasale, both lips and the soft-tissue chin."""
    subnasale = face.subspinale + [face.lip_mm - 1.0, -4.5]
    upper_lip = face.upper_incisor + [face.lip_mm, -8.5]
    lower_lip = face.lower_incisor + [face.lip_mm + 0.5, 10.5]
    stomion = np.array([0.5 * (upper_lip[0] + lower_lip[0]) - 7.0, 0.55 * upper_lip[1] + 0.45 * lower_lip[1]])
    sulcus = face.supramentale + [face.chin_mm + 0.3, 3.5]
    chin = face.pogonion + [face.chin_mm, 3.0]
    nose_tip = np.array([subnasale[0] + 17.5 + face.nose_mm, subnasale[1] - 7.5])
    nasion = face.nasion + [6.5, 3.0]
    v = face.vault
    outline = spline(
        [
            (-82, 195),
            (-80, 150),
            (-75, 110),
            (-80, 75),
            (-99 + v[0], 40),
            (-110 + v[0], -5),
            (-103 + v[0], -55),
            (-70, -98 + v[1]),
            (-15, -119 + v[1]),
            (40, -98 + v[1]),
            (66 + v[2] * 0.5, -50),
            face.nasion + [8.5, -14.0],
            nasion,
            0.5 * (nasion + nose_tip) + [1.0, 0.0],
            nose_tip + [-2.0, -5.0],
            ("tip", nose_tip),
            nose_tip + [-5.0, 5.5],
            ("sn", subnasale),
            0.5 * (subnasale + upper_lip) + [-1.0, -0.5],
            ("ul", upper_lip),
            upper_lip + [-1.8, 5.0],
            ("stomion", stomion),
            lower_lip + [-2.2, -5.0],
            ("ll", lower_lip),
            lower_lip + [-2.5, 5.0],
            ("sulcus", sulcus),
            0.5 * (sulcus + chin) + [1.2, 0.0],
            ("chin", chin),
            chin + [-4.0, 9.5],
            face.menton + [-6.0, 9.0],
            (20, face.menton[1] + 8.0),
            (8, face.menton[1] + 22.0),
            (6, 160),
            (10, 195),
        ],
        closed=True,
        corners=["sn", "stomion"],
        step_mm=0.2,
    )
    points = outline.points_mm
    pen.area(points, 0.5, blur_mm=0.3)
    # Deeper inside, more tissue lies in the beam: ever smaller copies with ever softer edges.
    for factor, value in ((0.975, 0.12), (0.94, 0.13), (0.88, 0.14), (0.8, 0.14)):
        pen.area(shrunk(points, factor), value, blur_mm=2.5)
    pen.area(oval(nose_tip + [-9.0, -1.0], (9.0, 7.0)), 0.08, blur_mm=2.5)
    moved = pen.move(outline)
    pen.mark("subnasale", moved.at("sn"))
    pen.mark("upper-lip", extreme(moved.between("sn", "stomion"), pen.direction(1, 0)))
    pen.mark("lower-lip", extreme(moved.between("stomion", "sulcus"), pen.direction(1, 0)))
    after = moved.points_mm[moved.knots["sulcus"] : moved.knots["chin"] + 60]
    pen.mark("soft-tissue-pogonion", extreme(after, pen.direction(1, 0)))


def neck(pen: Pen, face: Face, generator: np.random.Generator) -> None:
    """Draw atlas, dens, vertebrae, airway and hyoid."""
    turn = np.array([[np.cos(face.neck_rad), -np.sin(face.neck_rad)], [np.sin(face.neck_rad), np.cos(face.neck_rad)]])
    top = np.array([-34.0, 46.0])
    # Atlas and dens.
    pen.dome(oval(top + [9.0, 2.0], (4.0, 5.0)), 0.5)
    pen.dome(oval(top + [1.0, 7.0], (4.5, 11.0), power=2.4), 0.45)
    pen.dome(oval(top + [-34.0, 2.0], (6.0, 4.0), angle_rad=0.1), 0.5)
    pen.line(spline([top + [6, 2], top + [-14, 1], top + [-31, 2]]).points_mm, 3.0, 0.25, blur_mm=0.5)
    place = top + [0.0, 18.0]
    for level in range(6):
        wide, tall = 9.0 + 0.35 * level + generator.normal(0, 0.3), 7.2 + generator.normal(0, 0.3)
        centre = top + turn @ (place - top)
        body = oval(centre, (wide, tall), angle_rad=face.neck_rad + 0.06, power=4.5)
        pen.dome(body, 0.55, rim=0.8)
        pen.area(ring(body, 1.0), 0.25)
        arch = centre + turn @ np.array([-19.0, 1.0])
        pen.dome(oval(arch, (6.5, 5.0), angle_rad=0.5, power=2.5), 0.3)
        spine = centre + turn @ np.array([-33.0 - 1.5 * level, 6.0 + level])
        pen.dome(oval(spine, (10.0, 3.2), angle_rad=-0.35 + face.neck_rad, power=2.5), 0.4)
        place = place + [-1.2 * level + 1.0, 2 * tall + 3.0]
    # Airway: nasopharynx down to the larynx, behind tongue and palate.
    gap = face.pns + [-6.0, 2.0]
    airway = spline([gap + [2.0, -14.0], gap, (-6, 74), (-12, 100), (-14, 125), (-18, 190)])
    width = np.interp(np.linspace(0, 1, len(airway.points_mm)), [0, 0.15, 0.4, 0.7, 1], [5, 13, 9, 13, 12])
    pen.line(airway.points_mm, width, -0.38, blur_mm=0.8)
    hyoid = np.array([6.0, 0.5 * (face.gonion[1] + face.menton[1]) + 24.0])
    pen.dome(oval(hyoid, (5.0, 3.5), angle_rad=-0.5), 0.3)
    pen.line(spline([hyoid, hyoid + [-14, -3], hyoid + [-24, -9]]).points_mm, 2.0, 0.2)


def vault(pen: Pen, face: Face, generator: np.random.Generator) -> None:
    """Draw both tables of the skull; marks sella."""
    v = face.vault
    outer_points: list[Any] = [
        face.nasion,
        face.nasion + [2.0, -9.0],
        face.nasion + [3.2, -18.0],
        (59 + 0.5 * v[2], -50),
        (35, -90 + v[1]),
        (-15, -110 + v[1]),
        (-66, -92 + v[1]),
        (-96 + v[0], -53),
        (-103 + v[0], -8),
        (-90 + 0.7 * v[0], 28),
        (-65, 43),
        (-38, 39),
    ]
    outer = spline(outer_points, step_mm=0.2)
    floor: list[Any] = [
        (-26, 30),
        (-14, 12),
        ("dorsum", (-face.sella_radius_mm - 1.5, -4.5)),
        *(0.98 * face.sella_radius_mm * np.array([[-0.95, 0.1], [-0.77, 0.64], [0, 1], [0.77, 0.64], [0.95, 0.1]])),
        ("tuberculum", (face.sella_radius_mm + 1.5, -4.0)),
        (20, -7),
        (36, -11),
        (50, -14),
    ]
    middle = np.array([-20.0, -30.0])
    inner_points = []
    for share, point in zip(np.linspace(0, 1, len(outer_points) - 1), outer_points[1:], strict=True):
        inward = middle - np.asarray(point)
        thickness = (8.0 if share == 0 else 6.0) + 2.0 * np.sin(3 * np.pi * share) + generator.normal(0, 0.5)
        inner_points.append(np.asarray(point) + inward * (thickness / np.linalg.norm(inward)))
    inner = spline([*inner_points, *floor], closed=True, corners=["dorsum", "tuberculum"], step_mm=0.2)
    whole = np.concatenate([outer.points_mm, spline(floor, step_mm=0.2).points_mm])
    pen.area(whole, 1.25, blur_mm=0.3)
    pen.area(inner.points_mm, -0.65, blur_mm=0.5)
    pen.area(shrunk(inner.points_mm, 0.9), 0.1, blur_mm=2.5)
    pen.line(outer.points_mm, 1.4, 0.35)
    pen.line(inner.points_mm, 1.0, 0.25)
    pen.cloud(inner.points_mm, 0.05, 16.0)
    pen.cloud(whole, 0.04, 3.0)
    # A suture line, and vessels' grooves.
    start = np.array([20 + 2 * v[2], -100 + v[1]])
    coronal = spline([start, start + [4, 25], start + [0, 50], start + [8, 75]]).points_mm
    wiggle = np.sin(np.arange(len(coronal)) * 0.25)[:, None] * [0.5, 0.1]
    pen.line(coronal + wiggle, 0.7, -0.10)
    pen.mark("sella", pen.placing.apply([[0.0, 0.0]])[0])


def cranial_base(pen: Pen, face: Face, _: np.random.Generator) -> None:
    """Draw sella turcica, clivus, petrous bone, ear canal and base contour; marks porion."""
    r = face.sella_radius_mm
    # Sella turcica: a dark, round fossa with a bright wall and the posterior clinoid on top of the dorsum.
    angle = np.linspace(np.deg2rad(-25), np.deg2rad(205), 90)
    wall = r * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    pen.area(oval((0, 0), (r, r)), -0.22, blur_mm=0.3)
    pen.line(wall * (1 + 0.7 / r), 1.6, 1.1)
    pen.dome(oval((-r - 1.2, -3.2), (1.7, 2.4), angle_rad=0.4), 0.7)
    pen.dome(oval((r + 2.0, -3.0), (2.8, 1.5), angle_rad=-0.2), 0.6)
    # Clivus, planum, anterior fossa floor, sphenoid body.
    clivus = spline([(-r - 1.5, -3), (-14, 12), (-26, 29), (-34, 41)]).points_mm
    pen.line(clivus, np.linspace(3.5, 7.0, len(clivus)), 0.45, blur_mm=0.5)
    planum = spline([(r + 1, -3.5), (20, -6), (36, -10), (51, -14)]).points_mm
    pen.line(planum, 2.2, 0.55)
    pen.line(planum + [0.0, 5.0], 1.4, 0.25)
    wing = spline([(10, 16), (20, 6), (28, -8), (40, -22), (46, -34)]).points_mm
    pen.line(wing, np.linspace(2.6, 1.0, len(wing)), 0.35)
    sphenoid = oval((8, 10), (11, 7.5), angle_rad=0.15, power=2.6)
    pen.area(sphenoid, -0.14, blur_mm=0.5)
    pen.area(ring(sphenoid, 0.9), 0.25)
    # Petrous pyramid and mastoid.
    petrous = spline([(-6, 14), (-16, 8), (-32, 6), (-44, 14), (-44, 30), (-30, 32), (-12, 24)], closed=True).points_mm
    pen.area(petrous, 0.55, blur_mm=2.5)
    mastoid = face.porion + np.array([-16.0, 12.0])
    pen.dome(oval(mastoid, (14, 15), power=2.2), 0.25, blur_mm=2.5)
    pen.cloud(oval(mastoid, (13, 14)), 0.13, 1.6)
    # External acoustic meatus: dark oval, bright ring; porion is the highest point of the opening.
    meatus = Curve(oval(face.porion + [0.0, 4.2], (3.6, 4.2), step=400), {})
    pen.area(meatus.points_mm, -0.75, blur_mm=0.3)
    pen.area(ring(oval(face.porion + [0.0, 4.2], (4.4, 5.0)), 1.6), 0.45)
    pen.mark("porion", extreme(pen.move(meatus).points_mm, pen.direction(0, -1)))
    # Lower contour of the cranial base; it crosses the ramus at articulare.
    ar = face.articulare
    base = spline(
        [ar + [-20.0, 16.0], ar + [-9.0, 7.5], ("ar", ar), ar + [9.0, -6.5], ar + [18.0, -9.0], ar + [32, -8]]
    )
    pen.line(base.points_mm, 1.6, 0.6)


def orbit_and_sinuses(pen: Pen, face: Face, _: np.random.Generator) -> None:
    """Draw frontal sinus, nasal bone, orbit and cheek bone; marks nasion and orbitale."""
    n = face.nasion
    sinus = spline(
        [n + [-3.5, -4.0], n + [-1.5, -11], n + [-1.0, -20], n + [-4.0, -25], n + [-7.0, -15]], closed=True
    ).points_mm
    pen.area(sinus, -0.45, blur_mm=0.3)
    # Frontonasal suture: a thin dark gap that opens in the notch at nasion; below it the nasal bone.
    nasal = spline(
        [("n", n), n + [3.4, 5.0], n + [7.2, 14.0], ("tip", n + [10.0, 21.0]), n + [4.0, 14.0], n + [-2.0, 5.0]],
        closed=True,
        corners=["n", "tip"],
    )
    pen.area(nasal.points_mm, 0.55)
    pen.line(np.linspace(n, n + [-7.0, 2.2], 60), np.linspace(1.6, 0.7, 60), -0.45, blur_mm=0.2)
    pen.mark("nasion", pen.placing.apply([n])[0])
    # Orbit: dark, with a bright lower and lateral rim; orbitale is its lowest point.
    centre = face.orbitale + [-2.0, -17.0]
    orbit = Curve(oval(centre, (15.5, 17.0), angle_rad=-0.15, step=800, power=2.3), {})
    pen.area(orbit.points_mm, -0.16, blur_mm=0.3)
    angle = np.linspace(np.deg2rad(-40), np.deg2rad(200), 300)
    rim = np.stack([15.5 * np.cos(angle), 17.0 * np.sin(angle)], axis=1)
    moved = pen.move(orbit)
    pen.mark("orbitale", extreme(moved.points_mm, pen.direction(0, 1)))
    lower = oval(centre, (15.5, 17.0), angle_rad=-0.15, step=800, power=2.3)[20:420]
    pen.line(lower + [0.0, 0.9], 1.9, 0.55, blur_mm=0.2)
    pen.line(rim * 0.8 + centre + [-14.0, 2.0], 1.1, 0.25)
    # Ethmoid cells and the zygomatic arch with the key ridge.
    pen.cloud(oval((32, 12), (16, 13)), 0.14, 3.2)
    key = spline([(24, 20), (29, 34), (33, 44), (37, 34), (42, 24)]).points_mm
    pen.line(key, 1.6, 0.4)
    arch = spline([(40, 26), (24, 22), (8, 19), (-6, 18)]).points_mm
    pen.line(arch, 3.0, 0.18, blur_mm=0.5)
    fissure = face.pns + [-1.5, -14.0]
    pen.area(oval(fissure, (2.2, 11.0), angle_rad=0.12), -0.2, blur_mm=0.5)
    pen.area(ring(oval(fissure, (2.8, 11.6), angle_rad=0.12), 0.8), 0.22)
