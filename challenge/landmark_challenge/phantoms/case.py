"""A synthetic case, and the random streams that make it the same bytes every time."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..images import Image
from ..landmarks import Landmarks


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """An image and the exact places of its landmarks."""

    image: Image
    landmarks: Landmarks


@dataclass(frozen=True, eq=False)
class Plan:
    """A case before it is drawn: where its landmarks are, its empty image, and how to make the array (call it once)."""

    landmarks: Landmarks
    frame: Image
    array: Callable[[], NDArray]

    def draw(self) -> PhantomCase:
        """The case with its image."""
        frame = self.frame
        image = Image.of(self.array(), frame.spacing_mm, frame.origin_mm, frame.direction)
        return PhantomCase(image, self.landmarks)


def empty_image(
    size: ArrayLike, spacing_mm: ArrayLike, origin_mm: ArrayLike | None = None, direction: ArrayLike | None = None
) -> Image:
    """An image of zeros (size along x, y[, z]) that takes no memory."""
    shape = tuple(int(count) for count in np.asarray(size))[::-1]
    return Image.of(np.broadcast_to(np.uint8(0), shape), spacing_mm, origin_mm, direction)


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
