"""A dataset on disk: cases with images, splits, groups and observers."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from . import files
from .errors import ChallengeError
from .images import EXTENSIONS, Image, image_stem, read_geometry, read_image, write_image
from .landmarks import Landmarks, read_landmarks, write_landmarks
from .task import Task, load_task, task_names, write_task

SPLITS = ("train", "validation", "test", "excluded")
REFERENCE = "reference"
CASES_TABLE = "cases.csv"
FIXED_COLUMNS = ("case", "split", "group", "subset", "not_assessed")


@dataclass(frozen=True)
class Case:
    """One row of cases.csv. `columns` holds the further columns, subgroups to report by."""

    name: str
    split: str
    group: str
    subset: str = ""
    not_assessed: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)


class Dataset:
    """A dataset folder, opened lazily: listing and splitting never touches an image.

    Raises ChallengeError for a folder that is not a dataset, an unknown split, a group that spans splits.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        header = files.read_json(self.folder / "dataset.json")
        if not isinstance(header, dict) or not isinstance(header.get("task"), str):
            raise ChallengeError(f"{self.folder / 'dataset.json'}: wanted an object with 'task', got something else")
        digests = header.get("digests", {})
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise ChallengeError(f"{self.folder / 'dataset.json'}: digests: wanted texts by case, got something else")
        self.header: dict[str, Any] = header
        own = self.folder / "task.yaml"
        self.task: Task = load_task(own if own.is_file() else header["task"])
        if self.task.version != header.get("task_version"):
            raise ChallengeError(
                f"{self.folder / 'dataset.json'}: wanted version {self.task.version} of {self.task.name}, "
                f"got {header.get('task_version')}"
            )
        self._cases = _read_cases(self.folder / CASES_TABLE, self.task)

    def cases(self, *, split: str | None = None, subset: str | None = None) -> list[Case]:
        """The cases in file order, of one split and subset where given."""
        if split is not None and split not in SPLITS:
            raise ChallengeError(f"split: wanted one of {', '.join(SPLITS)}, got '{split}'")
        return [
            case
            for case in self._cases.values()
            if (split is None or case.split == split) and (subset is None or case.subset == subset)
        ]

    def wanted_cases(self, split: str, *, subset: str | None = None) -> list[Case]:
        """The cases of a split, as of `cases`; raises ChallengeError where there are none."""
        chosen = self.cases(split=split, subset=subset)
        if not chosen:
            part = "" if subset is None else f", subset '{subset}'"
            raise ChallengeError(f"{self.folder}: wanted cases of split '{split}'{part}, there are none")
        return chosen

    def case(self, name: str) -> Case:
        """The case of that name."""
        if name not in self._cases:
            raise ChallengeError(f"{self.folder}: wanted a case of the dataset, got '{name}'")
        return self._cases[name]

    @cached_property
    def observers(self) -> tuple[str, ...]:
        """Who marked landmarks, `reference` included."""
        folder = self.folder / "landmarks"
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()

    @cached_property
    def _image_paths(self) -> dict[str, Path]:
        folder = self.folder / "images"
        if not folder.is_dir():
            return {}
        shown = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        images = [path for path in shown if path.is_dir() or path.name.lower().endswith(EXTENSIONS)]
        paths: dict[str, Path] = {}
        for path in images:
            first = paths.setdefault(image_stem(path.name), path)
            # A header beside its raw data is one image; two pictures of one name would be a choice by chance.
            if first is not path:
                name = image_stem(path.name)
                raise ChallengeError(f"{folder}: wanted one image of case '{name}', got {first.name} and {path.name}")
        return paths

    @property
    def has_images(self) -> bool:
        """Whether the folder holds images; a dataset may be raters only."""
        return bool(self._image_paths)

    def image_path(self, name: str) -> Path:
        """The image of a case; ChallengeError where there is none."""
        try:
            return self._image_paths[name]
        except KeyError:
            raise ChallengeError(f"{self.folder / 'images'}: wanted an image of case '{name}', there is none") from None

    def image(self, name: str) -> Image:
        """The decoded image of a case."""
        return read_image(self.image_path(name), dimension=self.task.dimension)

    def geometry(self, name: str) -> Image:
        """The geometry of a case's image, its grey values not read (`images.read_geometry`)."""
        return read_geometry(self.image_path(name), dimension=self.task.dimension)

    def digest(self) -> str:
        """SHA-256 of what tells this dataset from another: its cases, and the digests of their images.

        An image whose digest is not stored is told by size and time, so that none needs to be read.
        """
        digest = hashlib.sha256(files.sha256_file(self.folder / CASES_TABLE).encode())
        stored = self.header.get("digests", {})
        for name in self._cases:
            path = self._image_paths.get(name)
            if name in stored:
                digest.update(f"{name} {stored[name]}\n".encode())
            elif path is not None:
                facts = path.stat()
                digest.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def landmarks_path(self, name: str, *, observer: str = REFERENCE) -> Path:
        """Where an observer's points of a case lie."""
        return self.folder / "landmarks" / observer / f"{name}.json"

    def landmarks(self, name: str, *, observer: str = REFERENCE) -> Landmarks:
        """An observer's points of a case, by default the scored reference."""
        if observer not in self.observers:
            raise ChallengeError(
                f"{self.folder}: wanted one of the observers {', '.join(self.observers) or '(none)'}, got '{observer}'"
            )
        return read_landmarks(self.landmarks_path(name, observer=observer), names=self.task.names)


