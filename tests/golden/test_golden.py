"""Every crafted folder gives exactly what its expected.json says, through the command and through the container."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from click.testing import CliRunner

from landmark_challenge.cli import cli
from landmark_challenge.errors import ChallengeError
from landmark_evaluation.container import evaluate_once

HERE = Path(__file__).parent
FOLDERS = sorted(path.parent for path in HERE.glob("*/expected.json"))


def at(value, path):
    for key in path.split("."):
        value = value[key]
    return value


def test_the_overview_names_every_folder():
    text = (HERE / "README.md").read_text()
    assert len(FOLDERS) == 11
    for folder in FOLDERS:
        assert f"| `{folder.name}` |" in text


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("way", ["command", "container"])
def test_a_crafted_case_gives_its_exact_numbers(folder, tmp_path, way):
    expected = json.loads((folder / "expected.json").read_text())
    out = tmp_path / "result"
    error = None
    if way == "command":
        arguments = ["evaluate", folder / "predictions", folder / "reference", "--out", out, "--no-report"]
        error = CliRunner().invoke(cli, [str(argument) for argument in arguments]).exception
    else:
        try:
            evaluate_once(folder / "predictions", folder / "reference", output=out)
        except ChallengeError as refusal:
            error = refusal
    if "refused" in expected:
        assert isinstance(error, ChallengeError)
        assert all(part in str(error) for part in expected["refused"])
        assert not out.exists()
        return
    assert error is None
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["protocol"]["n_points"] == expected.get("n_points", metrics["protocol"]["n_points"])
    for path, wanted in expected["scores"].items():
        found = at(metrics["aggregates"], path)
        for number, exact in zip(
            [found] if isinstance(wanted, str) else found, [wanted] if isinstance(wanted, str) else wanted, strict=True
        ):
            assert number == pytest.approx(float(Fraction(exact)), rel=1e-12, abs=1e-12), path
    for path in expected.get("absent", []):
        parent, _, key = path.rpartition(".")
        assert key not in at(metrics["aggregates"], parent)
