"""`landmarks evaluate`: score a submission and write its result folder."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task

from .details import details
from .pairing import read_submission
from .references import open_reference
from .result_folder import clear_result
from .results import DETAILS, METRICS
from .scoring import evaluate_submission
from .tables import figures_text, leaderboard_text, summary

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
@click.option("--images", type=FOLDER, help="A dataset whose images show the worst and the median case in the report.")
@click.option("--no-report", is_flag=True, help="Numbers only.")
def evaluate(
    predictions: Path,
    reference: Path,
    out: Path,
    split: str | None,
    subset: str | None,
    observer: str | None,
    images: Path | None,
    no_report: bool,
) -> None:
    """Score PREDICTIONS against REFERENCE, a dataset or a reference folder.

    PREDICTIONS is what the platform mounts (predictions.json and its outputs) or a plain folder of <case>.json points
    files; an observer's folder in a dataset is one too.

    \b
    Example: landmarks evaluate predictions ceph --split test --subset test1 --out result
             landmarks evaluate ceph/landmarks/junior ceph --observer senior --out junior
    """
    whole = open_reference(reference, split=split, subset=subset, observer=observer)
    truth = whole.marked_by(predictions)
    evaluation = evaluate_submission(read_submission(predictions, truth), truth)
    write_report = None if no_report else _report_writer(images, reference)
    clear_result(out)
    if truth.disclosure == "open":
        files.write_json(out / DETAILS, details(evaluation), indent=None)
    if write_report is not None:
        write_report(evaluation, out, title=f"{predictions.resolve().name} on {truth.task.title}")
    # metrics.json comes last: where it stands, the result is complete.
    files.write_json(out / METRICS, evaluation.metrics.to_json())
    click.echo(summary(evaluation.metrics, truth.task.ranking))
    if len(truth.cases) < len(whole.cases):
        counts = f"{len(truth.cases)} of {len(whole.cases)} cases"
        click.echo(f"{predictions.resolve().name} marked {counts}, and is scored on those")
    if evaluation.submission.beyond:
        click.echo(f"{evaluation.submission.beyond} further cases were given and are not part of this split")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=FOLDER, metavar="DIR...")
@click.option("--out", type=FOLDER, required=True, help="Where leaderboard.csv, leaderboard.html and pairs.csv go.")
@click.option("--reference", type=FOLDER, help="Score all submissions again, against this dataset or reference folder.")
@click.option("--split", help="With --reference: which split of a dataset; by default test.")
@click.option("--subset", help="With --reference: which part of the split.")
@click.option("--observer", metavar="NAME", help="With --reference: score against this observer.")
@click.option(
    "--task", "task_name", metavar="TASK", help="Name or .yaml file, where protected results do not carry it."
)
@click.option("--no-report", is_flag=True, help="Tables only.")
def compare(
    folders: tuple[Path, ...],
    out: Path,
    reference: Path | None,
    split: str | None,
    subset: str | None,
    observer: str | None,
    task_name: str | None,
    no_report: bool,
) -> None:
    """Rank submissions: each DIR is what `landmarks evaluate` wrote; with --reference it may be predictions too.

    \b
    Example: landmarks compare results/* --out leaderboard
             landmarks compare results/* --reference corrected-reference --out leaderboard
    """
    from .entries import load_entries, rescore
    from .leaderboard import leaderboard_csv, make_leaderboard, pairs_csv

    if reference is None:
        if split or subset or observer:
            raise ChallengeError("compare: --split, --subset and --observer go with --reference")
        entries = load_entries(folders)
    else:
        entries = rescore(folders, open_reference(reference, split=split, subset=subset, observer=observer))
    carried = next((entry.task for entry in entries if entry.task is not None), None)
    task = load_task(task_name) if task_name else carried or load_task(entries[0].metrics.task)
    board = make_leaderboard(entries, task)
    files.write_text(out / "leaderboard.csv", leaderboard_csv(board))
    if board.pairs is not None:
        files.write_text(out / "pairs.csv", pairs_csv(board))
    if not no_report:
        with _report_package():
            from .report.page import write_leaderboard
        write_leaderboard(board, out, curve_limit_mm=2 * task.success_thresholds_mm[-1])
    click.echo(f"{leaderboard_text(board)}\n\n{figures_text(board)}")


def _report_writer(images: Path | None, reference: Path) -> Callable[..., None]:
    """What writes the report; made before the first file, so that what is not there costs no earlier result."""
    with _report_package():
        from .report.overlays import dataset_with_images
        from .report.page import write_report
    shown = dataset_with_images(images or reference)
    if images is not None and shown is None:
        raise ChallengeError(f"--images: wanted a dataset with images, got {images}")
    return partial(write_report, images=shown)


@contextlib.contextmanager
def _report_package() -> Iterator[None]:
    """Where an extra is not installed, say how to go on without it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ChallengeError(
            f"the report needs the package '{error.name}': pip install 'landmark-challenge-kit[evaluation]', "
            "or give --no-report"
        ) from None