class DatasetWriter(AbstractContextManager["DatasetWriter"]):
    """Builds a dataset folder that appears only when complete.

    >>> import tempfile, numpy as np
    >>> folder = Path(tempfile.mkdtemp()) / "demo"
    >>> with DatasetWriter(folder, load_task("ceph-19"), source="doctest", licence="none") as writer:
    ...     writer.add(Case("a", "train", "a"), None, {"senior": Landmarks(["sella"], [[1, 2, 0]])})
    >>> Dataset(folder).cases(split="train")[0].name
    'a'
    """

    def __init__(self, folder: Path, task: Task, *, source: str, licence: str) -> None:
        self.task = task
        self._header = {"task": task.name, "task_version": task.version, "source": source, "licence": licence}
        self._digests: dict[str, str] = {}
        self._cases: dict[str, Case] = {}
        self._staged = files.staged_folder(folder)

    def __enter__(self) -> "DatasetWriter":
        self.folder = self._staged.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is None:
            try:
                self._write_tables()
            except BaseException as failure:
                self._staged.__exit__(type(failure), failure, failure.__traceback__)
                raise
        return self._staged.__exit__(kind, error, trace)

    def add(
        self,
        case: Case,
        image: Image | None,
        observers: Mapping[str, Landmarks],
        *,
        extension: str = ".mha",
        compress: bool = False,
    ) -> None:
        """Add a case: its image (None for raters only) and the points of every observer.

        `reference` is made by the task's rule where the observers it names are there and none is given.
        """
        if case.name in self._cases:
            raise ChallengeError(f"{case.name}: wanted each case once, got it twice")
        if case.split not in SPLITS:
            raise ChallengeError(f"{case.name}: split: wanted one of {', '.join(SPLITS)}, got '{case.split}'")
        if not is_plain_name(case.name):
            raise ChallengeError(f"case: wanted a plain file name, got {case.name!r}")
        if image is not None:
            write_image(self.folder / "images" / f"{case.name}{extension}", image, compress=compress)
            self._digests[case.name] = image.content_digest()
        points = dict(observers)
        if REFERENCE not in points and all(name in points for name in self.task.reference.observers):
            points[REFERENCE] = make_reference(self.task, points)
        for observer, landmarks in points.items():
            if not is_plain_name(observer):
                raise ChallengeError(f"{case.name}: observer: wanted a plain folder name, got {observer!r}")
            unknown = [name for name in landmarks.names if name not in self.task.names]
            if unknown:
                raise ChallengeError(f"{case.name}: {observer}: '{unknown[0]}' is no landmark of {self.task.name}")
            write_landmarks(self.folder / "landmarks" / observer / f"{case.name}.json", landmarks)
        self._cases[case.name] = case

    def _write_tables(self) -> None:
        if not self._cases:
            raise ChallengeError("dataset: wanted at least one case, got none")
        check_groups(self._cases.values(), source="dataset")
        write_cases(self.folder / CASES_TABLE, list(self._cases.values()))
        files.write_json(self.folder / "dataset.json", {**self._header, "digests": self._digests})
        # A task of the user's own travels with its data, a shipped one is known by its name.
        if self.task.name not in task_names() or load_task(self.task.name) != self.task:
            write_task(self.task, self.folder / "task.yaml")


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write the table of cases."""
    columns = sorted({key for case in cases for key in case.columns})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*FIXED_COLUMNS, *columns])
    for case in cases:
        further = [case.columns.get(key, "") for key in columns]
        table.writerow([case.name, case.split, case.group, case.subset, ";".join(case.not_assessed), *further])
    files.write_text(path, text.getvalue())


def is_plain_name(name: str) -> bool:
    """Whether a case or an observer of that name stays inside its folder and is a file name everywhere.

    >>> is_plain_name("scan 01"), is_plain_name("../scan"), is_plain_name(".scan")
    (True, False, False)
    """
    return bool(name) and len(name) <= 200 and name[0] != "." and name.isprintable() and not set(name) & set("/\\:")


def make_reference(task: Task, observers: Mapping[str, Landmarks]) -> Landmarks:
    """The scored reference by the task's rule; a landmark is present where every named observer marked it."""
    chosen = [observers[name].aligned_mm(task.names) for name in task.reference.observers]
    mean = np.mean(chosen, axis=0)
    present = np.isfinite(mean).all(axis=1)
    names = [name for name, there in zip(task.names, present, strict=True) if there]
    return Landmarks(names, mean[present])


