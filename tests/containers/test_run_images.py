"""`landmarks run` on real images: same points as the model itself, limits that bite, nothing left behind."""

import json
import os
import shutil

import pytest
from click.testing import CliRunner

from landmark_challenge.cli import cli
from landmark_challenge.errors import ChallengeError

from .conftest import ROOT, docker, script

pytestmark = pytest.mark.docker


def run(*arguments):
    return CliRunner().invoke(cli, ["run", *map(str, arguments)])


def points(folder):
    jobs = json.loads((folder / "predictions.json").read_text())
    return {
        job["inputs"][0]["image"]["name"]: (folder / job["pk"] / "output/anatomical-landmarks.json").read_bytes()
        for job in jobs
    }


@pytest.fixture(scope="module")
def predictions(built, tiny_dataset, tmp_path_factory):
    """The three test phantoms localized by both images and by the model folder."""
    built("mean_shape")
    folder = tmp_path_factory.mktemp("predictions")
    targets = {
        "exec": "landmarks-mean_shape:exec",
        "invoke": "landmarks-mean_shape:invoke",
        "model": ROOT / "baselines/mean_shape/model",
    }
    for name, target in targets.items():
        done = run(target, tiny_dataset, "--out", folder / name)
        assert done.exit_code == 0, (done.output, done.exception)
        assert "3 cases" in done.output and "peak memory" in done.output and "not measured" not in done.output
    return folder


def test_both_modes_and_the_model_give_identical_bytes(predictions):
    found = {name: points(predictions / name) for name in ("exec", "invoke", "model")}
    assert len(found["exec"]) == 3
    assert found["exec"] == found["invoke"] == found["model"]


def test_an_image_takes_a_model_of_ones_own_and_another_run_is_kept_apart(built, predictions, tiny_dataset, tmp_path):
    model = tmp_path / "model"
    assert CliRunner().invoke(cli, ["train", "mean_shape", str(tiny_dataset), "--out", str(model)]).exit_code == 0
    model.chmod(0o700)  # the container's user is another
    assert run(model, tiny_dataset, "--out", tmp_path / "alone").exit_code == 0
    for mode in ("exec", "invoke"):
        image = f"landmarks-mean_shape:{mode}"
        done = run(image, tiny_dataset, "--out", tmp_path / mode, "--model", model)
        assert done.exit_code == 0, (done.output, done.exception)
        assert points(tmp_path / mode) == points(tmp_path / "alone") != points(predictions / mode)
        mixed = run(image, tiny_dataset, "--out", tmp_path / mode)
        assert isinstance(mixed.exception, ChallengeError) and "another algorithm" in str(mixed.exception)
    no_model = run("landmarks-mean_shape:exec", tiny_dataset, "--out", tmp_path / "none", "--model", tiny_dataset)
    assert isinstance(no_model.exception, ChallengeError) and "model.json" in str(no_model.exception)


def test_durations_say_which_mode_ran(predictions):
    for name, key, other in (
        ("exec", "exec_duration", "invoke_duration"),
        ("invoke", "invoke_duration", "exec_duration"),
    ):
        for job in json.loads((predictions / name / "predictions.json").read_text()):
            assert job[key].startswith("P0DT00H") and job[other] is None


def test_files_belong_to_the_caller_and_no_container_stays(predictions):
    assert {path.stat().st_uid for path in predictions.rglob("*")} == {os.getuid()}
    left = docker("ps", "--all", "--quiet", "--filter", "ancestor=landmarks-mean_shape:exec").stdout
    left += docker("ps", "--all", "--quiet", "--filter", "ancestor=landmarks-mean_shape:invoke").stdout
    assert left == ""


def test_the_evaluation_image_scores_the_folder_as_the_command_does(built, predictions, tiny_dataset, tmp_path):
    built("evaluation")
    arguments = ["data", "hide", str(tiny_dataset), "--reference", str(tmp_path / "reference"), "--disclosure", "open"]
    hidden = CliRunner().invoke(cli, arguments)
    assert hidden.exit_code == 0, (hidden.output, hidden.exception)
    script("evaluation/score.sh", predictions / "invoke", tmp_path / "reference", tmp_path / "scores")
    by_image = json.loads((tmp_path / "scores/metrics.json").read_text())
    arguments = ["evaluate", predictions / "invoke", tmp_path / "reference", "--out", tmp_path / "own", "--no-report"]
    done = CliRunner().invoke(cli, [str(word) for word in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    own = json.loads((tmp_path / "own/metrics.json").read_text())
    assert by_image["aggregates"] == own["aggregates"]
    assert by_image["protocol"]["n_cases"] == 3


def test_a_case_over_its_time_is_killed_and_reported(built, tiny_dataset, tmp_path):
    built("mean_shape")
    done = run("landmarks-mean_shape:exec", tiny_dataset, "--out", tmp_path, "--cases", 1, "--time-limit-s", 1)
    assert isinstance(done.exception, ChallengeError)
    assert "took longer than 1 s" in done.output
    assert docker("ps", "--quiet", "--filter", "ancestor=landmarks-mean_shape:exec").stdout == ""


@pytest.mark.parametrize("mode", ["exec", "invoke"])
def test_a_case_the_container_refuses_is_told_in_its_last_line(built, tiny_dataset, tmp_path, mode):
    built("mean_shape")
    data = tmp_path / "data"
    shutil.copytree(tiny_dataset, data)
    cases = sorted(path for path in (data / "images").iterdir())[-3:]
    cases[1].write_bytes(cases[1].read_bytes()[:2000])
    done = run(f"landmarks-mean_shape:{mode}", data, "--out", tmp_path / "out")
    assert "1 of 3 cases failed" in str(done.exception)
    [line] = [line for line in done.output.splitlines() if line.startswith("failed:")]
    assert f"failed: {cases[1].stem}: " in line and "error: /input/images/medical-image/" in line
    assert len(points(tmp_path / "out")) == 2


def test_too_little_memory_is_told(built, tiny_dataset, tmp_path):
    built("mean_shape")
    for mode in ("exec", "invoke"):
        arguments = ["--out", tmp_path / mode, "--cases", 1, "--memory-mb", 100]
        done = run(f"landmarks-mean_shape:{mode}", tiny_dataset, *arguments)
        assert done.exit_code != 0
        assert "the memory limit was exceeded" in done.output + str(done.exception)


def test_unknown_images_are_refused(engine, tiny_dataset, tmp_path):
    done = run("landmarks-no-such:exec", tiny_dataset, "--out", tmp_path)
    assert "there is none of this tag" in str(done.exception)
    done = run("python:3.11-slim-bookworm", tiny_dataset, "--out", tmp_path)
    assert "wanted a user that is not root" in str(done.exception)
