"""A method's own ablation: every row trained under one budget, evaluated on the same cases, side by side.

A study folder can be taken up again: a model that is trained, a row that is localized or scored is not done again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from landmark_challenge import files
from landmark_challenge.cli import cli
from landmark_challenge.dataset import REFERENCE, Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import Landmarks, write_landmarks
from landmark_challenge.task import parse_task

from .ablation import Row, Training, rows_of, trainings_of
from .checkpoints import MODEL_FILE, data_digest, read_model
from .method import load_model, method_module, train_method
from .presets import overridden
from .training import report

STUDY_FILE = "study.json"
TIMES_FILE = "times.json"
USED_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Plan:
    """What a study compares and under which budget."""

    method: str
    dataset: Dataset
    preset: str
    seed: int
    assignments: tuple[str, ...]
    options: tuple[str, ...]
    subset: str | None
    device: str

    @property
    def module(self) -> ModuleType:
        """The method."""
        return method_module(self.method)

    def described(self) -> dict[str, Any]:
        """What must be the same when a study is taken up again; `--single` and `--local` may be added later."""
        return {
            "method": self.method,
            "task": self.dataset.task.name,
            "cases": files.sha256_file(self.dataset.folder / "cases.csv"),
            "data": data_digest(self.dataset, USED_SPLITS, observers=self.dataset.observers),
            "preset": self.preset,
            "seed": self.seed,
            "set": list(self.assignments),
            "subset": self.subset,
        }


@dataclass(frozen=True)
class Result:
    """A finished row. metrics: metrics.json. errors_mm: (n_points,) as scored, with what a missing point is charged.

    measures: what the method's own `study_measures(names, cases)` finds in the cases of details.json, by name. case_s:
    median time to localize an image that is read already, None where an older study did not take it.
    """

    row: Row
    metrics: dict[str, Any]
    errors_mm: np.ndarray
    training_s: float
    measures: Mapping[str, float] = field(default_factory=dict)
    case_s: float | None = None


class OneLandmark(Dataset):
    """A dataset seen by a network that localizes one landmark only."""

    def __init__(self, whole: Dataset, name: str) -> None:
        super().__init__(whole.folder)
        spec = whole.task.model_dump(mode="json")
        spec["landmarks"] = [landmark for landmark in spec["landmarks"] if landmark["name"] == name]
        spec["planes"] = []  # they need several
        self.task = parse_task(spec, source=f"{whole.folder}, {name} alone")
        self.whole = whole

    def landmarks(self, name: str, *, observer: str = REFERENCE) -> Landmarks:
        """An observer's point of a case, where the landmark is there."""
        every = self.whole.landmarks(name, observer=observer)
        kept = [i for i, known in enumerate(every.names) if known in self.task.names]
        return Landmarks([every.names[i] for i in kept], every.points_mm[kept], every.probability[kept])


def run_study(plan: Plan, folder: Path) -> list[Result]:
    """Train, localize and score every row of the plan in `folder`; finished parts are taken as they are."""
    plan.dataset.wanted_cases("test", subset=plan.subset)
    described, header = plan.described(), folder / STUDY_FILE
    if header.is_file():
        if files.read_json(header) != described:
            raise ChallengeError(f"{folder}: wanted a new folder, it holds a study of other settings or data")
    else:
        files.refuse_existing(folder)
        files.write_json(header, described)
    rows = _different(plan, rows_of(plan.module, options=plan.options))
    results: dict[str, Result] = {}
    trainings = trainings_of(rows)
    for number, training in enumerate(trainings, 1):
        report(f"training {number} of {len(trainings)}: {training.folder}")
        models = _train(plan, training, folder / "models" / training.folder)
        for row in training.rows:
            report(f"row: {row.name}")
            results[row.name] = evaluate_row(plan, row, models, folder / "rows" / file_name(row.name))
    return [results[row.name] for row in rows]


def _different(plan: Plan, rows: Sequence[Row]) -> list[Row]:
    """The rows without those that repeat one before them, since the task has no such part in this preset."""
    if not hasattr(plan.module, "preset_settings"):
        return list(rows)
    settings = plan.module.preset_settings(plan.preset, plan.dataset.task)
    kept: dict[str, Row] = {}
    for row in rows:
        changed = plan.module.variant_settings(row.variant, settings) if row.variant else settings
        same = kept.setdefault(repr((changed, sorted(row.view.items()), row.option)), row)
        if same is not row:
            report(f"row: {row.name}: left out, preset {plan.preset} has no such part for {plan.dataset.task.name}")
    return list(kept.values())


