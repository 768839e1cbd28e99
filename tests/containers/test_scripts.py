"""build.sh, test.sh and save.sh of every image: they pass on what is right and fail on what is wrong."""

import hashlib
import json
import re
import shutil
import tarfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from .conftest import BASELINES, ROOT, docker, script

pytestmark = pytest.mark.docker


def inspect(tag):
    return json.loads(docker("image", "inspect", tag).stdout)[0]


@pytest.mark.parametrize("name", BASELINES)
def test_the_committed_model_passes_in_both_modes(built, name):
    built(name)
    done = script(f"baselines/{name}/test.sh")
    assert f"landmarks-{name} passes" in done.stderr


@pytest.mark.parametrize("name", BASELINES)
def test_a_model_broken_on_purpose_fails(built, name, tmp_path):
    built(name)
    broken = tmp_path / "model"
    shutil.copytree(ROOT / f"baselines/{name}/model", broken)
    header = json.loads((broken / "model.json").read_text())
    header["mean_shape"] = {key: [value + 0.2 for value in point] for key, point in header["mean_shape"].items()}
    (broken / "model.json").write_text(json.dumps(header))
    weights = load_file(broken / "weights.safetensors")
    save_file({key: torch.zeros_like(value) for key, value in weights.items()}, broken / "weights.safetensors")
    (broken / "weights.safetensors").chmod(0o644)
    done = script(f"baselines/{name}/test.sh", "--model", broken, check=False)
    assert done.returncode != 0
    assert "WRONG: mean error" in done.stderr and "gives wrong answers" in done.stderr


def test_an_unreadable_model_fails_with_a_clear_line(built, tmp_path):
    built("mean_shape")
    (tmp_path / "model.json").write_text("{")
    done = script("baselines/mean_shape/test.sh", "--model", tmp_path, check=False)
    assert done.returncode != 0
    assert "error: /opt/ml/model/model.json: wanted" in done.stderr and "failed on phantom" in done.stderr


def test_a_wrong_reference_makes_the_evaluation_s_test_fail(built, tmp_path):
    built("evaluation")
    assert "landmarks-evaluation passes" in script("evaluation/test.sh").stderr
    shutil.copytree(ROOT / "evaluation/test/ground_truth", tmp_path / "truth")
    path = tmp_path / "truth/landmarks/reference/case-2.json"
    points = json.loads(path.read_text())
    points["points"][0]["point"][0] += 0.25
    path.write_text(json.dumps(points))
    done = script("evaluation/test.sh", tmp_path / "truth", check=False)
    assert done.returncode != 0 and "WRONG: metrics.aggregates.mre_mm.mean" in done.stderr


@pytest.mark.parametrize("name", [*BASELINES, "evaluation"])
def test_both_tags_are_one_image_family_that_the_platform_accepts(built, name):
    tag = built(name)
    images = {mode: inspect(f"{tag}:{mode}") for mode in ("exec", "invoke")}
    assert images["exec"]["RootFS"]["Layers"] == images["invoke"]["RootFS"]["Layers"]
    assert images["exec"]["Id"] != images["invoke"]["Id"], "the platform refuses a duplicate"
    for mode, image in images.items():
        assert image["Config"]["Labels"]["org.grand-challenge.api-method"] == mode
        assert image["Config"]["User"] == "landmarks"
        assert image["Architecture"] == "amd64" and image["Os"] == "linux"
        assert image["Config"]["Entrypoint"][0] == "python3", "no shell at run time"
        assert not any(variable.startswith("GRAND_CHALLENGE_") for variable in image["Config"]["Env"])
    passwd = docker("run", "--rm", "--network", "none", "--entrypoint", "cat", f"{tag}:exec", "/etc/passwd").stdout
    user = next(line.split(":") for line in passwd.splitlines() if line.startswith("landmarks:"))
    assert int(user[2]) > 0


def test_the_images_share_their_libraries(built):
    layers = [inspect(f"{built(name)}:exec")["RootFS"]["Layers"] for name in BASELINES]
    base = inspect("landmarks-base:torch")["RootFS"]["Layers"]
    assert all(own[: len(base)] == base for own in layers)
    assert len({own[len(base)] for own in layers}) == 1, "the kit is one layer for all of them"


def test_no_tests_caches_or_sources_of_others_are_in_an_image(built):
    tag = built("mean_shape")
    find = "find /opt/kit /opt/algorithm /root /tmp -name 'test*' -o -name '*.sh' -o -name '.cache' -o -name '*.whl'"
    shell = docker("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "sh", f"{tag}:exec", "-c", find)
    assert shell.stdout.split() == []


def test_the_archive_holds_exactly_one_image_of_the_right_mode(built):
    built("evaluation")
    script("evaluation/save.sh", "invoke")
    archive = ROOT / "evaluation/dist/landmarks-evaluation-invoke.tar.gz"
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        assert len(manifest) == 1 and manifest[0]["RepoTags"] == ["landmarks-evaluation:invoke"]
        config = tar.extractfile(manifest[0]["Config"]).read()
    assert json.loads(config)["config"]["Labels"]["org.grand-challenge.api-method"] == "invoke"
    assert f"sha256:{hashlib.sha256(config).hexdigest()}" == inspect("landmarks-evaluation:invoke")["Id"]
    archive.unlink()
    bill = json.loads((ROOT / "evaluation/dist/landmarks-evaluation.sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX" and bill["specVersion"] == "1.5"
    versions = {component["name"].lower().replace("_", "-"): component["version"] for component in bill["components"]}
    pinned = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", (ROOT / "docker/requirements/light.txt").read_text()))
    assert {name: versions[name] for name in pinned} == pinned
    assert "landmark-challenge-kit" in versions and "libc6" in versions


def test_wrong_options_are_refused(engine):
    for path in ("baselines/mean_shape/build.sh", "baselines/mean_shape/test.sh"):
        done = script(path, "--no-such-option", check=False)
        assert done.returncode != 0 and "usage:" in done.stderr
