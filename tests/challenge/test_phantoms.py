"""Every phantom: the same bytes for the same seed, points inside, a case unlike any other, a floor that is a floor."""

import numpy as np
import pytest

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import bounding_box_mm
from landmark_challenge.phantoms import PHANTOMS, case_splits, make_case, write_phantoms
from landmark_challenge.task import load_task

TASKS = sorted(PHANTOMS)
SEED = 20
CASES = 16
FLOOR_MM = 8.0


@pytest.fixture(scope="module", params=TASKS)
def cases(request):
    """A small set of every phantom, drawn once."""
    return request.param, [make_case(request.param, SEED, index=index) for index in range(CASES)]


def test_points_are_the_tasks_and_lie_in_the_image(cases):
    name, drawn = cases
    task = load_task(name)
    for case in drawn:
        assert case.landmarks.names == task.names
        assert case.image.ndim == task.dimension
        assert case.image.contains(case.landmarks.points_mm).all()
        assert case.image.array.dtype.kind in "ui"


def test_same_seed_gives_the_same_bytes(cases):
    name, drawn = cases
    again = make_case(name, SEED, index=1)
    assert again.image.content_digest() == drawn[1].image.content_digest()
    assert again.landmarks == drawn[1].landmarks
    for value in ("spacing_mm", "origin_mm", "direction"):
        np.testing.assert_array_equal(getattr(again.image, value), getattr(drawn[1].image, value))
    assert make_case(name, SEED + 1, index=1).image.content_digest() != drawn[1].image.content_digest()


def test_every_case_differs_in_every_point(cases):
    _, drawn = cases
    points = np.array([_in_image_frame(case) for case in drawn])
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    apart = distance[~np.eye(len(points), dtype=bool)]
    assert apart.min() > 0.05
    shape = points - points.mean(axis=1, keepdims=True)
    assert np.linalg.norm(shape - shape.mean(axis=0), axis=-1).mean() > 1.0


def test_the_mean_position_errs_by_eight_millimetres(cases):
    _, drawn = cases
    points = np.array([_in_image_frame(case) for case in drawn])
    # Leave one out: the mean of the others, as a baseline would learn it.
    others = (points.sum(axis=0) - points) / (len(points) - 1)
    assert np.linalg.norm(points - others, axis=-1).mean() >= FLOOR_MM


def _in_image_frame(case):
    """Points from the middle of the image's bounding box, in LPS millimetres."""
    lower, upper = bounding_box_mm(case.image)
    return case.landmarks.points_mm[:, : case.image.ndim] - (lower + upper) / 2


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
