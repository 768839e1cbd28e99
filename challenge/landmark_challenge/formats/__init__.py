"""Foreign formats: how other people lay out images and points, and how they write points.

An importer is a module with `import_dataset(source, output, *, task, spacing_mm, ...)`; further arguments are its own
options. A point format is a module with `read_points(path, *, task)` and `write_points(path, landmarks)`.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..dataset import Dataset
from ..errors import ChallengeError
from ..landmarks import Landmarks
from ..task import Task

IMPORTERS = {
    "isbi2015": "landmark_challenge.formats.isbi2015",
    "aasce2019": "landmark_challenge.formats.aasce2019",
    "slicer": "landmark_challenge.formats.slicer",
    "csv": "landmark_challenge.formats.csv_table",
    "points-json": "landmark_challenge.formats.points_json",
}
# The longer ending first: .mrk.json is no points JSON.
POINT_FORMATS = {
    ".mrk.json": "landmark_challenge.formats.slicer",
    ".fcsv": "landmark_challenge.formats.slicer",
    ".json": "landmark_challenge.formats.points_json",
    ".csv": "landmark_challenge.formats.csv_table",
}


def import_dataset(
    name: str,
    source: Path,
    *,
    output: Path,
    task: Task | None = None,
    spacing_mm: Sequence[float] | None = None,
    **options: Any,
) -> Dataset:
    """Import `source`, laid out as the format `name` says, as the dataset folder `output`.

    task: what the points mean, by default the format's own. spacing_mm: (x, y[, z]) of images whose file does not know
    it. options: of the format's own `import_dataset`. Raises ChallengeError: which file, what was wanted, what came.
    """
    if name not in IMPORTERS:
        raise ChallengeError(f"format: wanted one of {', '.join(sorted(IMPORTERS))}, got '{name}'")
    if not source.is_dir():
        raise ChallengeError(f"{source}: wanted a folder to import, there is none")
    module = importlib.import_module(IMPORTERS[name])
    module.import_dataset(source, output, task=task, spacing_mm=spacing_mm, **options)
    return Dataset(output)


def point_extension(path: Path) -> str | None:
    """The ending of a point format that `path` has; None for another file.

    >>> point_extension(Path("case.mrk.json"))
    '.mrk.json'
    """
    return next((ending for ending in POINT_FORMATS if path.name.lower().endswith(ending)), None)


def read_points(path: Path, *, task: Task | None = None) -> Landmarks:
    """The points in a file of any point format, in millimetres LPS. With a task, labels become its names."""
    return _point_module(path).read_points(path, task=task)


def write_points(path: Path, landmarks: Landmarks) -> None:
    """Write points in the format that the ending of `path` names, whole or not at all."""
    _point_module(path).write_points(path, landmarks)


def _point_module(path: Path) -> Any:
    extension = point_extension(path)
    if extension is None:
        raise ChallengeError(f"{path}: wanted a points file ({', '.join(POINT_FORMATS)}), got another ending")
    return importlib.import_module(POINT_FORMATS[extension])
