"""`landmarks data hide`: a dataset as its public part and the reference folder that only the organiser keeps.

The public part holds training and validation cases with landmarks and the hidden cases as images alone: renamed and in
a new random order, so that neither tells anything; rewritten, so that no header field beside the geometry and no file
time is left. Excluded cases stay out: they may be copies of hidden ones.
"""

import csv
import io
import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from . import files
from .dataset import Case, Dataset, DatasetWriter
from .errors import ChallengeError
from .landmarks import Landmarks, read_landmarks
from .progress import track
from .reference import ReferenceHeader, check_details, write_reference

NAMES_TABLE = "names.csv"
# Every file of the public part carries this time: 2000-01-01, UTC.
FILE_TIME_S = 946_684_800
PUBLIC_SPLITS = ("train", "validation")
META_IMAGE_KEYS = {
    "ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize",
    "TransformMatrix", "Offset", "CenterOfRotation", "AnatomicalOrientation", "ElementSpacing", "DimSize",
    "ElementType", "ElementDataFile",
}  # fmt: skip


def hide(
    dataset: Dataset,
    *,
    public: Path,
    reference: Path,
    split: str = "test",
    subset: str | None = None,
    disclosure: Literal["open", "protected"] = "protected",
    details: bool = False,
    observer: str | None = None,
    keep_names: bool = False,
) -> ReferenceHeader:
    """Write the public part and the reference folder of `dataset`, both or neither.

    split, subset: what is hidden; other cases of that split are in neither part. Unless `keep_names`, hidden cases get
    new names, and `names.csv` in the reference folder says which is which. observer: see `write_reference`. Raises
    ChallengeError where something hidden would be public: a training image that is a copy of a hidden one, a hidden
    name or time.
    """
    check_details(disclosure, details=details)
    _check_apart(public, reference)
    hidden = dataset.cases(split=split, subset=subset)
    if not hidden:
        raise ChallengeError(f"{dataset.folder}: wanted cases in split '{split}', subset '{subset or 'any'}', got none")
    shown = [case for name in PUBLIC_SPLITS if name != split for case in dataset.cases(split=name)]
    renamed = {case.name: case.name for case in hidden} if keep_names else _new_names(hidden, shown)
    order = sorted(hidden, key=lambda case: renamed[case.name])
    files.refuse_existing(public)
    files.refuse_existing(reference)
    try:
        with _PublicWriter(public, dataset) as writer:
            _write_shown(writer, dataset, shown)
            _write_hidden(writer, dataset, order, renamed)
            header = _write_reference(
                dataset, order, renamed, writer.folder, reference,
                split=split, disclosure=disclosure, details=details, observer=observer,
            )  # fmt: skip
        _write_names(reference / NAMES_TABLE, order, renamed)
    except BaseException:
        shutil.rmtree(reference, ignore_errors=True)
        raise
    return header


def _check_apart(public: Path, reference: Path) -> None:
    """Raise ChallengeError where one folder would hold the other: whoever publishes it would publish the reference."""
    one, other = public.resolve(), reference.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise ChallengeError(f"{reference}: wanted a folder apart from --public {public}, got one in the other")


