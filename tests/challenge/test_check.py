"""What `landmarks data check` finds: every fault is planted in a sound dataset, which itself gives no finding."""

import base64
import csv
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landmark_challenge.check import Finding, check
from landmark_challenge.check_page import png
from landmark_challenge.cli import main
from landmark_challenge.dataset import Case, Dataset, DatasetWriter, write_cases
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, read_landmarks, write_landmarks
from landmark_challenge.task import Task, load_task, parse_task

NAMES = ("centre", "eye-left", "eye-right", "ear-left", "ear-right", "chin")
SHAPE_MM = np.array([[0, 0, 0], [10, -8, 2], [-10, -8, 2], [22, 6, 0], [-22, 6, 0], [0, 25, -6]], float) + (60, 60, 60)


@pytest.fixture(scope="module")
def task() -> Task:
    value = load_task("ccta-8").model_dump(mode="json", exclude_none=True)
    landmarks = [{"name": name, "definition": f"The {name}."} for name in NAMES]
    reference = {"rule": "mean", "observers": ["anna", "bert"]}
    return parse_task({**value, "name": "faces", "landmarks": landmarks, "reference": reference}, source="test")


@pytest.fixture
def folder(tmp_path, task) -> Path:
    """Forty faces of two raters, each turned, shifted and bent a little; images of 12^3 voxels of 10 mm."""
    random = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "faces", task, source="test", licence="none") as writer:
        for number in range(40):
            angle = random.normal(0, 0.1)
            turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
            points = (SHAPE_MM - 60) * random.normal(1, 0.03) @ turn + 60 + random.normal(0, 2, 3)
            points += random.normal(0, 0.5, points.shape)
            observers = {
                who: Landmarks(NAMES, points + random.normal(0, 0.4, points.shape)) for who in ("anna", "bert")
            }
            image = Image.of(random.integers(0, 99, (12, 12, 12)).astype(np.uint8), (10, 10, 10))
            split = "train" if number < 25 else "validation" if number < 30 else "test"
            writer.add(Case(f"f{number:02d}", split, f"p{number:02d}"), image, observers)
    return tmp_path / "faces"


def found(folder: Path) -> list[Finding]:
    return check(folder)[0]


def change(folder: Path, case: str, edit, *, observers: tuple[str, ...] = ("anna", "bert", "reference")) -> None:
    """Rewrite a case's points with `edit`, which changes a dictionary of (3,) arrays in place."""
    for who in observers:
        path = folder / "landmarks" / who / f"{case}.json"
        points = dict(zip(NAMES, read_landmarks(path).points_mm.copy(), strict=True))
        edit(points)
        write_landmarks(path, Landmarks(list(points), list(points.values())))


def only(findings: list[Finding], kind: str) -> Finding:
    assert [finding.kind for finding in findings] == [kind], findings
    return findings[0]


def test_a_sound_dataset_gives_no_finding(folder) -> None:
    assert found(folder) == []


def test_a_point_that_nobody_is_said_to_have_assessed_is_named(folder) -> None:
    cases = [replace(case, not_assessed=("chin",)) if case.name == "f07" else case for case in Dataset(folder).cases()]
    write_cases(folder / "cases.csv", cases)
    finding = only(found(folder), "assessed")
    assert (finding.severity, finding.case, finding.landmark) == ("warning", "f07", "chin")
    assert "anna, bert, reference" in finding.text
    change(folder, "f07", lambda points: points.pop("chin"), observers=("anna",))
    assert "points of bert, reference" in only(found(folder), "assessed").text
    change(folder, "f07", lambda points: points.pop("chin"), observers=("bert", "reference"))
    assert found(folder) == []


@pytest.mark.parametrize("pair", [("eye-left", "eye-right"), ("ear-left", "ear-right")])
def test_left_and_right_exchanged_is_a_swap(folder, pair) -> None:
    def swap(points) -> None:
        points[pair[0]], points[pair[1]] = points[pair[1]], points[pair[0]]

    change(folder, "f07", swap)
    findings = [finding for finding in found(folder) if finding.kind == "swap"]
    assert [(finding.case, finding.severity) for finding in findings] == [("f07", "error")]
    assert f"{pair[0]} and {pair[1]}" in findings[0].text


def test_all_sides_exchanged_is_a_swap(folder) -> None:
    def mirror(points) -> None:
        for part in ("eye", "ear"):
            points[f"{part}-left"], points[f"{part}-right"] = points[f"{part}-right"], points[f"{part}-left"]

    change(folder, "f31", mirror)
    findings = found(folder)
    assert {finding.case for finding in findings} == {"f31"}
    assert any(finding.kind in ("swap", "turned") and finding.severity == "error" for finding in findings)


def test_points_in_another_coordinate_system_are_turned(folder) -> None:
    def flip(points) -> None:
        for name in points:
            points[name] = np.array((120, 120, 0)) - points[name] * (1, 1, -1)  # RAS for LPS about the middle

    change(folder, "f08", flip)
    finding = only(found(folder), "turned")
    assert finding.case == "f08" and re.search("1[78][0-9] degrees", finding.text)


