"""Jaws and teeth of the `ceph-19` phantom; every function draws one region and marks its landmarks."""

from collections.abc import Mapping

import numpy as np

from .ceph_face import Face, Pen, Point
from .curves import Curve, beside, extreme, midway, oval, ring, spline


def maxilla(pen: Pen, face: Face, _: np.random.Generator) -> None:
    """Draw palate, alveolar bone and maxillary sinus; marks ANS, PNS and subspinale."""
    ans, pns, a = face.ans, face.pns, face.subspinale
    palate = spline(
        [
            ("ans", ans),
            ans + [-7.0, -1.4],
            0.5 * (ans + pns) + [0.0, -0.6],
            pns + [9.0, -1.0],
            ("pns", pns),
            pns + [9.0, 2.0],
            0.5 * (ans + pns) + [0.0, 2.6],
            ans + [-8.0, 2.6],
        ],
        closed=True,
        corners=["ans", "pns"],
    )
    pen.area(palate.points_mm, 0.75, blur_mm=0.2)
    crest = face.upper_incisor + [-3.2, -10.0]
    alveolar = spline(
        [
            ("ans", ans),
            ans + [-1.6, 3.2],
            ("a", a),
            0.5 * (a + crest) + [0.5, 0.5],
            ("crest", crest),
            crest + [-7.0, -2.0],
            ans + [-14.0, 5.0],
            ans + [-8.0, 1.5],
        ],
        closed=True,
        corners=["ans", "crest"],
    )
    pen.area(alveolar.points_mm, 0.42)
    pen.line(beside(alveolar.between("ans", "crest"), 0.5), 1.0, 0.35, blur_mm=0.2)
    back = np.array([pns[0] + 6.0, face.upper_incisor[1] - 9.0])
    body = spline(
        [
            ans + [-6, 2],
            crest + [-5, -1],
            0.5 * (crest + back) + [0, -2],
            back,
            pns + [2, 3],
            0.5 * (ans + pns) + [0, 2],
        ],
        closed=True,
    ).points_mm
    pen.area(body, 0.45, blur_mm=0.5)
    pen.cloud(body, 0.05, 2.2)
    antrum = spline([pns + [4, -2], pns + [6, -16], (36, 22), (48, 26), ans + [-16, -3]], closed=True).points_mm
    pen.area(antrum, -0.16, blur_mm=0.5)
    pen.area(ring(antrum, 0.9), 0.2)
    velum = spline([pns, pns + [-9, 8], pns + [-14, 22]]).points_mm
    pen.line(velum, np.linspace(5, 8, len(velum)), 0.2, blur_mm=0.8)
    outline = pen.move(alveolar)
    pen.mark("anterior-nasal-spine", outline.at("ans"))
    pen.mark("subspinale", extreme(outline.between("ans", "crest"), pen.direction(-1, 0)))
    pen.mark("posterior-nasal-spine", pen.move(palate).at("pns"))


