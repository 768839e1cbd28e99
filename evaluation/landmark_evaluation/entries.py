"""Evaluated submissions read back from result folders, so that they can be compared or scored again."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task, parse_task, threshold_key

from .answers import shown
from .pairing import Submission, read_submission
from .references import Reference, numbered
from .results import DETAILS, METRICS, Metrics, read_metrics
from .scoring import evaluate_submission

MAX_DETAILS_BYTES = 2 * 1024**3
MAX_SHOWN = 160
SHOWN_DIGEST = 16


@dataclass(frozen=True, eq=False)
class Entry:
    """One submission.

    task: as it was scored, None where the result does not carry it. error_mm: (cases, landmarks) with NaN where nothing
    is scored; None where only headline scores are known (a `protected` reference). groups: (cases,) the number of each
    case's group (patient); None where every case is its own, or only headline scores are known.
    """

    name: str
    metrics: Metrics
    task: Task | None
    cases: tuple[str, ...]
    landmarks: tuple[str, ...]
    error_mm: NDArray[np.float64] | None
    groups: NDArray[np.int64] | None = None


def load_entries(folders: Sequence[Path]) -> list[Entry]:
    """The results in these folders. Raises ChallengeError where they cannot be compared: another task or protocol."""
    entries = [_load(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    first = entries[0]
    for entry, folder in zip(entries[1:], folders[1:], strict=True):
        for what, ours, theirs in _facts(first, entry):
            if ours != theirs:
                apart = _differing(ours, theirs) if isinstance(ours, dict) else None
                wanted, got = (str(value)[:MAX_SHOWN] for value in apart or (ours, theirs))
                raise ChallengeError(f"{folder}: wanted the {what} of {first.name}, {wanted}, got {got}")
    return entries


def rescore(folders: Sequence[Path], reference: Reference) -> list[Entry]:
    """The submissions in these folders, results or predictions, scored again against `reference`."""
    entries = []
    for folder, name in zip(folders, _names(folders), strict=True):
        old = (folder / DETAILS).is_file()
        given = submission_from_details(folder / DETAILS, reference) if old else read_submission(folder, reference)
        evaluation = evaluate_submission(given, reference)
        entries.append(
            Entry(
                name,
                evaluation.metrics,
                reference.task,
                tuple(case.name for case in evaluation.reference.cases),
                reference.task.names,
                evaluation.scores.error_mm if reference.disclosure == "open" else None,
                evaluation.reference.groups,
            )
        )
    return entries


def submission_from_details(path: Path, reference: Reference) -> Submission:
    """What was submitted, as a details.json holds it, paired with `reference`. Raises ChallengeError."""
    value = _read_details(path)
    names = reference.task.names
    shape = (len(reference.cases), len(names))
    rows = {entry["case"]: entry for entry in value["cases"]}
    lost = next((case.name for case in reference.cases if case.name not in rows), None)
    if lost is not None:
        raise ChallengeError(f"{path}: wanted case '{lost}', it is not there")
    unknown = next((name for name in value["landmarks"] if name not in names), None)
    if unknown is not None:
        raise ChallengeError(f"{path}: wanted landmarks of {reference.task.name}, got {shown(unknown)}")
    points, covariance = np.full((*shape, 3), np.nan), np.full((*shape, 3, 3), np.nan)
    chance, cold_s, warm_s = np.zeros(shape), np.full(shape[0], np.nan), np.full(shape[0], np.nan)
    with _refused(path):
        for row, case in enumerate(reference.cases):
            entry = rows[case.name]
            # Results of earlier versions do not tell cold from warm: what they measured stands as cold.
            cold_s[row] = entry.get("cold_s", np.nan if "warm_s" in entry else entry.get("runtime_s", np.nan))
            warm_s[row] = entry.get("warm_s", np.nan)
            for point in entry["points"]:
                column = names.index(point["name"])
                points[row, column] = _numbers(point.get("predicted_mm"), (3,))
                covariance[row, column] = _numbers(point.get("covariance_mm2"), (3, 3))
                chance[row, column] = point["probability"]
    return Submission(
        points_mm=points,
        probability=chance,
        covariance_mm2=covariance,
        cold_s=cold_s,
        warm_s=warm_s,
        beyond=len(rows) - shape[0],
    )


def _load(folder: Path, name: str) -> Entry:
    metrics = read_metrics(folder)
    path = folder / DETAILS
    if not path.is_file():
        return Entry(name, metrics, None, (), (), None)
    value = _read_details(path)
    task = parse_task(value.get("task_spec"), source=str(path))
    landmarks = tuple(value["landmarks"])
    errors = np.full((len(value["cases"]), len(landmarks)), np.nan)
    with _refused(path):
        for row, case in enumerate(value["cases"]):
            for column, point in enumerate(case["points"]):
                errors[row, column] = _number(point.get("error_mm"))
    names = tuple(case["case"] for case in value["cases"])
    # Results of earlier versions do not tell groups: every case stands for itself.
    groups = numbered([str(case.get("group", case["case"])) for case in value["cases"]])
    return Entry(name, metrics, task, names, landmarks, errors, groups)


def _read_details(path: Path) -> dict[str, Any]:
    value = files.read_json(path, max_bytes=MAX_DETAILS_BYTES)
    with _refused(path):
        if not value["cases"] or not value["landmarks"]:
            raise KeyError
        for case in value["cases"]:
            if [point["name"] for point in case["points"]] != value["landmarks"] or not isinstance(case["case"], str):
                raise KeyError
    if (path.parent / METRICS).is_file():
        _refuse_foreign(value, path)
    return value


def _refuse_foreign(details: dict[str, Any], path: Path) -> None:
    """Raise ChallengeError for details that another evaluation left beside a metrics.json."""
    metrics = files.read_json(path.parent / METRICS)
    with _refused(path):
        differing = _differing(metrics["protocol"], details["protocol"])
    if differing is not None:
        wanted, got = differing
        raise ChallengeError(f"{path}: wanted the protocol of {METRICS} beside it, {wanted}, got {got}; evaluate again")


def _number(value: Any) -> float:
    """A number, NaN where there is none; TypeError for what only looks like one."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError
    return np.nan if value is None else float(value)


