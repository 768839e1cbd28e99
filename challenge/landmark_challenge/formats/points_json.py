"""The platform's "Multiple points" JSON, and folders of images with such files."""

from collections.abc import Sequence
from pathlib import Path

from ..landmarks import Landmarks, read_landmarks, write_landmarks
from ..task import Task
from .folder import import_folder
from .naming import named
from .pairing import Layout

ENDINGS = (".json",)


def import_dataset(
    source: Path,
    output: Path,
    *,
    task: Task | None = None,
    spacing_mm: Sequence[float] | None = None,
    layout: Layout | None = None,
) -> None:
    """Import a folder of images with points JSON files, paired by `layout`. Raises ChallengeError."""
    import_folder(
        source, output, task=task, spacing_mm=spacing_mm, layout=layout or Layout(), endings=ENDINGS, read=read_points
    )


def read_points(path: Path, *, task: Task | None = None) -> Landmarks:
    """The landmarks of a points JSON file; with a task, abbreviations and numbers become its names."""
    read = read_landmarks(path)
    labels = [(name, "") for name in read.names]
    return named(labels, read.points_mm.tolist(), probability=read.probability.tolist(), task=task, source=str(path))


def write_points(path: Path, landmarks: Landmarks) -> None:
    """Write the platform's points JSON."""
    write_landmarks(path, landmarks)
