"""Planes in the details of an evaluation."""

import numpy as np
import pytest

from landmark_challenge.phantoms.deformation import rotation
from landmark_challenge.task import load_task
from landmark_evaluation.planes import compare_planes

TASK = load_task("fetal-us-10")


def test_a_turned_and_moved_case() -> None:
    reference = np.random.default_rng(0).normal(0, 20, (10, 3))
    assert [entry["name"] for entry in compare_planes(reference, reference, TASK)] == [p.name for p in TASK.planes]
    for entry in compare_planes(reference, reference, TASK):
        assert entry["angle_degrees"] == pytest.approx(0, abs=1e-5) and entry["offset_mm"] == pytest.approx(0, abs=1e-9)
    rows = [TASK.names.index(name) for name in TASK.planes[1].landmarks]
    flat = reference.copy()
    flat[rows] = [[-20, 0, 5], [20, 0, 5], [0, -15, 5]]
    centre = flat[rows].mean(axis=0)
    predicted = flat.copy()
    predicted[rows] = (flat[rows] - centre) @ rotation(np.radians([12.0, 0, 0])).T + centre
    assert compare_planes(predicted, flat, TASK)[1]["angle_degrees"] == pytest.approx(12)
    moved = compare_planes(flat + [0, 0, 2.5], flat, TASK)[1]
    assert moved["offset_mm"] == pytest.approx(2.5) and moved["angle_degrees"] == pytest.approx(0, abs=1e-5)


def test_a_plane_without_a_landmark_has_a_name_only() -> None:
    reference = np.random.default_rng(0).normal(0, 20, (10, 3))
    predicted = reference.copy()
    predicted[TASK.names.index("head-front")] = np.nan
    found = compare_planes(predicted, reference, TASK)
    assert found[0] == {"name": "transventricular"} and "offset_mm" in found[1]
    assert compare_planes(reference, reference, load_task("ccta-8")) == []
