"""`landmarks study`: the rows of a method's own ablation, trained and compared."""

import shlex
from pathlib import Path

import click

from landmark_challenge.dataset import Dataset

from .method import METHODS, PRESETS, resolve_device


@click.command(short_help="Train and compare the rows of a method's ablation.")
@click.argument("method", type=click.Choice(list(METHODS)))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", "output", required=True, type=click.Path(path_type=Path), help="The study folder.")
@click.option("--preset", type=click.Choice(PRESETS), default="cpu", show_default=True, help="The budget of every row.")
@click.option("--single", is_flag=True, help="Also train a network for each landmark alone.")
@click.option("--local", is_flag=True, help="Also train local networks for the rows that the paper shows global only.")
@click.option("--subset", help="Score this part of the test split only.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the preset.")
def study(
    method: str,
    dataset: Path,
    output: Path,
    preset: str,
    single: bool,
    local: bool,
    subset: str | None,
    device: str,
    seed: int,
    assignments: tuple[str, ...],
) -> None:
    """Train every row of METHOD's own ablation on DATASET under one budget and compare them on its test split.

    Writes study.csv, study.md and success.png/.svg; the paper's own figures follow in a table of their own. The same
    command takes up an unfinished study: what is trained is not trained again.

    \b
    Example: landmarks study global_to_local ceph --out study --preset cpu --subset test1
    """
    from .study import Plan, run_study
    from .study_tables import write_study

    options = tuple(name for name, wanted in (("single", single), ("local", local)) if wanted)
    plan = Plan(method, Dataset(dataset), preset, seed, assignments, options, subset, resolve_device(device))
    results = run_study(plan, output)
    words = ["landmarks", "study", method, str(dataset), "--out", str(output), "--preset", preset, "--seed", str(seed)]
    words += [f"--{option}" for option in options]
    words += ["--subset", subset] if subset else []
    words += [word for assignment in assignments for word in ("--set", assignment)]
    paths = write_study(plan, results, output, command=shlex.join(words))
    click.echo((output / "study.md").read_text())
    click.echo("\n".join(str(path) for path in paths))
