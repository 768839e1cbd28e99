"""`landmarks demo`: the whole loop on phantoms, from making images to a summary table and a picture.

It drives the other commands through the command line, as a person would, so that it shows what it does and needs none
of the other packages to be imported here.
"""

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import files
from .cli import cli
from .dataset import Dataset
from .errors import ChallengeError
from .images import image_stem
from .landmarks import Landmarks, read_landmarks
from .phantoms import PHANTOMS
from .task import parse_task, threshold_key

TASK = "ceph-19"
METHODS = ("mean_shape", "global_to_local")
CASES = 30
SEED = 2026
MARKER = "demo.json"


@dataclass(frozen=True)
class Entrant:
    """A method in the demo: its name, the task it is for, its model folder where one is committed."""

    method: str
    task: str
    model: Path | None


@click.command()
@click.option(
    "--all", "everything", is_flag=True, help="Every method that comes with a trained model, on its own task."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    help="Where everything is written; a former demo there is replaced.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "local", "docker"]),
    default="auto",
    show_default=True,
    help="Localize in containers, in this process, or in containers where a Docker engine answers.",
)
@click.option("--train", is_flag=True, help="Train the tiny models even where committed ones are there (minutes).")
def demo(everything: bool, out: Path, engine: str, train: bool) -> None:
    """Make synthetic images, train or load models, localize, evaluate, and draw: the whole loop in minutes.

    \b
    Example: landmarks demo --out demo
    """
    start = time.monotonic()
    _fresh_folder(out)
    entrants = find_entrants(everything=everything, trained=not train)
    containers = _use_containers(engine)
    for task_name in dict.fromkeys(entrant.task for entrant in entrants):
        _landmarks("data", "phantom", task_name, out / task_name / "phantoms", "--cases", CASES, "--seed", SEED)
    rows = [_run_entrant(entrant, out / entrant.task, containers=containers, engine=engine) for entrant in entrants]
    click.echo("\n" + summary_table(rows))
    pictures = []
    for task_name in dict.fromkeys(row["task"] for row in rows):
        best = min((row for row in rows if row["task"] == task_name), key=lambda row: row["mre_mm"]["mean"])
        pictures.append(out / f"{task_name}-{best['method']}.png")
        draw_overlay(out / task_name / "phantoms", out / task_name / "predictions" / best["method"], pictures[-1])
    files.write_json(out / MARKER, {"complete": True, "rows": rows})
    for picture in pictures:
        click.echo(f"picture: {picture}")
    click.echo(f"everything is in {out} ({time.monotonic() - start:.0f} s)")


def find_entrants(*, everything: bool, trained: bool) -> list[Entrant]:
    """The methods to show, with the models of the checkout's `baselines/<method>/model` where `trained`."""
    models = {}
    for path in sorted(_checkout().glob("baselines/*/model/model.json")):
        header = files.read_json(path)
        task = parse_task(header["task"], source=str(path)).name
        # A folder may hold a method's model for real images under a name of its own; phantoms say nothing about that.
        if header["method"] == path.parents[1].name and task in PHANTOMS:
            models[header["method"]] = (task, path.parent)
    chosen = list(METHODS) + [name for name in models if everything and name not in METHODS]
    entrants = []
    for method in chosen:
        task, model = models.get(method, (TASK, None))
        entrants.append(Entrant(method, task, model if trained else None))
    return entrants


def _checkout() -> Path:
    """The repository this package was installed from, if it was; an installed wheel has no baselines folder there."""
    return Path(__file__).resolve().parents[2]


def _fresh_folder(out: Path) -> None:
    if (out / MARKER).is_file():
        shutil.rmtree(out)
    files.refuse_existing(out)
    files.write_json(out / MARKER, {"complete": False})


def _landmarks(*arguments: object) -> None:
    """Run `landmarks ARGUMENTS` in this process and say so."""
    words = [str(argument) for argument in arguments]
    click.echo(f"$ landmarks {' '.join(words)}")
    cli.main(args=words, prog_name="landmarks", standalone_mode=False)


def _use_containers(engine: str) -> bool:
    if engine == "local":
        return False
    from .containers import engine_answers

    answers = engine_answers()
    if engine == "docker" and not answers:
        raise ChallengeError("--engine docker: wanted a Docker engine, none answers; DOCKER_HOST names it")
    click.echo(
        "A Docker engine answers: using containers." if answers else "No Docker engine: running in this process."
    )
    return answers and _checkout().joinpath("docker").is_dir()


