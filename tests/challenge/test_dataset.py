"""Datasets on disk: what is written reads back, what is wrong is refused by file and line."""

import json

import numpy as np
import pytest

from landmark_challenge.dataset import Case, Dataset, DatasetWriter, make_reference
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.task import load_task

TASK = load_task("ceph-19")
PICTURE = Image.of(np.arange(12, dtype=np.uint8).reshape(3, 4), (0.1, 0.1))


def points(shift: float) -> Landmarks:
    return Landmarks(["sella", "nasion"], [[shift, 1, 0], [2, 3 + shift, 0]])


@pytest.fixture
def folder(tmp_path):
    with DatasetWriter(tmp_path / "set", TASK, source="here", licence="none") as writer:
        for name, split in (("a", "train"), ("b", "test"), ("c", "excluded")):
            case = Case(name, split, f"patient-{name}", "s1" if name == "b" else "", ("porion",), {"sex": "f"})
            writer.add(case, PICTURE, {"senior": points(0), "junior": points(1)})
    return tmp_path / "set"


def test_a_written_dataset_reads_back(folder) -> None:
    dataset = Dataset(folder)
    assert [case.name for case in dataset.cases()] == ["a", "b", "c"]
    assert dataset.cases(split="test", subset="s1") == [dataset.case("b")]
    assert dataset.case("b").columns == {"sex": "f"} and dataset.case("b").not_assessed == ("porion",)
    assert dataset.observers == ("junior", "reference", "senior")
    assert np.array_equal(dataset.image("a").array, PICTURE.array)
    np.testing.assert_array_equal(dataset.landmarks("a").points_mm, [[0.5, 1, 0], [2, 3.5, 0]])
    assert set(dataset.header["digests"].values()) == {PICTURE.content_digest()}
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name or path.name.startswith(".")]


def test_the_reference_holds_what_every_named_observer_marked() -> None:
    junior = Landmarks(["nasion", "porion"], [[4, 5, 0], [6, 6, 0]])
    reference = make_reference(TASK, {"senior": points(0), "junior": junior})
    assert reference == Landmarks(["nasion"], [[3, 4, 0]])


def test_listing_and_splitting_touches_no_image(folder) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(b"not an image")
    assert len(Dataset(folder).cases(split="train")) == 1
    with pytest.raises(ChallengeError, match=r"images/a\.mha"):
        Dataset(folder).image("a")


def test_a_dataset_may_be_of_raters_only(tmp_path) -> None:
    with DatasetWriter(tmp_path / "set", TASK, source="here", licence="none") as writer:
        writer.add(Case("a", "test", "a"), None, {"senior": points(0), "junior": points(1)})
    with pytest.raises(ChallengeError, match="image of case 'a', there is none"):
        Dataset(tmp_path / "set").image("a")


def test_an_image_in_any_format_is_found_by_its_stem(folder) -> None:
    (folder / "images" / "a.mha").rename(folder / "images" / "a.MHA")
    assert Dataset(folder).image_path("a").name == "a.MHA"


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("case,split\na,train", "'group' is not there"),
        ("case,split,group\na,training,p", "line 2: wanted a split"),
        ("case,split,group\na,train", "line 2: wanted 3 fields"),
        ("case,split,group\na,train,p,x", "line 2: wanted 3 fields"),
        ("case,split,group\na,train,p\na,train,p", "line 3: wanted a new plain case name"),
        ("case,split,group\n../a,train,p", "plain case name"),
        ("case,split,group\n.a,train,p", "plain case name"),
        ("case,split,group\n,train,p", "plain case name"),
        ("case,split,group\na,train,p\nb,test,p", "group 'p' in one split"),
        ("case,split,group,not_assessed\na,train,p,sela", "not_assessed"),
        ('case,split,group\n"a,train,p', "cases.csv"),
        ("case,split,group", "at least one case"),
        ("", "'case' is not there"),
        ("case,split,group\n\0,train,p", "cases.csv"),
    ],
)
def test_a_wrong_table_is_refused_by_line(folder, rows, match) -> None:
    (folder / "cases.csv").write_text(rows)
    with pytest.raises(ChallengeError, match=match) as error:
        Dataset(folder)
    assert "cases.csv" in str(error.value)


