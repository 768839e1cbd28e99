"""Folders of images with one points file per case and observer: who belongs to whom, and into which split."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..dataset import SPLITS, Case, DatasetWriter
from ..errors import ChallengeError
from ..images import EXTENSIONS, Image, image_stem, pad, read_image
from ..landmarks import Landmarks
from ..progress import track
from ..task import Task
from .naming import slug

SEPARATORS = "_-. "


@dataclass(frozen=True)
class Layout:
    """How a folder is read.

    images, points: regular expressions on the path below the folder, with the group `case`, for points also `observer`
    and `session`; a points expression `NAME=EXPRESSION` gives all its files to the observer NAME. Without them a points
    file belongs to the case whose name it starts with, and the rest of its name is the observer. group: an expression
    on the case name, whose first group is the patient. split: a split for all, or the shares of train, validation and
    test. mean_as: an observer made as the mean of the others. pad: voxels to which every image grows, placed at random.
    """

    images: str | None = None
    points: tuple[str, ...] = ()
    group: str | None = None
    split: str = "0.7,0.1,0.2"
    seed: int = 0
    mean_as: str | None = None
    pad: tuple[int, ...] | None = None


@dataclass
class Found:
    """The files of one case."""

    image: Path | None = None
    points: dict[str, Path] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one points file."""

    def __call__(self, path: Path, *, task: Task | None) -> Landmarks: ...


def import_folder(
    source: Path,
    output: Path,
    *,
    task: Task | None,
    spacing_mm: Sequence[float] | None,
    layout: Layout,
    endings: tuple[str, ...],
    read: Reader,
) -> None:
    """Import the images below `source` and the points files with one of `endings`. Raises ChallengeError."""
    task = needed(task)
    cases = find_cases(source, layout=layout, endings=endings, observer=task.reference.observers[0])
    points = {name: {who: read(path, task=task) for who, path in found.points.items()} for name, found in cases.items()}
    images = {name: found.image for name, found in cases.items()}
    write_dataset(output, task=task, images=images, points=points, layout=layout, spacing_mm=spacing_mm)


def needed(task: Task | None) -> Task:
    """The task; ChallengeError where none is given and the format does not imply one."""
    if task is None:
        raise ChallengeError("--task: wanted the task that the points belong to, this format does not say it")
    return task


Placed = Mapping[str, Landmarks] | Callable[[Image | None], Mapping[str, Landmarks]]


def write_dataset(
    output: Path,
    *,
    task: Task,
    images: Mapping[str, Path | None],
    points: Mapping[str, Placed],
    layout: Layout,
    spacing_mm: Sequence[float] | None,
    cases: Mapping[str, Case] | None = None,
) -> None:
    """Write the dataset, one image in memory at a time.

    points: by case the landmarks of each observer, or a function that gives them once the image is known. cases: those
    that the source itself assigns to a split; the others follow `layout`.
    """
    known = dict(cases or {})
    rest = [name for name in points if name not in known]
    known |= assign_splits({name: group_of(name, layout.group) for name in rest}, split=layout.split, seed=layout.seed)
    with DatasetWriter(output, task, source=task.source, licence=task.licence) as writer:
        for name in track(sorted(points), "importing"):
            path = images.get(name)
            image = None if path is None else read_image(path, dimension=task.dimension, spacing_mm=spacing_mm)
            placed = points[name]
            observers = dict(placed(image) if callable(placed) else placed)
            if layout.mean_as is not None:
                observers[layout.mean_as] = mean_of(observers.values(), names=task.names)
            if layout.pad is not None:
                image, observers = _padded(name, image, observers, size=layout.pad)
            writer.add(known[name], image, observers)


def find_cases(source: Path, *, layout: Layout, endings: tuple[str, ...], observer: str) -> dict[str, Found]:
    """The files of every case below `source`, in the order of their names. Raises ChallengeError."""
    cases: dict[str, Found] = {}
    for name, path in find_images(source, layout.images).items():
        cases[name] = Found(path)
    files = [path for path in _files(source) if path.name.lower().endswith(endings)]
    if ".json" in endings:
        files = [path for path in files if not path.name.lower().endswith(".mrk.json")]
    for path in files:
        if layout.points:
            match = _matched(path.relative_to(source).as_posix(), layout.points)
            if match is None:
                continue
            name, who = match
            who = who or observer
        else:
            ending = next(ending for ending in endings if path.name.lower().endswith(ending))
            name, who = _split_stem(path.name[: -len(ending)], cases)
            who = who or (slug(path.parent.name) if _several(path, files) else "") or observer
        points = cases.setdefault(name, Found()).points
        if who in points:
            raise ChallengeError(
                f"{path}: wanted one file of observer '{who}' for case '{name}', {points[who]} is another"
            )
        points[who] = path
    return _complete(source, cases, endings)


def _complete(source: Path, cases: dict[str, Found], endings: tuple[str, ...]) -> dict[str, Found]:
    if not any(found.points for found in cases.values()):
        raise ChallengeError(f"{source}: wanted points files ({', '.join(endings)}) that belong to a case, got none")
    with_images = any(found.image for found in cases.values())
    for name, found in cases.items():
        if with_images and found.image is None:
            raise ChallengeError(
                f"{next(iter(found.points.values()))}: wanted an image of case '{name}', there is none"
            )
        if not found.points:
            raise ChallengeError(f"{found.image}: wanted points of case '{name}', there are none")
    return dict(sorted(cases.items()))


