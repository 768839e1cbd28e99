"""`landmarks task` and `landmarks data` end to end."""

import json

import numpy as np
import pytest

from landmark_challenge.cli import main
from landmark_challenge.cli_data import parse_spacing
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task, task_names


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code or 0


def test_task_list_names_every_task(capsys) -> None:
    assert run("task", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == task_names()
    assert "19 landmarks" in next(line for line in lines if line.startswith("ceph-19"))


@pytest.mark.parametrize("name", task_names())
def test_task_show_prints_everything_a_participant_needs(name, capsys) -> None:
    assert run("task", "show", name) == 0
    text = capsys.readouterr().out
    task = load_task(name)
    assert task.reference.text in text and f"{task.missing_error_mm:g} mm" in text
    flowing = " ".join(text.split())
    for landmark in task.landmarks:
        assert landmark.name in flowing and " ".join(landmark.definition.split()) in flowing
    assert " ".join(task.source.split()) in flowing
    assert all(len(line) <= 120 for line in text.splitlines())


def test_phantoms_are_a_dataset_and_the_same_seed_gives_the_same_bytes(tmp_path, capsys) -> None:
    for name in ("a", "b"):
        assert run("data", "phantom", "ceph-19", tmp_path / name, "--cases", 3, "--seed", 7) == 0
    assert "ceph-19" in capsys.readouterr().out
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) >= 3 * 3 + 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    dataset = Dataset(tmp_path / "a")
    assert {case.split for case in dataset.cases()} == {"train", "validation", "test"}
    for case in dataset.cases():
        assert dataset.image(case.name).contains(dataset.landmarks(case.name).points_mm).all()


def test_phantoms_do_not_overwrite(tmp_path, capsys) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    assert run("data", "phantom", "ceph-19", tmp_path / "a", "--cases", 3) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]


def test_an_import_that_fails_leaves_nothing(tmp_path, capsys) -> None:
    (tmp_path / "archive").mkdir()
    assert run("data", "import", "isbi2015", tmp_path / "archive", tmp_path / "out") == 2
    assert "RawImage" in capsys.readouterr().err
    assert run("data", "import", "isbi2015", tmp_path / "nowhere", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_spacing_is_read_from_the_command_line() -> None:
    assert parse_spacing(None) is None
    np.testing.assert_array_equal(parse_spacing("0.1, 0.2,3"), (0.1, 0.2, 3))
    for text in ("", "1", "1,2,3,4", "0,1", "-1,1", "nan,1", "inf,1", "a,b"):
        with pytest.raises(ChallengeError, match="--spacing-mm"):
            parse_spacing(text)


def test_schemas_are_written_where_asked(tmp_path) -> None:
    assert run("task", "schema", "--out", tmp_path) == 0
    assert json.loads((tmp_path / "points.schema.json").read_text())["title"] == "Points"
