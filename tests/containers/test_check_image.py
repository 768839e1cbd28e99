"""`landmarks check-image` on a good image and on images that are wrong in one way each."""

import json
import os
import subprocess

import pytest
from click.testing import CliRunner

from landmark_challenge import image_check
from landmark_challenge.cli import cli

from .conftest import ROOT, docker, script

pytestmark = pytest.mark.docker
SAMPLES = ROOT / "baselines/template/test"

METHOD = (ROOT / "baselines/template/method.py").read_text()
ANSWER = "        return Localization(self.mean_shape(image))\n"
assert ANSWER in METHOD


def method(body: str) -> str:
    """The template's method with another body of `localize`."""
    return METHOD.replace(ANSWER, "".join(f"        {line}\n" for line in body.splitlines()))


@pytest.fixture(scope="module")
def template(engine):
    script("baselines/template/build.sh", "--cpu")
    return "landmarks-template"


@pytest.fixture
def variant(template, tmp_path):
    """Builds an image on top of the template's: other Dockerfile lines, another method."""
    tags = []

    def build(*lines: str, mode: str = "invoke", body: str | None = None, base: str | None = None) -> str:
        tag = f"landmarks-variant-{len(tags)}:{mode}"
        text = [f"FROM {base or f'{template}:{mode}'}"]
        if body is not None:
            (tmp_path / "method.py").write_text(method(body))
            text.append("COPY method.py /opt/algorithm/")
        (tmp_path / "Dockerfile").write_text("\n".join([*text, *lines]) + "\n")
        command = ["docker", "build", "--quiet", "--network", "none", "--tag", tag, str(tmp_path)]
        subprocess.run(command, check=True, capture_output=True)
        tags.append(tag)
        return tag

    yield build
    for tag in tags:
        subprocess.run(["docker", "image", "rm", "--force", tag], check=True, capture_output=True)


def check(tag, *arguments, cases=SAMPLES):
    done = CliRunner().invoke(cli, ["check-image", tag, "--cases", str(cases), "--calls", "12", *map(str, arguments)])
    lines = {line[8:22].strip(): line for line in done.output.splitlines() if line[:6] in ("passed", "FAILED")}
    failed = {name for name, line in lines.items() if line.startswith("FAILED")}
    return done, failed


@pytest.mark.parametrize("mode", ["exec", "invoke"])
def test_the_template_passes_everything(template, mode):
    done, failed = check(f"{template}:{mode}")
    assert done.exit_code == 0 and failed == set(), done.output
    assert "every check passed" in done.output
    known = {"label", "architecture", "user", "environment", "size", "runs", "network", "read-only root", "memory"}
    known |= {"scratch space", "time", "outputs", "extra files", "determinism", "broken image"}
    assert {name for name in known if f"passed  {name} " not in done.output} == set()
    assert ("passed  memory growth" in done.output) == (mode == "invoke")


@pytest.mark.parametrize(
    ("lines", "wrong", "found"),
    [
        (["USER root"], {"user"}, "root"),
        (["USER 0:0"], {"user"}, "0:0"),
        (["USER nobodyknows"], {"user"}, "not in the image"),
        (["USER algorithm_user"], {"user"}, "letters and digits"),
        (['LABEL org.grand-challenge.api-method="batch"'], {"label"}, "api-method batch"),
        (["ENV GRAND_CHALLENGE_MAX_WORKERS=3"], {"environment"}, "GRAND_CHALLENGE_MAX_WORKERS"),
    ],
)
def test_what_the_import_refuses_is_found(variant, lines, wrong, found):
    done, failed = check(variant(*lines))
    assert done.exit_code == 1 and failed == wrong, done.output
    assert found in done.output and "->" in done.output