@pytest.mark.parametrize(("name", "shift_mm"), [("chin", (9, 0, 0)), ("centre", (0, 0, 12)), ("ear-left", (0, -15, 0))])
def test_a_point_far_off_is_an_outlier(folder, name, shift_mm) -> None:
    def move(points) -> None:
        points[name] += shift_mm

    change(folder, "f12", move)
    finding = only(found(folder), "outlier")
    assert (finding.case, finding.landmark, finding.severity) == ("f12", name, "warning")


def test_a_point_outside_its_image_is_found_for_every_observer(folder) -> None:
    def move(points) -> None:
        points["chin"][1] = 200.0

    change(folder, "f03", move, observers=("bert",))
    finding = next(finding for finding in found(folder) if finding.kind == "outside")
    assert (finding.case, finding.landmark) == ("f03", "chin") and finding.text.startswith("bert: outside the image")


def test_a_point_outside_is_told_once_and_that_of_a_reference_of_its_own_too(folder) -> None:
    def move(points) -> None:
        points["chin"][1] = 200.0

    change(folder, "f03", move)  # by both raters, and so in their mean
    change(folder, "f05", move, observers=("reference",))
    outside = [finding for finding in found(folder) if finding.kind == "outside"]
    assert [(finding.case, finding.text.split(":")[0]) for finding in outside] == [
        ("f03", "anna"),
        ("f03", "bert"),
        ("f05", "reference"),
    ]


def test_a_forgotten_landmark_is_a_warning_and_an_absent_one_a_note(folder) -> None:
    change(folder, "f03", lambda points: points.pop("chin"))
    finding = only(found(folder), "missing")
    assert (finding.severity, finding.case, finding.landmark) == ("warning", "f03", "chin")
    for number in range(10, 20):
        change(folder, f"f{number}", lambda points: points.pop("chin"))
    finding = only(found(folder), "missing")
    assert finding.severity == "note" and finding.text == "absent in 11 of 40 cases"


def test_a_landmark_that_nobody_looked_for_is_not_missing(folder) -> None:
    change(folder, "f03", lambda points: points.pop("chin"))
    table = folder / "cases.csv"
    table.write_text(table.read_text().replace("f03,train,p03,,", "f03,train,p03,,chin"))
    assert found(folder) == []


def test_doubled_and_unknown_names_are_found(folder) -> None:
    for case, name in (("f01", "eye-left"), ("f02", "nose")):
        path = folder / "landmarks" / "anna" / f"{case}.json"
        value = json.loads(path.read_text())
        value["points"][2]["name"] = name
        path.write_text(json.dumps(value))
    findings = [finding for finding in found(folder) if finding.kind == "points"]
    assert [finding.case for finding in findings] == ["f01", "f02"]
    assert "'eye-left' twice" in findings[0].text and "unknown name 'nose'" in findings[1].text


def rewrite(folder: Path, **digests: str) -> None:
    path = folder / "dataset.json"
    value = json.loads(path.read_text())
    value["digests"] |= digests
    path.write_text(json.dumps(value))


def test_identical_images_across_splits_within_one_and_excluded(folder) -> None:
    digests = Dataset(folder).header["digests"]
    rewrite(folder, f35=digests["f01"])
    finding = only(found(folder), "identical")
    assert finding.severity == "error" and "f01 (train) = f35 (test)" in finding.text
    table = folder / "cases.csv"
    table.write_text(table.read_text().replace("f01,train", "f01,excluded"))
    finding = only(found(folder), "identical")
    assert finding.severity == "note" and "f01 (excluded) = f35 (test)" in finding.text
    rewrite(folder, f36=digests["f01"])
    finding = only(found(folder), "identical")
    assert finding.severity == "warning"


def test_an_unlikely_spacing_is_found(folder) -> None:
    image = Dataset(folder).image("f05")
    for scale, expected in ((4.0, {"spacing"}), (0.02, {"spacing", "outside"})):
        from landmark_challenge.images import write_image

        write_image(folder / "images" / "f05.mha", Image.of(image.array, image.spacing_mm * scale))
        assert {finding.kind for finding in found(folder)} == expected
        assert {finding.case for finding in found(folder)} == {"f05"}


def test_raters_of_two_definitions_are_found(folder) -> None:
    for number in range(40):
        change(folder, f"f{number:02d}", lambda points: points["chin"].__iadd__((0, 5, 0)), observers=("bert",))
    finding = only(found(folder), "raters")
    assert finding.landmark == "chin" and "two definitions?" in finding.text and "anna and bert" in finding.text


def test_raters_that_disagree_in_one_case_are_found(folder) -> None:
    change(folder, "f22", lambda points: points["eye-left"].__iadd__((9, 0, 0)), observers=("bert",))
    finding = only(found(folder), "raters")
    assert (finding.case, finding.landmark) == ("f22", "eye-left")


