"""The README keeps its promises: its commands exist, its files are there, nothing of a private machine is in it."""

import re
import shlex
from pathlib import Path

import click
import pytest

from landmark_challenge.cli import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path
    for path in [README, *ROOT.glob("*/README.md"), *ROOT.glob("baselines/*/README.md"), *ROOT.glob("docs/**/*.md")]
    if path.is_file()
)


def commands(text: str) -> list[list[str]]:
    """Every `landmarks ...` line in the code blocks of a document, continuation lines joined."""
    found = []
    for block in re.findall(r"```(?:bash|sh|console)?\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and words[0] == "landmarks":
                found.append(words[1:])
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
    assert not re.findall(r"(?<![\w.])/(?:work|root|home|opt/venv|tmp/w)\b", document.read_text())
