"""`landmarks run` with a model folder: the predictions folder, failures of every kind, restart. No Docker needed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from landmark_challenge import predictions, running
from landmark_challenge.cli import cli
from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, read_landmarks, to_platform_json
from landmark_challenge.running import CaseFailedError, CaseImage, Limits, Measured, run_local
from landmark_challenge.task import load_task

# Grey values that make the method below misbehave.
FAILS, HANGS, DIES, FAILS_ONCE = 201, 202, 203, 204

METHOD = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import load_task

class Method:
    task = load_task("ceph-19")
    def __init__(self, folder): self.folder = folder
    def localize(self, image):
        print("a method may print")
        value = int(image.array[0, 0])
        once = self.folder / "failed-once"
        if image.array.size == 48 and value == 201: raise ValueError("this case is bad")
        if image.array.size == 48 and value == 202: time.sleep(60)
        if image.array.size == 48 and value == 203: os.kill(os.getpid(), signal.SIGKILL)
        if image.array.size == 48 and value == 204 and not once.exists():
            once.touch()
            raise ValueError("only the first time")
        return Localization(Landmarks(["sella"], [[value, 0, 0]]))
    def mean_shape(self, image): return Landmarks(["sella"], [[0, 0, 0]])

def load(folder, *, device):
    if (folder / "broken").exists():
        from landmark_challenge.errors import ChallengeError
        raise ChallengeError(f"{folder}: wanted a model, got a broken one")
    return Method(folder)
"""


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model folder whose loader comes from an installed package that only this test sees."""
    site = tmp_path / "site"
    (site / "misbehaving-1.dist-info").mkdir(parents=True)
    (site / "misbehaving-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1\n")
    (site / "misbehaving-1.dist-info/entry_points.txt").write_text("[landmarks.localizers]\nmodel = misbehaving:load\n")
    (site / "misbehaving.py").write_text(METHOD)
    monkeypatch.setenv("PYTHONPATH", str(site))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    return folder


def make_dataset(folder: Path, values, *, extension=".mha") -> Dataset:
    task = load_task("ceph-19")
    with DatasetWriter(folder, task, source="test", licence="none") as writer:
        for number, value in enumerate(values):
            image = Image.of(np.full((6, 8), value, np.uint8), [0.5, 0.5])
            points = {"reference": Landmarks(["sella"], [[1, 1, 0]])}
            writer.add(Case(f"case-{number}", "test", f"p{number}"), image, points, extension=extension)
    return Dataset(folder)


def landmarks_run(*arguments):
    return CliRunner().invoke(cli, ["run", *map(str, arguments)])


def by_case(folder: Path) -> dict[str, dict]:
    return {job["inputs"][0]["image"]["name"]: job for job in json.loads((folder / "predictions.json").read_text())}


def test_a_run_writes_what_the_platform_mounts(model, tmp_path):
    make_dataset(tmp_path / "data", [7, 8, 9])
    out = tmp_path / "out"
    done = landmarks_run(model, tmp_path / "data", "--out", out)
    assert done.exit_code == 0, done.output
    assert "3 cases" in done.output and "peak memory" in done.output
    jobs = by_case(out)
    assert sorted(jobs) == ["case-0.mha", "case-1.mha", "case-2.mha"]
    for number, (_, job) in enumerate(sorted(jobs.items())):
        found = read_landmarks(out / job["pk"] / "output/anatomical-landmarks.json")
        assert found.point_mm("sella").tolist() == [7 + number, 0, 0]
        assert (out / job["pk"] / "output/landmark-uncertainty.json").read_text().strip() == "{}"
        assert job["status"] == "Succeeded" and job["exec_duration"] is None
        assert job["invoke_duration"].startswith("P0DT00H00M")
        assert [value["socket"]["slug"] for value in job["outputs"]] == ["anatomical-landmarks", "landmark-uncertainty"]
        assert all(value["socket"] == value["interface"] for value in job["inputs"] + job["outputs"])
        # The keys of the platform's job serializer, reference/platform.md section 4.
        assert set(job) == {
            *("pk", "url", "api_url", "algorithm_image", "inputs", "outputs", "status", "hanging_protocol"),
            *("optional_hanging_protocols", "view_content", "exec_duration", "invoke_duration"),
        }


def test_failing_hanging_and_dying_cases_take_nothing_down(model, tmp_path):
    make_dataset(tmp_path / "data", [7, FAILS, HANGS, DIES, FAILS_ONCE, 9])
    out = tmp_path / "out"
    done = landmarks_run(model, tmp_path / "data", "--out", out, "--time-limit-s", 3, "--workers", 2)
    assert done.exit_code == 1 and isinstance(done.exception, ChallengeError)
    assert "3 of 6 cases failed" in str(done.exception)
    assert "failed: case-1: ValueError: this case is bad" in done.output
    assert "failed: case-2: took longer than 3 s" in done.output
    assert "failed: case-3: the process ended with code -9" in done.output
    assert sorted(by_case(out)) == ["case-0.mha", "case-4.mha", "case-5.mha"]


def test_a_restart_does_only_what_is_left(model, tmp_path):
    data = make_dataset(tmp_path / "data", [7, FAILS, 9])
    out = tmp_path / "out"
    assert landmarks_run(model, data.folder, "--out", out).exit_code == 1
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/output/*.json")}
    assert len(before) == 4
    # The case is mended in the input, which is no part of the run's identity.
    (data.folder / "images/case-1.mha").write_bytes((data.folder / "images/case-0.mha").read_bytes())
    # A crash between the output and its record must not count as finished.
    victim = next(iter((out / ".jobs").glob("*-*.json")))
    victim.unlink()
    done = landmarks_run(model, data.folder, "--out", out)
    assert done.exit_code == 0, done.output
    assert "1 of 3 cases were finished before" in done.output
    assert len(by_case(out)) == 3
    kept = [path for path, stamp in before.items() if path.stat().st_mtime_ns == stamp]
    assert len(kept) == 2
    again = landmarks_run(model, data.folder, "--out", out)
    assert again.exit_code == 0 and "3 of 3 cases were finished before" in again.output
    assert len(by_case(out)) == 3


def test_peak_memory_is_that_of_the_method_and_not_of_who_started_it(model, tmp_path):
    data = make_dataset(tmp_path / "data", [7])
    ballast = np.ones(2**27)  # 1 GB in this process, which the worker's own peak must not show
    assert landmarks_run(model, data.folder, "--out", tmp_path / "out").exit_code == 0
    assert ballast[-1] == 1
    [job] = (tmp_path / "out/.jobs").glob("*-*.json")
    assert 20 < json.loads(job.read_text())["peak_memory_mb"] < 600


def test_another_run_s_folder_is_refused(model, tmp_path):
    data = make_dataset(tmp_path / "data", [7])
    assert landmarks_run(model, data.folder, "--out", tmp_path / "out").exit_code == 0
    (model / "model.json").write_text('{"other": 1}')
    done = landmarks_run(model, data.folder, "--out", tmp_path / "out")
    assert "it holds a run of another algorithm or dataset" in str(done.exception)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    assert isinstance(landmarks_run(model, data.folder, "--out", tmp_path / "full").exception, ChallengeError)


@pytest.mark.parametrize("digests", [True, False])
def test_a_run_of_other_images_by_the_same_names_is_refused(model, tmp_path, digests):
    one, other = make_dataset(tmp_path / "one", [7, 8]), make_dataset(tmp_path / "other", [7, 9])
    for data in () if digests else (one, other):
        (data.folder / "dataset.json").write_text(json.dumps({**data.header, "digests": {}}))
    out = tmp_path / "out"
    assert landmarks_run(model, one.folder, "--out", out, "--cases", 1).exit_code == 0
    done = landmarks_run(model, other.folder, "--out", out)
    assert "it holds a run of another algorithm or dataset" in str(done.exception)
    # More cases of the same dataset go on with what is there.
    assert "1 of 2 cases were finished before" in landmarks_run(model, one.folder, "--out", out).output


def test_bad_targets_and_empty_splits_are_told(model, tmp_path):
    data = make_dataset(tmp_path / "data", [7])
    done = landmarks_run(tmp_path / "site", data.folder, "--out", tmp_path / "out")
    assert "wanted a model folder with model.json" in str(done.exception)
    done = landmarks_run(model, data.folder, "--out", tmp_path / "out", "--split", "train")
    assert "there are none" in str(done.exception)
    (model / "broken").touch()
    done = landmarks_run(model, data.folder, "--out", tmp_path / "out")
    assert "wanted a model, got a broken one" in str(done.exception)
    assert not (tmp_path / "out/predictions.json").exists()


def test_a_model_of_another_task_is_refused_before_the_first_case(model, tmp_path):
    data = make_dataset(tmp_path / "data", [7])
    (model / "model.json").write_text('{"task": {"name": "ccta-8"}}')
    done = landmarks_run(model, data.folder, "--out", tmp_path / "out")
    assert isinstance(done.exception, ChallengeError)
    assert "data: wanted a dataset of ccta-8, which " in str(done.exception) and "got ceph-19" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_nothing_that_looks_complete(model, tmp_path):
    data = make_dataset(tmp_path / "data", [7, HANGS, 9])
    code = "import sys; from landmark_challenge.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "run", str(model), str(data.folder), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    jobs = tmp_path / "out/.jobs"
    deadline = time.monotonic() + 60
    while not list(jobs.glob("*-*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) == 143
    assert not (tmp_path / "out/predictions.json").exists()
    finished = list(jobs.glob("*-*.json"))
    assert len(finished) == 1


class FakeRunner:
    """Answers with the case's name in a file; `plan` says which runs fail."""

    links = False

    def __init__(self, folder: Path, plan) -> None:
        self.input_folder, self.output_folder = folder / "input", folder / "output"
        self.input_folder.mkdir(parents=True)
        self.output_folder.mkdir()
        self.plan = plan

    def run(self) -> Measured:
        name = json.loads((self.input_folder / "inputs.json").read_text())[0]["image"]["name"]
        self.plan(name, self.output_folder)
        return Measured(exec_s=1.0, invoke_s=None, peak_memory_mb=None)

    def close(self) -> None:
        pass


