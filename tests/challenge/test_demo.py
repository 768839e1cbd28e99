"""The demo's own parts; the whole loop is a slow test."""

import json
import sys

import numpy as np
import pytest

from landmark_challenge import demo as demo_module
from landmark_challenge.cli import main
from landmark_challenge.dataset import Dataset
from landmark_challenge.demo import draw_overlay, find_entrants, read_predictions, summary_table
from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import Landmarks, to_platform_json
from landmark_challenge.phantoms import PHANTOMS
from landmark_challenge.predictions import CaseResult, job_pk, job_record, write_predictions_json, write_result


@pytest.fixture
def predictions(tiny_dataset, tmp_path):
    """The reference of every test case, moved by 3 mm along x, as a predictions folder."""
    dataset = Dataset(tiny_dataset)
    records = []
    for case in dataset.cases(split="test"):
        truth = dataset.landmarks(case.name)
        content = json.dumps(to_platform_json(Landmarks(truth.names, truth.points_mm + (3, 0, 0)))).encode()
        sockets = dataset.task.sockets
        outputs = {sockets.landmarks.relative_path: content, sockets.uncertainty.relative_path: b"{}"}
        result = CaseResult(case.name, f"{case.name}.mha", outputs, exec_s=0.1)
        write_result(tmp_path / "predictions", dataset.task, result, run="r", algorithm="a")
        records.append(job_record(dataset.task, result, pk=job_pk(case.name, "r"), algorithm="a"))
    write_predictions_json(tmp_path / "predictions", records)
    return tmp_path / "predictions"


def test_predictions_are_read_by_case(predictions, tiny_dataset) -> None:
    dataset = Dataset(tiny_dataset)
    found = read_predictions(predictions, dataset)
    assert set(found) == {case.name for case in dataset.cases(split="test")}
    for name, points in found.items():
        np.testing.assert_allclose(points.points_mm - dataset.landmarks(name).points_mm, [[3, 0, 0]] * 19, atol=1e-9)


def test_the_overlay_is_a_picture(predictions, tiny_dataset, tmp_path) -> None:
    draw_overlay(tiny_dataset, predictions, tmp_path / "overlay.png")
    content = (tmp_path / "overlay.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 50_000


def test_the_table_has_a_line_per_method() -> None:
    figures = {"mean": 1.234, "sd": 0.5, "median": 1.0}
    common = {"task": "ceph-19", "mre_mm": figures}
    rows = [
        {**common, "method": "one", "sdr": {"2_0mm": 0.875, "4_0mm": 1.0}, "runtime_s": {"mean": 0.25}},
        {**common, "method": "another", "sdr": {}},
    ]
    head, one, another = summary_table(rows).splitlines()
    assert head.split()[:2] == ["task", "method"]
    assert one.split()[1:5] == ["one", "1.23", "0.50", "1.00"] and "87.5 %" in one and one.endswith("0.25")
    assert another.endswith("-") and len(head) == len(one) == len(another)


def test_the_checkouts_models_are_found_and_training_ignores_them() -> None:
    entrants = {entrant.method: entrant for entrant in find_entrants(everything=False, trained=True)}
    assert list(entrants) == ["mean_shape", "global_to_local"]
    assert entrants["global_to_local"].model is not None
    assert all(entrant.model is None for entrant in find_entrants(everything=False, trained=False))
    everything = {entrant.method for entrant in find_entrants(everything=True, trained=True)}
    models = demo_module._checkout().glob("baselines/*/model/model.json")
    drawn = {path.parts[-3] for path in models if json.loads(path.read_text())["task"]["name"] in PHANTOMS}
    assert everything == drawn, "every baseline that phantoms can judge, without a list to keep"


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path, capsys) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(SystemExit) as done:
        main(["demo", "--out", str(tmp_path), "--engine", "local"])
    assert done.value.code == 2 and (tmp_path / "mine").read_text() == "x"
    assert "not empty" in capsys.readouterr().err


def test_an_engine_that_was_asked_for_and_does_not_answer_is_an_error(monkeypatch) -> None:
    monkeypatch.setitem(
        sys.modules, "landmark_challenge.containers", type("engine", (), {"engine_answers": lambda: False})
    )
    with pytest.raises(ChallengeError, match="wanted a Docker engine"):
        demo_module._use_containers("docker")
    assert demo_module._use_containers("auto") is False


@pytest.mark.slow
def test_the_whole_loop(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as done:
        main(["demo", "--out", str(tmp_path / "demo"), "--engine", "local"])
    assert not done.value.code
    summary = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert summary["complete"]
    error = {row["method"]: row["mre_mm"]["mean"] for row in summary["rows"]}
    assert error["global_to_local"] < error["mean_shape"] / 2
    assert list((tmp_path / "demo").glob("*.png"))
    assert "global_to_local" in capsys.readouterr().out
