"""`landmarks predict` writes the points, and beside them how sure a method is."""

import json
from types import SimpleNamespace

import numpy as np
from click.testing import CliRunner

from landmark_baselines import cli
from landmark_challenge.images import Image, write_image
from landmark_challenge.landmarks import Landmarks, Localization, read_landmarks
from landmark_challenge.task import load_task

TASK = load_task("ceph-19")


def predict(monkeypatch, folder, covariance):
    found = Localization(Landmarks(TASK.names, np.ones((len(TASK.names), 3)) * [1, 1, 0]), covariance)
    method = SimpleNamespace(task=TASK, localize=lambda image: found)
    monkeypatch.setattr(cli, "load_model", lambda model, device: method)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / cli.MODEL_FILE).touch()
    write_image(folder / "scan.mha", Image.of(np.zeros((9, 9), np.uint8), [1.0, 1.0]))
    arguments = [str(folder / "model"), str(folder / "scan.mha"), "--out", str(folder / "out")]
    outcome = CliRunner().invoke(cli.predict, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0
    return {path.name: path for path in (folder / "out").iterdir()}


def test_covariances_lie_beside_the_points_and_none_of_an_earlier_method_stays(monkeypatch, tmp_path):
    matrix = np.diag([1.0, 2.0, 0.0])
    written = predict(monkeypatch, tmp_path, {"sella": matrix})
    assert set(written) == {"scan.json", "scan.landmark-uncertainty.json"}
    assert json.loads(written["scan.landmark-uncertainty.json"].read_text()) == {"sella": matrix.tolist()}
    assert len(read_landmarks(written["scan.json"], names=TASK.names)) == len(TASK.names)
    assert set(predict(monkeypatch, tmp_path, {})) == {"scan.json"}
