"""Quantiles of the pooled points of every resample: a search in blocks of sorted values, exact."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SortedPoints:
    """All scored errors in order, cut into equal blocks, with the number of points per case and block."""

    errors_mm: NDArray[np.float64]
    case: NDArray[np.int64]
    block_length: int
    per_block: NDArray[np.float64]

    @classmethod
    def of(cls, error_mm: NDArray[np.float64], *, blocks: int) -> "SortedPoints":
        case, landmark = np.nonzero(np.isfinite(error_mm))
        errors = error_mm[case, landmark]
        order = np.argsort(errors, kind="stable")
        errors, case = errors[order], case[order]
        length = max(1, -(-errors.size // blocks))
        blocks = max(1, -(-errors.size // length))
        cell = case * blocks + np.arange(errors.size) // length
        per_block = np.bincount(cell, minlength=error_mm.shape[0] * blocks).reshape(-1, blocks).astype(np.float64)
        return cls(errors, case, length, per_block)

    def quantiles(self, draws: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.float64]:
        """(chunk, shares) linearly interpolated quantiles of every resample's pooled errors; NaN for an empty one."""
        if not self.errors_mm.size:
            return np.full((len(draws), len(shares)), np.nan)
        cumulative = np.cumsum(draws @ self.per_block, axis=1)
        position = np.asarray(shares)[None, :] * (cumulative[:, -1:] - 1)
        lower = np.floor(position)
        result = np.full(position.shape, np.nan)
        filled = cumulative[:, -1] > 0
        for column in range(position.shape[1]):
            low, high = self._order_statistics(draws, cumulative, lower[:, column])
            result[:, column] = low + (position[:, column] - lower[:, column]) * (high - low)
        result[~filled] = np.nan
        return result

    def _order_statistics(
        self, draws: NDArray[np.float64], cumulative: NDArray[np.float64], rank: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The errors at `rank` (from 0) and at the rank after it, or at the last one."""
        rows = np.arange(len(draws))
        block = np.minimum((cumulative <= rank[:, None]).sum(axis=1), cumulative.shape[1] - 1)
        before = np.where(block > 0, cumulative[rows, block - 1], 0.0)
        index = block[:, None] * self.block_length + np.arange(self.block_length)
        inside = index < self.errors_mm.size
        index = np.minimum(index, self.errors_mm.size - 1)
        weight = draws[rows[:, None], self.case[index]] * inside
        reached = np.cumsum(weight, axis=1) + before[:, None]
        within = np.minimum((reached <= rank[:, None]).sum(axis=1), self.block_length - 1)
        at = index[rows, within]
        # The next rank is the same point where it was drawn again, else the next point that was drawn at all.
        after = at.copy()
        ahead = np.flatnonzero((reached[rows, within] <= rank + 1) & (rank + 1 < cumulative[:, -1]))
        while ahead.size:
            after[ahead] += 1
            ahead = ahead[draws[ahead, self.case[after[ahead]]] == 0]
        return self.errors_mm[at], self.errors_mm[after]
