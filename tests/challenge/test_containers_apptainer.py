"""Apptainer in place of Docker: the command line, and runs with a stand-in that checks what it is given."""

import json
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from landmark_challenge import apptainer
from landmark_challenge.cli import cli
from landmark_challenge.dataset import Case, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, read_landmarks
from landmark_challenge.running import Limits
from landmark_challenge.task import load_task

# Behaves as `apptainer run` does with the folders it is told to bind; the image file says how the program behaves.
STAND_IN = """#!/usr/bin/env python3
import json, resource, sys, time
words = sys.argv[1:]
binds = [words[i + 1] for i, word in enumerate(words) if word == "--bind"]
folders = {bind.split(":")[1]: (bind.split(":")[0], bind.split(":")[2:]) for bind in binds}
assert folders["/input"][1] == ["ro"] and folders["/output"][1] == []
assert words[words.index("--network") + 1] == "none" and "--containall" in words
behaviour = open(words[-1]).read().strip()
if behaviour == "fail":
    print("first line", file=sys.stderr); print("error: wanted better", file=sys.stderr); sys.exit(3)
if behaviour == "hang":
    time.sleep(60)
name = json.load(open(folders["/input"][0] + "/inputs.json"))[0]["image"]["name"]
output = folders["/output"][0]
limit = resource.getrlimit(resource.RLIMIT_DATA)[0] / 2**20
points = [{"name": "sella", "point": [limit, float(name[5]), 0.0]}]
value = {"type": "Multiple points", "version": {"major": 1, "minor": 0}, "points": points}
json.dump(value, open(output + "/anatomical-landmarks.json", "w"))
json.dump({}, open(output + "/landmark-uncertainty.json", "w"))
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "apptainer").write_text(STAND_IN)
    (folder / "apptainer").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    with DatasetWriter(tmp_path / "data", load_task("ceph-19"), source="test", licence="none") as writer:
        for number in range(2):
            image = Image.of(np.zeros((6, 8), np.uint8), [0.5, 0.5])
            writer.add(
                Case(f"case-{number}", "test", str(number)), image, {"reference": Landmarks(["sella"], [[1, 1, 0]])}
            )
    return tmp_path


def run(folder, behaviour, *arguments):
    image = folder / f"{behaviour}.sif"
    image.write_text(behaviour)
    words = ["run", image, folder / "data", "--out", folder / f"out-{behaviour}", "--threads", 2, *arguments]
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_an_apptainer_file_is_run_once_per_case_under_the_memory_limit(installed):
    done = run(installed, "answer", "--memory-mb", 3000)
    assert done.exit_code == 0, (done.output, done.exception)
    out = installed / "out-answer"
    jobs = json.loads((out / "predictions.json").read_text())
    assert len(jobs) == 2 and all(job["exec_duration"] for job in jobs)
    for job in jobs:
        x, y, _ = read_landmarks(out / job["pk"] / "output/anatomical-landmarks.json").point_mm("sella")
        assert x == 3000 - 1024 and y == float(job["inputs"][0]["image"]["name"][5])


def test_failures_and_hangs_are_told(installed):
    done = run(installed, "fail")
    assert "2 of 2 cases failed" in str(done.exception)
    assert "failed: case-0: exit code 3: error: wanted better" in done.output
    done = run(installed, "hang", "--time-limit-s", 1)
    assert "failed: case-1: took longer than 1 s" in done.output


def test_a_missing_file_or_command_is_told(installed, monkeypatch):
    words = ["run", str(installed / "none.sif"), str(installed / "data"), "--out", str(installed / "out")]
    assert "wanted an Apptainer image file" in str(CliRunner().invoke(cli, words).exception)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ChallengeError, match="wanted the apptainer command"):
        apptainer.ApptainerRunner(installed / "a.sif", Limits())


def test_the_command_line_has_every_limit():
    limits = Limits(strict=True, cpus=3, gpu=True)
    words = apptainer.command(Path("a.sif"), Path("/in"), Path("/out"), limits)
    assert words[:2] == ["apptainer", "run"] and words[-1] == "a.sif"
    text = " ".join(words)
    for part in ("--containall", "--cleanenv", "--no-privs", "--net --network none", "--bind /in:/input:ro", "--nv",
                 "--bind /out:/output", "--env STRICT=1", "--env OMP_NUM_THREADS=3"):  # fmt: skip
        assert part in text
    given = apptainer.command(Path("a.sif"), Path("/in"), Path("/out"), limits, model=Path("/own"))
    assert "--bind /own:/opt/ml/model:ro" in " ".join(given) and "/opt/ml/model" not in text
    assert "--nv" not in apptainer.command(Path("a.sif"), Path("/in"), Path("/out"), Limits())
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY, "the limit is the child's alone"
