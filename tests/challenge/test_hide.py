"""The public part holds nothing of the hidden one: names, order, times, headers, points, copies."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from landmark_challenge import hide as hide_module
from landmark_challenge.cli import main
from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.hide import FILE_TIME_S, clear_times, find_leaks, hide
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, read_landmarks, write_landmarks
from landmark_challenge.reference import read_reference_header
from landmark_challenge.task import load_task

TASK = load_task("ceph-19")


def points(seed: int) -> Landmarks:
    return Landmarks(TASK.names, np.column_stack([np.random.default_rng(seed).random((19, 2)), np.zeros(19)]))


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """Six training, two validation, eight test cases and one excluded copy of a test case."""
    folder = tmp_path / "set"
    splits = ["train"] * 6 + ["validation"] * 2 + ["test"] * 8 + ["excluded"]
    with DatasetWriter(folder, TASK, source="a clinic", licence="none") as writer:
        for number, split in enumerate(splits):
            seed = 8 if split == "excluded" else number
            random = np.random.default_rng(seed)
            image = Image.of(random.integers(0, 255, (9, 8), dtype=np.uint8), (0.1, 0.2), (3, 4))
            case = Case(
                f"patient{number:02d}", split, f"family{number:02d}", "late" if number > 12 else "early",
                ("porion",) if number % 5 == 0 else (), {"diagnosis": "secret" if split == "test" else "known"},
            )  # fmt: skip
            writer.add(case, image, {"senior": points(seed), "junior": points(seed + 100)})
    # An image that carries more in its header than geometry.
    itk = sitk.ReadImage(str(folder / "images" / "patient10.mha"))
    itk.SetMetaData("PatientName", "Jane Doe")
    sitk.WriteImage(itk, str(folder / "images" / "patient10.mha"))
    assert b"Jane Doe" in (folder / "images" / "patient10.mha").read_bytes()
    return Dataset(folder)


@pytest.fixture
def parts(dataset, tmp_path) -> tuple[Path, Path]:
    hide(dataset, public=tmp_path / "public", reference=tmp_path / "reference", disclosure="open")
    return tmp_path / "public", tmp_path / "reference"


def test_the_public_part_is_a_dataset_without_hidden_points(parts, dataset) -> None:
    public = Dataset(parts[0])
    assert [len(public.cases(split=split)) for split in ("train", "validation", "test", "excluded")] == [6, 2, 8, 0]
    for case in public.cases(split="test"):
        assert not list(parts[0].glob(f"landmarks/*/{case.name}.json"))
        assert (case.group, case.subset, case.not_assessed, dict(case.columns)) == (
            case.name,
            "",
            (),
            {"diagnosis": ""},
        )
    for case in public.cases(split="train"):
        assert case == dataset.case(case.name)
        assert public.landmarks(case.name, observer="junior") == dataset.landmarks(case.name, observer="junior")
        assert np.array_equal(public.image(case.name).array, dataset.image(case.name).array)


def test_names_csv_says_which_hidden_case_is_which(parts, dataset) -> None:
    public, reference = parts
    with (reference / "names.csv").open() as file:
        original = {row["case"]: row["original"] for row in csv.DictReader(file)}
    assert sorted(original.values()) == [case.name for case in dataset.cases(split="test")]
    header = read_reference_header(reference)
    assert set(header.cases) == set(original) == {case.name for case in Dataset(public).cases(split="test")}
    for new, old in original.items():
        assert np.array_equal(Dataset(public).image(new).array, dataset.image(old).array)
        assert read_landmarks(reference / "landmarks" / "reference" / f"{new}.json") == dataset.landmarks(old)
        assert read_landmarks(reference / "landmarks" / "junior" / f"{new}.json") == dataset.landmarks(
            old, observer="junior"
        )
        case = header.cases[new]
        assert (case.subset, case.not_assessed) == (dataset.case(old).subset, dataset.case(old).not_assessed)
        assert case.columns == {"diagnosis": "secret"} and case.size == (8, 9) and case.spacing == (0.1, 0.2)
    assert not list(reference.rglob("*.mha"))


def test_nothing_hidden_is_in_any_public_file_name_time_or_order(parts, dataset) -> None:
    public = parts[0]
    hidden = [case.name for case in dataset.cases(split="test")] + ["patient16"]
    for path in public.rglob("*"):
        assert path.stat().st_mtime == FILE_TIME_S
        assert not any(name in path.name for name in hidden)
        content = path.read_bytes() if path.is_file() else b""
        assert not any(name.encode() in content for name in hidden), path
        for word in (b"secret", b"early" if "cases" not in path.name else b"late", b"Jane", b"family08", b"family15"):
            assert word not in content, (path, word)
    listed = [case.name for case in Dataset(public).cases(split="test")]
    assert listed == sorted(listed)


def test_the_new_order_is_random(dataset, tmp_path) -> None:
    orders = set()
    for number in range(4):
        hide(dataset, public=tmp_path / f"p{number}", reference=tmp_path / f"r{number}")
        orders.add((tmp_path / f"r{number}" / "names.csv").read_text())
    assert len(orders) > 1


def test_a_training_copy_of_a_hidden_image_is_refused_and_nothing_is_left(dataset, tmp_path) -> None:
    table = dataset.folder / "cases.csv"
    table.write_text(table.read_text().replace("patient16,excluded", "patient16,train"))
    with pytest.raises(ChallengeError, match="patient08: wanted an image that is not public, case 'patient16'"):
        hide(Dataset(dataset.folder), public=tmp_path / "public", reference=tmp_path / "reference")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_training_points_that_are_hidden_points_are_refused(dataset, tmp_path) -> None:
    write_landmarks(dataset.folder / "landmarks" / "senior" / "patient01.json", points(9))
    with pytest.raises(ChallengeError, match="those of a hidden case"):
        hide(dataset, public=tmp_path / "public", reference=tmp_path / "reference")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_a_part_of_a_split_leaves_the_rest_out(dataset, tmp_path) -> None:
    header = hide(
        dataset, public=tmp_path / "public", reference=tmp_path / "reference", subset="early", keep_names=True
    )
    assert sorted(header.cases) == [f"patient{number:02d}" for number in range(8, 13)]
    public = Dataset(tmp_path / "public")
    assert sorted(case.name for case in public.cases(split="test")) == sorted(header.cases)
    assert not any("patient13" in path.name for path in tmp_path.joinpath("public").rglob("*"))


def test_what_is_there_is_not_overwritten(dataset, tmp_path) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "mine").write_text("x")
    with pytest.raises(ChallengeError, match="exists and is not empty"):
        hide(dataset, public=tmp_path / "public", reference=tmp_path / "reference")
    assert (tmp_path / "reference" / "mine").read_text() == "x" and not (tmp_path / "public").exists()


@pytest.mark.parametrize(("public", "reference"), [("x", "x"), ("x", "x/ref"), ("x/public", "x"), ("x", "y/../x")])
def test_one_part_inside_the_other_is_refused_before_anything_is_written(dataset, tmp_path, public, reference) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ChallengeError, match="wanted a folder apart from --public"):
        hide(dataset, public=tmp_path / public, reference=tmp_path / reference)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("public", [[], ["--public", "public"]])
def test_details_go_with_an_open_reference(dataset, tmp_path, monkeypatch, capsys, public) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as done:
        main(["data", "hide", str(dataset.folder), *public, "--reference", "r", "--details"])
    assert done.value.code == 2
    assert capsys.readouterr().err == "landmarks: error: --details: goes with --disclosure open, got protected\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_after_the_reference_leaves_neither_part(dataset, tmp_path, monkeypatch) -> None:
    def fail(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(hide_module, "find_leaks", fail)
    with pytest.raises(KeyboardInterrupt):
        hide(dataset, public=tmp_path / "public", reference=tmp_path / "reference")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def leak_name(folder: Path) -> None:
    value = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**value, "order": ["patient09"]}))


@pytest.mark.parametrize(
    ("leak", "match"),
    [
        (
            lambda f: (f / "images" / "patient09.mha").write_bytes(next(f.glob("images/*.mha")).read_bytes()),
            "hidden name",
        ),
        (lambda f: (f / "notes.txt").write_text("x"), "only images, points and tables"),
        (leak_name, "name of a hidden case"),
        (
            lambda f: write_landmarks(f / "landmarks/senior/hidden-0001.json", points(3)),
            "training and validation cases",
        ),
        (lambda f: write_landmarks(f / "landmarks/junior/patient02.json", points(9)), "those of a hidden case"),
        (lambda f: (f / "images" / "link.mha").symlink_to("/etc/passwd"), "a link"),
    ],
)
def test_every_kind_of_leak_is_seen(parts, leak, match) -> None:
    public = parts[0]
    find_leaks(public, names={"patient09"}, points=[points(9)])
    leak(public)
    clear_times(public)
    with pytest.raises(ChallengeError, match=match):
        find_leaks(public, names={"patient09"}, points=[points(9)])


def test_a_header_with_more_than_geometry_and_another_time_are_seen(parts) -> None:
    public = parts[0]
    path = next(public.glob("images/*.mha"))
    itk = sitk.ReadImage(str(path))
    itk.SetMetaData("StudyDate", "20200101")
    sitk.WriteImage(itk, str(path))
    with pytest.raises(ChallengeError, match="wanted the time"):
        find_leaks(public, names=set(), points=[])
    clear_times(public)
    with pytest.raises(ChallengeError, match="got the field"):
        find_leaks(public, names=set(), points=[])


def test_the_command_writes_both_parts_or_the_reference_alone(dataset, tmp_path, capsys) -> None:
    for arguments in (("--public", str(tmp_path / "public")), ()):
        reference = tmp_path / f"reference{len(arguments)}"
        with pytest.raises(SystemExit) as done:
            main(["data", "hide", str(dataset.folder), *arguments, "--reference", str(reference)])
        assert not done.value.code
        assert "8 cases" in capsys.readouterr().out
        assert len(read_reference_header(reference).cases) == 8
    assert len(Dataset(tmp_path / "public").cases(split="test")) == 8
    with pytest.raises(SystemExit) as done:
        main(["data", "check", str(tmp_path / "public")])
    assert "hidden" in capsys.readouterr().out


@pytest.mark.parametrize("keep_names", [False, True])
def test_the_reference_knows_who_is_one_patient_and_the_public_part_does_not(tmp_path, keep_names) -> None:
    with DatasetWriter(tmp_path / "set", TASK, source="a clinic", licence="none") as writer:
        for number in range(8):
            split, image = "train" if number < 2 else "test", np.full((9, 8), number, dtype=np.uint8)
            case = Case(f"scan{number}", split, f"family{number // 2}")
            writer.add(case, Image.of(image, (0.1, 0.2), (3, 4)), {"senior": points(number), "junior": points(number)})
    folders = {"public": tmp_path / "public", "reference": tmp_path / "reference"}
    header = hide(Dataset(tmp_path / "set"), **folders, keep_names=keep_names)
    with (tmp_path / "reference/names.csv").open() as file:
        families = {row["case"]: row["group"] for row in csv.DictReader(file)}
    numbers = {(families[name], case.group) for name, case in header.cases.items()}
    assert len(numbers) == 3 and {number for _, number in numbers} == {"1", "2", "3"}
    assert "family" not in (tmp_path / "reference/reference.json").read_text()
    public = Dataset(tmp_path / "public").cases(split="test")
    assert all(case.group == case.name for case in public)
