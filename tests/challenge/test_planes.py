"""Planes by hand and by their laws: turning and moving the world changes nothing, noise is averaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.phantoms.deformation import rotation
from landmark_challenge.planes import angle_degrees, fit_plane, offset_mm, task_plane
from landmark_challenge.task import load_task, parse_task

FLAT = np.array([[-5.0, 0, 3], [5, 0, 3], [0, -4, 3], [1, 4, 3]])
angles = st.tuples(*[st.floats(-3, 3)] * 3)


def test_rows_run_from_the_first_to_the_second_and_the_third_is_above() -> None:
    plane = fit_plane(FLAT)
    assert plane is not None
    np.testing.assert_allclose([plane.right, plane.down, plane.normal], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(plane.centre_mm, FLAT.mean(axis=0))


@given(angles, st.integers(0, 2**31))
def test_a_moved_world_has_moved_planes(turn: tuple[float, float, float], seed: int) -> None:
    random = np.random.default_rng(seed)
    points, others = random.normal(0, 20, (2, 5, 3))
    matrix, shift = rotation(np.array(turn)), random.normal(0, 50, 3)
    pair = fit_plane(points), fit_plane(others)
    moved = fit_plane(points @ matrix.T + shift), fit_plane(others @ matrix.T + shift)
    assert pair[0] and pair[1] and moved[0] and moved[1]
    np.testing.assert_allclose(moved[0].down, matrix @ pair[0].down, atol=1e-6)
    assert angle_degrees(*moved) == pytest.approx(angle_degrees(*pair), abs=1e-5)
    assert offset_mm(*moved) == pytest.approx(offset_mm(*pair), abs=1e-5)


@given(st.floats(0, 90), st.floats(0, 30))
def test_angle_and_offset_by_construction(degrees: float, shift: float) -> None:
    turned = FLAT - FLAT.mean(axis=0)
    turned = turned @ rotation(np.array([np.radians(degrees), 0, 0])).T + FLAT.mean(axis=0)
    first, second = fit_plane(turned), fit_plane(FLAT + [0, 0, shift])
    assert first is not None and second is not None
    assert angle_degrees(first, second) == pytest.approx(degrees, abs=1e-6)
    assert offset_mm(second, first) == pytest.approx(shift, abs=1e-9)
    assert angle_degrees(second, first) == pytest.approx(degrees, abs=1e-6)


def test_the_plane_of_least_squares() -> None:
    random = np.random.default_rng(0)
    points = np.column_stack([random.uniform(-30, 30, (400, 2)), random.normal(0, 2, 400)])
    plane = fit_plane(points)
    assert plane is not None
    assert abs(plane.normal[2]) > np.cos(np.radians(1)) and abs(plane.centre_mm[2]) < 0.4


@pytest.mark.parametrize("points", [FLAT[:2], [[0, 0, 0], [1, 1, 1], [3, 3, 3]], np.zeros((4, 3))])
def test_points_on_one_line_have_no_plane(points: object) -> None:
    assert fit_plane(points) is None


def test_a_task_s_plane_needs_all_of_its_landmarks() -> None:
    task = load_task("fetal-us-10")
    spec = task.planes[1]
    names = list(spec.landmarks)
    assert task_plane(spec, Landmarks(names, FLAT[:3])) is not None
    assert task_plane(spec, Landmarks(names[:2], FLAT[:2])) is None
    assert task_plane(spec, Landmarks(names, FLAT[:3], [1, 1, 0.2])) is None


@pytest.mark.parametrize(
    ("planes", "match"),
    [
        ([{"name": "a", "title": "A", "landmarks": ["head-front", "head-back"]}], "planes.0.landmarks"),
        ([{"name": "a", "title": "A", "landmarks": ["head-front", "head-back", "nose"]}], "landmarks of the task"),
        ([{"name": "a", "title": "A", "landmarks": ["head-front", "head-back", "head-back"]}], "each once"),
        ([{"name": "a", "title": "A", "landmarks": ["head-front", "head-back", "head-left"]}] * 2, "come twice"),
    ],
)
def test_wrong_planes_are_refused(planes: list, match: str) -> None:
    value = load_task("fetal-us-10").model_dump(mode="json")
    with pytest.raises(ChallengeError, match=match):
        parse_task({**value, "planes": planes}, source="x.yaml")
    with pytest.raises(ChallengeError, match="3D"):
        spec = load_task("ceph-19").model_dump(mode="json")
        plane = {"name": "a", "title": "A", "landmarks": [each["name"] for each in spec["landmarks"][:3]]}
        parse_task({**spec, "planes": [plane]}, source="x.yaml")
