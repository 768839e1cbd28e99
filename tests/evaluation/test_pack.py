"""`landmarks pack`: every file follows from the task and the reference, and holds what the platform wants of it."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from landmark_challenge.cli import cli
from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import read_image
from landmark_challenge.landmarks import Landmarks, read_landmarks, to_platform_json
from landmark_challenge.reference import write_reference
from landmark_challenge.task import load_task, parse_task
from landmark_evaluation import container, pack
from landmark_evaluation.design import detectable_mm, upload_script
from landmark_evaluation.references import open_reference

from ..platform_schemas import (
    ANYTHING_SCHEMA,
    PHASE_SCHEMA,
    POINTS_SCHEMA,
    check_socket,
    leaderboard_value,
    parse_as_platform,
)

TASK = load_task("ceph-19")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def reference(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "reference"
    write_reference(Dataset(tiny_dataset), folder, disclosure="protected")
    (folder / "names.csv").write_text("case,was\n")
    return folder


@pytest.fixture(scope="module")
def packed(reference, tmp_path_factory):
    out = tmp_path_factory.mktemp("pack") / "pack"
    done = CliRunner().invoke(cli, ["pack", "ceph-19", str(reference), "--out", str(out), "--no-image"])
    assert done.exit_code == 0, (done.output, done.exception)
    return out


def read(path):
    return json.loads(path.read_text())


def test_it_holds_everything_an_organiser_needs(packed):
    assert sorted(path.name for path in packed.iterdir()) == [
        "README.md", "design.md", "example-algorithm", "ground_truth.tar.gz", "metrics-example.json", "phase.json",
        "sockets.json", "upload_cases.py",
    ]  # fmt: skip
    for name in ("README.md", "design.md", "upload_cases.py"):
        assert not re.search(r"\$\{?[a-z]", (packed / name).read_text()), "a placeholder was left"
    steps = (packed / "README.md").read_text()
    for name in re.findall(r"`([a-z_]+\.(?:json|md|py|tar\.gz))`", steps):
        assert name == "evaluation.tar.gz" or (packed / name).exists(), name
    assert [int(number) for number in re.findall(r"(?m)^(\d+)\.", steps)] == list(range(1, 8))


def test_the_ground_truth_unpacks_to_a_reference_that_scores(packed, reference, tmp_path):
    with tarfile.open(packed / "ground_truth.tar.gz") as archive:
        assert all(member.isfile() and not member.name.startswith(("/", "..")) for member in archive.getmembers())
        assert {member.mtime for member in archive.getmembers()} == {0}
        archive.extractall(tmp_path / "truth", filter="data")
    assert (tmp_path / "truth/reference.json").read_bytes() == (reference / "reference.json").read_bytes()
    assert not (tmp_path / "truth/names.csv").exists(), "what tells the cases' old names stays with the organiser"
    submission = tmp_path / "submission"
    submission.mkdir()
    truth = open_reference(reference)
    for case, points in zip(truth.cases, truth.points_mm, strict=True):
        value = to_platform_json(Landmarks(TASK.names, points))
        (submission / f"{case.name}.json").write_text(json.dumps(value))
    container.evaluate_once(submission, tmp_path / "truth", output=tmp_path / "output")
    container.evaluate_once(submission, reference, output=tmp_path / "direct")
    assert read(tmp_path / "output/metrics.json") == read(tmp_path / "direct/metrics.json")
    assert read(tmp_path / "output/metrics.json")["protocol"]["n_cases"] == 3


def test_the_same_reference_gives_the_same_bytes(reference, tmp_path):
    for name in ("a", "b"):
        pack.write_ground_truth(reference, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert gzip.decompress((tmp_path / "a").read_bytes())


def test_leaderboard_columns_are_numbers_in_the_metrics_with_their_direction(packed):
    phase, metrics = read(packed / "phase.json"), read(packed / "metrics-example.json")
    first, *further = TASK.ranking.columns
    assert (phase["score_jsonpath"], phase["score_default_sort"]) == (first.path, first.order)
    assert [column["path"] for column in phase["extra_results_columns"]] == [column.path for column in further]
    for path in [phase["score_jsonpath"], *(column["path"] for column in phase["extra_results_columns"])]:
        value = metrics
        for key in path.split("."):
            value = value[key]
        assert isinstance(value, float)
    assert {column["order"] for column in phase["extra_results_columns"]} <= {"asc", "desc"}
    slugs = {socket["slug"] for socket in read(packed / "sockets.json")}
    assert set(phase["algorithm_inputs"] + phase["algorithm_outputs"]) == slugs


@pytest.mark.parametrize("path", ["aggregates.mre_mm.average", "aggregates.mre_mm", "task", "aggregates.mre_mm.mean.x"])
def test_a_column_that_is_no_number_is_refused(path, reference):
    value = TASK.model_dump(mode="json")
    value["ranking"]["columns"] = [{"title": "x", "path": path, "order": "asc"}]
    metrics = pack.example_metrics(open_reference(reference))
    with pytest.raises(ChallengeError, match="wanted a number in metrics"):
        pack.check_columns(parse_task(value, source="test"), metrics)


def test_a_doubled_column_and_another_task_are_refused(reference, tmp_path):
    value = TASK.model_dump(mode="json")
    value["ranking"]["columns"] *= 2
    metrics = pack.example_metrics(open_reference(reference))
    with pytest.raises(ChallengeError, match="got it twice"):
        pack.check_columns(parse_task(value, source="test"), metrics)
    done = CliRunner().invoke(
        cli, ["pack", "brainstem-mr-1", str(reference), "--out", str(tmp_path / "p"), "--no-image"]
    )
    assert "wanted a reference of brainstem-mr-1" in str(done.exception) and not (tmp_path / "p").exists()


def test_the_sockets_schemas_take_answers_and_refuse_what_is_none(packed):
    sockets = {socket["slug"]: socket for socket in read(packed / "sockets.json")}
    for socket in sockets.values():
        check_socket(socket)
    points = jsonschema.Draft7Validator(sockets["anatomical-landmarks"]["schema"])
    good = to_platform_json(Landmarks(TASK.names, np.zeros((19, 3))))
    assert points.is_valid(good)
    assert not points.is_valid({**good, "points": good["points"] + good["points"][:1]})
    assert not points.is_valid({**good, "points": [{"name": "nose", "point": [0, 0, 0]}]})
    assert not points.is_valid({**good, "points": [{"point": [0, 0, 0]}]})
    covariance = jsonschema.Draft7Validator(sockets["landmark-uncertainty"]["schema"])
    assert covariance.is_valid({}) and covariance.is_valid({"sella": np.eye(3).tolist()})
    for wrong in ({"nose": np.eye(3).tolist()}, {"sella": np.eye(2).tolist()}, {"sella": 3}, []):
        assert not covariance.is_valid(wrong)


def test_every_file_of_the_pack_validates_against_the_platform_s_schemas(packed, tmp_path):
    jsonschema.validate(parse_as_platform((packed / "phase.json").read_text()), PHASE_SCHEMA)
    metrics = parse_as_platform((packed / "metrics-example.json").read_text())
    jsonschema.validate(metrics, ANYTHING_SCHEMA)
    phase = read(packed / "phase.json")
    for path in [phase["score_jsonpath"], *(column["path"] for column in phase["extra_results_columns"])]:
        assert isinstance(leaderboard_value(metrics, path), float)
    with tarfile.open(packed / "ground_truth.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    points = sorted((tmp_path / "landmarks").rglob("*.json"))
    points += sorted(packed.glob("example-algorithm/baselines/template/test/*/expected.json"))
    assert len(points) >= 4
    for path in points:
        jsonschema.validate(parse_as_platform(path.read_text()), POINTS_SCHEMA)
    inputs = sorted(packed.glob("example-algorithm/baselines/template/test/*/input/inputs.json"))
    assert inputs
    slugs = {socket["slug"]: socket["relative_path"] for socket in read(packed / "sockets.json")}
    for path in inputs:
        for entry in read(path):
            assert entry["socket"]["relative_path"] == slugs[entry["socket"]["slug"]]


@pytest.mark.parametrize(
    ("socket", "change", "why"),
    [
        ("landmarks", {"slug": "metrics-json-file"}, "keeps this slug"),
        ("landmarks", {"relative_path": "points.txt"}, "ends in .json"),
        ("landmarks", {"relative_path": "inputs.json"}, "ends in .json"),
        ("landmarks", {"relative_path": "../points.json"}, "ends in .json"),
        ("uncertainty", {"relative_path": "anatomical-landmarks.json"}, "three paths"),
        ("uncertainty", {"slug": "anatomical-landmarks"}, "three slugs"),
        ("image", {"relative_path": "medical-image"}, "images/<name>"),
        ("image", {"relative_path": "images/a.mha"}, "images/<name>"),
        ("image", {"relative_path": "images/12e4cb8a-8e87-5b5a-97a2-8e1778801187"}, "images/<name>"),
    ],
)
def test_a_socket_that_the_platform_refuses_is_refused_here(socket, change, why):
    value = TASK.model_dump(mode="json")
    value["sockets"][socket] |= change
    with pytest.raises(ChallengeError, match=why):
        pack.check_sockets(parse_task(value, source="test"))
    pack.check_sockets(TASK)


def test_the_design_document_is_filled_from_the_task(packed):
    text = (packed / "design.md").read_text()
    for heading in ("Purpose", "Data", "Annotation protocol", "Metrics", "Missing", "Ranking", "Disclosure", "Power"):
        assert f"## {heading}" in text
    for landmark in TASK.landmarks:
        assert f"| {landmark.name} | {landmark.definition} |" in text
    assert "3 hidden cases" in text and "mean of senior, junior" in text and "charged 100 mm" in text
    assert f"| 1 | {detectable_mm(1.0, 3):.3f} |" in text


def test_detectable_differences_follow_the_normal_approximation():
    # By hand: (1.96 + 0.84) * 2 mm / sqrt(49) = 0.8 mm.
    assert detectable_mm(2.0, 49) == pytest.approx(0.8, abs=1e-3)


GCAPI = """
import json, os, types
log = os.environ["UPLOAD_LOG"]
def note(**values): open(log, "a").write(json.dumps(values, default=str) + "\\n")
class SocketValueSpec:
    def __init__(self, **values): self.values = values