def test_another_architecture_is_found_and_not_run(engine, tmp_path):
    (tmp_path / "Dockerfile").write_text('FROM scratch\nCOPY Dockerfile /\nUSER 1000\nENTRYPOINT ["/none"]\n')
    tag = "landmarks-variant-arm:exec"
    command = ["docker", "build", "--quiet", "--platform", "linux/arm64", "--tag", tag, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DOCKER_BUILDKIT": "0"})
    try:
        done, failed = check(tag)
    finally:
        subprocess.run(["docker", "image", "rm", "--force", tag], check=True, capture_output=True)
    assert done.exit_code == 1 and failed == {"architecture"}, done.output
    assert "linux/arm64" in done.output and "runs" not in done.output


def test_an_image_without_a_label_is_taken_as_exec(template, variant):
    """Labels cannot be taken away, so this one starts from the base below the template."""
    copied = [f"COPY --from={template}:exec {folder} {folder}" for folder in ("/opt/kit", "/opt/algorithm")]
    entry = [
        "ENV PYTHONPATH=/opt/kit:/opt/libraries/light:/opt/algorithm",
        "ENTRYPOINT " + json.dumps(["python3", "-m", "landmark_baselines.algorithm"]),
    ]
    done, failed = check(variant(*copied, *entry, base="landmarks-base:light"))
    assert done.exit_code == 0 and failed == set(), done.output
    assert "api-method absent, taken as exec" in done.output


REMOVE_SHELLS = """
import pathlib
for folder in ("bin", "usr/bin"):
    for name in ("sh", "bash", "dash", "rbash"):
        pathlib.Path("/", folder, name).unlink(missing_ok=True)
"""


@pytest.mark.parametrize(
    ("name", "mode"), [("template", "exec"), ("template", "invoke"), ("global_to_local", "invoke")]
)
def test_no_shell_is_needed_at_run_time(built, variant, name, mode):
    remove = ["USER root", f"RUN {json.dumps(['python3', '-c', REMOVE_SHELLS])}", "USER landmarks"]
    tag = variant(*remove, base=f"{built(name)}:{mode}")
    gone = docker("run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", tag, "-c", "true", check=False)
    assert gone.returncode == 127, "the shell is still there"
    done, failed = check(tag, cases=ROOT / f"baselines/{name}/test")
    assert done.exit_code == 0 and failed == set(), done.output


def test_an_image_larger_than_the_limit_is_found(template, monkeypatch):
    monkeypatch.setattr(image_check, "MAX_IMAGE_GB", 0.1)
    done, failed = check(f"{template}:exec")
    assert done.exit_code == 1 and failed == {"size"}, done.output
    assert "at most 0.1 GB" in done.output


@pytest.mark.parametrize(
    ("body", "wrong", "found"),
    [
        ("import os\nos._exit(3)", {"starts"}, "exit code 3"),
        ("import time\nif image.size[0] != 256: time.sleep(30)\n"
         "return Localization(self.mean_shape(image))", {"time"}, "took longer than 5 s"),
        ("if image.size[0] != 256: raise ValueError('no such tooth')\n"
         "return Localization(self.mean_shape(image))", {"runs"}, "no such tooth"),
        ("kept = [bytearray(2**20) for _ in range(8000)]", {"memory"}, "MemoryError"),
        ("import urllib.request\nurllib.request.urlopen('http://example.org/weights')", {"network"}, "put weights"),
        ("import socket\nsocket.create_connection(('192.0.2.1', 80))", {"network"}, "Network is unreachable"),
        ("from pathlib import Path\nPath('/opt/cache').write_text('x')", {"read-only root"}, "/tmp and /output only"),
        ("from pathlib import Path\nPath('/dev/shm/x').write_bytes(bytes(1600 * 2**20))", {"scratch space"},
         "half of the instance's memory"),
        ("import numpy\npoints = self.mean_shape(image)\nreturn Localization(Landmarks(points.names, "
         "points.points_mm + numpy.random.rand()))", {"determinism"}, "two runs differ"),
        ("import numpy\nglobals().setdefault('kept', []).append(numpy.ones(2**21))\n"
         "return Localization(self.mean_shape(image))", {"memory growth"}, "+"),
        ("from pathlib import Path\nPath('/output/extra.txt').write_text('x')\n"
         "return Localization(self.mean_shape(image))", set(), "extra.txt"),
    ],
)  # fmt: skip
def test_what_fails_at_run_time_is_found(variant, body, wrong, found):
    # on a busy machine even 3000 MB take a while to fill
    arguments = ["--time-limit-s", 5 if wrong == {"time"} else 120, "--memory-mb", 3000]
    done, failed = check(variant(body=body), *arguments)
    assert failed == wrong, done.output
    assert found in done.output
    assert done.exit_code == (1 if wrong else 0)


def test_wrong_output_of_another_program_is_found(variant):
    """Programs that do not use the kit at all: no output, NaN, a vector of two."""
    program = "import json, pathlib; o = pathlib.Path('/output'); (o / 'landmark-uncertainty.json').write_text('{}'); "
    for point, found in (("[1, 2]", "wanted point [x, y, z]"), ("[NaN, 2, 3]", "the number NaN")):
        value = (
            '{\\"type\\": \\"Multiple points\\", \\"version\\": {\\"major\\": 1, \\"minor\\": 0}, '
            '\\"points\\": [{\\"name\\": \\"sella\\", \\"point\\": ' + point + "}]}"
        )
        code = program + f"(o / 'anatomical-landmarks.json').write_text('{value}')"
        done, failed = check(variant(f'ENTRYPOINT ["python3", "-c", "{code}"]', mode="exec"))
        assert failed == {"outputs"} and found in done.output, done.output
    done, failed = check(variant('ENTRYPOINT ["python3", "-c", "pass"]', mode="exec"))
    assert failed == {"outputs"} and "'anatomical-landmarks.json' was not produced" in done.output


@pytest.mark.parametrize(
    ("case", "point", "found"),
    [
        (
            "phantom-0022",
            '{"name": "sella", "point": [1, 2, 3]}',
            "phantom-0023: output file 'anatomical-landmarks.json'",
        ),
        ("phantom", '{"name": "nose", "point": [1, 2, 3]}', "nose"),
        ("phantom", '{"name": "sella", "point": [1, 2, 3], "time_index": 1}', "time_index"),
        ("phantom", '{"name": "sella", "point": [1, 2, 3]}, {"name": "sella", "point": [1, 2, 3]}', "sella"),
    ],
)
def test_output_that_is_missing_for_one_case_or_breaks_the_schema_is_found(variant, case, point, found):
    """A program of its own that answers the cases whose name begins so."""
    value = f'{{"type": "Multiple points", "version": {{"major": 1, "minor": 0}}, "points": [{point}]}}'
    program = f"""
import json, pathlib
name = json.load(open("/input/inputs.json"))[0]["image"]["name"]
if name.startswith({case!r}):
    pathlib.Path("/output/landmark-uncertainty.json").write_text("{{}}")
    pathlib.Path("/output/anatomical-landmarks.json").write_text({value!r})
"""
    done, failed = check(variant(f"ENTRYPOINT {json.dumps(['python3', '-c', program])}", mode="exec"))
    assert done.exit_code == 1 and failed == {"outputs"} and found in done.output, done.output
    assert "-> the platform" in done.output


def test_a_server_that_never_answers_is_found(variant):
    done, failed = check(variant('ENTRYPOINT ["python3", "-c", "raise SystemExit(4)"]'), "--time-limit-s", 5)
    assert done.exit_code == 1 and "starts" in failed, done.output
    assert "exit code 4" in done.output


def test_no_cases_and_no_image_are_bad_usage(template, tmp_path):
    done = CliRunner().invoke(cli, ["check-image", f"{template}:exec", "--cases", str(tmp_path)])
    assert "wanted sample cases" in str(done.exception)
    done = CliRunner().invoke(cli, ["check-image", "landmarks-no-such:exec"])
    assert "there is none of this tag" in str(done.exception)
