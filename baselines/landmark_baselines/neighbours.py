"""Vertebrae look alike: how often a point lies at the wrong one, and errors in units of vertebral heights.

What is measured comes from the cases of a details.json, as `landmarks evaluate` writes it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = re.compile(r"\b[ctls]\d+\b-?")


def place_of(name: str) -> str:
    """What a landmark is called at every level of the spine.

    >>> place_of("t12-upper-left"), place_of("disc-l5-s1"), place_of("sella")
    ('upper-left', 'disc', 'sella')
    """
    return LEVEL.sub("", name).strip("-")


def jumps(found_mm: NDArray[np.float64], reference_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(L,) whether each point (L, 3) of a case is nearer to another landmark's reference (L, 3) than to its own.

    NaN rows are points or references that are not there: such points do not jump, and nothing jumps there.
    """
    distances = np.linalg.norm(found_mm[:, None] - reference_mm[None], axis=2)
    own = distances.diagonal().copy()
    others = np.where(np.isfinite(distances), distances, np.inf)
    np.fill_diagonal(others, np.inf)
    return np.asarray(np.isfinite(own) & (others.min(axis=1, initial=np.inf) < own))


def vertebral_heights_mm(names: Sequence[str], reference_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(L,) for each corner `<level>-upper|lower-<side>` the height of its vertebra: the mean of its two sides.

    NaN for other landmarks, and where a corner of the vertebra is not known.
    """
    at = dict(zip(names, reference_mm, strict=True))
    heights = np.full(len(names), np.nan)
    for i, name in enumerate(names):
        level = re.match(r"([ctls]\d+)-(?:upper|lower)-", name)
        if level:
            sides = [(f"{level[1]}-upper-{side}", f"{level[1]}-lower-{side}") for side in ("left", "right")]
            heights[i] = np.mean([np.linalg.norm(at[upper] - at[lower]) for upper, lower in sides])
    return heights


def spine_measures(names: Sequence[str], cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Neighbour jumps over all points, and where vertebrae have corners errors in vertebral heights.

    `neighbour jumps`: points nearer to any other landmark's reference than to their own; `to its like`: than to the
    reference of the same place at another level, for example the same corner of another vertebra.
    """
    places = [place_of(name) for name in names]
    groups = [[i for i, place in enumerate(places) if place == own] for own in dict.fromkeys(places)]
    jumped, to_like, points, errors = 0, 0, 0, []
    for case in cases:
        found, reference = _points(case, names, "predicted_mm"), _points(case, names, "reference_mm")
        points += int(np.isfinite(found[:, 0] + reference[:, 0]).sum())
        jumped += int(jumps(found, reference).sum())
        to_like += sum(int(jumps(found[group], reference[group]).sum()) for group in groups)
        error = np.linalg.norm(found - reference, axis=1) / vertebral_heights_mm(names, reference)
        errors.append(error[np.isfinite(error)])
    measures: dict[str, float] = {
        "neighbour jumps": jumped,
        "neighbour jumps (% of points)": 100 * jumped / max(points, 1),
    }
    if len(groups) < len(names):
        measures |= {"jumps to its like": to_like, "jumps to its like (% of points)": 100 * to_like / max(points, 1)}
    heights = np.concatenate(errors) if errors else np.zeros(0)
    if len(heights):
        measures |= {
            "mean error (vertebral heights)": float(heights.mean()),
            "median error (vertebral heights)": float(np.median(heights)),
            "within half a vertebral height (%)": 100 * float((heights < 0.5).mean()),
        }
    return measures


def _points(case: Mapping[str, Any], names: Sequence[str], kind: str) -> NDArray[np.float64]:
    given = {point["name"]: point[kind] for point in case["points"] if kind in point}
    return np.array([given.get(name, (np.nan,) * 3) for name in names], np.float64)