def test_files_without_a_case_and_cases_without_files_are_found(folder) -> None:
    (folder / "landmarks" / "anna" / "f99.json").write_text("{}")
    (folder / "landmarks" / "reference" / "f00.json").unlink()
    (folder / "images" / "f01.mha").unlink()
    (folder / "images" / "f02.mha").write_bytes(b"junk")
    kinds = [(finding.kind, finding.case) for finding in found(folder)]
    assert sorted(kinds) == [("image", "f01"), ("image", "f02"), ("reference", "f00"), ("stray", "")]


def test_a_split_without_any_reference_is_hidden_not_wrong(folder) -> None:
    for number in range(30, 40):
        for who in ("anna", "bert", "reference"):
            (folder / "landmarks" / who / f"f{number}.json").unlink()
    finding = only(found(folder), "reference")
    assert finding.severity == "note" and "hidden" in finding.text


def test_a_group_that_spans_splits_is_one_finding(folder) -> None:
    table = folder / "cases.csv"
    table.write_text(table.read_text().replace("f35,test,p35", "f35,test,p01"))
    finding = only(found(folder), "dataset")
    assert finding.severity == "error" and "group 'p01' in one split" in finding.text


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code or 0


def test_the_exit_code_says_whether_something_is_wrong(folder, capsys) -> None:
    assert run("data", "check", folder) == 0
    assert "40 cases, 0 errors, 0 warnings, 0 notes" in capsys.readouterr().out
    change(folder, "f12", lambda points: points["chin"].__iadd__((30, 0, 0)))
    assert run("data", "check", folder) == 1
    out = capsys.readouterr().out
    assert re.search(r"warning +outlier +f12 chin: ", out) and "0 errors, 1 warning, 0 notes" in out
    assert run("data", "check", folder / "nowhere", "--html", folder / "page.html") == 2
    assert "nowhere: wanted a dataset" in capsys.readouterr().err and not (folder / "page.html").exists()


def test_the_page_shows_the_flagged_case_with_its_points(folder, tmp_path) -> None:
    change(folder, "f12", lambda points: points["chin"].__iadd__((30, 0, 0)))
    assert run("data", "check", folder, "--html", tmp_path / "page.html", "--thumbnails", 2) == 1
    page = (tmp_path / "page.html").read_text()
    figures = re.findall(r'<figure id="(\w+)">', page)
    assert figures == ["f12", "f00"]  # the flagged one first
    assert page.count("<svg") == 6 and page.count("<circle") == 2 * 3 * len(NAMES)
    assert page.count('stroke="#ff3b30"') == 3  # the wrong point, in three planes
    picture = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    assert picture.startswith(b"\x89PNG")
    assert "<script" not in page and "http" not in page


def test_names_cannot_break_the_page(folder, tmp_path) -> None:
    table = folder / "cases.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    rows[1][0] = "<b>x&y"
    table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    run("data", "check", folder, "--html", tmp_path / "page.html", "--thumbnails", 0)
    page = (tmp_path / "page.html").read_text()
    assert "<b>x" not in page and "&lt;b&gt;x&amp;y" in page


def test_the_png_holds_the_picture() -> None:
    grey = np.random.default_rng(0).integers(0, 255, (5, 7), dtype=np.uint8)
    content = png(grey)
    data = content[content.index(b"IDAT") + 4 :]
    lines = np.frombuffer(zlib.decompressobj().decompress(data), np.uint8).reshape(5, 8)
    assert np.array_equal(lines[:, 1:], grey) and (lines[:, 0] == 0).all()


@pytest.mark.slow
def test_ten_thousand_cases_are_listed_checked_and_split_in_time(tmp_path, task) -> None:
    import time

    from landmark_challenge.formats.folder import assign_splits

    random = np.random.default_rng(0)
    picture = Image.of(random.integers(0, 99, (12, 12, 12)).astype(np.uint8), (10, 10, 10))
    with DatasetWriter(tmp_path / "set", task, source="test", licence="none") as writer:
        for number in range(10_000):
            points = SHAPE_MM + random.normal(0, 1, SHAPE_MM.shape)
            observers = {
                who: Landmarks(NAMES, points + random.normal(0, 0.4, points.shape)) for who in ("anna", "bert")
            }
            writer.add(Case(f"c{number}", "train", f"p{number}"), None, observers)
        image = tmp_path / "one.mha"
        from landmark_challenge.images import write_image

        write_image(image, picture)
        (writer.folder / "images").mkdir()
        for number in range(10_000):
            (writer.folder / "images" / f"c{number}.mha").hardlink_to(image)
    start = time.process_time()
    dataset = Dataset(tmp_path / "set")
    assign_splits({case.name: case.group for case in dataset.cases()}, split="0.8,0.1,0.1")
    check(tmp_path / "set")
    assert time.process_time() - start < 20
