"""The exported schemas are those of the models, and hold for what the programs write."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from landmark_challenge.dataset import Case, DatasetWriter
from landmark_challenge.landmarks import Landmarks, to_platform_json
from landmark_challenge.schemas import json_schemas
from landmark_challenge.task import load_task, task_names, tasks_folder

FOLDER = Path(__file__).parents[2] / "data_specs" / "schemas"


def valid(name: str, value: object) -> bool:
    return jsonschema.Draft202012Validator(json_schemas()[name]).is_valid(value)


def test_the_exported_schemas_are_up_to_date() -> None:
    stored = {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    assert stored == json.loads(json.dumps(json_schemas())), "run: landmarks task schema --out data_specs/schemas"


@pytest.mark.parametrize("name", sorted(json_schemas()))
def test_a_schema_is_a_schema_and_refuses_nonsense(name) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schemas()[name])
    assert not valid(name, "nonsense") and not valid(name, {"nonsense": 1})


@pytest.mark.parametrize("name", task_names())
def test_every_shipped_task_holds_to_the_schema(name) -> None:
    value = json.loads(json.dumps(yaml.safe_load((tasks_folder() / f"{name}.yaml").read_text())))
    jsonschema.validate(value, json_schemas()["task"], cls=jsonschema.Draft202012Validator)


def test_points_and_dataset_files_hold_to_their_schemas(tmp_path) -> None:
    points = Landmarks(["sella"], [[1, 2, 0]], [0.3])
    assert valid("points", to_platform_json(points)) and valid("points", to_platform_json(Landmarks([], [])))
    with DatasetWriter(tmp_path / "a", load_task("ceph-19"), source="x", licence="y") as writer:
        writer.add(Case("a", "test", "a"), None, {"senior": points})
    assert valid("dataset", json.loads((tmp_path / "a" / "dataset.json").read_text()))


def test_uncertainty_is_a_matrix_by_name() -> None:
    assert valid("uncertainty", {}) and valid("uncertainty", {"sella": [[1, 0, 0], [0, 1, 0], [0, 0, 0]]})
    assert not valid("uncertainty", {"sella": [1, 0, 0]}) and not valid("uncertainty", {"sella": [[1, 0], [0, 1]]})


def test_a_platform_record_holds_to_the_schema() -> None:
    socket = {"slug": "medical-image", "relative_path": "images/medical-image"}
    job = {
        "pk": "0b", "status": "Succeeded", "exec_duration": "P0DT00H00M03.250000S", "invoke_duration": None,
        "inputs": [{"socket": socket, "interface": socket, "value": None, "file": None, "pk": 1,
                    "image": {"pk": "1f", "name": "151.mha"}}],
        "outputs": [{"interface": {"slug": "anatomical-landmarks", "relative_path": "anatomical-landmarks.json"},
                     "image": None, "file": "https://example.org/a.json", "value": None}],
    }  # fmt: skip
    assert valid("predictions", [job]) and not valid("predictions", [{**job, "pk": None}])
