"""The eight clinical analyses of the ISBI 2015 cephalometric challenge, computed from points.

Wang et al., "A benchmark for comparison of dental radiography analysis algorithms", Medical Image Analysis 31, 2016:
angles in degrees, ratios, millimetres, each cut into classes. A success is a case whose class from one set of points is
the class from the other. The face looks along +x, as in the challenge's images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TASK = "ceph-19"
Points = dict[str, NDArray[np.float64]]  # landmark name -> (cases, 2) mm


@dataclass(frozen=True)
class Analysis:
    """measure: (cases,) values from points. classes: what (below, within, above) the norm `low` to `high` means, and
    what lies below `reversal` where there is one."""

    title: str
    unit: str
    low: float
    high: float
    classes: tuple[str, ...]
    measure: Callable[[Points], NDArray[np.float64]]
    reversal: float | None = None

    def classify(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """(cases,) 0 below, 1 within (borders included), 2 above the norm, 3 below reversal; -1 without a value."""
        found = np.where(values < self.low, 0, np.where(values > self.high, 2, 1))
        if self.reversal is not None:
            found = np.where(values < self.reversal, 3, found)
        return np.where(np.isfinite(values), found, -1)


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(cases,) unsigned angle between directions in degrees."""
    return np.degrees(np.arctan2(np.abs(_cross(a, b)), np.einsum("nk,nk->n", a, b)))


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _length(a: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hypot(a[:, 0], a[:, 1])


def _at_nasion(p: Points, name: str) -> NDArray[np.float64]:
    return _angle(p["sella"] - p["nasion"], p[name] - p["nasion"])


def _frankfort(p: Points) -> NDArray[np.float64]:
    return p["orbitale"] - p["porion"]


def _palatal_tilt(p: Points) -> NDArray[np.float64]:
    """Angle between the Frankfort and the palatal plane, positive where the palatal plane dips towards the front."""
    palatal = p["anterior-nasal-spine"] - p["posterior-nasal-spine"]
    return np.copysign(_angle(_frankfort(p), palatal), _cross(_frankfort(p), palatal))


def _odi(p: Points) -> NDArray[np.float64]:
    mandible_to_ab = _angle(p["gonion"] - p["menton"], p["subspinale"] - p["supramentale"])
    return mandible_to_ab + _palatal_tilt(p)


def _apdi(p: Points) -> NDArray[np.float64]:
    facial, ab = p["pogonion"] - p["nasion"], p["supramentale"] - p["subspinale"]
    facial_to_ab = np.copysign(_angle(facial, ab), -_cross(facial, ab))
    return _angle(-_frankfort(p), facial) + facial_to_ab + _palatal_tilt(p)


def _overjet(p: Points) -> NDArray[np.float64]:
    step = p["incision-superius"] - p["incision-inferius"]
    return np.where(step[:, 0] < 0, -1.0, 1.0) * _length(step)


ANALYSES: dict[str, Analysis] = {
    "anb": Analysis(
        "ANB", "degrees", 3.2, 5.7, ("class III", "class I", "class II"),
        lambda p: _at_nasion(p, "subspinale") - _at_nasion(p, "supramentale"),
    ),
    "snb": Analysis(
        "SNB", "degrees", 74.6, 78.7, ("retrognathic mandible", "normal mandible", "prognathic mandible"),
        lambda p: _at_nasion(p, "supramentale"),
    ),
    "sna": Analysis(
        "SNA", "degrees", 79.4, 83.2, ("retrognathic maxilla", "normal maxilla", "prognathic maxilla"),
        lambda p: _at_nasion(p, "subspinale"),
    ),
    "odi": Analysis("ODI", "degrees", 68.4, 80.5, ("open bite", "normal", "deep bite"), _odi),
    "apdi": Analysis("APDI", "degrees", 77.6, 85.2, ("class II", "class I", "class III"), _apdi),
    "fhi": Analysis(
        "FHI", "ratio", 0.65, 0.75, ("long face", "normal", "short face"),
        lambda p: _length(p["sella"] - p["gonion"]) / _length(p["nasion"] - p["menton"]),
    ),
    "fha": Analysis(
        "FHA", "degrees", 26.8, 31.4, ("low mandible angle", "normal", "high mandible angle"),
        lambda p: _angle(p["nasion"] - p["sella"], p["gnathion"] - p["gonion"]),
    ),
    # Four classes as in the paper, which calls exactly 0 mm edge to edge (continuous points never reach it) and leaves
    # 0 to 2 mm without a class: here all of that counts as edge to edge.
    "mw": Analysis(
        "MW", "mm", 2.0, 4.5, ("edge to edge", "normal", "large overjet", "anterior cross bite"), _overjet, reversal=0.0
    ),
}  # fmt: skip


def measure(points_mm: NDArray[np.float64], names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The (cases,) value of every analysis from (cases, landmarks, 3) points; NaN where a landmark is absent."""
    points = {name: points_mm[:, column, :2] for column, name in enumerate(names)}
    with np.errstate(invalid="ignore", divide="ignore"):
        return {key: analysis.measure(points) for key, analysis in ANALYSES.items()}


def class_agreement(
    points_mm: NDArray[np.float64], reference_mm: NDArray[np.float64], *, names: Sequence[str]
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Per analysis (cases,) whether the class is the reference's, and whether the reference has one."""
    ours, theirs = measure(points_mm, names), measure(reference_mm, names)
    found = {}
    for key, analysis in ANALYSES.items():
        wanted = analysis.classify(theirs[key])
        found[key] = ((analysis.classify(ours[key]) == wanted) & (wanted >= 0), wanted >= 0)
    return found


def compare_classes(
    points_mm: NDArray[np.float64], reference_mm: NDArray[np.float64], *, names: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Per analysis the success classification rate over the cases where the reference has a class.

    A case whose class cannot be computed from the submission's points counts as a failure. mean_absolute_difference is
    in the analysis' own unit, over the cases with both values.
    """
    ours, theirs = measure(points_mm, names), measure(reference_mm, names)
    result: dict[str, dict[str, float | int]] = {}
    for key, analysis in ANALYSES.items():
        wanted, found = analysis.classify(theirs[key]), analysis.classify(ours[key])
        judged = wanted >= 0
        if not judged.any():
            continue
        row: dict[str, float | int] = {
            "n_cases": int(judged.sum()),
            "success_classification_rate": float(np.mean(found[judged] == wanted[judged])),
        }
        both = judged & (found >= 0)
        if both.any():
            row["mean_absolute_difference"] = float(np.mean(np.abs(ours[key] - theirs[key])[both]))
        result[key] = row
    return result
