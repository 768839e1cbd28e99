"""`landmarks learning-curve`: a method trained on ever more images."""

import shlex
from pathlib import Path

import click

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError

from .method import METHODS, PRESETS, resolve_device


@click.command(short_help="Train on ever more images; plot the error.")
@click.argument("method", type=click.Choice(list(METHODS)))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", "output", required=True, type=click.Path(path_type=Path), help="The folder of the curve.")
@click.option("--sizes", default="10,25,50,100", show_default=True, help="Numbers of training images, by commas.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Trainings of each size.")
@click.option("--preset", type=click.Choice(PRESETS), default="cpu", show_default=True)
@click.option("--subset", help="Score this part of the test split only.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the preset.")
def learning_curve(
    method: str,
    dataset: Path,
    output: Path,
    sizes: str,
    seeds: int,
    preset: str,
    subset: str | None,
    device: str,
    assignments: tuple[str, ...],
) -> None:
    """Train METHOD on random subsets of the training images of DATASET and score each on its test split.

    Writes curve.csv, curve.md and curve.png/.svg. The same command takes up an unfinished curve, and one with more
    sizes or seeds adds them.

    \b
    Example: landmarks learning-curve cascade ceph --out curve --sizes 10,25,50,100,139 --subset test1
    """
    from .learning_curve import run_curve, write_curve
    from .study import Plan

    try:
        counts = sorted({int(text) for text in sizes.split(",")})
    except ValueError:
        raise ChallengeError(f"--sizes: wanted numbers with commas between, got '{sizes}'") from None
    plan = Plan(method, Dataset(dataset), preset, 0, assignments, (), subset, resolve_device(device))
    runs = run_curve(plan, counts, range(seeds), output)
    words = ["landmarks", "learning-curve", method, str(dataset), "--out", str(output), "--sizes", sizes]
    words += ["--seeds", str(seeds), "--preset", preset, *(["--subset", subset] if subset else [])]
    words += [word for assignment in assignments for word in ("--set", assignment)]
    paths = write_curve(plan, runs, output, command=shlex.join(words))
    click.echo((output / "curve.md").read_text())
    click.echo("\n".join(str(path) for path in paths))
