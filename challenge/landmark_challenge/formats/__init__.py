"""Foreign formats: one module each, with `import_dataset(source, output, *, task, spacing_mm)`."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from ..dataset import Dataset
from ..errors import ChallengeError
from ..task import Task

IMPORTERS = {
    "isbi2015": "landmark_challenge.formats.isbi2015",
}


def import_dataset(
    name: str,
    source: Path,
    *,
    output: Path,
    task: Task | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Dataset:
    """Import `source`, laid out as the format `name` says, as the dataset folder `output`.

    task: what the points mean, by default the format's own. spacing_mm: (x, y[, z]) of images whose file does not know
    it. Raises ChallengeError: which file, what was wanted, what came.
    """
    if name not in IMPORTERS:
        raise ChallengeError(f"format: wanted one of {', '.join(sorted(IMPORTERS))}, got '{name}'")
    if not source.is_dir():
        raise ChallengeError(f"{source}: wanted a folder to import, there is none")
    module = importlib.import_module(IMPORTERS[name])
    module.import_dataset(source, output, task=task, spacing_mm=spacing_mm)
    return Dataset(output)