def good_answer(folder: Path) -> None:
    points = to_platform_json(Landmarks(["sella"], [[1, 2, 0]]))
    (folder / "anatomical-landmarks.json").write_text(json.dumps(points))
    (folder / "landmark-uncertainty.json").write_text("{}")


def run_fake(tmp_path, data, plan, *, workers=1):
    count = iter(range(100))

    @contextmanager
    def make():
        yield FakeRunner(tmp_path / f"runner-{next(count)}", plan)

    images = [CaseImage(case.name, data.image_path(case.name)) for case in data.cases()]
    return dict(run_local(data.task, images, runner=make, workers=workers))


def points_text(item):
    return '{"type": "Multiple points", "version": {"major": 1, "minor": 0}, "points": [' + item + "]}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "output file 'anatomical-landmarks.json' was not produced"),
        ("{", "wanted JSON"),
        (points_text('{"name": "x", "point": [1, 2, 3]}'), "unknown name"),
        (points_text('{"name": "sella", "point": [1, 2, NaN]}'), "NaN"),
        (points_text('{"name": "sella", "point": [1, 2]}'), "point [x, y, z]"),
    ],
)
def test_wrong_outputs_are_failures_in_the_platform_s_words(tmp_path, content, why):
    def plan(name, folder):
        good_answer(folder)
        path = folder / "anatomical-landmarks.json"
        path.unlink() if content is None else path.write_text(content)

    [(_, reason)] = run_fake(tmp_path, make_dataset(tmp_path / "data", [1]), plan).items()
    assert isinstance(reason, str) and why in reason