def _run_entrant(entrant: Entrant, folder: Path, *, containers: bool, engine: str) -> dict[str, Any]:
    """Train where there is no model, localize the test cases, evaluate; the row of the summary."""
    phantoms, predictions = folder / "phantoms", folder / "predictions" / entrant.method
    scores = folder / "scores" / entrant.method
    model = entrant.model
    if model is None or (entrant.method == "mean_shape" and not containers):
        model = folder / "models" / entrant.method
        _landmarks("train", entrant.method, phantoms, "--out", model, "--preset", "tiny")
    target = _image_tag(entrant.method, engine) if containers and entrant.model is not None else None
    target = target or str(model)
    _landmarks("run", target, phantoms, "--out", predictions, "--split", "test")
    _landmarks("evaluate", predictions, phantoms, "--split", "test", "--out", scores)
    metrics = files.read_json(scores / "metrics.json")
    return {"task": entrant.task, "method": entrant.method, "where": target, **metrics["aggregates"]}


def _image_tag(method: str, engine: str) -> str | None:
    """The tag of a method's container, built now where the engine has none; None if that fails and need not succeed."""
    from .containers import image_exists

    tag = f"landmarks-{method}:invoke"
    if not image_exists(tag):
        click.echo(f"$ baselines/{method}/build.sh")
        done = subprocess.run([_checkout() / "baselines" / method / "build.sh"], check=False)
        if done.returncode != 0 and engine == "docker":
            raise ChallengeError(f"baselines/{method}/build.sh: wanted exit code 0, got {done.returncode}")
        if done.returncode != 0:
            click.echo(f"The container of {method} could not be built here: running in this process.")
            return None
    return tag


def summary_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text: mean radial error, median, success at 2 and 4 mm, seconds per case."""
    thresholds = [2.0, 2.5, 3.0, 4.0]
    head = ["task", "method", "MRE mm", "SD", "median", *(f"<{value:g} mm" for value in thresholds), "s/case"]
    table = [head]
    for row in rows:
        error, runtime = row["mre_mm"], row.get("runtime_s")
        success = [row["sdr"].get(threshold_key(value)) for value in thresholds]
        table.append(
            [row["task"], row["method"], *(f"{error[key]:.2f}" for key in ("mean", "sd", "median"))]
            + ["-" if value is None else f"{100 * value:.1f} %" for value in success]
            + ["-" if runtime is None else f"{runtime['mean']:.2f}"]
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )


def read_predictions(folder: Path, dataset: Dataset) -> dict[str, Landmarks]:
    """The points of every case in a predictions folder, by case name."""
    socket = dataset.task.sockets.landmarks.relative_path
    found = {}
    for job in files.read_json(folder / "predictions.json"):
        name = next(value["image"]["name"] for value in job["inputs"] if value.get("image"))
        found[image_stem(name)] = read_landmarks(folder / job["pk"] / "output" / socket, names=dataset.task.names)
    return found


def draw_overlay(dataset_folder: Path, predictions: Path, picture: Path) -> None:
    """Write a PNG of the case with the median error: the reference as rings, the prediction as crosses.

    A volume is shown as its mean projection along y, the view from the front.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    dataset = Dataset(dataset_folder)
    found = read_predictions(predictions, dataset)
    errors = {
        name: float(np.nanmean(np.linalg.norm(points.aligned_mm(dataset.task.names) - _truth(dataset, name), axis=1)))
        for name, points in found.items()
    }
    name = sorted(errors, key=errors.__getitem__)[len(errors) // 2]
    image = dataset.image(name)
    wanted = image.mm_to_index(_truth(dataset, name))
    given = image.mm_to_index(found[name].aligned_mm(dataset.task.names))
    axes = (0, 1) if image.ndim == 2 else (0, 2)
    pixels = image.array if image.ndim == 2 else image.array.mean(axis=1)
    aspect = image.spacing_mm[axes[1]] / image.spacing_mm[axes[0]]
    figure, plot = pyplot.subplots(figsize=(9, 9 * pixels.shape[0] * aspect / pixels.shape[1]), dpi=100)
    plot.imshow(pixels, cmap="gray", aspect=aspect, origin="upper" if image.ndim == 2 else "lower")
    for a, b in zip(wanted, given, strict=True):
        plot.plot([a[axes[0]], b[axes[0]]], [a[axes[1]], b[axes[1]]], color="yellow", linewidth=1)
    plot.plot(*wanted[:, axes].T, "o", color="lime", markerfacecolor="none", markersize=9, label="reference")
    plot.plot(*given[:, axes].T, "x", color="red", markersize=7, label=predictions.name)
    plot.set_title(f"{dataset.task.name}, case {name}: mean radial error {errors[name]:.2f} mm")
    plot.legend(loc="upper right")
    plot.set_axis_off()
    figure.tight_layout()
    figure.savefig(picture)
    pyplot.close(figure)


def _truth(dataset: Dataset, name: str) -> np.ndarray:
    return dataset.landmarks(name).aligned_mm(dataset.task.names)