def find_images(source: Path, expression: str | None = None) -> dict[str, Path]:
    """The images below `source` by case name; a folder of DICOM files is one image."""
    images: dict[str, Path] = {}
    for path in _files(source):
        if not path.name.lower().endswith(EXTENSIONS):
            continue
        path = path.parent if path.suffix.lower() == ".dcm" else path
        name = image_stem(path.name)
        if expression is not None:
            match = re.search(expression, path.relative_to(source).as_posix())
            if match is None:
                continue
            name = match["case"] if "case" in match.re.groupindex else name
        if images.setdefault(name, path) != path:
            raise ChallengeError(f"{path}: wanted one image of case '{name}', {images[name]} is another")
    return images


def _files(source: Path) -> list[Path]:
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(source).parts)]


def _matched(path: str, expressions: Sequence[str]) -> tuple[str, str] | None:
    """Case and observer of a points file by the first expression that fits."""
    for text in expressions:
        head, equals, tail = text.partition("=")
        who, expression = (head, tail) if equals and re.fullmatch(r"[a-z0-9-]+", head) else ("", text)
        match = re.search(expression, path)
        if match is not None:
            groups = match.groupdict()
            parts = [who or groups.get("observer") or "", groups.get("session") or ""]
            return groups["case"], slug("-".join(part for part in parts if part))
    return None


def check_expression(text: str, *, wanted: str = "case") -> None:
    """Raise ChallengeError if `text` is no regular expression with the group that is wanted."""
    head, equals, tail = text.partition("=")
    expression = tail if equals and re.fullmatch(r"[a-z0-9-]+", head) else text
    try:
        groups = re.compile(expression).groupindex
    except re.error as error:
        raise ChallengeError(f"'{text}': wanted a regular expression, got an error: {error}") from None
    if wanted and wanted not in groups:
        raise ChallengeError(f"'{text}': wanted a regular expression with the group (?P<{wanted}>...)")


def _split_stem(stem: str, cases: Mapping[str, Found]) -> tuple[str, str]:
    """The longest known case that `stem` is or starts with, and the rest as observer."""
    fitting = [name for name in cases if stem == name or (stem.startswith(name) and stem[len(name)] in SEPARATORS)]
    if not fitting:
        return stem, ""
    name = max(fitting, key=len)
    return name, slug(stem[len(name) :])


def _several(path: Path, files: Sequence[Path]) -> bool:
    return sum(other.name == path.name for other in files) > 1


def group_of(case: str, expression: str | None) -> str:
    """The patient of a case: what the first group of `expression` finds in its name, by default the case itself."""
    if expression is None:
        return case
    match = re.search(expression, case)
    if match is None or not match.groups() or not match[1]:
        raise ChallengeError(f"{case}: wanted a case name that --group '{expression}' finds a patient in")
    return match[1]


def assign_splits(groups: Mapping[str, str], *, split: str, seed: int = 0) -> dict[str, Case]:
    """Cases by name, in one split or by the shares of train, validation and test; a group stays together.

    The order of the groups is that of a hash of seed and name: it depends on no other case and on no random generator.
    """
    if split in SPLITS:
        return {name: Case(name, split, group) for name, group in groups.items()}
    try:
        shares = [float(part) for part in split.split(",")]
    except ValueError:
        shares = []
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ChallengeError(
            f"--split: wanted one of {', '.join(SPLITS)} or three shares that add up to 1, got '{split}'"
        )
    members: dict[str, list[str]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(name)
    order = sorted(members, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    borders = np.rint(np.cumsum(shares) * len(groups))
    result: dict[str, Case] = {}
    for group in order:
        chosen = SPLITS[min(int(np.searchsorted(borders, len(result), side="right")), 2)]
        result |= {name: Case(name, chosen, group) for name in members[group]}
    return result


def mean_of(observers: Iterable[Landmarks], *, names: Sequence[str]) -> Landmarks:
    """The mean of those who marked a landmark, for every landmark that somebody marked."""
    marked = np.array([landmarks.aligned_mm(names) for landmarks in observers])
    there = np.isfinite(marked).all(axis=2).any(axis=0)
    return Landmarks(
        [name for name, is_there in zip(names, there, strict=True) if is_there], np.nanmean(marked[:, there], axis=0)
    )


def _padded(
    name: str, image: Image | None, observers: Mapping[str, Landmarks], *, size: Sequence[int]
) -> tuple[Image, dict[str, Landmarks]]:
    """The image at a random place, seeded by the name of the case, in a larger one; the points move with it.

    The origin stays that of the small image, so that millimetres tell no more about the place than voxels do.
    """
    if (
        image is None
        or len(size) != image.ndim
        or any(have > want for have, want in zip(image.size, size, strict=True))
    ):
        had = "no image" if image is None else f"{image.size}"
        raise ChallengeError(f"{name}: wanted an image that fits into {tuple(size)} voxels, got {had}")
    random = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    offset = [int(random.integers(0, want - have + 1)) for have, want in zip(image.size, size, strict=True)]
    larger = pad(image, size, offset=offset)
    moved = {}
    for who, landmarks in observers.items():
        index = image.mm_to_index(landmarks.points_mm) + offset
        moved[who] = Landmarks(landmarks.names, larger.index_to_mm(index), landmarks.probability)
    return larger, moved
