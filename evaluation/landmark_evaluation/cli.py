"""`landmarks evaluate`: score a submission and write its result folder."""

from pathlib import Path

import click

from landmark_challenge import files

from .details import details
from .pairing import read_submission
from .references import open_reference
from .results import DETAILS, METRICS
from .scoring import evaluate_submission
from .tables import summary

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("predictions", type=FOLDER)
@click.argument("reference", type=FOLDER)
@click.option(
    "--out", type=FOLDER, required=True, help="Where the result goes: metrics.json, details.json, the report."
)
@click.option("--split", help="Which split of a dataset to score; by default test.")
@click.option("--subset", help="Which part of the split to score.")
@click.option("--observer", metavar="NAME", help="Score against this observer instead of the task's reference.")
@click.option("--no-report", is_flag=True, help="Numbers only.")
def evaluate(
    predictions: Path,
    reference: Path,
    out: Path,
    split: str | None,
    subset: str | None,
    observer: str | None,
    no_report: bool,
) -> None:
    """Score PREDICTIONS against REFERENCE, a dataset or a reference folder.

    PREDICTIONS is what the platform mounts (predictions.json and its outputs) or a plain folder of <case>.json points
    files; an observer's folder in a dataset is one too.

    \b
    Example: landmarks evaluate predictions ceph --split test --subset test1 --out result
             landmarks evaluate ceph/landmarks/junior ceph --observer senior --out junior
    """
    truth = open_reference(reference, split=split, subset=subset, observer=observer)
    evaluation = evaluate_submission(read_submission(predictions, truth), truth)
    if truth.disclosure == "open":
        files.write_json(out / DETAILS, details(evaluation), indent=None)
    # metrics.json comes last: where it stands, the result is complete.
    files.write_json(out / METRICS, evaluation.metrics.to_json())
    click.echo(summary(evaluation.metrics))
    if evaluation.submission.beyond:
        click.echo(f"{evaluation.submission.beyond} further cases were given and are not part of this split")
