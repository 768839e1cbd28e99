"""`landmarks run`: an algorithm image or a model folder over the cases of a dataset."""

import os
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from . import files
from .dataset import SPLITS, Dataset
from .errors import ChallengeError
from .predictions import JOBS, PREDICTIONS, RUN, CaseResult, finished_jobs, write_predictions_json, write_result
from .progress import track
from .running import CaseImage, Done, Limits, run_local
from .targets import MODEL_FILE, Target, find_target, open_runner
from .task import Task

CORES = len(os.sched_getaffinity(0))
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("target", metavar="IMAGE_TAG|MODEL|ALGORITHM")
@click.argument("dataset", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Where the predictions go; an unfinished run there goes on.")
@click.option("--model", type=FOLDER, help="Give this model folder to the image, in place of its own.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--subset", help="Only this part of the split.")
@click.option("--cases", type=click.IntRange(min=1), help="Only the first so many cases.")
@click.option("--workers", type=click.IntRange(min=1), help="Cases at a time; by default what cores and memory allow.")
@click.option("--memory-mb", type=click.IntRange(min=64), default=8192, show_default=True, help="Limit per container.")
@click.option("--time-limit-s", type=click.FloatRange(min=1), default=1200.0, show_default=True, help="Limit per case.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda, for a model folder.")
@click.option("--gpu", is_flag=True, help="Hand one GPU to the container.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads per case; by default the cores shared out.")
@click.option("--engine", type=click.Choice(["local", "dask"]), default="local", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="The Dask scheduler, for example tcp://host:8786.")
@click.option("--carry", is_flag=True, help="Send images and model with the tasks; without it workers read by path.")
@click.option("--strict", is_flag=True, help="Let a container fail instead of falling back to its mean shape.")
def run(
    target: str,
    dataset: Path,
    out: Path,
    model: Path | None,
    split: str,
    subset: str | None,
    cases: int | None,
    workers: int | None,
    memory_mb: int,
    time_limit_s: float,
    device: str,
    gpu: bool,
    threads: int | None,
    engine: str,
    scheduler: str | None,
    carry: bool,
    strict: bool,
) -> None:
    """Localize the cases of DATASET with an algorithm image (or .sif file), a model folder, or that of an algorithm.

    The result is the platform's predictions folder.

    A case that fails is tried once more, then reported; the others are kept. The same command goes on with the rest.

    \b
    Example: landmarks run landmarks-global_to_local:invoke ceph --out predictions --subset test1
    """
    if (engine == "dask") != (scheduler is not None):
        raise ChallengeError("--engine dask and --scheduler ADDRESS go together, got one of them")
    if carry and model is not None:
        raise ChallengeError("--carry and --model do not go together: workers read an image's model by path")
    data = Dataset(dataset)
    chosen = data.wanted_cases(split, subset=subset)[:cases]
    images = [CaseImage(case.name, data.image_path(case.name)) for case in chosen]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that containers are removed
    limits = Limits(memory_mb=memory_mb, time_s=time_limit_s, gpu=gpu, strict=strict)
    count = workers or default_workers(limits)
    shared = threads or (1 if engine == "dask" else max(1, CORES // count) if count > 1 else None)
    what = find_target(target, limits=replace(limits, cpus=shared), device=device, threads=shared, model=model)
    _refuse_other_task(what.model or what.place, data)
    finished = _take_up(out, what.identity, dataset=data, images=images)
    left = [image for image in images if image.name not in finished]
    if finished:
        click.echo(f"{len(finished)} of {len(images)} cases were finished before")
    events = _events(data.task, left, what, workers=count, scheduler=scheduler, carry=carry)
    failures = _collect(events, left, data, out, identity=what.identity, algorithm=target)
    jobs = finished_jobs(out, run=what.identity, cases=[image.name for image in images])
    write_predictions_json(out, [jobs[image.name]["record"] for image in images if image.name in jobs])
    click.echo(_summary(list(jobs.values()), out))
    for name, reason in failures:
        click.echo(f"failed: {name}: {reason}", err=True)
    if failures:
        raise ChallengeError(f"{len(failures)} of {len(images)} cases failed; the same command tries them again")


def _refuse_other_task(model: str, data: Dataset) -> None:
    """Refuse a model of another task before the first case: every one of them would fail.

    A model of a participant's own need not say its task, an image cannot.
    """
    path = Path(model) / MODEL_FILE
    header = files.read_json(path) if path.is_file() else None
    task = header.get("task") if isinstance(header, dict) else None
    name = task.get("name") if isinstance(task, dict) else None
    if name not in (None, data.task.name):
        raise ChallengeError(f"{data.folder}: wanted a dataset of {name}, which {model} is for, got {data.task.name}")


def _events(
    task: Task, images: Sequence[CaseImage], target: Target, *, workers: int, scheduler: str | None, carry: bool
) -> Iterator[Done]:
    if scheduler is None:
        return run_local(task, images, runner=lambda: open_runner(target), workers=workers)
    try:
        from .cluster import run_dask
    except ModuleNotFoundError:
        raise ChallengeError(
            "--engine dask: needs distributed: pip install 'landmark-challenge-kit[cluster]'"
        ) from None
    return run_dask(task, images, target=target, scheduler=scheduler, carry=carry)


def default_workers(limits: Limits) -> int:
    """Cases at a time on this machine: two cores each, within the memory; one where a GPU is shared."""
    memory_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    return 1 if limits.gpu else max(1, min(CORES // 2, int(memory_mb * 0.9 // limits.memory_mb)))


def _take_up(out: Path, identity: str, *, dataset: Dataset, images: Sequence[CaseImage]) -> dict[str, dict[str, Any]]:
    """The finished cases of a run that `out` holds; refuses a folder that holds anything else."""
    marker = out / JOBS / RUN
    described = {"algorithm": identity, "task": dataset.task.name, "dataset": dataset.digest()}
    if marker.is_file():
        if files.read_json(marker) != described:
            raise ChallengeError(f"{out}: wanted a new folder, it holds a run of another algorithm or dataset")
    else:
        files.refuse_existing(out)
        files.write_json(marker, described)
    # What is not complete any more must not pass for it while the run goes on.
    (out / PREDICTIONS).unlink(missing_ok=True)
    return finished_jobs(out, run=identity, cases=[image.name for image in images])


def _collect(
    events: Any, images: Sequence[CaseImage], data: Dataset, out: Path, *, identity: str, algorithm: str
) -> list[tuple[str, str]]:
    """Write every result as it comes; the cases that failed and why."""
    failures: list[tuple[str, str]] = []
    for _ in track(images, "localized"):
        event: Done = next(events)
        name, result = event
        if isinstance(result, CaseResult):
            write_result(out, data.task, result, run=identity, algorithm=algorithm)
        else:
            failures.append((name, result))
    return failures


def _summary(jobs: Sequence[dict[str, Any]], out: Path) -> str:
    seconds = [job["seconds"] for job in jobs]
    memory = [job["peak_memory_mb"] for job in jobs if job["peak_memory_mb"] is not None]
    if not seconds:
        return f"{out}: no case was localized"
    text = f"{out}: {len(jobs)} cases, per case mean {statistics.mean(seconds):.2f} s, "
    text += f"median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s"
    return text + (f"; peak memory {max(memory):.0f} MB" if memory else "; peak memory not measured")