def mandible(pen: Pen, face: Face, generator: np.random.Generator) -> None:
    """Draw the lower jaw; marks supramentale, pogonion, menton, gnathion, gonion and articulare."""
    go, me, pg, b, ar = face.gonion, face.menton, face.pogonion, face.supramentale, face.articulare
    crest = face.lower_incisor + [-2.6, 10.5]
    lingual = face.lower_incisor + [-8.5, 11.5]
    molar = np.array([face.pns[0] + 9.0, face.lower_incisor[1] + 7.5])
    outline = spline(
        [
            ("crest", crest),
            0.6 * crest + 0.4 * b + [-0.3, 0.0],
            ("b", b),
            0.5 * (b + pg) + [-0.4, 0.0],
            ("pg", pg),
            pg + [-1.8, 4.6],
            ("me", me),
            me + [-9.0, -2.0],
            0.62 * me + 0.38 * go + [0.0, 1.6],
            0.3 * me + 0.7 * go + [0.0, 0.6],
            go + [9.0, 4.4],
            ("go", go),
            go + [-3.0, -8.5],
            0.5 * (go + ar) + [1.2, 0.0],
            ("ar", ar),
            ar + [1.0, -7.0],
            ar + [5.5, -11.5],
            ar + [10.5, -7.0],
            ar + [17.0, 2.0],
            ar + [25.0, -6.0],
            ar + [30.5, 2.0],
            ar + [33.0, 16.0],
            molar + [-3.0, -3.0],
            0.6 * molar + 0.4 * lingual,
            ("lingual", lingual),
        ],
        closed=True,
        corners=["crest", "lingual"],
    )
    points = outline.points_mm
    pen.area(points, 0.42)
    pen.cloud(points, 0.06, 2.0)
    front = outline.between("crest", "ar")
    # The cortical bone lies inside the outline, so that its outer edge is the edge one sees.
    cortical = np.interp(np.linspace(0, 1, len(front)), [0, 0.2, 0.5, 1], [1.4, 3.0, 2.6, 1.6])
    pen.line(beside(front, cortical / 2), cortical, 0.4, blur_mm=0.3)
    rest = points[outline.knots["ar"] :]
    pen.line(rest, 1.0, 0.2)
    inner = spline([lingual, b + [-9.5, 2.0], pg + [-12.0, 0.0], me + [-6.0, -4.5]]).points_mm
    pen.line(inner, 1.8, 0.4)
    canal = spline([ar + [20, 24], go + [20, -16], 0.5 * (go + me) + [4, -12], me + [-16, -14]])
    pen.line(canal.points_mm, 2.6, -0.1, blur_mm=0.5)
    # The other side of the lower border, a little off because the beam diverges.
    pen.line(
        outline.between("me", "ar")[60:-150] + [generator.uniform(-3, -1), generator.uniform(-3.5, -1.5)], 1.2, 0.2
    )
    moved = pen.move(outline)
    pen.mark("supramentale", extreme(moved.between("crest", "pg"), pen.direction(-1, 0)))
    anterior = moved.between("b", "me")
    pen.mark("pogonion", extreme(anterior, pen.direction(1, 0)))
    lower = moved.between("pg", "go")
    lower = lower[: len(lower) // 2]
    pen.mark("menton", extreme(lower, pen.direction(0, 1)))
    pen.mark("gnathion", _between_points(moved, pen.drawing.landmarks_mm))
    angle = moved.points_mm[moved.knots["go"] - 120 : moved.knots["go"] + 150]
    pen.mark("gonion", extreme(angle, pen.direction(-1, 1)))
    pen.mark("articulare", moved.at("ar"))


def _between_points(moved: Curve, landmarks_mm: Mapping[str, Point]) -> Point:
    """Gnathion: half way along the outline from pogonion to menton."""
    ends = [int(np.argmin(np.linalg.norm(moved.points_mm - landmarks_mm[n], axis=1))) for n in ("pogonion", "menton")]
    return midway(moved.points_mm[ends[0] : ends[1] + 1])


def _incisor(tip: Point, tilt_rad: float, *, up: bool, scale: float) -> Curve:
    """An incisor with its edge at `tip`; its root points up (upper) or down (lower) and backwards."""
    sign = -1.0 if up else 1.0
    axis = np.array([-np.sin(tilt_rad), sign * np.cos(tilt_rad)])
    front = np.array([np.cos(tilt_rad), sign * np.sin(tilt_rad)])

    def at(along: float, across: float) -> Point:
        return tip + scale * (along * axis + across * front)

    return spline(
        [
            ("tip", at(0, 0)),
            at(3.0, 1.3),
            at(7.5, 2.7),
            at(11.0, 2.6),
            at(18.0, 1.8),
            ("apex", at(23.0, 0.0)),
            at(17.0, -2.6),
            at(10.0, -4.0),
            at(6.5, -3.4),
            at(2.5, -0.9),
        ],
        closed=True,
        corners=["tip"],
    )


def teeth(pen: Pen, face: Face, generator: np.random.Generator) -> None:
    """Draw all teeth; marks both incisal edges."""
    for name, tip, tilt, up, scale in (
        ("incision-superius", face.upper_incisor, face.upper_tilt_rad, True, 1.0),
        ("incision-inferius", face.lower_incisor, face.lower_tilt_rad, False, 0.86),
    ):
        tooth = _incisor(tip, tilt, up=up, scale=scale)
        pen.area(tooth.points_mm, 0.62, blur_mm=0.2)
        enamel = _incisor(tip, tilt, up=up, scale=scale * 0.62)
        pen.area(enamel.points_mm, 0.4, blur_mm=0.2)
        pulp = np.linspace(tooth.at("apex"), 0.75 * tip + 0.25 * tooth.at("apex"), 50)
        pen.line(pulp, np.linspace(0.6, 1.3, 50), -0.25)
        pen.mark(name, pen.move(tooth).at("tip"))
    # Premolars and molars of both jaws meet in the occlusal plane.
    front = 0.5 * (face.upper_incisor + face.lower_incisor) + [-13.0, -1.0]
    back = np.array([face.pns[0] + 9.0, face.upper_incisor[1] - 8.0 + generator.normal(0, 1.0)])
    along = (back - front) / np.linalg.norm(back - front)
    place = front.copy()
    for kind, width in enumerate((6.6, 6.8, 9.8, 9.6, 8.6)):
        place = place + along * (width / 2)
        for side in (-1.0, 1.0):
            shift = along * (1.5 if side > 0 else 0.0)
            crown = place + shift + [0.0, side * 3.7]
            pen.area(oval(crown, (width / 2 - 0.25, 3.6), power=3.2), 0.45, blur_mm=0.2)
            pen.area(oval(crown - [0.0, side * 1.0], (width / 2 - 0.5, 2.4), power=3.2), 0.25, blur_mm=0.2)
            roots = (0.0,) if kind < 2 else (-0.27, 0.27)
            for root in roots:
                start = crown + along * (root * width) + [0.0, side * 2.5]
                end = start + along * (1.2 + 1.5 * root) + [0.0, side * (10.5 - 0.6 * kind)]
                pen.line(np.linspace(start, end, 40), np.linspace(width * (0.6 if kind < 2 else 0.42), 1.2, 40), 0.3)
        if generator.random() < 0.25:
            pen.area(oval(place + [0.0, -2.2], (width * 0.3, 1.8)), 1.0, blur_mm=0.2)  # a filling
        place = place + along * (width / 2)
