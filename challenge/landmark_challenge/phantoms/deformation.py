"""A similarity plus a smooth deformation, in 2D and 3D, with its exact inverse for points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

INVERSE_TOLERANCE_MM = 1e-10


@dataclass(frozen=True, eq=False)
class SmoothMap:
    """u -> matrix (u - centre) + offset + sum over k of amplitude_k * prod over axes of sin(frequency_k u + phase_k).

    matrix: (n, n). centre, offset: (n,) mm. amplitude: (k, n) mm. frequency: (k, n) rad/mm. phase: (k, n) rad. Each
    wave is a product over the axes, so that on a grid it is an outer product: cheap, yet the same value as at a point.
    """

    matrix: NDArray[np.float64]
    centre: NDArray[np.float64]
    offset: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    frequency: NDArray[np.float64]
    phase: NDArray[np.float64]

    def apply(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """(m, n) -> (m, n)."""
        points = np.asarray(points_mm, np.float64).reshape(-1, len(self.offset))
        waves = np.sin(points[:, None, :] * self.frequency + self.phase).prod(axis=2)
        return (points - self.centre) @ self.matrix.T + self.offset + waves @ self.amplitude

    def jacobian(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """(m, n) -> (m, n, n) derivatives of `apply`, rows are outputs."""
        points = np.asarray(points_mm, np.float64).reshape(-1, len(self.offset))
        angle = points[:, None, :] * self.frequency + self.phase
        sine, cosine = np.sin(angle), np.cos(angle) * self.frequency
        n = len(self.offset)
        slopes = np.stack(
            [np.where(np.arange(n) == axis, cosine, sine).prod(axis=2) for axis in range(n)], axis=-1
        )  # (m, k, n)
        return self.matrix + np.einsum("mka,ko->moa", slopes, self.amplitude)

    def inverse(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """(m, n) -> (m, n) with `apply(inverse(p)) == p` to 1e-10 mm, by Newton's method."""
        target = np.asarray(points_mm, np.float64).reshape(-1, len(self.offset))
        points = (target - self.offset) @ np.linalg.inv(self.matrix).T + self.centre
        for _ in range(50):
            residual = self.apply(points) - target
            if np.abs(residual).max(initial=0.0) < INVERSE_TOLERANCE_MM:
                return points
            points = points - np.linalg.solve(self.jacobian(points), residual[..., None])[..., 0]
        raise RuntimeError("a deformation without an inverse: its waves are too steep")

    def on_grid(self, axes_mm: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float32]]:
        """`apply` on the grid that the n coordinate axes (x, y[, z]) span: n arrays of shape (z,) y, x, float32."""
        n = len(self.offset)
        factors = [
            np.sin(axis[:, None] * self.frequency[:, i] + self.phase[:, i]).astype(np.float32)
            for i, axis in enumerate(axes_mm)
        ]  # (length, k) each
        centred = [(axis - self.centre[i]) for i, axis in enumerate(axes_mm)]
        result: list[NDArray[np.float32]] = []
        for output in range(n):
            rows: Any = (
                factors[1] if n == 2 else (factors[2][:, None, :] * factors[1][None]).reshape(-1, len(self.phase))
            )
            waves: Any = (rows * self.amplitude[:, output].astype(np.float32)) @ factors[0].T
            waves = waves.reshape([len(axis) for axis in reversed(axes_mm)])
            for axis in range(n):
                line = self.matrix[output, axis] * centred[axis] + (self.offset[output] if axis == 0 else 0.0)
                waves += line.astype(np.float32).reshape([-1 if i == n - 1 - axis else 1 for i in range(n)])
            result.append(waves)
        return result


def rotation(angles_rad: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2) for one angle, (3, 3) for three (about x, then y, then z).

    >>> rotation([np.pi / 2]).round() @ [1, 0]
    array([0., 1.])
    """
    if len(angles_rad) == 1:
        c, s = np.cos(angles_rad[0]), np.sin(angles_rad[0])
        return np.array([[c, -s], [s, c]])
    result = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[np.ix_([i, j], [i, j])] = rotation([angle if axis != 1 else -angle])
        result = turn @ result
    return result


def random_map(
    generator: np.random.Generator,
    matrix: NDArray[np.float64],
    *,
    centre_mm: ArrayLike,
    offset_mm: ArrayLike,
    wavelength_mm: tuple[float, float],
    strain: float,
    waves: int = 6,
) -> SmoothMap:
    """A map with the linear part `matrix` (centre_mm goes to about offset_mm) and random smooth waves.

    strain: the largest local change of length that the waves may cause, relative to the linear part; below 1 the map
    is one-to-one.
    """
    n = len(matrix)
    length = generator.uniform(*wavelength_mm, size=(waves, n))
    frequency = 2 * np.pi / length
    phase = generator.uniform(0, 2 * np.pi, size=(waves, n))
    direction = generator.standard_normal((waves, n))
    # Each wave changes lengths by at most |amplitude| * |frequency|; together they stay below `strain`.
    steepness = np.linalg.norm(direction, axis=1) * np.linalg.norm(frequency, axis=1)
    smallest = np.linalg.svd(matrix, compute_uv=False)[-1]
    amplitude = direction * (strain * smallest / steepness.sum())
    return SmoothMap(
        matrix, np.asarray(centre_mm, np.float64), np.asarray(offset_mm, np.float64), amplitude, frequency, phase
    )
