"""The task files that the phantoms and the public data rely on."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from landmark_challenge.dataset import Dataset
from landmark_challenge.images import canonical
from landmark_challenge.phantoms import PHANTOMS, make_case, write_phantoms
from landmark_challenge.task import load_task, task_names

POINTS = {
    "brain-afids-32": 32,
    "brainstem-mr-1": 1,
    "carotid-cta-2": 2,
    "ccta-8": 8,
    "ceph-19": 19,
    "fetal-us-10": 10,
    "hippocampus-5": 5,
    "olfactory-mr-2": 2,
    "spine-mr-11": 11,
    "spine-xray-68": 68,
}


def test_the_ten_tasks_are_there_with_as_many_points_as_they_say():
    assert {name: len(load_task(name).names) for name in task_names()} == POINTS


@pytest.mark.parametrize("name", sorted(POINTS))
def test_every_landmark_is_defined_in_a_sentence(name):
    task = load_task(name)
    for landmark in task.landmarks:
        assert landmark.definition.endswith("."), landmark.name
        assert len(landmark.definition.split()) >= 4, landmark.name
    assert len({landmark.definition for landmark in task.landmarks}) == len(task.landmarks)


@pytest.mark.parametrize("name", sorted(PHANTOMS))
def test_papers_figures_carry_their_source(name):
    task = load_task(name)
    assert task.published
    assert all(result.source and any(char.isdigit() for char in result.figures) for result in task.published)


@pytest.mark.parametrize("name", ["fetal-us-10", "olfactory-mr-2", "spine-mr-11"])
def test_a_phantom_goes_through_a_dataset_unchanged(tmp_path, name):
    write_phantoms(name, tmp_path / "set", cases=3, seed=2)
    dataset = Dataset(tmp_path / "set")
    case = dataset.cases(split="test")[0]
    image, expected = dataset.image(case.name), make_case(name, 2, index=2)
    np.testing.assert_array_equal(image.array, expected.image.array)
    np.testing.assert_allclose(image.direction, expected.image.direction, rtol=0, atol=1e-12)
    # The same points in the grid that networks see: inside, whatever the stored orientation.
    picture = canonical(image, [3.0] * image.ndim)
    assert picture.contains(dataset.landmarks(case.name).points_mm).all()


@pytest.mark.real_data
def test_names_follow_the_public_data():
    root = os.environ.get("LANDMARKS_REAL_DATA")
    if not root:
        pytest.skip("LANDMARKS_REAL_DATA is not set")
    with (Path(root) / "msd-hippocampus" / "landmarks_voxel.csv").open(encoding="utf-8") as file:
        columns = next(csv.reader(file))
    names = [column.removesuffix("_i").replace("_", "-") for column in columns if column.endswith("_i")]
    assert tuple(names) == load_task("hippocampus-5").names
    template = Path(root) / "afids-templates" / "mni152nlin2009sym" / "MNI152NLin2009bSym_MEAN.fcsv"
    rows = [line.split(",") for line in template.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    described = ["-".join(row[12].lower().split()) for row in rows]
    labels = [int(row[11]) for row in rows]
    assert labels == list(range(1, 33))
    known = load_task("brain-afids-32").names
    # The files spell one of them with one m, and some leave out what belongs to the corpus callosum.
    described = [name.replace("intermamillary", "intermammillary") for name in described]
    assert all(name.startswith(short) for name, short in zip(known, described, strict=True))
