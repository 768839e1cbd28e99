"""The README keeps its promises: its commands exist, its files are there, nothing of a private machine is in it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from landmark_challenge.cli import cli
from landmark_challenge.images import write_image
from landmark_challenge.phantoms import make_case

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path
    for path in [README, *ROOT.glob("*/README.md"), *ROOT.glob("baselines/*/README.md"), *ROOT.glob("challenge/*.md")]
    if path.is_file()
)


def commands(text: str) -> list[list[str]]:
    """Every `landmarks ...` line in the code blocks of a document, continuation lines joined."""
    found = []
    for block in re.findall(r"```(?:bash|sh|console)?\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ")
            if line.startswith("landmarks "):
                found.append(shlex.split(line, comments=True)[1:])
    return found


def test_the_readme_shows_commands() -> None:
    shown = {words[0] for words in commands(README.read_text())}
    assert {"task", "data", "train", "run", "evaluate", "predict"} <= shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_their_options_exist(document: Path) -> None:
    for words in commands(document.read_text()):
        command: click.Command | None = cli
        rest = words
        with click.Context(cli) as context:
            while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
                command, rest = command.get_command(context, rest[0]), rest[1:]
                assert command is not None, words
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help"}, f"{' '.join(words)}: {word}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_a_document_names_are_there(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (document.parent / target).exists(), target
    for script in re.findall(r"(?m)^\s*(?:\$ )?\./([\w./-]+\.sh)", text):
        assert (document.parent / script).exists() or (ROOT / script).exists(), script


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_path_of_a_private_machine(document: Path) -> None:
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|Users|tmp)/", document.read_text())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Phantoms laid out as the ISBI 2015 archive."""
    folder = tmp_path / "archive"
    for number in (1, 2, 3, 141, 151, 152):
        case = make_case("ceph-19", 4, index=number)
        part = "TrainingData" if number < 151 else "Test1Data"
        write_image(folder / "RawImage" / part / f"{number:03}.png", case.image)
        pixels = case.image.mm_to_index(case.landmarks.points_mm).round().astype(int)
        for observer in ("400_senior", "400_junior"):
            points = folder / "AnnotationsByMD" / observer / f"{number:03}.txt"
            points.parent.mkdir(parents=True, exist_ok=True)
            points.write_text("".join(f"{x},{y}\n" for x, y in pixels))
    return folder


# A preset as the README names it trains for minutes; the last value of an option counts.
SHORT = ["--preset", "tiny", "--set", "global_stage.schedule.iterations=4", "--set", "local_stage.window=32"]
SHORT += ["--set", "local_stage.schedule.iterations=2", "--set", "local_stage.schedule.batch=2"]


def test_every_command_of_the_readme_runs(archive: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("landmarks")
    stand_ins = {"ISBI_ARCHIVE": str(archive), "IMAGE.mha": "ceph/images/151.mha"}
    ran = 0
    for words in commands(README.read_text()):
        if any(word.startswith("landmarks-") for word in words) or words == ["--help"]:
            continue  # images are built and run by tests/containers
        short = SHORT if words[:2] == ["train", "global_to_local"] else []
        line = [str(program), *(stand_ins.get(word, word) for word in words), *short]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-1500:]}"
        ran += 1
    assert ran >= 19
    assert (tmp_path / "scores" / "metrics.json").is_file()


def test_ci_runs_the_two_scripts_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for script in ("./run.sh", "./test.sh"):
        assert script in README.read_text() and script in ci
