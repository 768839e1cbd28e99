"""Your method. This is the one file to edit; `load` is what the container calls.

You get an image with its geometry and give points in millimetres. Everything else (the platform's input and output,
both API modes, the fall-back when a case fails) is `landmark_challenge.platform`, which you should not need to touch.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task, load_task


@dataclass(frozen=True)
class MyMethod:
    """Puts every landmark at a fixed fraction of the image: where you put your own method."""

    task: Task
    fractions: dict[str, list[float]]

    def localize(self, image: Image) -> Localization:
        """The landmarks in `image`.

        image.array: grey values, y, x (2D) or z, y, x (3D). image.index_to_mm turns (n, ndim) indices x, y[, z] into
        (n, 3) millimetres, whatever the image's orientation: answer with those. Landmarks takes a probability per
        point (left out: 1; below 0.5: "not in this image"), Localization a (3, 3) covariance in mm^2 by name.
        """
        return Localization(self.mean_shape(image))

    def mean_shape(self, image: Image) -> Landmarks:
        """What is answered, with probability 0, when `localize` fails on an image; it must not fail itself."""
        sides = np.array(image.size) - 1
        index = np.array([self.fractions[name] for name in self.task.names]) * sides
        return Landmarks(self.task.names, image.index_to_mm(index))


def load(model: Path, *, device: str = "auto") -> MyMethod:
    """Read the model folder: model/ beside this file, or what the platform mounts in its place.

    A challenge with a task of its own gives its task.yaml to participants: keep it in the model folder. device: `auto`,
    `cpu` or `cuda`. With `libraries: torch` in algorithm.yaml you may import torch here; further
    packages go into a requirements.txt beside this file.
    """
    fractions = json.loads((model / "shape.json").read_text())
    own = model / "task.yaml"
    return MyMethod(load_task(own if own.is_file() else "ceph-19"), fractions)
