"""A landmark that nobody assessed teaches nothing, whatever its file says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from landmark_baselines.checkpoints import mean_shape_of
from landmark_baselines.pin_training import training_sets
from landmark_baselines.references import reference_mm
from landmark_baselines.resuming import fingerprint_of
from landmark_baselines.store import load_store
from landmark_baselines.whole_image import load_frames
from landmark_challenge.dataset import Case, Dataset, DatasetWriter, write_cases
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.task import load_task

CEPH = load_task("ceph-19")
NASION, SELLA = CEPH.names.index("nasion"), CEPH.names.index("sella")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two images of 20 x 20 mm with all points at (5, 5), in the second at (9, 9), where the nasion is not assessed."""
    image = Image.of(np.arange(400, dtype=np.uint8).reshape(20, 20), (1, 1))
    with DatasetWriter(tmp_path / "data", CEPH, source="test", licence="none") as writer:
        for name, place, skipped in (("a", 5.0, ()), ("b", 9.0, ("nasion",))):
            marked = {
                who: Landmarks(CEPH.names, [[place + more, place, 0]] * len(CEPH.names))
                for who, more in (("senior", 1.0), ("junior", -1.0))
            }
            writer.add(Case(name, "train", name, "", skipped), image, marked)
    return Dataset(tmp_path / "data")


def test_its_point_is_nan_of_every_observer(dataset: Dataset) -> None:
    for observer, x in (("reference", 9.0), ("senior", 10.0), ("junior", 8.0)):
        points = reference_mm(dataset, dataset.case("b"), observer=observer)
        assert np.isnan(points[NASION]).all()
        np.testing.assert_array_equal(points[SELLA], [x, 9, 0])
    assert np.isfinite(reference_mm(dataset, dataset.case("a"))).all()


def test_it_is_in_no_training_set(dataset: Dataset) -> None:
    cases = dataset.cases(split="train")
    voxels = load_store(dataset, cases, spacing_mm=(1.0,))[0].points
    shares = load_frames(dataset, cases, sides=(8,))[0].points
    millimetres = torch.from_numpy(training_sets(dataset, 1.0)[0])
    for points in (voxels, shares, millimetres):
        assert torch.isnan(points[1, NASION]).all()
        assert torch.isfinite(points[0]).all() and torch.isfinite(points[1, SELLA]).all()


def test_the_mean_shape_is_that_of_the_other_cases(dataset: Dataset) -> None:
    shape = mean_shape_of(dataset)
    np.testing.assert_allclose(shape["nasion"], [5.5 / 20] * 2)
    np.testing.assert_allclose(shape["sella"], [7.5 / 20] * 2)


def test_what_is_assessed_is_part_of_the_data_that_a_run_resumes_with(dataset: Dataset) -> None:
    def fingerprint() -> str:
        return fingerprint_of(Dataset(dataset.folder), method="m", preset="tiny", settings={}, seed=0)

    before = fingerprint()
    write_cases(dataset.folder / "cases.csv", [Case(case.name, case.split, case.group) for case in dataset.cases()])
    assert fingerprint() != before
