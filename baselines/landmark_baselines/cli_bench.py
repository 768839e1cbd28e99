"""`landmarks bench`: where the time of a model goes."""

from pathlib import Path

import click

from landmark_challenge import files
from landmark_challenge.dataset import SPLITS, Dataset
from landmark_challenge.errors import ChallengeError

from .checkpoints import read_model


@click.command(short_help="Measure where the time of a model goes.")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Whose cases.")
@click.option("--cases", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many of them.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here too.")
def bench(model: Path, dataset: Path, split: str, cases: int, device: str, output: Path | None) -> None:
    """Measure MODEL on cases of DATASET: cold start, warm cases by part, memory, arithmetic against the machine's peak.

    The peak is that of convolutions of 128 channels, measured between the cases, so that other programs slow both.

    \b
    Example: landmarks bench model ceph --split test --cases 20 --json bench.json
    """
    from .bench import as_table, measure

    data, saved = Dataset(dataset), read_model(model)
    if data.task.name != saved.task.name:
        raise ChallengeError(
            f"{dataset}: wanted a dataset of {saved.task.name}, which {model} is for, got {data.task.name}"
        )
    result = measure(model, data, saved, split=split, cases=cases, device=device)
    if output is not None:
        files.write_json(output, result)
    click.echo(as_table(result))
