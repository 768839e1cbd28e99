"""`landmarks evaluate`: score a submission and write its result folder."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task

from .details import details
from .entries import readable
from .pairing import read_submission
from .references import open_reference
from .result_folder import LEADERBOARD, PAIRS, clear_board, clear_result, write_files
from .results import DETAILS, METRICS
from .scoring import Evaluation, evaluate_submission
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
    _refuse_inputs(out, (predictions, reference))
    whole = open_reference(reference, split=split, subset=subset, observer=observer)
    truth = whole.marked_by(predictions)
    evaluation = evaluate_submission(read_submission(predictions, truth), truth)
    title = f"{readable(predictions.resolve().name)} on {truth.task.title}"
    report = {} if no_report else _report(evaluation, images, reference, title=title)
    clear_result(out)
    if truth.disclosure == "open":
        files.write_json(out / DETAILS, details(evaluation), indent=None)
    write_files(out, report)
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
    from .entries import check_task, load_entries, rescore
    from .leaderboard import leaderboard_csv, make_leaderboard, pairs_csv

    _refuse_inputs(out, (*folders, *([] if reference is None else [reference])))
    if reference is None:
        if split or subset or observer:
            raise ChallengeError("compare: --split, --subset and --observer go with --reference")
        entries = load_entries(folders)
    else:
        entries = rescore(folders, open_reference(reference, split=split, subset=subset, observer=observer))
    carried = next((entry.task for entry in entries if entry.task is not None), None)
    task = load_task(task_name) if task_name else carried or load_task(entries[0].metrics.task)
    check_task(task, entries[0], source=task_name or task.name)
    board = make_leaderboard(entries, task)
    made = {LEADERBOARD: leaderboard_csv(board).encode()}
    if board.pairs is not None:
        made[PAIRS] = pairs_csv(board).encode()
    if not no_report:
        with _report_package():
            from .report.page import leaderboard_files
        made |= leaderboard_files(board, curve_limit_mm=2 * task.success_thresholds_mm[-1])
    clear_board(out)
    write_files(out, made)
    click.echo(f"{leaderboard_text(board)}\n\n{figures_text(board)}")


def _refuse_inputs(out: Path, inputs: Sequence[Path]) -> None:
    """Raise ChallengeError where --out is a folder that is read, or lies among the landmarks of one."""
    for folder in inputs:
        landmarks = folder.resolve() / "landmarks"
        if out.resolve() in (folder.resolve(), landmarks) or landmarks in out.resolve().parents:
            raise ChallengeError(f"--out: wanted a folder of its own, {out} is part of {folder}, which is read")


def _report(evaluation: Evaluation, images: Path | None, reference: Path, *, title: str) -> dict[str, bytes]:
    """The files of the report. Where only the reference's own images fail it, it goes without pictures of cases."""
    with _report_package():
        from .report.overlays import dataset_with_images
        from .report.page import report_files
    shown = dataset_with_images(images or reference)
    if images is not None and shown is None:
        raise ChallengeError(f"--images: wanted a dataset with images, got {images}")
    try:
        return report_files(evaluation, title=title, images=shown)
    except ChallengeError as error:
        if images is not None or shown is None:
            raise
        click.echo(f"the report shows no images: {error}", err=True)
        return report_files(evaluation, title=title, images=None)


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
