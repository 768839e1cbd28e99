"""The AASCE 2019 challenge: frontal spine X-rays with the four corners of seventeen vertebrae.

`data/<part>/<name>.jpg` and `labels/<part>/<name>.jpg.mat` with the array `p2` (68 x 2): x, y in 0-based pixels, per
vertebra from top to bottom upper left, upper right, lower left, lower right. The pixel spacing is not known, so it has
to be given. The file name without its last letter block is the examination, which no split may cut in two.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import ChallengeError
from ..images import Image
from ..landmarks import Landmarks
from ..task import Task, load_task
from .folder import write_dataset
from .mat5 import read_array
from .pairing import Layout

EXAMINATION = r"^(.+?)(?:\s+[A-Z]\s+AP.*)?$"


def import_dataset(
    source: Path,
    output: Path,
    *,
    task: Task | None = None,
    spacing_mm: Sequence[float] | None = None,
    layout: Layout | None = None,
) -> None:
    """Import the challenge's folders `data` and `labels`. Raises ChallengeError, also where no spacing is given."""
    if spacing_mm is None:
        raise ChallengeError(f"{source}: wanted the pixel spacing, these images do not know it; give --spacing-mm X,Y")
    task = task or load_task("spine-xray-68")
    images = {path.stem: path for path in sorted((source / "data").rglob("*.jpg"))}
    labels = {path.name.removesuffix(".jpg.mat"): path for path in sorted((source / "labels").rglob("*.jpg.mat"))}
    if not images:
        raise ChallengeError(f"{source / 'data'}: wanted images <name>.jpg, there are none")
    for name in sorted(set(images) ^ set(labels)):
        there, absent = (images, "labels") if name in images else (labels, "an image")
        raise ChallengeError(f"{there[name]}: wanted {absent} of the same name, there is none")
    observer = task.reference.observers[0]

    def place(name: str, image: Image | None) -> dict[str, Landmarks]:
        return {observer: _landmarks(labels[name], image, task)}

    write_dataset(
        output,
        task=task,
        images=dict(images),
        points={name: partial(place, name) for name in images},
        layout=replace(layout or Layout(), group=(layout.group if layout else None) or EXAMINATION),
        spacing_mm=spacing_mm,
    )


def _landmarks(path: Path, image: Image | None, task: Task) -> Landmarks:
    pixels = read_array(path, "p2")
    if pixels.shape != (len(task.names), 2) or not all(math.isfinite(value) for value in pixels.flat):
        raise ChallengeError(f"{path}: p2: wanted {len(task.names)} x 2 finite numbers, got {pixels.shape}")
    if image is None:
        raise ChallengeError(f"{path}: wanted an image to place pixels in, there is none")
    return Landmarks(task.names, image.index_to_mm(pixels))
