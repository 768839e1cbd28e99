"""A run is taken up again only as the one it was: other settings or data are refused, a finished model is left."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from landmark_baselines import cli, heatmap_unet, single_network
from landmark_baselines.checkpoints import read_model
from landmark_baselines.method import METHODS, method_module, train_method
from landmark_baselines.presets import overridden
from landmark_baselines.resuming import fingerprint_of
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import Landmarks, read_landmarks, write_landmarks

SHORT = ("schedule.iterations=2", "schedule.batch=1", "schedule.validate_every=2")


@pytest.fixture
def dataset(tiny_dataset: Path, tmp_path: Path) -> Dataset:
    """A copy, of which a test may change what it likes."""
    shutil.copytree(tiny_dataset, tmp_path / "data")
    return Dataset(tmp_path / "data")


def _train(dataset: Dataset, output: Path, *more: str, **options: Any) -> None:
    settings = overridden(heatmap_unet.preset_settings("tiny", dataset.task), [*SHORT, *more])
    train_method("heatmap_unet", dataset, output=output, device="cpu", preset="tiny", settings=settings, **options)


def _interrupted(dataset: Dataset, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    output.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(single_network, "save_trained", stop)
        with pytest.raises(KeyboardInterrupt):
            _train(dataset, output)
    assert (output / "network.checkpoint").is_file()


def _move_a_point(dataset: Dataset, *, observer: str) -> None:
    path = dataset.landmarks_path(dataset.cases(split="train")[0].name, observer=observer)
    before = read_landmarks(path)
    points = before.points_mm.copy()
    points[0, 0] += 1
    write_landmarks(path, Landmarks(before.names, points))


@pytest.mark.parametrize("change", ["sigma_mm=40.0", "loss=mse", "decoding=argmax", "architecture.widths=[4, 8]"])
def test_an_interrupted_run_refuses_other_settings(
    change: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupted(dataset, tmp_path / "model", monkeypatch)
    with pytest.raises(ChallengeError, match="same settings, data and seed"):
        _train(dataset, tmp_path / "model", change, resume=True)
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.parametrize("observer", ["reference", "senior"])
def test_an_interrupted_run_refuses_other_landmarks(
    observer: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupted(dataset, tmp_path / "model", monkeypatch)
    _move_a_point(dataset, observer=observer)
    with pytest.raises(ChallengeError, match="same settings, data and seed"):
        _train(dataset, tmp_path / "model", resume=True)


def test_the_same_run_goes_on_and_is_left_once_it_is_finished(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    _interrupted(dataset, output, monkeypatch)
    _train(dataset, output, resume=True)
    assert read_model(output).provenance["fingerprint"]
    stamps = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    capsys.readouterr()
    _train(dataset, output, resume=True)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "finished already" in said
    with pytest.raises(ChallengeError, match="finished model of others"):
        _train(dataset, output, "loss=mse", resume=True)
    with pytest.raises(ChallengeError, match="finished model of others"):
        _train(dataset, output, resume=True, seed=1)
    _move_a_point(dataset, observer="reference")
    with pytest.raises(ChallengeError, match="finished model of others"):
        _train(dataset, output, resume=True)
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == stamps


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_knows_its_finished_model(method: str, tiny_dataset: Path, tmp_path: Path) -> None:
    data, module = Dataset(tiny_dataset), method_module(method)
    settings = module.preset_settings("tiny", data.task) if hasattr(module, "preset_settings") else None
    plain = asdict(settings) if settings else {}
    file = tmp_path / "model.json"
    for seed in (0, 1):
        own = fingerprint_of(data, method=method, preset="tiny", settings=plain, seed=seed)
        file.write_text(json.dumps({"provenance": {"fingerprint": own}}))
        before = file.read_text()
        if seed:
            with pytest.raises(ChallengeError, match="finished model of others"):
                train_method(method, data, output=tmp_path, device="cpu", preset="tiny", resume=True)
        else:
            train_method(method, data, output=tmp_path, device="cpu", preset="tiny", resume=True)
        assert file.read_text() == before


def test_the_command_says_once_that_a_model_is_finished(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ["mean_shape", str(tiny_dataset), "--out", str(tmp_path / "model"), "--device", "cpu"]
    assert CliRunner().invoke(cli.train, words).exit_code == 0
    stamp = (tmp_path / "model" / "model.json").stat().st_mtime_ns
    again = CliRunner().invoke(cli.train, [*words, "--resume"])
    assert again.exit_code == 0
    assert again.output.count("\n") == 1 and "finished already" in again.output
    assert (tmp_path / "model" / "model.json").stat().st_mtime_ns == stamp
