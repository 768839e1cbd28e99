"""Files appear whole or not at all."""

import json
import math

import pytest

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def full_disk(self, target):
        raise OSError("no space left")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_json_holds_finite_numbers_only(tmp_path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_a_staged_folder_appears_only_at_the_end(tmp_path) -> None:
    target = tmp_path / "out"
    with files.staged_folder(target) as staging:
        (staging / "a").write_text("a")
        assert not target.exists()
    assert (target / "a").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_staged_folder_leaves_nothing(tmp_path, error) -> None:
    with pytest.raises(error), files.staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("a")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with files.staged_folder(tmp_path / "out") as staging:
        (staging / "a").write_text("first")
    with pytest.raises(ChallengeError, match="new or empty folder"), files.staged_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "a").read_text() == "first"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ChallengeError, match="new or empty folder"):
        files.refuse_existing(tmp_path / "file")


def test_written_files_are_readable_by_others(tmp_path) -> None:
    files.write_text(tmp_path / "sub" / "a.txt", "ä")
    assert (tmp_path / "sub" / "a.txt").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "sub" / "a.txt").read_bytes() == "ä".encode()


def test_json_is_read_up_to_a_size(tmp_path) -> None:
    files.write_json(tmp_path / "a.json", list(range(100)))
    assert files.read_json(tmp_path / "a.json") == list(range(100))
    with pytest.raises(ChallengeError, match="at most 10 bytes"):
        files.read_json(tmp_path / "a.json", max_bytes=10)
    for missing in (tmp_path / "b.json", tmp_path):
        with pytest.raises(ChallengeError, match="there is none"):
            files.read_json(missing)
