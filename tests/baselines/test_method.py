"""The device that a command names: what is none, or is not there, is one line before any work."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from landmark_baselines.cli import train
from landmark_baselines.method import METHODS, resolve_device, train_method
from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.task import load_task


@pytest.mark.parametrize("device", ["banana", "cuda:x", "cuda:-1", "cudas", "meta", "", "cpu\n"])
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(ChallengeError, match="device: wanted auto, cpu, cuda or cuda:N, got '"):
        resolve_device(device)


@pytest.mark.parametrize(("count", "why"), [(0, "there is no CUDA device"), (2, "there are 2 CUDA devices")])
def test_a_device_that_is_not_there_is_refused(count: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ChallengeError, match=f"device: wanted cuda:2, {why}"):
        resolve_device("cuda:2")
    assert resolve_device("cpu") == "cpu" and resolve_device("auto") == ("cuda" if count else "cpu")
    if count:
        assert resolve_device("cuda") == "cuda" and resolve_device("cuda:1") == "cuda:1"


@pytest.mark.parametrize("name", METHODS)
def test_a_landmark_that_nobody_could_learn_is_refused_before_the_training(name: str, tmp_path: Path) -> None:
    task = load_task("ceph-19")
    with DatasetWriter(tmp_path / "data", task, source="test", licence="none") as writer:
        for split in ("train", "validation"):
            image = Image.of(np.zeros((60, 50), np.uint8), (4.0, 4.0), (0.0, 0.0))
            names = [each for each in task.names if each != "sella"]
            points = Landmarks(names, np.full((len(names), 3), 50.0) * [1, 1, 0])
            writer.add(Case(split, split, split), image, {"reference": points})
    with pytest.raises(ChallengeError, match="wanted 'sella' in a training case, it is in none"):
        train_method(name, Dataset(tmp_path / "data"), output=tmp_path / "model", device="cpu", preset="tiny")
    assert not (tmp_path / "model").exists()


def test_training_refuses_a_bad_device_and_no_processes_before_it_writes(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ["mean_shape", str(tiny_dataset), "--out", str(tmp_path / "model")]
    done = CliRunner().invoke(train, [*words, "--device", "banana"])
    assert isinstance(done.exception, ChallengeError)
    for option, value in (("--devices", "0"), ("--devices", "-3"), ("--nodes", "0")):
        done = CliRunner().invoke(train, [*words, option, value])
        assert done.exit_code == 2 and "x>=1" in done.output
    assert not (tmp_path / "model").exists()
