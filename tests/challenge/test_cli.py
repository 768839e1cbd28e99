"""The command line itself: help everywhere, exit codes, one clear line, nothing heavy imported."""

import subprocess
import sys

import click
import pytest

from landmark_challenge.cli import cli, main
from landmark_challenge.errors import ChallengeError


def landmarks(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from landmark_challenge.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def commands(group: click.Group = cli, path: tuple[str, ...] = ()):
    """Every command of the kit with its path; one whose module is not there yet fails the test that asks for it."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            yield (*path, name), command
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))


def test_every_command_has_help_with_an_example(capsys) -> None:
    found = list(commands())
    assert {("task", "list"), ("task", "show"), ("data", "import"), ("data", "phantom"), ("demo",)} <= {
        p for p, _ in found
    }
    for path, _ in found:
        with pytest.raises(SystemExit) as done:
            main([*path, "--help"])
        text = capsys.readouterr().out
        assert done.value.code == 0
        assert f"landmarks {path[0]}" in text and "Example" in text, path


def test_help_has_a_line_for_every_command(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out.split("Commands:")[1].splitlines()
    assert {line.split()[0] for line in shown if len(line.split()) > 2} == set(cli.list_commands(click.Context(cli)))


def test_bad_input_is_one_line_and_exit_code_2() -> None:
    done = landmarks("task", "show", "nonsense")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("landmarks: error: task: wanted one of") and done.stderr.count("\n") == 1


def test_bad_usage_is_exit_code_2_without_a_traceback() -> None:
    for arguments in (["nonsense"], ["task"], ["data", "import", "nonsense", "a", "b"], ["data", "phantom"], ["--x"]):
        done = landmarks(*arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr, arguments


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = (
        "import sys; from landmark_challenge.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('torch', 'pandas', 'matplotlib', 'SimpleITK', 'docker', 'scipy', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_error_of_many_lines_becomes_one(monkeypatch, capsys) -> None:
    def fail(**_options):
        raise ChallengeError("a.json: wanted\n  this\n  got that")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 2
    assert capsys.readouterr().err == "landmarks: error: a.json: wanted this got that\n"


def test_a_missing_extra_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "landmark_challenge.demo", None)
    monkeypatch.setattr("landmark_challenge.cli.OWN_COMMANDS", {"demo": "no_such_package.demo:demo"})
    with pytest.raises(SystemExit) as done:
        main(["demo"])
    assert done.value.code == 2
    assert "pip install 'landmark-challenge-kit[all]'" in capsys.readouterr().err


def test_a_library_missing_in_the_middle_of_a_command_says_what_to_install(monkeypatch, capsys) -> None:
    def without(library: str):
        def fail(**_options):
            raise ModuleNotFoundError(f"No module named '{library}'", name=library)

        return fail

    monkeypatch.setattr(cli, "main", without("no_such_library.stats"))
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 2
    assert "needs the package 'no_such_library'" in capsys.readouterr().err
    monkeypatch.setattr(cli, "main", without("landmark_challenge.lost"))
    with pytest.raises(ModuleNotFoundError):
        main([])


def test_interrupting_is_no_success() -> None:
    code = (
        "import landmark_challenge.cli_data as c\n"
        "def stop(*a): raise KeyboardInterrupt\n"
        "c.describe = stop\n"
        "from landmark_challenge.cli import main; main(['task', 'show', 'ceph-19'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "\nlandmarks: interrupted\n"


def test_a_file_that_the_system_refuses_is_one_line_and_exit_code_2(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    for arguments in (
        ["data", "phantom", "ceph-19", str(tmp_path / "file" / "sub")],
        ["data", "phantom", "ceph-19", "/proc/x/sub"],
    ):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        text = capsys.readouterr().err
        assert done.value.code == 2, text
        assert text.startswith("landmarks: error: /") and text.count("\n") == 1, text


def test_an_error_of_the_system_without_a_file_keeps_its_traceback(monkeypatch) -> None:
    def fail(**_options):
        raise OSError("something broke")

    monkeypatch.setattr(cli, "main", fail)
    with pytest.raises(OSError, match="something broke"):
        main([])
