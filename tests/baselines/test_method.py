"""The device that a command names: what is none, or is not there, is one line before any work."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from landmark_baselines.cli import train
from landmark_baselines.method import resolve_device
from landmark_challenge.errors import ChallengeError


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


def test_training_refuses_a_bad_device_and_no_processes_before_it_writes(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ["mean_shape", str(tiny_dataset), "--out", str(tmp_path / "model")]
    done = CliRunner().invoke(train, [*words, "--device", "banana"])
    assert isinstance(done.exception, ChallengeError)
    for option, value in (("--devices", "0"), ("--devices", "-3"), ("--nodes", "0")):
        done = CliRunner().invoke(train, [*words, option, value])
        assert done.exit_code == 2 and "x>=1" in done.output
    assert not (tmp_path / "model").exists()
