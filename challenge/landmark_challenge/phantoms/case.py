"""A synthetic case, and the random streams that make it the same bytes every time."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..images import Image
from ..landmarks import Landmarks


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """An image and the exact places of its landmarks."""

    image: Image
    landmarks: Landmarks


@dataclass(frozen=True, eq=False)
class Plan:
    """A case before it is drawn: where its landmarks are, and how to draw its image (to be called once)."""

    landmarks: Landmarks
    draw: Callable[[], Image]


@dataclass(frozen=True)
class Streams:
    """Independent random streams of one case, so that noise never shifts the anatomy.

    anatomy: shape, pose and geometry, drawn alike at every resolution. texture: smooth fields, also alike at every
    resolution. noise: per voxel.
    """

    anatomy: np.random.Generator
    texture: np.random.Generator
    noise: np.random.Generator


def case_streams(task_name: str, seed: int, *, index: int) -> Streams:
    """The streams of case `index` of a set; every (task, seed, index) has its own."""
    root = np.random.SeedSequence([seed, index, zlib.crc32(task_name.encode())])
    return Streams(*(np.random.Generator(np.random.PCG64(child)) for child in root.spawn(3)))
