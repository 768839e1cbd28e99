"""A challenge from its pack alone: images go in, the packed images run as the platform runs them, a score comes out.

The runner here (shim.py) and the schemas (platform_schemas.py) follow the platform's documentation, not the kit.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from landmark_challenge.cli import cli

from ..platform_schemas import KIND_SCHEMAS, check_socket, leaderboard_value, parse_as_platform
from .conftest import ROOT, docker, script

pytestmark = pytest.mark.docker
SHIM = ROOT / "tests/containers/shim.py"
MEMORY_MB = 4096
TAG = "landmarks-packed_example"


def landmarks(*arguments):
    done = CliRunner().invoke(cli, [str(word) for word in arguments])
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def challenge(built, tiny_dataset, tmp_path_factory):
    """The pack, the images to upload and the hidden reference; the packed images loaded and built."""
    folder = tmp_path_factory.mktemp("challenge")
    built("evaluation")
    hide = ["data", "hide", tiny_dataset, "--public", folder / "public", "--reference", folder / "reference"]
    landmarks(*hide, "--disclosure", "open")
    pack = folder / "pack"
    landmarks("pack", "ceph-19", folder / "reference", "--out", pack)
    with tarfile.open(pack / "evaluation.tar.gz") as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
    assert [image["RepoTags"] for image in manifest] == [["landmarks-evaluation:invoke"]]
    assert "landmarks-evaluation:invoke" in docker("load", "--input", pack / "evaluation.tar.gz").stdout
    shutil.copytree(pack / "example-algorithm/baselines/template", pack / "example-algorithm/baselines/packed_example")
    script(pack / "example-algorithm/baselines/packed_example/build.sh", "--cpu")
    yield folder, pack
    docker("image", "rm", "--force", f"{TAG}:exec", f"{TAG}:invoke")


def drive(tag, data, pks):
    """Run an image over /data/<pk>/input as the platform does; its label decides how. What came of each job, by pk."""
    facts = json.loads(docker("image", "inspect", tag).stdout)[0]
    config = facts["Config"]
    job = {
        "mode": (config["Labels"] or {}).get("org.grand-challenge.api-method", "exec"),
        "user": config["User"],
        "command": [*config["Entrypoint"], *(config["Cmd"] or [])],
        "workdir": config["WorkingDir"] or "/",
        "memory_bytes": MEMORY_MB * 2**20,
        "seconds": 300,
        "pks": pks,
    }
    (data / "jobs.json").write_text(json.dumps(job))
    (data / "results.json").unlink(missing_ok=True)
    limits = ["--network", "none", "--memory", f"{MEMORY_MB}m", "--shm-size", f"{MEMORY_MB // 2}m"]
    environment = ["--env", "GRAND_CHALLENGE_SECRET=1"]
    mounts = ["--volume", f"{data}:/data", "--volume", f"{SHIM}:/shim.py:ro"]
    command = ["--user", "0", "--entrypoint", "python3", tag, "-I", "/shim.py"]
    done = docker("run", "--rm", *limits, *environment, *mounts, *command, check=False)
    assert done.returncode == 0, (tag, done.stdout, done.stderr)
    results = json.loads((data / "results.json").read_text())
    assert all(result["ok"] for result in results) and [result["pk"] for result in results] == pks, done.stderr
    return {result["pk"]: result["seconds"] for result in results}, job["mode"]


def socket_value(socket, **fields):
    """As the platform serialises it; `interface` is the older name of the same."""
    described = {
        **{key: socket[key] for key in ("title", "description", "slug", "kind", "relative_path")},
        **{"pk": 7, "default_value": None, "overlay_segments": [], "look_up_table": None},
        "super_kind": "Image" if socket["kind"] == "Image" else "File",
    }
    return {"socket": described, "interface": described, "value": None, "file": None, "image": None, "pk": 3, **fields}


def duration(seconds):
    return f"P0DT00H00M{seconds:09.6f}S"


def submit(pack, images, data, mode):
    """Run the example on every image; the folder that the evaluation finds as its /input."""
    sockets = {socket["slug"]: socket for socket in json.loads((pack / "sockets.json").read_text())}
    phase = json.loads((pack / "phase.json").read_text())
    [image_slug] = phase["algorithm_inputs"]
    jobs = {str(uuid.uuid4()): path for path in images}
    for pk, path in jobs.items():
        folder = data / pk / "input" / sockets[image_slug]["relative_path"]
        folder.mkdir(parents=True)
        shutil.copyfile(path, folder / f"{uuid.uuid4()}.mha")
        image = {"pk": str(uuid.uuid4()), "name": path.name}
        (data / pk / "input/inputs.json").write_text(json.dumps([socket_value(sockets[image_slug], image=image)]))
    seconds, api = drive(f"{TAG}:{mode}", data, list(jobs))
    assert api == mode
    submission = data / "submission/input"
    records = []
    for pk, path in jobs.items():
        outputs = []
        for slug in phase["algorithm_outputs"]:
            socket = sockets[slug]
            produced = data / pk / "output" / socket["relative_path"]
            assert produced.is_file() and not produced.is_symlink(), f"'{socket['relative_path']}' was not produced"
            value = parse_as_platform(produced.read_bytes())
            jsonschema.validate(value, KIND_SCHEMAS[socket["kind"]])
            jsonschema.validate(value, socket["schema"])
            kept = submission / pk / "output" / socket["relative_path"]
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(produced, kept)
            outputs.append(socket_value(socket, file=f"https://media/{pk}/{socket['relative_path']}"))
        records.append(
            {
                **{"pk": pk, "url": "u", "api_url": "a", "algorithm_image": "i", "status": "Succeeded"},
                "inputs": [socket_value(sockets[image_slug], image={"pk": str(uuid.uuid4()), "name": path.name})],
                "outputs": outputs,
                **{"hanging_protocol": None, "optional_hanging_protocols": [], "view_content": {}},
                "exec_duration": duration(seconds[pk]) if mode == "exec" else None,
                "invoke_duration": duration(seconds[pk]) if mode == "invoke" else None,
            }
        )
    random.Random(0).shuffle(records)
    (submission / "predictions.json").write_text(json.dumps(records))
    (submission / "inputs.json").write_text("[]")
    return data / "submission"


def mean_radial_error_mm(submission, reference):
    """By hand: in the image plane, over all points of all cases, no error above what a missing point costs."""
    charge = json.loads((reference / "reference.json").read_text())["task"]["missing_error_mm"]
    errors = []
    for record in json.loads((submission / "input/predictions.json").read_text()):
        case = record["inputs"][0]["image"]["name"].removesuffix(".mha")
        truth = json.loads((reference / f"landmarks/reference/{case}.json").read_text())
        given = json.loads((submission / "input" / record["pk"] / "output/anatomical-landmarks.json").read_text())
        points = {point["name"]: point["point"] for point in given["points"]}
        for point in truth["points"]:
            off = np.subtract(points[point["name"]][:2], point["point"][:2])
            errors.append(min(charge, float(np.hypot(*off))))
    return float(np.mean(errors)), len(errors)


@pytest.mark.parametrize("mode", ["exec", "invoke"])
def test_images_in_and_a_leaderboard_out(challenge, tmp_path, mode):
    folder, pack = challenge
    for socket in json.loads((pack / "sockets.json").read_text()):
        check_socket(socket)
    images = sorted((folder / "public/images").glob("hidden-*"))
    assert len(images) == 3
    (tmp_path / "algorithm").mkdir()
    submission = submit(pack, images, tmp_path / "algorithm", mode)

    evaluation = tmp_path / "evaluation"
    shutil.copytree(submission / "input", evaluation / "evaluation-1/input")
    shutil.copyfile(pack / "ground_truth.tar.gz", evaluation / "ground_truth.tar.gz")
    _, api = drive(f"landmarks-evaluation:{mode}", evaluation, ["evaluation-1"])
    assert api == mode
    output = evaluation / "evaluation-1/output"
    assert [path.name for path in output.iterdir()] == ["metrics.json"]
    metrics = parse_as_platform((output / "metrics.json").read_text())

    phase = json.loads((pack / "phase.json").read_text())
    for path in (phase["score_jsonpath"], *(column["path"] for column in phase["extra_results_columns"])):
        value = leaderboard_value(metrics, path)
        assert isinstance(value, int | float) and not isinstance(value, bool), path
    wanted, count = mean_radial_error_mm(submission, folder / "reference")
    assert count == 3 * 19
    assert leaderboard_value(metrics, phase["score_jsonpath"]) == pytest.approx(wanted, abs=1e-6)


def test_two_evaluations_on_one_server_do_not_mix(challenge, tmp_path):
    """The second submission is worse; /input and /output are made anew between the calls."""
    folder, pack = challenge
    names = [path.stem for path in sorted((folder / "public/images").glob("hidden-*"))]
    for number, shift in enumerate((1.0, 3.0), start=1):
        target = tmp_path / f"evaluation-{number}/input"
        target.mkdir(parents=True)
        for name in names:
            value = json.loads((folder / f"reference/landmarks/reference/{name}.json").read_text())
            for point in value["points"]:
                point["point"][0] += shift
            (target / f"{name}.json").write_text(json.dumps(value))
    shutil.copyfile(pack / "ground_truth.tar.gz", tmp_path / "ground_truth.tar.gz")
    drive("landmarks-evaluation:invoke", tmp_path, ["evaluation-1", "evaluation-2"])
    for number, shift in enumerate((1.0, 3.0), start=1):
        metrics = json.loads((tmp_path / f"evaluation-{number}/output/metrics.json").read_text())
        assert metrics["aggregates"]["mre_mm"]["mean"] == pytest.approx(shift, abs=1e-6)


def test_a_participant_who_follows_the_packed_template_s_readme_passes(challenge, tmp_path):
    """Every command of the README in its order, but for the kit's installation, which is what runs this test."""
    _, pack = challenge
    participant = tmp_path / "clone"
    shutil.copytree(pack / "example-algorithm", participant)
    text = (participant / "baselines/template/README.md").read_text()
    blocks = re.findall(r"(?m)^ *```\n((?:.*\n)*?) *```$", text)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    assert any(line.startswith("pip install") for line in lines)
    commands = [line for line in lines if not line.startswith(("pip install", "python3 -m venv"))]
    (tmp_path / "follow.sh").write_text("\n".join(["set -euo pipefail", *commands]))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = ["bash", str(tmp_path / "follow.sh")]
    started = time.monotonic()
    done = subprocess.run(words, cwd=participant, env=environment, capture_output=True, text=True, check=False)
    spent_s = time.monotonic() - started
    docker("image", "rm", "--force", "landmarks-my_method:exec", "landmarks-my_method:invoke")
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    assert done.stderr.count("landmarks-my_method passes") == 2
    assert "landmarks-my_method:invoke: every check passed" in done.stdout
    folder = participant / "baselines/my_method"
    assert (folder / "dist/landmarks-my_method-invoke.tar.gz").is_file()
    assert "mre_mm" in (folder / "scores/metrics.json").read_text()
    assert len(list((folder / "test").glob("*/expected.json"))) == 3
    print(f"the README took {spent_s:.0f} s")
