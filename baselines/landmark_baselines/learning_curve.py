"""How a method's error falls with the number of training images: random subsets, several seeds, one test split.

A folder can be taken up again: what is trained, localized or scored is not done again.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from landmark_challenge import files
from landmark_challenge.dataset import Case, Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task, threshold_key

from .ablation import Row, Training
from .pictures import SERIES, save_figure, styled_figure
from .study import STUDY_FILE, Plan, evaluate_row, train_one
from .training import report

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Run:
    """One training. errors_mm: (n_cases,) the mean error of each test case. success: the share within the threshold
    that the task ranks by.
    """

    images: int
    seed: int
    errors_mm: NDArray[np.float64]
    success: float
    training_s: float


class FewerCases(Dataset):
    """A dataset of which only `count` training cases are seen: the first ones of a random order, so that a smaller set
    is part of a larger one of the same seed.
    """

    def __init__(self, folder: Path, count: int, *, seed: int) -> None:
        super().__init__(folder)
        self.count, self.seed = count, seed
        if not 1 <= count <= len(super().cases(split="train")):
            there = len(super().cases(split="train"))
            raise ChallengeError(f"{folder}: wanted {count} training cases, there are {there}")

    @cached_property
    def _seen(self) -> frozenset[str]:
        names = [case.name for case in super().cases(split="train")]
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(self.seed))
        return frozenset(names[i] for i in order[: self.count])

    def cases(self, *, split: str | None = None, subset: str | None = None) -> list[Case]:
        """Those of the whole dataset, of the training cases only the chosen ones."""
        every = super().cases(split=split, subset=subset)
        return [case for case in every if case.split != "train" or case.name in self._seen]


def run_curve(plan: Plan, sizes: Sequence[int], seeds: Sequence[int], folder: Path) -> list[Run]:
    """Train, localize and score once for every number of images and seed; finished parts are taken as they are.

    Several processes may share a folder: each takes what no other is at, and all end with the whole curve.
    """
    # Before the first training, which may take hours.
    plan.dataset.wanted_cases("test", subset=plan.subset)
    for count in sizes:
        FewerCases(plan.dataset.folder, count, seed=0)
    described, header = plan.described(), folder / STUDY_FILE
    if header.is_file():
        if files.read_json(header) != described:
            raise ChallengeError(f"{folder}: wanted a new folder, it holds a curve of other settings or data")
    else:
        files.refuse_existing(folder)
        files.write_json(header, described)
    row = Row(plan.method)
    training = Training("method", "", {}, False, (row,))
    threshold = threshold_key(ranked_threshold_mm(plan.dataset.task))
    every = [(count, seed) for count in sizes for seed in seeds]
    runs: dict[tuple[int, int], Run] = {}
    for patience_s in (0, -1):  # first what no other process is at, then what others have finished
        for count, seed in [each for each in every if each not in runs]:
            name = f"{count}-images-seed-{seed}"
            lock = folder / "locks" / f"{name}.lock"
            lock.parent.mkdir(exist_ok=True)
            try:
                with FileLock(lock, timeout=patience_s):
                    report(f"run {len(runs) + 1} of {len(every)}: {name}")
                    here = replace(plan, seed=seed)
                    model = folder / "models" / name
                    train_one(here, training, FewerCases(plan.dataset.folder, count, seed=seed), model)
                    result = evaluate_row(here, row, [model], folder / "rows" / name)
            except Timeout:
                report(f"{name}: another process is at it")
                continue
            details = files.read_json(folder / "rows" / name / "result" / "details.json")
            success = result.metrics["aggregates"]["sdr"][threshold]
            runs[count, seed] = Run(count, seed, case_errors(details["cases"]), success, result.training_s)
    return [runs[each] for each in every]


def ranked_threshold_mm(task: Task) -> float:
    """The first success threshold among the columns that the task ranks by, else the first of all.

    >>> from landmark_challenge.task import load_task
    >>> ranked_threshold_mm(load_task("ceph-19"))
    2.0
    """
    ranked = [column.path.split(".")[-1] for column in task.ranking.columns if ".sdr." in column.path]
    thresholds = task.success_thresholds_mm
    return next((value for value in thresholds if threshold_key(value) in ranked), thresholds[0])


def case_errors(cases: Sequence[Mapping[str, object]]) -> NDArray[np.float64]:
    """(n_cases,) mean error in mm of each case of details.json that has a scored point."""
    every = [[p["error_mm"] for p in case["points"] if "error_mm" in p] for case in cases]  # type: ignore[attr-defined]
    return np.array([np.mean(errors) for errors in every if errors])


def interval(errors_mm: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the mean of (seeds, n_cases) errors: other images to train on, other patients."""
    draw = np.random.default_rng(0)
    seeds, cases = errors_mm.shape
    means = [
        errors_mm[draw.integers(seeds, size=seeds)][:, draw.integers(cases, size=cases)].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def write_curve(plan: Plan, runs: Sequence[Run], folder: Path, *, command: str) -> list[Path]:
    """Write curve.csv, curve.md and curve.png/.svg; the paths."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["training_images", "seed", "mean_mm", "success", "training_s"])
    for run in runs:
        table.writerow(
            [run.images, run.seed, f"{run.errors_mm.mean():.4f}", f"{run.success:.4f}", f"{run.training_s:.1f}"]
        )
    files.write_text(folder / "curve.csv", text.getvalue())
    files.write_text(folder / "curve.md", as_markdown(plan, runs, command=command))
    return [folder / "curve.csv", folder / "curve.md", *_draw(plan, runs, folder)]


def as_markdown(plan: Plan, runs: Sequence[Run], *, command: str) -> str:
    """One line per number of images."""
    task = plan.dataset.task
    seeds = sorted({run.seed for run in runs})
    head = ["training images", "mean (95 % interval) mm", *(f"seed {seed}" for seed in seeds)]
    head += [f"within {ranked_threshold_mm(task):g} mm", "longest training s"]
    lines = [head, ["---"] * len(head)]
    for count in sorted({run.images for run in runs}):
        own = sorted((run for run in runs if run.images == count), key=lambda run: run.seed)
        errors = np.array([run.errors_mm for run in own])
        low, high = interval(errors)
        line = [str(count), f"{errors.mean():.3f} ({low:.3f} to {high:.3f})"]
        line += [f"{run.errors_mm.mean():.3f}" for run in own]
        line += [f"{100 * np.mean([run.success for run in own]):.1f} %", f"{max(run.training_s for run in own):.0f}"]
        lines.append(line)
    part = f", subset {plan.subset}" if plan.subset else ""
    return (
        f"# {plan.method} on {task.title}: learning curve\n\n`{command}`\n\n"
        f"{len(runs[0].errors_mm)} cases of the test split{part}, scored against {task.reference.text}; "
        f"preset `{plan.preset}`. Smaller sets are parts of the larger ones of the same seed; the validation cases are "
        "the same for all. Intervals: bootstrap over seeds and cases.\n\n"
        + "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + "\n"
    )


def _draw(plan: Plan, runs: Sequence[Run], folder: Path) -> list[Path]:
    sizes = sorted({run.images for run in runs})
    stacked = [np.array([run.errors_mm for run in runs if run.images == count]) for count in sizes]
    means, ends = [errors.mean() for errors in stacked], np.array([interval(errors) for errors in stacked]).T
    with styled_figure(6.4, 4.2) as figure:
        axes = figure.add_subplot()
        axes.fill_between(sizes, *ends, color=SERIES[0], alpha=0.18, linewidth=0, label="95 % interval of the mean")
        axes.plot(sizes, means, color=SERIES[0], linewidth=1.8, marker="o", label=f"{plan.method}, mean of seeds")
        axes.plot(
            [run.images for run in runs],
            [run.errors_mm.mean() for run in runs],
            linestyle="",
            marker=".",
            color=SERIES[1],
            label="one training",
        )
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(count) for count in sizes])
        axes.minorticks_off()
        axes.grid(visible=True)
        axes.set(xlabel="training images", ylabel="mean radial error (mm)", ylim=(0, None))
        axes.legend(fontsize=8)
        return save_figure(figure, folder, name="curve")
