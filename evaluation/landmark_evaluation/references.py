"""What a submission is scored against: a dataset folder, or the reference folder of a hidden set."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.dataset import REFERENCE, Case, Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import read_landmarks
from landmark_challenge.reference import HEADER, read_reference_header
from landmark_challenge.task import Task

CONSENSUS = "consensus"


@dataclass(frozen=True, eq=False)
class Reference:
    """The scored points of one split and the protocol that goes with them.

    points_mm: (cases, landmarks, 3) float64, LPS mm, NaN where the landmark is not in the image. assessed: (cases,
    landmarks), False where nobody looked. rule: whose points these are, for people. known_cases: all case names of the
    folder, of which `cases` are scored. observers: who else marked points. secret: key of the noise, `protected` only.
    left_out: the rater whom `points_mm` leaves out of the declared mean, because that rater is being scored.
    """

    folder: Path
    task: Task
    cases: tuple[Case, ...]
    known_cases: frozenset[str]
    points_mm: NDArray[np.float64]
    assessed: NDArray[np.bool_]
    rule: str
    split: str
    subset: str | None
    disclosure: str
    details: bool
    secret: str | None
    observer: str
    observers: tuple[str, ...]
    left_out: str | None = None

    @property
    def declared_rule(self) -> str:
        """The rule before anybody was left out."""
        return self.rule if self.left_out is None else self.task.reference.text

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """(cases,) the number of each case's group (patient), counted from 0 in the order in which groups appear."""
        return numbered([case.group for case in self.cases])

    @property
    def n_groups(self) -> int:
        """How many groups (patients) the cases are of."""
        return int(self.groups.max()) + 1

    @property
    def digest(self) -> str:
        """What tells these points, and what was assessed, from others. Keyed by the secret where there is one, so that
        nobody finds hidden points by trying."""
        content = hashlib.sha256(np.nan_to_num(self.points_mm + 0.0, nan=1e300).astype("<f8").tobytes())
        content.update(self.assessed.tobytes())
        return hmac.new(bytes.fromhex(self.secret or ""), content.digest(), hashlib.sha256).hexdigest()

    def observer_mm(self, observer: str) -> NDArray[np.float64]:
        """(cases, landmarks, 3) points of an observer; NaN where a landmark or the whole case was not marked."""
        return self._points_of[observer]

    @cached_property
    def _points_of(self) -> dict[str, NDArray[np.float64]]:
        return {
            name: read_points(self.folder / "landmarks" / name, self.cases, names=self.task.names, complete=False)
            for name in self.observers
        }

    @property
    def members(self) -> tuple[str, ...]:
        """Whose mean the reference is; empty where it is the word of one."""
        rule = self.task.reference
        if self.observer != REFERENCE:
            return ()
        if rule.rule == "mean":
            return rule.observers if set(rule.observers) <= set(self.observers) else ()
        # The importers write the mean of whoever marked a case as the observer `consensus`.
        return tuple(name for name in self.observers if name != CONSENSUS) if rule.observers == (CONSENSUS,) else ()

    def others(self, observer: str) -> tuple[str, ...]:
        """The members of the mean but for one person, whose every session goes; empty for who is not part of it."""
        rest = tuple(name for name in self.members if person(name) != person(observer))
        return rest if observer in self.members else ()

    def marked_by(self, folder: Path) -> "Reference":
        """This reference with only the cases that a rater marked, where `folder` is that rater's in it, else itself.

        A submission must answer every case; a rater need not have seen all, and the protocol's n_cases says so.
        """
        home = self.folder.resolve() / "landmarks"
        if folder.resolve().parent != home or folder.resolve().name not in self.observers:
            return self
        rows = [row for row, case in enumerate(self.cases) if (folder / f"{case.name}.json").is_file()]
        if not rows:
            raise ChallengeError(f"{folder}: wanted at least one of the {len(self.cases)} cases, got none")
        if len(rows) == len(self.cases):
            return self
        cases = tuple(self.cases[row] for row in rows)
        return replace(self, cases=cases, points_mm=self.points_mm[rows], assessed=self.assessed[rows])

    def leaving_out(self, observer: str) -> "Reference":
        """This reference for a rater who is part of the mean: the mean of `others` takes its place.

        A case that none of the others marked is not assessed. Raises ValueError for a rater who leaves nobody.
        """
        rest = self.others(observer)
        if not rest:
            raise ValueError(f"{observer} leaves nobody to be scored against")
        points = np.stack([self.observer_mm(name) for name in rest])
        given: NDArray[np.bool_] = np.all(np.isfinite(points), axis=3)
        marked: NDArray[np.bool_] = np.any(given, axis=2)  # (others, cases)
        everybody = self.task.reference.rule == "mean"
        there: NDArray[np.bool_] = np.all(given, axis=0) if everybody else np.any(given, axis=0)
        count = np.where(there, given.sum(axis=0), 1)
        mean = np.where(given[..., None], points, 0.0).sum(axis=0) / count[..., None]
        text = rest[0] if len(rest) == 1 else f"mean of {', '.join(rest)}"
        return replace(
            self,
            points_mm=np.where(there[..., None], mean, np.nan),
            assessed=self.assessed & (np.all(marked, axis=0) if everybody else np.any(marked, axis=0))[:, None],
            rule=text if everybody else f"{CONSENSUS} of the others",
            left_out=observer,
        )


def numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """The number of each name, counted from 0 in the order in which names appear.

    >>> numbered(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def person(observer: str) -> str:
    """Who marked: `rater04-1` and `rater04-2` are two sessions of rater04, `rater-1` and `rater-2` are two people.

    >>> person("rater04-2"), person("rater-2"), person("senior")
    ('rater04', 'rater-2', 'senior')
    """
    return re.sub(r"(?<=\d)-\d+$", "", observer)


def open_reference(
    folder: Path, *, split: str | None = None, subset: str | None = None, observer: str | None = None
) -> Reference:
    """The reference in a dataset folder (`open`, its `split`, by default test) or in a reference folder.

    observer: whom to score against instead of the task's reference. Raises ChallengeError for a folder that is neither,
    a split or observer that is not there, a case without points.
    """
    if (folder / HEADER).is_file():
        header = read_reference_header(folder)
        if split not in (None, header.split):
            raise ChallengeError(f"{folder}: wanted the split '{header.split}' of this reference, got '{split}'")
        cases = tuple(
            Case(name, header.split, case.group or name, case.subset, case.not_assessed, case.columns)
            for name, case in header.cases.items()
        )
        task, rule, known = header.task, header.rule, frozenset(header.cases)
        disclosure, details, secret, split = header.disclosure, header.details, header.secret, header.split
        observers = tuple(sorted(path.name for path in (folder / "landmarks").glob("*") if path.is_dir()))
    elif (folder / "dataset.json").is_file():
        dataset = Dataset(folder)
        split = split or "test"
        cases, known = tuple(dataset.cases(split=split)), frozenset(case.name for case in dataset.cases())
        task, rule, observers = dataset.task, dataset.task.reference.text, dataset.observers
        disclosure, details, secret = "open", True, None
    else:
        raise ChallengeError(f"{folder}: wanted a dataset (dataset.json) or a reference folder ({HEADER}), got neither")
    chosen = tuple(case for case in cases if subset is None or case.subset == subset)
    if not chosen:
        raise ChallengeError(f"{folder}: wanted cases of split '{split}', subset '{subset or 'any'}', there are none")
    if observer is not None and observer not in observers:
        raise ChallengeError(f"{folder}: wanted one of the observers {', '.join(observers)}, got '{observer[:60]}'")
    return Reference(
        folder=folder,
        task=task,
        cases=chosen,
        known_cases=known,
        points_mm=read_points(folder / "landmarks" / (observer or REFERENCE), chosen, names=task.names, complete=True),
        assessed=np.array([[name not in case.not_assessed for name in task.names] for case in chosen]),
        rule=rule if observer in (None, REFERENCE) else str(observer),
        split=split,
        subset=subset,
        disclosure=disclosure,
        details=details,
        secret=secret,
        observer=observer or REFERENCE,
        observers=tuple(name for name in observers if name != REFERENCE),
    )


def read_points(folder: Path, cases: Sequence[Case], *, names: Sequence[str], complete: bool) -> NDArray[np.float64]:
    """(cases, names, 3) points of one observer; a case without a file is NaN, or refused where it must be complete."""
    points = np.full((len(cases), len(names), 3), np.nan)
    for row, case in enumerate(cases):
        path = folder / f"{case.name}.json"
        if complete or path.is_file():
            points[row] = read_landmarks(path, names=names).aligned_mm(names)
    return points
