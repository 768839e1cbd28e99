import json

import numpy as np
import pytest

from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, read_landmarks
from landmark_challenge.reference import read_reference_header, write_reference
from landmark_challenge.task import load_task


@pytest.fixture
def dataset(tmp_path):
    image = Image.of(np.arange(12, dtype=np.uint8).reshape(3, 4), [0.1, 0.2], [5.0, 6.0])
    with DatasetWriter(tmp_path / "data", load_task("ceph-19"), source="test", licence="none") as writer:
        for name, split in (("a", "train"), ("b", "test"), ("c", "test")):
            points = {"senior": Landmarks(["sella"], [[1, 2, 0]]), "junior": Landmarks(["sella"], [[3, 2, 0]])}
            case = Case(name, split, name, "part1", ("nasion",), {"sex": "f"})
            writer.add(case, image, points if name != "c" else {"reference": Landmarks(["sella"], [[2, 2, 0]])})
    return Dataset(tmp_path / "data")


def test_a_reference_folder_holds_the_split_and_no_image(dataset, tmp_path):
    write_reference(dataset, tmp_path / "hidden")
    header = read_reference_header(tmp_path / "hidden")
    assert list(header.cases) == ["b", "c"]
    assert header.rule == "mean of senior, junior"
    assert header.cases["b"].size == (4, 3)
    assert header.cases["b"].spacing == (0.1, 0.2)
    assert header.cases["b"].columns == {"sex": "f"}
    assert header.cases["b"].not_assessed == ("nasion",)
    names = sorted(path.relative_to(tmp_path / "hidden").as_posix() for path in (tmp_path / "hidden").rglob("*.json"))
    assert names == [
        "landmarks/junior/b.json",
        "landmarks/reference/b.json",
        "landmarks/reference/c.json",
        "landmarks/senior/b.json",
        "reference.json",
    ]


def test_cases_of_one_patient_are_told_by_a_number_alone(tmp_path):
    with DatasetWriter(tmp_path / "data", load_task("ceph-19"), source="test", licence="none") as writer:
        for name, group in (("x", "Jane Doe"), ("y", "y"), ("z", "Jane Doe"), ("w", "John Roe")):
            writer.add(Case(name, "test", group), None, {"reference": Landmarks(["sella"], [[1, 2, 0]])})
    header = write_reference(Dataset(tmp_path / "data"), tmp_path / "hidden")
    assert {name: case.group for name, case in header.cases.items()} == {"x": "1", "y": "2", "z": "1", "w": "3"}
    assert read_reference_header(tmp_path / "hidden") == header
    text = (tmp_path / "hidden/reference.json").read_text()
    assert "Jane" not in text and "Roe" not in text


def test_a_patient_per_case_leaves_no_group(dataset, tmp_path):
    write_reference(dataset, tmp_path / "hidden")
    assert '"group"' not in (tmp_path / "hidden/reference.json").read_text()


def test_each_protected_folder_gets_its_own_secret_and_open_ones_none(dataset, tmp_path):
    first = write_reference(dataset, tmp_path / "one").secret
    second = write_reference(dataset, tmp_path / "two").secret
    assert first is not None and len(first) == 64 and first != second
    assert write_reference(dataset, tmp_path / "three", disclosure="open").secret is None


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"secret": None}, "needs a secret"),
        ({"details": True}, "exclude each other"),
        ({"disclosure": "some"}, "disclosure"),
        ({"cases": {}}, "cases"),
        ({"cases": {"../a": {}}}, "plain file names"),
        ({"cases": {"a": {"not_assessed": ["toe"]}}}, "landmarks of ceph-19"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(dataset, tmp_path, change, wanted):
    write_reference(dataset, tmp_path / "hidden")
    path = tmp_path / "hidden" / "reference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ChallengeError, match=wanted):
        read_reference_header(tmp_path / "hidden")


def test_a_split_without_cases_is_refused(dataset, tmp_path):
    with pytest.raises(ChallengeError, match="validation"):
        write_reference(dataset, tmp_path / "hidden", split="validation")
    assert not (tmp_path / "hidden").exists()


def test_another_observer_can_be_what_is_scored(tmp_path):
    with DatasetWriter(tmp_path / "data", load_task("ceph-19"), source="test", licence="none") as writer:
        points = {"senior": Landmarks(["sella"], [[1, 2, 0]]), "junior": Landmarks(["sella"], [[3, 2, 0]])}
        writer.add(Case("b", "test", "b"), None, points)
    write_reference(Dataset(tmp_path / "data"), tmp_path / "hidden", observer="senior")
    header = read_reference_header(tmp_path / "hidden")
    assert header.rule == header.task.reference.text == "senior"
    for observer, x in (("reference", 1.0), ("senior", 1.0), ("junior", 3.0)):
        points = read_landmarks(tmp_path / "hidden" / "landmarks" / observer / "b.json")
        assert points.points_mm[0, 0] == x
    with pytest.raises(ChallengeError, match="observers"):
        write_reference(Dataset(tmp_path / "data"), tmp_path / "other", observer="nobody")
    assert not (tmp_path / "other").exists()
