"""What goes into the images is pinned by hash, and weights are data, never programs. No Docker needed."""

import re

import pytest

from .conftest import ROOT

SETS = sorted((ROOT / "docker/requirements").glob("*.txt"))
PIN = re.compile(r"(?m)^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


def pins(path):
    """(name, version, hashes) of every requirement in a file that holds nothing else."""
    text = path.read_text()
    found = [
        (name.lower(), version, re.findall("sha256:([0-9a-f]{64})", hashes))
        for name, version, hashes in PIN.findall(text)
    ]
    rest = [line for line in PIN.sub("", text).splitlines() if line and not line.startswith("#")]
    assert rest == [], f"{path.name}: wanted nothing but pins with hashes"
    return found


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_every_library_of_an_image_is_pinned_by_version_and_hash(path):
    constraints = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text().lower()))
    known = {name.replace("_", "-"): version for name, version in constraints.items()}
    found = pins(path)
    assert found, path
    for name, version, hashes in found:
        assert known[name.replace("_", "-")] == version, f"{name}: another version than in constraints.txt"
        assert len(set(hashes)) == len(hashes) >= 1


def test_both_builds_of_torch_are_listed():
    """PyTorch's own index has a CPU build with another hash than PyPI's."""
    [hashes] = [hashes for name, _, hashes in pins(ROOT / "docker/requirements/torch.txt") if name == "torch"]
    assert len(hashes) == 2


def test_images_and_downloads_refuse_what_has_another_hash():
    assert "--require-hashes" in (ROOT / "docker/base.Dockerfile").read_text()
    assert "--require-hashes" in (ROOT / "docker/lib.sh").read_text()


@pytest.mark.parametrize("folder", sorted(ROOT.glob("baselines/*/model")), ids=lambda folder: folder.parent.name)
def test_a_model_folder_holds_no_program(folder):
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {name.rpartition(".")[2] for name in files} <= {"json", "safetensors"}, files
    for path in folder.glob("*.safetensors"):
        size = int.from_bytes(path.read_bytes()[:8], "little")
        assert path.read_bytes()[8:9] == b"{" and size < path.stat().st_size, "a safetensors header"
        assert path.stat().st_size < 2_000_000


def test_nothing_that_images_run_unpickles():
    """torch.load of a training's own checkpoint is held to plain tensors."""
    for path in (ROOT / "baselines/landmark_baselines").glob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text and "allow_pickle=True" not in text, path.name
        assert text.count("torch.load(") == text.count("weights_only=True"), path.name
