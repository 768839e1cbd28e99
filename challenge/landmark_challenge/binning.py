"""Means of boxes of voxels, straight from an array of any type and order: shrinking without a copy of the whole."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Values of the image that are worked on at a time: they and their sums stay in a core's cache.
BLOCK_VALUES = 2**20


def box_means(array: NDArray, factors: Sequence[int], *, threads: int = 1) -> NDArray[np.float32]:
    """float32 means over boxes of `factors` voxels, given per axis of the array; the rest at the far side is left out.

    Sums are exact for integers of up to 16 bits, and in float64 for other types.

    >>> box_means(np.array([[1, 3, 9], [2, 6, 9]]), (2, 2)).tolist()
    [[3.0]]
    """
    box = math.prod(factors)
    small = array.dtype.kind in "bui" and array.dtype.itemsize <= 2 and box < 2**15
    sums: DTypeLike = np.int32 if small else np.float64
    means = np.empty([count // factor for count, factor in zip(array.shape, factors, strict=True)], np.float32)
    rows = max(1, BLOCK_VALUES // (math.prod(array.shape[1:]) * factors[0]))

    def fill(begin: int) -> None:
        part = array[begin * factors[0] : min(begin + rows, len(means)) * factors[0]]
        for axis, factor in enumerate(factors):
            part = _sums(part, axis, factor, sums)
        np.divide(part, box, out=means[begin : begin + rows], casting="same_kind")

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(fill, range(0, len(means), rows)))
    return means


def _sums(part: NDArray, axis: int, factor: int, kind: DTypeLike) -> NDArray:
    """Sums over every `factor` neighbours along an axis."""
    if factor == 1:
        return part
    lines = np.moveaxis(part, axis, 0)
    whole = len(lines) // factor * factor
    total = np.add(lines[0:whole:factor], lines[1:whole:factor], dtype=kind)
    for i in range(2, factor):
        np.add(total, lines[i:whole:factor], out=total)
    return np.moveaxis(total, 0, axis)