class _PublicWriter(AbstractContextManager["_PublicWriter"]):
    """A dataset writer whose folder is searched for leaks, and its times set, before it appears."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        header = dataset.header
        self._target = folder
        self._outer = files.staged_folder(folder)
        self._source, self._licence = str(header.get("source", "")), str(header.get("licence", ""))
        self._task = dataset.task
        self.hidden_names: set[str] = set()
        self.hidden_points: list[Landmarks] = []
        self.digests: dict[str, str] = {}

    def __enter__(self) -> "_PublicWriter":
        self.staging = self._outer.__enter__()
        self.inner = DatasetWriter(self.staging / "set", self._task, source=self._source, licence=self._licence)
        self.inner.__enter__()
        self.folder = self.inner.folder
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            self.inner.__exit__(kind, error, trace)
            if error is None:
                for path in sorted((self.staging / "set").iterdir()):
                    path.replace(self.staging / path.name)
                (self.staging / "set").rmdir()
                clear_times(self.staging)
                find_leaks(self.staging, names=self.hidden_names, points=self.hidden_points)
        except BaseException as failure:
            self._outer.__exit__(type(failure), failure, failure.__traceback__)
            raise
        return self._outer.__exit__(kind, error, trace)


def _new_names(hidden: Sequence[Case], shown: Sequence[Case]) -> dict[str, str]:
    """A new name for every hidden case, in an order that nothing can tell."""
    numbers = list(range(1, len(hidden) + 1))
    random.Random(secrets.randbits(256)).shuffle(numbers)
    taken = {case.name for case in (*hidden, *shown)}
    prefix = next(text for text in ("hidden", *(f"hidden{n}" for n in range(9))) if not any(text in t for t in taken))
    width = max(4, len(str(len(hidden))))
    return {case.name: f"{prefix}-{number:0{width}d}" for case, number in zip(hidden, numbers, strict=True)}


def _write_shown(writer: _PublicWriter, dataset: Dataset, shown: Sequence[Case]) -> None:
    for case in track(shown, "public"):
        observers = {
            who: dataset.landmarks(case.name, observer=who)
            for who in dataset.observers
            if dataset.landmarks_path(case.name, observer=who).is_file()
        }
        image = dataset.image(case.name) if dataset.has_images else None
        writer.inner.add(case, image, observers, compress=dataset.task.dimension == 3)
        if image is not None:
            writer.digests[image.content_digest()] = case.name


def _write_hidden(writer: _PublicWriter, dataset: Dataset, order: Sequence[Case], renamed: Mapping[str, str]) -> None:
    """The images alone: not the group, not the subset, not what was assessed, not the subgroups."""
    for case in track(order, "hidden"):
        new = renamed[case.name]
        if new != case.name:
            writer.hidden_names.add(case.name)
        for who in dataset.observers:
            if dataset.landmarks_path(case.name, observer=who).is_file():
                writer.hidden_points.append(dataset.landmarks(case.name, observer=who))
        image = dataset.image(case.name) if dataset.has_images else None
        twin = None if image is None else writer.digests.get(image.content_digest())
        if twin is not None:
            raise ChallengeError(
                f"{case.name}: wanted an image that is not public, case '{twin}' shows it with landmarks"
            )
        writer.inner.add(Case(new, case.split, new), image, {}, compress=dataset.task.dimension == 3)


def _write_reference(
    dataset: Dataset, order: Sequence[Case], renamed: Mapping[str, str], public: Path, reference: Path, **options: Any
) -> ReferenceHeader:
    """The reference folder under the new names, by way of a dataset of the hidden cases that borrows the images."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hidden"
        with DatasetWriter(folder, dataset.task, source="", licence="") as writer:
            for case in order:
                new = replace(case, name=renamed[case.name])
                observers = {
                    who: dataset.landmarks(case.name, observer=who)
                    for who in dataset.observers
                    if dataset.landmarks_path(case.name, observer=who).is_file()
                }
                writer.add(new, None, observers)
        if dataset.has_images:
            (folder / "images").symlink_to((public / "images").resolve(), target_is_directory=True)
        return write_reference(Dataset(folder), reference, **options)


def _write_names(path: Path, order: Sequence[Case], renamed: Mapping[str, str]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "original", "group"])
    table.writerows([renamed[case.name], case.name, case.group] for case in order)
    files.write_text(path, text.getvalue())


def clear_times(folder: Path) -> None:
    """Give every file and folder below `folder`, and itself, the same time."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (FILE_TIME_S, FILE_TIME_S), follow_symlinks=False)


def find_leaks(folder: Path, *, names: set[str], points: Sequence[Landmarks]) -> None:
    """Raise ChallengeError if the public part holds a hidden case's name or points, or anything not meant for it.

    names: those the hidden cases had; none of them may be a file's name or a text in a JSON file or table. points: no
    landmarks file may hold the same coordinates. Images are MetaImages with geometry alone; every time is the same.
    """
    dataset = Dataset(folder)
    known = {case.name for split in PUBLIC_SPLITS for case in dataset.cases(split=split)}
    secret = {landmarks.points_mm.tobytes() for landmarks in points if len(landmarks)}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if path.is_symlink() or set(below.parts) & names or below.name.partition(".")[0] in names:
            raise ChallengeError(f"{path}: wanted nothing hidden in the public part, got a hidden name or a link")
        if path.stat().st_mtime != FILE_TIME_S:
            raise ChallengeError(f"{path}: wanted the time of all public files, got another")
        if path.is_dir():
            continue
        if path.suffix == ".mha":
            _check_header(path)
            continue
        if path.suffix not in (".json", ".csv", ".yaml"):
            raise ChallengeError(f"{path}: wanted only images, points and tables in the public part")
        if names & _texts(path):
            raise ChallengeError(f"{path}: wanted nothing hidden in the public part, got the name of a hidden case")
        if below.parts[0] == "landmarks":
            if path.stem not in known:
                raise ChallengeError(f"{path}: wanted landmarks of training and validation cases alone")
            if read_landmarks(path).points_mm.tobytes() in secret:
                raise ChallengeError(f"{path}: wanted no hidden points in the public part, got those of a hidden case")


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        for line in file:
            key = line.decode("latin-1").partition("=")[0].strip()
            if key not in META_IMAGE_KEYS:
                raise ChallengeError(f"{path}: wanted geometry alone in the header, got the field '{key[:40]}'")
            if key == "ElementDataFile":
                return


def _texts(path: Path) -> set[str]:
    """Every text in a JSON file, or every cell of a table."""
    if path.suffix == ".csv":
        rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
        return {part for row in rows for cell in row for part in (cell, *cell.split(";"))}
    if path.suffix == ".yaml":
        return set(path.read_text(encoding="utf-8").split())
    found: set[str] = set()
    waiting = [files.read_json(path)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found |= set(value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            found.add(value)
    return found
