"""Point files and folders of other programs: round trips, every coordinate convention, and what is wrong with them."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from landmark_challenge.cli import main
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.formats import POINT_FORMATS, import_dataset, read_points, write_points
from landmark_challenge.formats.csv_table import Columns, parse_columns
from landmark_challenge.formats.folder import assign_splits, mean_of
from landmark_challenge.formats.mat5 import read_array
from landmark_challenge.formats.naming import known_labels, resolve
from landmark_challenge.formats.pairing import Layout
from landmark_challenge.images import Image, write_image
from landmark_challenge.landmarks import Landmarks, read_landmarks, write_landmarks
from landmark_challenge.task import load_task

AFIDS, BULBS = load_task("brain-afids-32"), load_task("olfactory-mr-2")
HEADER = "# Markups fiducial file version = 4.10\n# CoordinateSystem = {system}\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"  # noqa: E501

names = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=12)
coordinates = st.floats(-1e5, 1e5)


@st.composite
def landmark_sets(draw) -> Landmarks:
    chosen = draw(st.lists(names, unique=True, min_size=1, max_size=8))
    points = draw(
        st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=len(chosen), max_size=len(chosen))
    )
    chances = draw(st.lists(st.floats(0, 1), min_size=len(chosen), max_size=len(chosen)))
    return Landmarks(chosen, points, chances)


@pytest.mark.parametrize("ending", list(POINT_FORMATS))
@given(landmarks=landmark_sets())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_point_format_gives_back_what_was_written(tmp_path, ending, landmarks) -> None:
    write_points(tmp_path / f"a{ending}", landmarks)
    assert read_points(tmp_path / f"a{ending}") == landmarks


@given(
    data=st.data(),
    spacing=st.lists(st.floats(0.05, 5), min_size=3, max_size=3),
    origin=st.lists(st.floats(-500, 500), min_size=3, max_size=3),
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    mirrored=st.booleans(),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_voxels_through_every_format_stay_within_a_nanometre(tmp_path, data, spacing, origin, angles, mirrored) -> None:
    direction = Rotation.from_euler("xyz", angles).as_matrix() * np.where(np.arange(3) == 0, -1 if mirrored else 1, 1)
    image = Image.of(np.zeros((9, 8, 7), np.uint8), spacing, origin, direction)
    index = np.array(data.draw(st.lists(st.tuples(*[st.floats(0, 6)] * 3), min_size=2, max_size=2)))
    landmarks = Landmarks(BULBS.names, image.index_to_mm(index))
    path = tmp_path / "start.json"
    write_points(path, landmarks)
    for number, ending in enumerate([*POINT_FORMATS, ".json"]):
        following = tmp_path / f"{number}{ending}"
        write_points(following, read_points(path, task=BULBS))
        path = following
    np.testing.assert_allclose((image.mm_to_index(read_points(path).points_mm) - index) * spacing, 0, atol=1e-6)


@given(st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_points_or_one_line(tmp_path, content) -> None:
    for ending in POINT_FORMATS:
        path = tmp_path / f"a{ending}"
        for start in (b"", HEADER.format(system=0).encode() if ending == ".fcsv" else b"name,x,y,z\n"):
            path.write_bytes(start + content)
            try:
                read_points(path)
            except ChallengeError as error:
                assert str(path) in str(error)


def test_slicer_coordinate_systems(tmp_path) -> None:
    row = "1,1.5,-2,3,0,0,0,1,1,1,0,AC,,\n"
    for system, wanted in (("0", (-1.5, 2, 3)), ("RAS", (-1.5, 2, 3)), ("1", (1.5, -2, 3)), ("LPS", (1.5, -2, 3))):
        (tmp_path / "a.fcsv").write_text(HEADER.format(system=system) + row)
        np.testing.assert_array_equal(read_points(tmp_path / "a.fcsv").points_mm, [wanted])
    for system, wanted in (("RAS", (-1.5, 2, 3)), ("LPS", (1.5, -2, 3))):
        (tmp_path / "a.mrk.json").write_text(json.dumps(markups([control("AC", [1.5, -2, 3])], system=system)))
        np.testing.assert_array_equal(read_points(tmp_path / "a.mrk.json").points_mm, [wanted])


def control(label: str, position, **more) -> dict:
    return {"label": label, "position": position, **more}


def markups(points: list, *, system: str = "LPS", kind: str = "Fiducial", **more) -> dict:
    return {"markups": [{"type": kind, "coordinateSystem": system, "controlPoints": points, **more}]}


def test_locked_hidden_and_unselected_points_are_points_and_undefined_ones_are_not(tmp_path) -> None:
    points = [
        control("AC", [1, 2, 3], locked=True, visibility=False, selected=False),
        control("PC", [4, 5, 6], positionStatus="undefined"),
        control("PMJ", None, positionStatus="missing"),
        control("culmen", [7, 8, 9], positionStatus="defined"),
    ]
    (tmp_path / "a.mrk.json").write_text(json.dumps(markups(points)))
    assert read_points(tmp_path / "a.mrk.json", task=AFIDS).names == ("ac", "culmen")
    (tmp_path / "b.mrk.json").write_text(
        json.dumps(markups([control("AC", [float("nan")] * 3, positionStatus="undefined")]))
    )
    assert len(read_points(tmp_path / "b.mrk.json")) == 0
    rows = "1,1,2,3,0,0,0,1,0,0,1,AC,,,2,0\n2,4,5,6,0,0,0,1,1,1,0,PC,,,0,0\n3,nan,0,0,0,0,0,1,1,1,0,PMJ,,,3,0\n"
    (tmp_path / "a.fcsv").write_text(HEADER.format(system="LPS") + rows)
    assert read_points(tmp_path / "a.fcsv", task=AFIDS).names == ("ac",)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("1,1,2,3,0,0,0,1,1,1,0,AC,,\n", "CoordinateSystem"),
        ("", "CoordinateSystem"),
        ("# CoordinateSystem = RAS\n1,1,2,3,0,0,0,1,1,1,0,AC,probability=7,\n", "'ac': wanted a probability in 0"),
        ("# CoordinateSystem = 2\n1,1,2,3,0,0,0,1,1,1,0,AC,,\n", r"line 1: .*got '2'"),
        ("# CoordinateSystem = RAS\n1,1,2\n", "line 2: wanted 14 values, got 3"),
        ("# CoordinateSystem = RAS\n1,1,x,3,0,0,0,1,1,1,0,AC,,\n", "line 2: wanted numbers"),
        ("# CoordinateSystem = RAS\n1,1,nan,3,0,0,0,1,1,1,0,AC,,\n", "finite"),
        ("# CoordinateSystem = RAS\n# columns = id,x,y\n", "wanted the columns x, y, z and label"),
        ("# CoordinateSystem = RAS\n1,1,2,3,0,0,0,1,1,1,0,nowhere,,\n", "landmark of brain-afids-32.*'nowhere'"),
        ("# CoordinateSystem = RAS\n" + "1,1,2,3,0,0,0,1,1,1,0,1,,\n" * 2, "'ac' twice"),
    ],
)
def test_a_wrong_fcsv_is_refused_by_line(tmp_path, content, match) -> None:
    (tmp_path / "a.fcsv").write_text(content)
    with pytest.raises(ChallengeError, match=match):
        read_points(tmp_path / "a.fcsv", task=AFIDS)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], "list 'markups'"),
        ({"markups": [3]}, "list 'markups'"),
        (markups([control("AC", [1, 2, 3])], kind="Line"), "type 'Fiducial', got 'Line'"),
        (markups([control("AC", [1, 2, 3])], system="IJK"), "RAS .* or LPS"),
        (markups([control("AC", [1, 2, 3])], coordinateUnits="um"), "millimetres"),
        (markups([control("AC", [1, 2])]), "position"),
        (markups([control("AC", [1, 2, True])]), "position"),
        (markups([control("AC", [1, 2, float("inf")])]), "finite"),
        (markups([control("AC", [1, 2, 10**400])]), "point 0: wanted finite"),
        (markups([control(7, [1, 2, 3])]), "label: wanted a text, got int"),
        (markups([control(None, [1, 2, 3])]), "label ''"),
        (markups([7]), "point 0: wanted an object"),
        (markups([control("", [1, 2, 3])]), "label ''"),
        (markups([control("AC", [1, 2, 3], description="probability=e")]), "after 'probability='"),
    ],
)
def test_wrong_markups_are_refused(tmp_path, value, match) -> None:
    (tmp_path / "a.mrk.json").write_text(json.dumps(value))
    with pytest.raises(ChallengeError, match=match):
        read_points(tmp_path / "a.mrk.json", task=AFIDS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "wanted the columns .* 'name' is not there"),
        ("a,b\n", "wanted the columns .* 'name' is not there"),
        ("name,x,y,z\nAC,1,2,3\n,1,2,3\n", "point 1: wanted a name"),
        ("name,x,y,z,probability\nAC,1,2,3,7\n", r"'AC': wanted a probability in 0\.\.1, got 7"),
    ],
)
def test_a_wrong_table_of_one_case_is_refused(tmp_path, content, match) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ChallengeError, match=match) as error:
        read_points(tmp_path / "a.csv")
    assert str(error.value).startswith(str(tmp_path / "a.csv"))


def test_a_header_alone_says_that_every_landmark_is_absent(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("name,x,y,z\n")
    (tmp_path / "a.fcsv").write_text(HEADER.format(system="LPS"))
    assert len(read_points(tmp_path / "a.csv")) == len(read_points(tmp_path / "a.fcsv")) == 0


def test_labels_mean_a_landmark_by_name_abbreviation_alias_or_number() -> None:
    known = known_labels(AFIDS)
    assert len({known[str(number)] for number in range(1, 33)}) == 32
    for label, description, name in (
        ("1", "AC", "ac"), ("01", "", "ac"), ("20`", "splenium of CC", "splenium-of-cc"), ("AC", "", "ac"),
        ("RSLMS", "", "r-superior-lms"), ("r-superior-lms", "", "r-superior-lms"),
        ("R  Superior LMS", "", "r-superior-lms"),
        ("F-7", "genu of CC", "genu-of-cc"), ("16", "L LV at PC", "l-lv-at-ac"), ("33", "", None), ("", "", None),
    ):  # fmt: skip
        assert resolve(label, description, known) == name, label


def test_a_label_that_comes_twice_is_told_apart_by_its_description(tmp_path, capsys) -> None:
    rows = "1,1,2,3,0,0,0,1,1,1,0,7,L superior LMS,\n2,4,5,6,0,0,0,1,1,1,0,7,R inferior LMS,\n"
    (tmp_path / "a.fcsv").write_text(HEADER.format(system=1) + rows)
    landmarks = read_points(tmp_path / "a.fcsv", task=AFIDS)
    assert landmarks.names == ("l-superior-lms", "r-inferior-lms")
    assert "comes twice" in capsys.readouterr().err
    assert landmarks.point_mm("r-inferior-lms").tolist() == [4, 5, 6]


# folders


def scan(path: Path, seed: int = 0, size: tuple[int, ...] = (6, 7, 8)) -> Image:
    random = np.random.default_rng(seed)
    direction = Rotation.from_euler("xyz", (0.1, 0.2, -0.3)).as_matrix()
    image = Image.of(random.integers(1, 99, size).astype(np.int16), (0.7, 0.8, 0.9), (5, -6, 7), direction)
    write_image(path, image)
    return image


def marked(shift: float = 0) -> Landmarks:
    return Landmarks(BULBS.names, [[6 + shift, -5, 8], [7 + shift, -4, 9]])


def test_points_are_paired_by_name(tmp_path) -> None:
    for case in ("scan", "scan_2"):
        scan(tmp_path / "in" / f"{case}.nii.gz")
        write_points(tmp_path / "in" / f"{case}.fcsv", marked())
        write_points(tmp_path / "in" / f"{case}_rater1.mrk.json", marked(1))
    dataset = import_dataset("slicer", tmp_path / "in", output=tmp_path / "set", task=BULBS)
    assert [case.name for case in dataset.cases()] == ["scan", "scan_2"]
    assert dataset.observers == ("expert", "rater1", "reference")
    assert dataset.landmarks("scan_2", observer="rater1") == marked(1)


def test_points_are_paired_by_folder_and_the_folder_tells_raters_apart(tmp_path) -> None:
    for subject in ("s1", "s2"):
        scan(tmp_path / "in" / subject / f"{subject}-t1.mha")
        write_points(tmp_path / "in" / subject / "all_MEAN.fcsv", marked())
        write_points(tmp_path / "in" / subject / "raw" / "x_Rater02_1_2020.fcsv", marked(1))
        write_points(tmp_path / "in" / subject / "clean" / "x_Rater02_1_2020.fcsv", marked(2))
    dataset = import_dataset("slicer", tmp_path / "in", output=tmp_path / "set", task=BULBS)
    assert [case.name for case in dataset.cases()] == ["s1-t1", "s2-t1"]
    assert dataset.observers == ("clean-rater02-1", "expert", "raw-rater02-1", "reference")


def test_points_are_paired_by_expressions(tmp_path) -> None:
    scan(tmp_path / "in" / "sub-7" / "anat" / "t1.nii.gz")
    write_points(tmp_path / "in" / "sub-7" / "gold.fcsv", marked())
    write_points(tmp_path / "in" / "sub-7" / "anna.fcsv", marked(1))
    layout = Layout(
        images=r"(?P<case>sub-\d+)/",
        points=(r"expert=(?P<case>sub-\d+)/gold", r"(?P<case>sub-\d+)/(?P<observer>\w+)\.fcsv"),
        split="test",
    )
    dataset = import_dataset("slicer", tmp_path / "in", output=tmp_path / "set", task=BULBS, layout=layout)
    assert [(case.name, case.split) for case in dataset.cases()] == [("sub-7", "test")]
    assert dataset.landmarks("sub-7") == marked() and dataset.landmarks("sub-7", observer="anna") == marked(1)


def test_raters_without_images_make_a_consensus(tmp_path) -> None:
    for rater, shift in (("Rater01", 0), ("Rater02", 3)):
        landmarks = Landmarks(["ac", "pc"], [[shift, 0, 0], [shift, 1, 1]])
        write_points(tmp_path / "in" / f"OAS1_0010_{rater}_1_2017.fcsv", landmarks)
    dataset = import_dataset("slicer", tmp_path / "in", output=tmp_path / "set", task=AFIDS)
    assert [case.name for case in dataset.cases()] == ["OAS1_0010"] and not dataset.has_images
    np.testing.assert_allclose(dataset.landmarks("OAS1_0010").points_mm[:, 0], 1.5)
    assert dataset.observers == ("consensus", "rater01-1", "rater02-1", "reference")


def test_the_mean_holds_what_anybody_marked() -> None:
    one = Landmarks(["a", "b"], [[0, 0, 0], [2, 2, 2]])
    other = Landmarks(["b", "c"], [[4, 4, 4], [6, 6, 6]])
    mean = mean_of([one, other], names=["a", "b", "c", "d"])
    assert mean == Landmarks(["a", "b", "c"], [[0, 0, 0], [3, 3, 3], [6, 6, 6]])


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: (f / "b.mha").write_bytes((f / "a.mha").read_bytes()), r"b\.mha: wanted points of case 'b'"),
        (lambda f: (f / "b.json").write_bytes((f / "a.json").read_bytes()), r"wanted an image of case 'b'"),
        (lambda f: (f / "a.json").unlink(), "wanted points files"),
        (lambda f: (f / "a.nii").write_bytes(b""), "wanted one image of case 'a'"),
        (lambda f: (f / "a.mha").write_bytes(b"junk"), r"a\.mha: wanted"),
    ],
)
def test_a_folder_that_does_not_add_up_is_refused(tmp_path, damage, match) -> None:
    folder = tmp_path / "in"
    scan(folder / "a.mha")
    write_landmarks(folder / "a.json", marked())
    damage(folder)
    with pytest.raises(ChallengeError, match=match):
        import_dataset("points-json", folder, output=tmp_path / "set", task=BULBS)
    assert not (tmp_path / "set").exists()


def test_a_task_is_needed_where_the_format_does_not_say_it(tmp_path) -> None:
    scan(tmp_path / "in" / "a.mha")
    write_landmarks(tmp_path / "in" / "a.json", marked())
    with pytest.raises(ChallengeError, match="--task"):
        import_dataset("points-json", tmp_path / "in", output=tmp_path / "set")


def test_padding_moves_the_points_with_the_picture(tmp_path) -> None:
    places = set()
    for case in ("a", "b"):
        image = scan(tmp_path / "in" / f"{case}.mha")
        write_landmarks(tmp_path / "in" / f"{case}.json", marked())
    layout = Layout(pad=(20, 21, 22))
    dataset = import_dataset("points-json", tmp_path / "in", output=tmp_path / "set", task=BULBS, layout=layout)
    for case in ("a", "b"):
        padded = dataset.image(case)
        assert padded.size == (20, 21, 22) and np.array_equal(padded.origin_mm, image.origin_mm)
        start = np.argwhere(padded.array != image.array.min())[0]
        moved = padded.mm_to_index(dataset.landmarks(case).points_mm) - image.mm_to_index(marked().points_mm)
        offset = np.rint(moved[0]).astype(int)
        np.testing.assert_allclose(moved, [offset, offset], atol=1e-9)
        x, y, z = offset
        assert np.array_equal(padded.array[z : z + 6, y : y + 7, x : x + 8], image.array) and start[0] >= z
        places.add(tuple(offset))
    assert len(places) == 2
    with pytest.raises(ChallengeError, match="fits into"):
        import_dataset("points-json", tmp_path / "in", output=tmp_path / "b", task=BULBS, layout=Layout(pad=(5, 9, 9)))


def test_splits_keep_groups_together_and_their_shares() -> None:
    groups = {f"case{number}": f"patient{number // 2}" for number in range(1000)}
    cases = assign_splits(groups, split="0.8,0.1,0.1")
    counts = [sum(case.split == split for case in cases.values()) for split in ("train", "validation", "test")]
    assert counts == [800, 100, 100] and set(cases) == set(groups)
    assert all(cases[f"case{n}"].split == cases[f"case{n + 1}"].split for n in range(0, 1000, 2))
    again = assign_splits(dict(reversed(groups.items())), split="0.8,0.1,0.1")
    assert {name: case.split for name, case in cases.items()} == {name: case.split for name, case in again.items()}
    other = assign_splits(groups, split="0.8,0.1,0.1", seed=1)
    assert {name: case.split for name, case in cases.items()} != {name: case.split for name, case in other.items()}
    for text in ("0.5,0.5", "1,1,1", "a,b,c", "everything", "-1,1,1", "nan,nan,nan"):
        with pytest.raises(ChallengeError, match="--split"):
            assign_splits(groups, split=text)


# tables


def imported(folder: Path, table: str, **options) -> Dataset:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "points.csv").write_text(table)
    return import_dataset("csv", folder / "in", output=folder / "set", task=BULBS, **options)


RIGHT, LEFT = BULBS.names


def test_a_long_table_in_voxels_of_either_base(tmp_path) -> None:
    image = scan(tmp_path / "in" / "a.nii.gz")
    table = f"id;who;point;i;j;k\na;Anna;{RIGHT};2;3;4\na;Anna;2;3;3;4\na;Bert;{RIGHT};1;1;1\n"
    for base in (0, 1):
        columns = parse_columns("case=id,landmark=point,observer=who,x=i,y=j,z=k", first_index=base)
        (tmp_path / "in" / "points.csv").write_text(table)
        dataset = import_dataset("csv", tmp_path / "in", output=tmp_path / f"set{base}", task=BULBS, columns=columns)
        assert dataset.observers == ("anna", "bert")
        wanted = image.index_to_mm(np.array([[2, 3, 4], [3, 3, 4]]) - base)
        np.testing.assert_allclose(dataset.landmarks("a", observer="anna").points_mm, wanted, atol=1e-5)


def test_a_wide_table_tells_voxels_by_its_header(tmp_path) -> None:
    image = scan(tmp_path / "in" / "a.mha")
    names = [name.replace("-", "_") for name in BULBS.names]
    header = "case," + ",".join(f"{name}_{axis}" for name in names for axis in "ijk")
    dataset = imported(tmp_path, f"{header}\na,1,2,3,,,\n")
    np.testing.assert_allclose(dataset.landmarks("a").points_mm, image.index_to_mm([[1, 2, 3]]), atol=1e-9)
    assert dataset.landmarks("a").names == (RIGHT,)


def test_millimetres_in_ras_without_images(tmp_path) -> None:
    table = f"case,landmark,x_mm,y_mm,z_mm,split,group\na,{RIGHT},1,2,3,train,p\nb,{LEFT},4,5,6,test,q\n"
    dataset = imported(tmp_path, table, columns=Columns(axes="RAS"))
    np.testing.assert_array_equal(dataset.landmarks("a").points_mm, [[-1, -2, 3]])
    assert [(case.split, case.group) for case in dataset.cases()] == [("train", "p"), ("test", "q")]


@pytest.mark.parametrize(
    ("table", "columns", "match"),
    [
        ("case,landmark,x,y,z\na,1,1,2,3\n", Columns(), "--units voxel or mm"),
        ("case,landmark,x,y\na,1,1,2\n", Columns(units="mm"), "one column 'z'"),
        ("case,landmark,x,y,z\na,1,1,2\n", Columns(units="mm"), "line 2: wanted 5 fields"),
        ("case,landmark,x,y,z\na,1,1,2,three\n", Columns(units="mm"), "line 2: wanted a finite number, got 'three'"),
        ("case,landmark,x,y,z\na,1,1,2,inf\n", Columns(units="mm"), "finite number"),
        ("case,landmark,x,y,z\na,9,1,2,3\n", Columns(units="mm"), "got label '9'"),
        ("case,landmark,x,y,z\na,1,1,2,3\na,1,1,2,3\n", Columns(units="mm"), "twice"),
        ("case,landmark,x,y,z\na,1,,,\n", Columns(units="mm"), "at least one point"),
        ("case,landmark,x,y,z\n", Columns(units="mm"), "at least one row"),
        ("case,landmark,x,y,z\na,1,1,2,3\n", Columns(units="voxel"), "image of case 'a'"),
        ("case,landmark,x,y,z,split\na,1,1,2,3,dev\n", Columns(units="mm"), "wanted a split"),
        (
            "case,landmark,x,y,z,split,group\na,1,1,2,3,train,p\nb,1,1,2,3,test,p\n",
            Columns(units="mm"),
            "group 'p' in one split",
        ),
        ("case,landmark,x,y,z\na,1,1,2,3\n", Columns(units="mm", columns={"colour": "x"}), "wanted the roles"),
        ("case,a_x,b_x\na,1,2\n", Columns(units="mm", columns={"x": "{name}_x", "y": "y"}), "x, y and z alike"),
    ],
)
def test_a_wrong_table_is_refused_by_line(tmp_path, table, columns, match) -> None:
    with pytest.raises(ChallengeError, match=match):
        imported(tmp_path, table, columns=columns)
    assert not (tmp_path / "set").exists()


# MATLAB and AASCE


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f4", "f8"])
def test_a_matlab_array_reads_as_scipy_reads_it(tmp_path, kind, compressed) -> None:
    array = np.arange(136).reshape(68, 2).astype(kind)
    contents = {"other": np.eye(2), "p2": array, "text": "abc"}
    scipy.io.savemat(tmp_path / "a.mat", contents, do_compression=compressed)
    assert np.array_equal(read_array(tmp_path / "a.mat", "p2"), array)
    with pytest.raises(ChallengeError, match="array 'p3'"):
        read_array(tmp_path / "a.mat", "p3")


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_broken_matlab_file_is_refused(tmp_path, content, compressed) -> None:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    if compressed:
        data = zlib.compress(content)
        content = struct.pack("<II", 15, len(data)) + data
    (tmp_path / "a.mat").write_bytes(head + content)
    with pytest.raises(ChallengeError, match=r"a\.mat"):
        read_array(tmp_path / "a.mat", "p2")


def aasce(folder: Path, names: tuple[str, ...] = ("s-1 A AP", "s-1 B AP", "s-2 A AP (2)", "s-coronal1")) -> Path:
    for number, name in enumerate(names):
        write_image(folder / "data" / "training" / f"{name}.jpg", Image.of(np.full((60, 40), number, np.uint8), (1, 1)))
        (folder / "labels" / "training").mkdir(parents=True, exist_ok=True)
        pixels = np.stack([np.arange(68) % 40, np.arange(68) % 60], axis=1).astype(np.uint16)
        scipy.io.savemat(folder / "labels" / "training" / f"{name}.jpg.mat", {"p2": pixels}, do_compression=True)
    return folder


def test_aasce_needs_a_spacing_and_groups_by_examination(tmp_path) -> None:
    folder = aasce(tmp_path / "in")
    with pytest.raises(ChallengeError, match="--spacing-mm"):
        import_dataset("aasce2019", folder, output=tmp_path / "set")
    dataset = import_dataset("aasce2019", folder, output=tmp_path / "set", spacing_mm=(0.5, 0.25))
    assert [case.group for case in dataset.cases()] == ["s-1", "s-1", "s-2", "s-coronal1"]
    np.testing.assert_allclose(dataset.landmarks("s-1 A AP").points_mm[3], (1.5, 0.75, 0))
    (folder / "labels" / "training" / "s-2 A AP (2).jpg.mat").unlink()
    with pytest.raises(ChallengeError, match="wanted labels of the same name"):
        import_dataset("aasce2019", folder, output=tmp_path / "set2", spacing_mm=(0.5, 0.25))


# the command line


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code or 0


def test_convert_takes_files_and_folders(tmp_path, capsys) -> None:
    write_landmarks(tmp_path / "points" / "a.json", marked())
    write_landmarks(tmp_path / "points" / "b.json", marked(1))
    assert run("convert", tmp_path / "points" / "a.json", tmp_path / "a.mrk.json") == 0
    point = json.loads((tmp_path / "a.mrk.json").read_text())["markups"][0]["controlPoints"][0]
    assert point["label"] == RIGHT and point["description"] == "probability=1.0" and point["selected"] is True
    assert run("convert", tmp_path / "points", tmp_path / "slicer", "--to", "fcsv") == 0
    assert sorted(path.name for path in (tmp_path / "slicer").iterdir()) == ["a.fcsv", "b.fcsv"]
    assert run("convert", tmp_path / "slicer" / "b.fcsv", tmp_path / "b.json") == 0
    assert read_landmarks(tmp_path / "b.json") == marked(1)
    capsys.readouterr()
    write_points(tmp_path / "points" / "a.csv", marked())
    for source, out, *more in (
        ("points", "out"),
        ("points/a.json", "a.xml"),
        ("nowhere.json", "a.csv"),
        ("points", "out", "--to", "csv"),
    ):
        assert run("convert", tmp_path / source, tmp_path / out, *more) == 2
        told = capsys.readouterr().err
        assert told.startswith("landmarks: error: ") and told.count("\n") == 1


def test_a_doubtful_point_opens_in_another_colour(tmp_path) -> None:
    write_points(tmp_path / "a.mrk.json", Landmarks(["a", "b"], [[0, 0, 0]] * 2, [0.9, 0.2]))
    written = json.loads((tmp_path / "a.mrk.json").read_text())["markups"][0]
    assert [point["selected"] for point in written["controlPoints"]] == [True, False]
    assert written["display"]["selectedColor"] != written["display"]["color"]


def test_bad_expressions_and_sizes_are_bad_usage(tmp_path, capsys) -> None:
    scan(tmp_path / "in" / "a.mha")
    start = ("data", "import", "slicer", tmp_path / "in", tmp_path / "set", "--task", "olfactory-mr-2")
    for wrong in (("--points", "("), ("--points", "x"), ("--images", "(x)"), ("--group", "x"), ("--pad", "0,1,2")):
        assert run(*start, *wrong) == 2, wrong
        assert capsys.readouterr().err.count("\n") == 1


def test_a_task_of_ones_own_travels_with_its_data(tmp_path) -> None:
    text = (Path(__file__).parents[2] / "data_specs" / "tasks" / "olfactory-mr-2.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("name: olfactory-mr-2", "name: mine", 1))
    scan(tmp_path / "in" / "a.mha")
    write_landmarks(tmp_path / "in" / "a.json", marked())
    assert (
        run("data", "import", "points-json", tmp_path / "in", tmp_path / "set", "--task", tmp_path / "mine.yaml") == 0
    )
    assert Dataset(tmp_path / "set").task.name == "mine"