def _train(plan: Plan, training: Training, folder: Path) -> list[Path]:
    """The model folders of a training: one, or one per landmark."""
    if not training.single:
        train_one(plan, training, plan.dataset, folder)
        return [folder]
    names = plan.dataset.task.names
    for name in names:
        report(f"landmark {names.index(name) + 1} of {len(names)}: {name}")
        train_one(plan, training, OneLandmark(plan.dataset, name), folder / name)
    return [folder / name for name in names]


def train_one(plan: Plan, training: Training, dataset: Dataset, folder: Path) -> None:
    """Train a model folder as the plan and the row say, or leave the one that is there."""
    if (folder / MODEL_FILE).is_file():
        report(f"{folder}: already trained")
        return
    options: dict[str, Any] = {}
    if hasattr(plan.module, "preset_settings"):
        settings = plan.module.preset_settings(plan.preset, dataset.task)
        if training.variant:
            settings = plan.module.variant_settings(training.variant, settings)
        options["settings"] = overridden(replace(settings, **training.fixed), plan.assignments)
    elif plan.assignments:
        raise ChallengeError(f"--set: {plan.method} has nothing to set")
    folder.mkdir(parents=True, exist_ok=True)
    train_method(
        plan.method,
        dataset,
        output=folder,
        device=plan.device,
        preset=plan.preset,
        seed=plan.seed,
        resume=True,
        **options,
    )


def evaluate_row(plan: Plan, row: Row, models: Sequence[Path], folder: Path) -> Result:
    """Localize the test cases as the row says and score them with `landmarks evaluate`."""
    predictions, result = folder / "predictions", folder / "result"
    if not predictions.is_dir():
        _localize(plan, row, models, predictions)
    if not (result / "metrics.json").is_file():
        words = [predictions, plan.dataset.folder, "--split", "test", "--out", result, "--no-report"]
        words += ["--subset", plan.subset] if plan.subset else []
        cli.main(args=["evaluate", *map(str, words)], prog_name="landmarks", standalone_mode=False)
    details = files.read_json(result / "details.json")
    errors = [point["error_mm"] for case in details["cases"] for point in case["points"] if "error_mm" in point]
    seconds = sum(float(read_model(model).provenance["training_seconds"]) for model in models)
    measure = getattr(plan.module, "study_measures", None)
    measures = measure(plan.dataset.task.names, details["cases"]) if measure else {}
    took = files.read_json(folder / TIMES_FILE)["median_s"] if (folder / TIMES_FILE).is_file() else None
    return Result(row, files.read_json(result / "metrics.json"), np.array(errors), seconds, measures, took)


def _localize(plan: Plan, row: Row, models: Sequence[Path], folder: Path) -> None:
    """Write <case>.json of every test case; the points of one-landmark networks are put together."""
    localizers: list[Any] = [load_model(model, device=plan.device) for model in models]
    if row.view:
        localizers = [replace(each, settings=replace(each.settings, **row.view)) for each in localizers]
    cases = plan.dataset.cases(split="test", subset=plan.subset)
    took = []
    with files.staged_folder(folder) as staging:
        for number, case in enumerate(cases, 1):
            image = plan.dataset.image(case.name)
            begun = time.perf_counter()
            found = [localizer.localize(image).landmarks for localizer in localizers]
            took.append(time.perf_counter() - begun)
            merged = Landmarks(
                [name for each in found for name in each.names],
                np.concatenate([each.points_mm for each in found]),
                np.concatenate([each.probability for each in found]),
            )
            write_landmarks(staging / f"{case.name}.json", merged)
            if number % 25 == 0 or number == len(cases):
                report(f"localized {number} of {len(cases)} cases")
    files.write_json(folder.parent / TIMES_FILE, {"median_s": float(np.median(took)), "cases_s": took})


def file_name(text: str) -> str:
    """A row's name as that of its folder.

    >>> file_name("R+C, global")
    'R+C-global'
    """
    return "-".join("".join(mark if mark.isalnum() or mark in "_+" else " " for mark in text).split())