def _numbers(value: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers of that shape, NaN where there is no value; ValueError for others."""
    numbers = np.full(shape, np.nan) if value is None else np.array(value, np.float64)
    if numbers.shape != shape:
        raise ValueError
    return numbers


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Whatever part of a details.json is not what `landmarks evaluate` writes is one clear line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ChallengeError(f"{path}: wanted the details of an evaluation, got something else") from None


def _names(folders: Sequence[Path]) -> list[str]:
    """What the folders are called; where all have one name, as `rows/*/result` of a study, the folders around them.

    Raises ChallengeError where two are called the same.
    """
    levels = zip(*(folder.resolve().parts[::-1] for folder in folders), strict=False)
    names = next((level for level in levels if len(set(level)) > 1), [folder.resolve().name for folder in folders])
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise ChallengeError(f"compare: wanted folders with different names, got '{doubled}' twice")
    return [readable(name) for name in names]


def readable(name: str) -> str:
    """A file's name as text that can be written; what is no text in it becomes the sign for that.

    >>> readable("caf\udce9")
    'caf\ufffd'
    """
    return os.fsencode(name).decode("utf-8", "replace")


def _facts(one: Entry, other: Entry) -> list[tuple[str, Any, Any]]:
    """What must agree for two results to be comparable, where both tell it."""
    facts: list[tuple[str, Any, Any]] = [
        ("task", (one.metrics.task, one.metrics.task_version), (other.metrics.task, other.metrics.task_version)),
        ("landmarks", ", ".join(one.landmarks), ", ".join(other.landmarks)),
        ("thresholds", ", ".join(one.metrics.aggregates.sdr), ", ".join(other.metrics.aggregates.sdr)),
        ("protocol", _protocol(one), _protocol(other)),
        ("cases", one.cases, other.cases),
        ("groups of cases", _groups(one), _groups(other)),
    ]
    if one.task is not None and other.task is not None:
        facts.append(("dimension", one.task.dimension, other.task.dimension))
        facts.append(("ranking", _ranking(one.task), _ranking(other.task)))
    ours, theirs = (entry.metrics.protocol.reference_digest for entry in (one, other))
    if ours is not None and theirs is not None:
        facts.append(("reference points (by their digest)", ours[:SHOWN_DIGEST], theirs[:SHOWN_DIGEST]))
    return facts


def check_task(task: Task, entry: Entry, *, source: str) -> None:
    """Raise ChallengeError where a task is not the one that a result was scored by, but for how it ranks."""
    protocol, scores = entry.metrics.protocol, entry.metrics.aggregates
    facts = [
        ("task", f"{entry.metrics.task} v{entry.metrics.task_version}", f"{task.name} v{task.version}"),
        ("ties", protocol.tie, task.success_tie),
        ("missing_error_mm", protocol.missing_error_mm, task.missing_error_mm),
        ("thresholds", list(scores.sdr), [threshold_key(each) for each in task.success_thresholds_mm]),
        ("landmarks", list(entry.landmarks or task.names), list(task.names)),
    ]
    for what, wanted, got in facts:
        if wanted != got:
            shown_wanted, shown_got = (str(value)[:MAX_SHOWN] for value in (wanted, got))
            raise ChallengeError(f"{source}: wanted the {what} of {entry.name}, {shown_wanted}, got {shown_got}")


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, str] | None:
    """What differs of two protocols, as text of the one and of the other; None where they are the same."""
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    texts = [", ".join(f"{key}: {value.get(key)}" for key in keys) for value in (ours, theirs)]
    return (texts[0], texts[1]) if keys else None


def _protocol(entry: Entry) -> dict[str, Any]:
    """The protocol but for what is compared by itself, and for how a rater of the mean is scored.

    Such a rater is scored against the others, on what they marked: that is stated, not refused.
    """
    value = entry.metrics.protocol
    apart = {"reference", "left_out", "declared_reference", "reference_digest", "n_points", "n_groups"}
    return value.model_dump(exclude=apart) | {"reference": value.declared_reference or value.reference}


def _groups(entry: Entry) -> list[int] | int:
    """Whose cases are whose; where only headline scores are known, the protocol's count is all there is."""
    protocol = entry.metrics.protocol
    if entry.groups is not None:
        return entry.groups.tolist()
    return protocol.n_cases if protocol.n_groups is None else protocol.n_groups


def _ranking(task: Task) -> str:
    columns = ", ".join(f"{column.path} {column.order}" for column in task.ranking.columns)
    return f"{task.ranking.rule} by {columns}"