def test_a_link_or_no_uncertainty_is_no_output(tmp_path):
    secret = tmp_path / "secret.json"
    good_answer(tmp_path)
    (tmp_path / "anatomical-landmarks.json").rename(secret)

    def link(name, folder):
        good_answer(folder)
        (folder / "anatomical-landmarks.json").unlink()
        (folder / "anatomical-landmarks.json").symlink_to(secret)

    def without(name, folder):
        good_answer(folder)
        (folder / "landmark-uncertainty.json").unlink()

    data = make_dataset(tmp_path / "data", [1])
    assert "was not produced" in run_fake(tmp_path / "a", data, link)["case-0"]
    assert "'landmark-uncertainty.json' was not produced" in run_fake(tmp_path / "b", data, without)["case-0"]


def test_stale_output_of_an_earlier_case_never_counts(tmp_path):
    def plan(name, folder):
        if name == "case-0.mha":
            good_answer(folder)
            (folder / "images").mkdir()
            (folder / "images/extra.mha").write_bytes(b"x")

    found = run_fake(tmp_path, make_dataset(tmp_path / "data", [1, 2]), plan)
    assert isinstance(found["case-0"], predictions.CaseResult)
    assert sorted(found["case-0"].outputs) == ["anatomical-landmarks.json", "landmark-uncertainty.json"]
    assert "was not produced" in found["case-1"]