def test_a_table_that_a_spreadsheet_saved_is_read(folder) -> None:
    text = (folder / "cases.csv").read_text()
    (folder / "cases.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert len(Dataset(folder).cases()) == 3


def test_a_case_without_a_group_is_one_of_its_own(folder) -> None:
    (folder / "cases.csv").write_text("case,split,group\na,train,\nb,test,\nc,test,p\n")
    assert [case.group for case in Dataset(folder).cases()] == ["a", "b", "p"]


def test_an_excluded_case_may_share_its_group(folder) -> None:
    (folder / "cases.csv").write_text("case,split,group\na,train,p\nb,excluded,p\n")
    assert len(Dataset(folder).cases()) == 2


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ([], "an object with 'task'"),
        ({"task": "ceph-20", "task_version": 1}, "wanted one of"),
        ({"task": "ceph-19", "task_version": 2}, "wanted version 1"),
        ({"task": "ceph-19", "task_version": 1, "digests": ["a"]}, "digests: wanted texts by case"),
        ({"task": "ceph-19", "task_version": 1, "digests": {"a": 1}}, "digests: wanted texts by case"),
        ({"task": "ceph-19"}, "wanted version 1"),
    ],
)
def test_a_wrong_header_is_refused(folder, header, match) -> None:
    (folder / "dataset.json").write_text(json.dumps(header))
    with pytest.raises(ChallengeError, match=match):
        Dataset(folder)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path) -> None:
    with pytest.raises(ChallengeError, match=r"dataset\.json"):
        Dataset(tmp_path)


@pytest.mark.parametrize(
    ("case", "observers", "match"),
    [
        (Case("a", "train", "x"), {"senior": points(0)}, "once, got it twice"),
        (Case("d", "training", "d"), {}, "split"),
        (Case("d/e", "train", "d"), {}, "plain file name"),
        (Case("d", "train", "d"), {"senior": Landmarks(["foo"], [[0, 0, 0]])}, "'foo' is no landmark"),
        (Case("d", "train", "d"), {"../x": points(0)}, "observer"),
        (Case("d", "test", "patient-a"), {}, "group 'patient-a' in one split"),
    ],
)
def test_a_case_that_cannot_be_leaves_no_dataset(tmp_path, case, observers, match) -> None:
    with (
        pytest.raises(ChallengeError, match=match),
        DatasetWriter(tmp_path / "set", TASK, source="here", licence="none") as writer,
    ):
        writer.add(Case("a", "train", "patient-a"), PICTURE, {})
        writer.add(case, None, observers)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_dataset_is_refused(tmp_path) -> None:
    with pytest.raises(ChallengeError, match="at least one case"):
        DatasetWriter(tmp_path / "set", TASK, source="here", licence="none").__enter__().__exit__(None, None, None)
        with DatasetWriter(tmp_path / "set2", TASK, source="here", licence="none"):
            pass
    assert not (tmp_path / "set").exists()


def test_an_unknown_split_case_or_observer_is_refused_by_name(folder) -> None:
    dataset = Dataset(folder)
    with pytest.raises(ChallengeError, match="'tset'"):
        dataset.cases(split="tset")
    with pytest.raises(ChallengeError, match="got 'z'"):
        dataset.case("z")
    with pytest.raises(ChallengeError, match="observers junior, reference, senior, got 'boss'"):
        dataset.landmarks("a", observer="boss")


def test_two_images_of_one_case_are_refused(folder) -> None:
    (folder / "images" / "a.png").write_bytes((folder / "images" / "a.mha").read_bytes())
    with pytest.raises(ChallengeError, match=r"one image of case 'a', got a\.mha and a\.png"):
        Dataset(folder).image_path("a")
