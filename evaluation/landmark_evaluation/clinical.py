"""The eight clinical analyses of the ISBI 2015 cephalometric challenge, computed from points.

Wang et al., "A benchmark for comparison of dental radiography analysis algorithms", Medical Image Analysis 31, 2016:
angles in degrees, ratios, millimetres, each cut into classes. A success is a case whose class from one set of points is
the class from the other. The face looks along +x, as in the challenge's images.

The borders of the classes are those that reports on this challenge repeat, not checked against the paper itself, which
is not openly available. Those of ODI and APDI are the norms of their authors, mean +- SD: 74.5 +- 6.07 (Kim, Angle
Orthodontist 1974) and 81.4 +- 3.79 degrees (Kim and Vietas, American Journal of Orthodontics 1978). The public archive
of the challenge holds points alone, no classes to compare with.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TASK = "ceph-19"
Points = Mapping[str, NDArray[np.float64]]  # landmark name -> (cases, 2) mm


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
    """The (cases,) value of every analysis from (cases, landmarks, 3) points; NaN where a landmark is absent, as it is
    in every case where an own version of the task leaves it out."""
    nowhere = np.full((len(points_mm), 2), np.nan)
    points: Points = defaultdict(lambda: nowhere, {name: points_mm[:, k, :2] for k, name in enumerate(names)})
    with np.errstate(invalid="ignore", divide="ignore"):
        return {key: analysis.measure(points) for key, analysis in ANALYSES.items()}


@dataclass(frozen=True, eq=False)
class Agreement:
    """One analysis, (cases,) each: judged, whether the reference has a class; same, whether that is the submission's
    too; both, whether both have a value; difference of the two in the analysis' own unit, 0 where not both."""

    judged: NDArray[np.bool_]
    same: NDArray[np.bool_]
    both: NDArray[np.bool_]
    difference: NDArray[np.float64]


def agreement(
    points_mm: NDArray[np.float64], reference_mm: NDArray[np.float64], *, names: Sequence[str]
) -> dict[str, Agreement]:
    """Every analysis that the reference has a class of in some case, case by case."""
    ours, theirs = measure(points_mm, names), measure(reference_mm, names)
    found = {}
    for key, analysis in ANALYSES.items():
        wanted, given = analysis.classify(theirs[key]), analysis.classify(ours[key])
        judged = wanted >= 0
        both = judged & (given >= 0)
        if judged.any():
            difference = np.where(both, np.abs(ours[key] - theirs[key]), 0.0)
            found[key] = Agreement(judged, (given == wanted) & judged, both, difference)
    return found


def compare_classes(
    points_mm: NDArray[np.float64], reference_mm: NDArray[np.float64], *, names: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """Per analysis the success classification rate over the cases where the reference has a class.

    A case whose class cannot be computed from the submission's points counts as a failure. mean_absolute_difference is
    in the analysis' own unit, over the cases with both values.
    """
    result: dict[str, dict[str, float | int]] = {}
    for key, row in agreement(points_mm, reference_mm, names=names).items():
        n_cases = int(row.judged.sum())
        result[key] = {"n_cases": n_cases, "success_classification_rate": float(row.same.sum()) / n_cases}
        if row.both.any():
            result[key]["mean_absolute_difference"] = float(row.difference.sum() / row.both.sum())
    return result
