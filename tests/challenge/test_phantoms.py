"""Every phantom: the same bytes for the same seed, points inside, a case unlike any other, a floor that is a floor."""

import numpy as np
import pytest

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import bounding_box_mm
from landmark_challenge.phantoms import PHANTOMS, case_splits, make_case, plan_case, write_phantoms
from landmark_challenge.task import load_task

TASKS = sorted(PHANTOMS)
SEED = 20
CASES = 24
FLOOR_MM = 8.0


@pytest.fixture(scope="module", params=TASKS)
def plans(request):
    """A set of every phantom, planned but not drawn."""
    return request.param, [plan_case(request.param, SEED, index=index) for index in range(CASES)]


@pytest.fixture(scope="module", params=TASKS)
def drawn(request):
    """One drawn case of every phantom."""
    return request.param, make_case(request.param, SEED, index=1)


def test_every_task_of_the_papers_has_a_phantom():
    assert set(PHANTOMS) == {
        "brainstem-mr-1",
        "carotid-cta-2",
        "ccta-8",
        "ceph-19",
        "fetal-us-10",
        "olfactory-mr-2",
        "spine-mr-11",
    }


def test_points_are_the_tasks_and_lie_in_the_image(plans):
    name, planned = plans
    task = load_task(name)
    for plan in planned:
        assert plan.landmarks.names == task.names
        assert plan.frame.ndim == task.dimension
        assert plan.frame.contains(plan.landmarks.points_mm).all()


def test_a_drawn_case_is_what_was_planned(drawn):
    name, case = drawn
    plan = plan_case(name, SEED, index=1)
    assert case.landmarks == plan.landmarks
    assert case.image.size == plan.frame.size
    assert case.image.array.dtype.kind in "ui"
    assert case.image.array.std() > 0
    assert case.image.array.size <= 2_500_000  # the default is meant for tests


def test_same_seed_gives_the_same_bytes(drawn):
    name, case = drawn
    again = make_case(name, SEED, index=1)
    assert again.image.content_digest() == case.image.content_digest()
    assert again.landmarks == case.landmarks
    for value in ("spacing_mm", "origin_mm", "direction"):
        np.testing.assert_array_equal(getattr(again.image, value), getattr(case.image, value))
    assert not np.allclose(plan_case(name, SEED + 1, index=1).landmarks.points_mm, case.landmarks.points_mm, atol=0.01)


def test_every_case_differs_in_every_point(plans):
    _, planned = plans
    points = np.array([_in_image_frame(plan) for plan in planned])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert distance[~np.eye(len(points), dtype=bool)].min() > 0.02
    if points.shape[1] > 1:  # the anatomy itself differs, not only its place
        shape = points - points.mean(axis=1, keepdims=True)
        assert np.linalg.norm(shape - shape.mean(axis=0), axis=-1).mean() > 1.0


def test_the_mean_position_errs_by_eight_millimetres(plans):
    _, planned = plans
    points = np.array([_in_image_frame(plan) for plan in planned])
    # Leave one out: the mean of the others, as a baseline would learn it.
    others = (points.sum(axis=0) - points) / (len(points) - 1)
    assert np.linalg.norm(points - others, axis=-1).mean() >= FLOOR_MM


def test_volumes_are_stored_in_many_orientations(plans):
    _, planned = plans
    frames = [plan.frame for plan in planned]
    for frame in frames:
        np.testing.assert_allclose(frame.direction.T @ frame.direction, np.eye(frame.ndim), atol=1e-9)
    assert len({tuple(np.round(frame.spacing_mm, 6)) for frame in frames}) == len(frames)
    if frames[0].ndim == 3:
        nearest = {tuple(np.round(frame.direction).astype(int).ravel()) for frame in frames}
        assert len(nearest) >= 8
        assert {int(np.sign(np.linalg.det(frame.direction))) for frame in frames} == {-1, 1}
        assert all(np.abs(frame.direction - np.round(frame.direction)).max() > 1e-4 for frame in frames)
        assert len({tuple(frame.origin_mm) for frame in frames}) == len(frames)


@pytest.mark.parametrize(
    ("task", "left", "right"),
    [
        ("carotid-cta-2", "carotid-bifurcation-left", "carotid-bifurcation-right"),
        ("olfactory-mr-2", "olfactory-bulb-left", "olfactory-bulb-right"),
        ("fetal-us-10", "cerebellum-left", "cerebellum-right"),
        ("fetal-us-10", "head-left", "head-right"),
        ("ccta-8", "ostium-left", "commissure-non-coronary-right"),
    ],
)
def test_left_is_left_whatever_the_stored_orientation(task, left, right):
    for index in range(20):
        landmarks = plan_case(task, 3, index=index).landmarks
        assert landmarks.point_mm(left)[0] > landmarks.point_mm(right)[0] + 2.0


def _in_image_frame(plan):
    """Points from the middle of the image's bounding box, in LPS millimetres."""
    lower, upper = bounding_box_mm(plan.frame)
    return plan.landmarks.points_mm[:, : plan.frame.ndim] - (lower + upper) / 2


@pytest.mark.parametrize(
    ("cases", "counts"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (10, (6, 2, 2)), (20, (12, 3, 5)), (100, (60, 15, 25))]
)
def test_splits_are_sixty_fifteen_and_the_rest(cases, counts):
    splits = case_splits(cases)
    assert (splits.count("train"), splits.count("validation"), splits.count("test")) == counts
    assert splits == sorted(splits, key=["train", "validation", "test"].index)


def test_a_written_set_is_a_dataset_with_exact_reference(tmp_path):
    write_phantoms("ceph-19", tmp_path / "set", cases=3, seed=4)
    dataset = Dataset(tmp_path / "set")
    assert [case.split for case in dataset.cases()] == ["train", "validation", "test"]
    assert dataset.observers == ("reference", "senior")
    for index, case in enumerate(dataset.cases()):
        expected = make_case("ceph-19", 4, index=index)
        image = dataset.image(case.name)
        np.testing.assert_array_equal(image.array, expected.image.array)
        np.testing.assert_allclose(image.spacing_mm, expected.image.spacing_mm, rtol=0, atol=1e-12)
        for observer in dataset.observers:
            assert dataset.landmarks(case.name, observer=observer) == expected.landmarks
        assert dataset.header["digests"][case.name] == expected.image.content_digest()


def test_bad_wishes_are_refused(tmp_path):
    with pytest.raises(ChallengeError, match=r"wanted one of .*ceph-19.*got 'ceph-20'"):
        make_case("ceph-20", 1, index=0)
    with pytest.raises(ChallengeError, match="seed"):
        make_case("ceph-19", -1, index=0)
    with pytest.raises(ChallengeError, match="at least 3 cases"):
        write_phantoms("ceph-19", tmp_path / "few", cases=2, seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ChallengeError, match="not empty"):
        write_phantoms("ceph-19", tmp_path / "full", cases=3, seed=1)
    assert not (tmp_path / "few").exists()
