"""Task files: the shipped ones are sound, wrong ones are refused by what is wrong."""

import re

import pytest
import yaml

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task, parse_task, task_names, tasks_folder, threshold_key


@pytest.mark.parametrize("name", task_names())
def test_a_shipped_task_is_sound(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert all(landmark.definition[0].isupper() and landmark.definition.endswith(".") for landmark in task.landmarks)
    assert len({threshold_key(value) for value in task.success_thresholds_mm}) == len(task.success_thresholds_mm)


def test_ceph_19_is_what_its_contract_says() -> None:
    task = load_task("ceph-19")
    assert len(task.names) == 19 and task.dimension == 2
    assert task.reference.text == "mean of senior, junior"
    assert task.success_tie == "strict" and task.missing_error_mm == 100
    assert {0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5} == set(task.success_thresholds_mm)


def ranked_by(path: str) -> dict:
    return {"ranking": {"columns": [{"title": "x", "path": path, "order": "asc"}]}}


def changed(**changes) -> dict:
    value = yaml.safe_load((tasks_folder() / "ceph-19.yaml").read_text())
    return {**value, **changes}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "Ceph 19"}, "name"),
        ({"dimension": 4}, "dimension"),
        ({"landmarks": []}, "landmarks"),
        ({"landmarks": [{"name": "a", "definition": "A."}] * 2}, "come twice"),
        ({"landmarks": [{"name": "A b", "definition": "A."}]}, "landmarks.0.name"),
        ({"reference": {"rule": "mean", "observers": ["senior"]}}, "does not go with 1"),
        ({"reference": {"rule": "observer", "observers": ["a", "b"]}}, "does not go with 2"),
        ({"success_thresholds_mm": [2, 1]}, "increasing"),
        ({"success_thresholds_mm": [2, 2]}, "increasing"),
        ({"success_thresholds_mm": [float("nan")]}, "success_thresholds_mm"),
        ({"missing_error_mm": 5}, "more than the largest"),
        ({"missing_error_mm": float("inf")}, "missing_error_mm"),
        ({"working_spacing_mm": [1, 1, 1]}, "wanted 2 numbers, got 3"),
        ({"working_spacing_mm": [0, 1]}, "working_spacing_mm"),
        ({"intensity": {"rule": "window"}}, "takes low < high"),
        ({"intensity": {"rule": "equalise", "low": 1, "high": 2}}, "takes neither"),
        ({"sockets": {"image": {"slug": "a", "relative_path": "a b"}}}, "relative_path"),
        ({"ranking": {"columns": []}}, "ranking.columns"),
        (ranked_by("aggregates.sdr.3_1mm"), r"wanted one of the thresholds 0_5mm, .* got 3_1mm"),
        (ranked_by("aggregates.landmarks.sela.mre_mm.mean"), "wanted a landmark of the task, got sela"),
        (ranked_by("aggregates.landmarks.sella.sdr.3_1mm"), "got 3_1mm"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_task_is_refused_by_what_is_wrong(changes, match) -> None:
    with pytest.raises(ChallengeError, match=match) as error:
        parse_task(changed(**changes), source="x.yaml")
    assert str(error.value).startswith("x.yaml: ")


def test_all_that_a_task_lacks_is_told_at_once() -> None:
    with pytest.raises(ChallengeError, match=r"x\.yaml: wanted the fields .*title, .*licence, got none of them"):
        parse_task({"name": "mine", "version": 1}, source="x.yaml")


def test_the_task_in_the_documentation_is_one() -> None:
    text = (tasks_folder().parents[1] / "challenge/README.md").read_text()
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "landmarks:" in block]
    task = parse_task(yaml.safe_load(example), source="README.md")
    given = yaml.safe_load(example)
    assert task.dimension == 3 and not [
        name for name, field in type(task).model_fields.items() if field.is_required() and name not in given
    ]


def test_a_new_task_is_one_file(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed(name="mine", title="Ours")))
    assert load_task(tmp_path / "mine.yaml").title == "Ours"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: [", b"- 1", b"", b"!!python/object:os.system {}"])
def test_files_that_are_no_task_are_refused(tmp_path, content) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ChallengeError, match=r"a\.yaml"):
        load_task(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["ceph", "../tasks/ceph-19", "", "nowhere.yaml"])
def test_unknown_tasks_are_refused(name) -> None:
    with pytest.raises(ChallengeError):
        load_task(name)


def test_threshold_keys_hold_no_dot() -> None:
    assert [threshold_key(value) for value in (0.5, 2, 2.5, 10, 0.0075)] == [
        "0_5mm",
        "2_0mm",
        "2_5mm",
        "10_0mm",
        "0_0075mm",
    ]
