"""Writing a dataset from the images and points of a folder: splits, groups, the mean of raters, padding."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..dataset import SPLITS, Case, DatasetWriter
from ..errors import ChallengeError
from ..images import Image, pad, read_image
from ..landmarks import Landmarks
from ..progress import track
from ..task import Task
from .pairing import Layout, find_cases

CONSENSUS = "consensus"


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
    pad_to = layout.pad or task.pad_to_voxels
    known |= assign_splits({name: group_of(name, layout.group) for name in rest}, split=layout.split, seed=layout.seed)
    with DatasetWriter(output, task, source=task.source, licence=task.licence) as writer:
        for name in track(sorted(points), "importing"):
            path = images.get(name)
            image = None if path is None else read_image(path, dimension=task.dimension, spacing_mm=spacing_mm)
            placed = points[name]
            observers = dict(placed(image) if callable(placed) else placed)
            if (mean_as := layout.mean_as or _consensus(task, observers)) is not None:
                observers[mean_as] = mean_of(observers.values(), names=task.names)
            if pad_to is not None and image is not None:
                image, observers = _padded(name, image, observers, size=pad_to)
            writer.add(known[name], image, observers)


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
    # Put so that NaN, of which every comparison is false, is refused.
    if not (len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
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


def _consensus(task: Task, observers: Mapping[str, Landmarks]) -> str | None:
    """The observer that a task calls `consensus`, where no file is by that name and several people marked the case."""
    wanted = task.reference.observers
    return CONSENSUS if wanted == (CONSENSUS,) and CONSENSUS not in observers and len(observers) > 1 else None


def _padded(
    name: str, image: Image, observers: Mapping[str, Landmarks], *, size: Sequence[int]
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