def check_groups(cases: Sequence[Case] | Any, *, source: str) -> None:
    """Raise ChallengeError if a group spans splits; `excluded` takes no part."""
    seen: dict[str, Case] = {}
    for case in cases:
        if case.split == "excluded":
            continue
        first = seen.setdefault(case.group, case)
        if first.split != case.split:
            raise ChallengeError(
                f"{source}: wanted group '{case.group}' in one split, "
                f"got {first.name} in {first.split} and {case.name} in {case.split}"
            )


def _read_cases(path: Path, task: Task) -> dict[str, Case]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ChallengeError(f"{path}: wanted a table of cases in UTF-8, it cannot be read") from None
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ChallengeError(f"{path}: wanted a table of cases as CSV, got an error: {error}") from None
    header = reader.fieldnames or []
    absent = [column for column in FIXED_COLUMNS[:3] if column not in header]
    if absent:
        raise ChallengeError(f"{path}: wanted the columns case, split, group, '{absent[0]}' is not there")
    if len(set(header)) != len(header):
        raise ChallengeError(f"{path}: wanted each column once, got {', '.join(header)}")
    if not rows:
        raise ChallengeError(f"{path}: wanted at least one case, got none")
    known = set(task.names)
    cases: dict[str, Case] = {}
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ChallengeError(f"{path}: line {line}: wanted {len(header)} fields, got another number")
        not_assessed = tuple(name for name in row.get("not_assessed", "").split(";") if name)
        case = Case(
            row["case"],
            row["split"],
            row["group"] or row["case"],
            row.get("subset", ""),
            not_assessed,
            {key: value for key, value in row.items() if key not in FIXED_COLUMNS},
        )
        if case.split not in SPLITS:
            raise ChallengeError(f"{path}: line {line}: wanted a split of {', '.join(SPLITS)}, got '{case.split}'")
        if not is_plain_name(case.name) or case.name in cases:
            raise ChallengeError(f"{path}: line {line}: wanted a new plain case name, got '{case.name}'")
        if not known.issuperset(not_assessed):
            raise ChallengeError(f"{path}: line {line}: not_assessed: wanted landmarks of {task.name}")
        cases[case.name] = case
    check_groups(cases.values(), source=str(path))
    return cases
