"""The `landmarks` command. Other packages add sub-commands through the entry-point group `landmarks.commands`."""

import os
import sys
from importlib.metadata import entry_points
from typing import Any

import click

from . import __version__
from .errors import ChallengeError

OWN_COMMANDS = {
    "task": "landmark_challenge.cli_data:task",
    "data": "landmark_challenge.cli_import:data",
    "convert": "landmark_challenge.cli_import:convert",
    "run": "landmark_challenge.cli_run:run",
    "check-image": "landmark_challenge.cli_check:check_image",
    "demo": "landmark_challenge.demo:demo",
}
# One line each for `landmarks --help`, so that asking for help imports nothing.
SUMMARIES = {
    "bench": "Measure where the time of a model goes.",
    "check-image": "Rehearse what the platform checks of an algorithm image.",
    "compare": "Rank several results against each other.",
    "convert": "Convert points between formats.",
    "data": "Make, import, check and hide datasets.",
    "demo": "The whole loop on synthetic images.",
    "explain": "Show why a landmark is where a model says.",
    "evaluate": "Score predictions against a reference.",
    "learning-curve": "Train on ever more images; plot the error.",
    "pack": "Write what an organiser uploads to host a task.",
    "planes": "Cut a volume along planes through located landmarks.",
    "predict": "Localize the landmarks of single images.",
    "run": "Localize a dataset with a model or a container.",
    "study": "Train and compare the rows of a method's ablation.",
    "task": "List and show tasks.",
    "train": "Train a method on a dataset.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are used."""

    def _known(self) -> dict[str, str]:
        added = {point.name: point.value for point in entry_points(group="landmarks.commands")}
        return {**added, **OWN_COMMANDS}

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C ends it with 130, as a shell expects, where click's own code would be 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nlandmarks: interrupted", err=True)
            raise click.exceptions.Exit(130) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command's name, nothing imported."""
        return sorted(self._known())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print every command with its line of `SUMMARIES`, nothing imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; one whose extra is not installed says which to install."""
        target = self._known().get(cmd_name)
        if target is None:
            return None
        module_name, _, attribute = target.partition(":")
        try:
            module = __import__(module_name, fromlist=[attribute])
        except ModuleNotFoundError as error:
            raise _extra_missing(f"landmarks {cmd_name}", error) from None
        return getattr(module, attribute)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, package_name="landmark-challenge-kit")
def cli() -> None:
    """Host, enter and compare landmark localization challenges in medical images.

    \b
    Example: landmarks demo --out demo
    """


def _extra_missing(what: str, error: ModuleNotFoundError) -> Exception:
    """What to say where a library is not there; one of our own modules missing is a fault of ours."""
    library = (error.name or "").partition(".")[0]
    if not library or library.startswith("landmark_"):
        return error
    return ChallengeError(f"{what} needs the package '{library}': pip install 'landmark-challenge-kit[all]'")


def _unusable_file(error: OSError) -> Exception:
    """What to say of a file that the system refuses; an error that names none is a fault of ours."""
    if not isinstance(error.filename, str | bytes):
        return error
    reason = error.strerror or type(error).__name__
    return ChallengeError(f"{os.fsdecode(error.filename)}: {reason}")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line: exit code 2 and one line on stderr for bad input, 130 for Ctrl-C."""
    try:
        try:
            return cli.main(args=arguments, prog_name="landmarks")
        except ModuleNotFoundError as error:  # of a library that is imported only where it is used
            raise _extra_missing("this command", error) from None
        except OSError as error:  # a folder that cannot be made, a disk that is full
            raise _unusable_file(error) from None
    except ChallengeError as error:
        click.echo(f"landmarks: error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