def test_each_case_is_tried_exactly_twice_by_several_workers(tmp_path):
    tries: list[str] = []

    def plan(name, folder):
        tries.append(name)
        if tries.count(name) == 1:
            raise CaseFailedError("first")
        good_answer(folder)

    data = make_dataset(tmp_path / "data", range(1, 9))
    found = run_fake(tmp_path, data, plan, workers=3)
    assert len(found) == 8 and all(isinstance(result, predictions.CaseResult) for result in found.values())
    assert sorted(tries) == sorted([f"case-{number}.mha" for number in range(8)] * 2)


def test_a_runner_that_cannot_be_made_stops_the_run(tmp_path):
    data = make_dataset(tmp_path / "data", [1, 2])

    @contextmanager
    def make():
        raise ChallengeError("no such image")
        yield

    images = [CaseImage(case.name, data.image_path(case.name)) for case in data.cases()]
    with pytest.raises(ChallengeError, match="no such image"):
        list(run_local(data.task, images, runner=make, workers=2))


@pytest.mark.parametrize("extension", [".mha", ".nii.gz", ".nrrd"])
def test_the_platform_s_formats_are_passed_on_and_others_become_mha(tmp_path, extension):
    data = make_dataset(tmp_path / "data", [5], extension=extension)
    folder = tmp_path / "input"
    folder.mkdir()
    path = data.image_path("case-0")
    running.provide_case(data.task, CaseImage("case-0", path), folder)
    [provided] = (folder / "images/medical-image").iterdir()
    assert provided.suffix == ".mha" and "case" not in provided.name
    assert json.loads((folder / "inputs.json").read_text())[0]["image"]["name"] == f"case-0{extension}"
    assert provided.stat().st_mode & 0o777 == 0o644
    if extension == ".mha":
        assert provided.read_bytes() == path.read_bytes()


def test_a_link_stands_for_the_image_only_where_it_may(tmp_path):
    data = make_dataset(tmp_path / "data", [5])
    path = data.image_path("case-0")
    for links in (True, False):
        folder = tmp_path / f"input-{links}"
        folder.mkdir()
        running.provide_case(data.task, CaseImage("case-0", path), folder, links=links)
        [provided] = (folder / "images/medical-image").iterdir()
        assert provided.is_symlink() == links and provided.read_bytes() == path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o644, "the dataset's own file is left as it was"


def test_default_workers_fit_memory_and_cores():
    from landmark_challenge.cli_run import default_workers

    cores = len(os.sched_getaffinity(0))
    assert default_workers(Limits(memory_mb=10**9)) == 1
    assert default_workers(Limits(memory_mb=1)) == max(1, cores // 2)
    assert default_workers(Limits(memory_mb=1, gpu=True)) == 1


def test_an_algorithms_folder_runs_without_a_container(tiny_dataset, tmp_path):
    """A participant tries method.py as it is, before anything is built."""
    folder = tmp_path / "my_method"
    shutil.copytree(Path(__file__).parents[2] / "baselines/template", folder)
    outcome = CliRunner().invoke(cli, ["run", str(folder), str(tiny_dataset), "--out", str(tmp_path / "out")])
    assert outcome.exit_code == 0, outcome.output
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 3
    for text, why in (("loader: nosuch:load", "needs the module 'nosuch'"), ("title: x", "wanted loader")):
        (folder / "algorithm.yaml").write_text(text)
        outcome = CliRunner().invoke(cli, ["run", str(folder), str(tiny_dataset), "--out", str(tmp_path / why[:5])])
        assert isinstance(outcome.exception, ChallengeError) and why in str(outcome.exception)