class Client:
    def __init__(self, token):
        note(token=token)
        self.archives = types.SimpleNamespace(detail=lambda slug: types.SimpleNamespace(pk="pk-" + slug))
        there = [types.SimpleNamespace(title="case-1.mha")]
        self.archive_items = types.SimpleNamespace(
            iterate_all=lambda params: there if params == {"archive": "pk-my"} else []
        )
    def add_case_to_archive(self, *, archive_slug, values, title):
        note(archive=archive_slug, title=title, **values[0].values)
"""


def test_the_upload_script_adds_each_hidden_case_once_and_nothing_else(packed, reference, tmp_path):
    (tmp_path / "gcapi.py").write_text(GCAPI)
    first, second, third = [case.name for case in open_reference(reference).cases]
    (tmp_path / "gcapi.py").write_text(GCAPI.replace("case-1", first))
    images = tmp_path / "images"
    (images / third).mkdir(parents=True)
    for name in (f"{first}.mha", f"{second}.nii.gz", "train-1.mha", "notes.txt", f"{third}/1.dcm", f"{third}/2.dcm"):
        (images / name).write_bytes(b"x")
    environment = {"PYTHONPATH": str(tmp_path), "GRAND_CHALLENGE_TOKEN": "t", "UPLOAD_LOG": str(tmp_path / "log")}
    command = [sys.executable, packed / "upload_cases.py", images, "my"]
    subprocess.run(command, env=environment, check=True)
    token, *added = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert token == {"token": "t"}
    assert [case["title"] for case in added] == [f"{second}.nii.gz", third]
    assert all(case["socket_slug"] == "medical-image" and case["archive"] == "my" for case in added)
    assert len(added[1]["files"]) == 2 and added[1]["image_name"] == third
    (images / f"{first}.mha").unlink()
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 1 and f"wanted one image of case {first}, got 0" in done.stderr
    assert len((tmp_path / "log").read_text().splitlines()) == 3, "nothing is uploaded where a case is not there"


def test_names_of_cases_with_blanks_and_quotes_are_uploaded_as_they_are(reference, tmp_path):
    names = ["case 1 of 2", "a \"b\" 'c' \\n", "größe 😀"]
    cases = tuple(replace(case, name=name) for case, name in zip(open_reference(reference).cases, names, strict=True))
    (tmp_path / "upload.py").write_text(upload_script(TASK, replace(open_reference(reference), cases=cases)), "utf-8")
    (tmp_path / "gcapi.py").write_text("Client = SocketValueSpec = None\n")
    code = "import json, upload; print(json.dumps(upload.CASES))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == names


def test_a_dataset_is_no_reference(tiny_dataset, tmp_path):
    done = CliRunner().invoke(
        cli, ["pack", "ceph-19", str(tiny_dataset), "--out", str(tmp_path / "pack"), "--no-image"]
    )
    assert isinstance(done.exception, ChallengeError)
    assert "wanted a reference folder with reference.json, as" in str(done.exception)
    assert not (tmp_path / "pack").exists()


def test_the_example_algorithm_is_complete_and_clean(packed):
    example = packed / "example-algorithm"
    for name in ("baselines/template/build.sh", "docker/lib.sh", "challenge/landmark_challenge/platform.py"):
        assert (example / name).is_file()
    assert (example / "baselines/template/build.sh").stat().st_mode & 0o100, "scripts stay executable"
    names = {path.name for path in example.rglob("*")}
    assert not names & {"wheels", "__pycache__", "dist"}
    assert not list(example.rglob("*reference.json"))


OWN = {
    "name": "heart-4",
    "dimension": 3,
    "landmarks": [{"name": name, "definition": name} for name in ("apex", "left-ostium", "right-ostium", "valve")],
    "reference": {"rule": "observer", "observers": ["one"]},
    "success_thresholds_mm": [1.0, 2.0, 4.0],
    "missing_error_mm": 50.0,
    "working_spacing_mm": [1.0, 1.0, 1.0],
    "ranking": {},
}


def own_reference(folder, **changes):
    """A task of an organiser's own and the reference folder of two cases of it."""
    value = TASK.model_dump(mode="json", exclude={"published"}) | OWN | changes
    task = parse_task(value, source="own")
    image = pack.noise_image(task)
    with DatasetWriter(folder / "data", task, source="test", licence="none") as writer:
        for name in ("a", "b"):
            points = image.index_to_mm(np.random.default_rng(0).uniform(5, 25, (4, task.dimension)))
            writer.add(Case(name, "test", name), image, {"one": Landmarks(task.names, points)})
    write_reference(Dataset(folder / "data"), folder / "reference", disclosure="open")
    return task


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_example_knows_the_organisers_task(tmp_path, dimension):
    """What participants get answers every landmark of a task that the kit has never seen."""
    task = own_reference(tmp_path, dimension=dimension, working_spacing_mm=[1.0] * dimension)
    pack.write_pack(task, tmp_path / "reference", tmp_path / "pack", image=None)
    template = tmp_path / "pack/example-algorithm/baselines/template"
    assert load_task(template / "model/task.yaml") == task
    spec = importlib.util.spec_from_file_location("packed_method", template / "method.py")
    method = importlib.util.module_from_spec(spec)
    sys.modules["packed_method"] = method
    spec.loader.exec_module(method)
    localizer = method.load(template / "model")
    found = localizer.localize(Dataset(tmp_path / "data").image("a")).landmarks
    assert found.names == task.names and np.isfinite(found.points_mm).all()
    (sample,) = (template / "test").iterdir()
    (path,) = (sample / "input/images/medical-image").iterdir()
    expected = read_landmarks(sample / "expected.json", names=task.names).points_mm
    answered = localizer.localize(read_image(path, dimension=dimension)).landmarks.points_mm
    limit = float(re.search(r"max_error_mm: ([\d.]+)", (template / "algorithm.yaml").read_text())[1])
    assert np.linalg.norm(answered - expected, axis=1).mean() < limit


def test_the_example_of_a_shipped_task_is_the_template(packed):
    template = packed / "example-algorithm/baselines/template"
    ours = ROOT / "baselines/template"
    assert load_task(template / "model/task.yaml") == TASK
    for path in ours.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (template / path.relative_to(ours)).read_bytes() == path.read_bytes()


def test_another_definition_of_the_task_is_told_from_another_task(reference, tmp_path):
    task = own_reference(tmp_path)
    with pytest.raises(
        ChallengeError, match=r"wanted a reference of heart-4, version 1, got one of ceph-19, version 1"
    ):
        pack.write_pack(task, reference, tmp_path / "pack", image=None)
    other = task.model_copy(update={"title": "Another"})
    with pytest.raises(ChallengeError, match="another definition, which differs in title: hide the dataset again"):
        pack.write_pack(other, tmp_path / "reference", tmp_path / "pack", image=None)
