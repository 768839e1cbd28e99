"""Images for the tests that need a Docker engine, built once by the baselines' own scripts."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASELINES = sorted(path.parents[1].name for path in ROOT.glob("baselines/*/model/model.json"))


def script(path, *arguments, check=True):
    """Run a script of the repository; its output is shown where it fails."""
    done = subprocess.run([ROOT / path, *map(str, arguments)], capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, f"{path} {arguments}\n{done.stdout}\n{done.stderr}"
    return done


def docker(*arguments, check=True):
    return subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=check)


@pytest.fixture(scope="session")
def engine():
    """Skips where no engine answers; in CI (LANDMARKS_NEED_DOCKER=1) that is a failure."""
    if docker("info", check=False).returncode != 0:
        if os.environ.get("LANDMARKS_NEED_DOCKER") == "1":
            pytest.fail("LANDMARKS_NEED_DOCKER=1 and no Docker engine answers")
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
def built(engine):
    """Builds the images of a baseline, or the evaluation, the first time they are asked for."""
    done: set[str] = set()

    def build(name: str) -> str:
        if name not in done:
            script("evaluation/build.sh" if name == "evaluation" else f"baselines/{name}/build.sh")
            done.add(name)
        return f"landmarks-{name}"

    return build
