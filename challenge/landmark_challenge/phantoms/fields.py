"""Smooth random fields, blurring, and the noise of the modalities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def spline_basis(axis_mm: NDArray[np.float64], knot_mm: float, count: int) -> NDArray[np.float32]:
    """(len(axis_mm), count) cubic B-splines with knots `knot_mm` apart, the second of them at 0 mm."""
    distance = np.abs(axis_mm[:, None] / knot_mm - (np.arange(count) - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


@dataclass(frozen=True, eq=False)
class SmoothField:
    """A smooth random function of millimetres, about unit variance: cubic B-splines on knots `knot_mm` apart.

    coefficients: (..., y, x) float32, the reversed order of the axes.
    """

    coefficients: NDArray[np.float32]
    knot_mm: float

    def on(self, axes_mm: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
        """Values on the grid that the axes (x, y[, z]) span, as (z,) y, x; the same at every resolution."""
        values = self.coefficients
        for axis, places in enumerate(reversed(axes_mm)):
            basis = spline_basis(places, self.knot_mm, self.coefficients.shape[axis])
            values = np.moveaxis(np.tensordot(basis, values, axes=(1, axis)), 0, axis)
        # A cubic B-spline average of unit noise has a variance near 0.48 per axis.
        return np.ascontiguousarray(values, dtype=np.float32) / np.float32(0.48 ** (len(axes_mm) / 2))


def random_field(generator: np.random.Generator, *, knot_mm: float, extent_mm: ArrayLike) -> SmoothField:
    """A field for axes (x, y[, z]) that run from 0 to extent_mm."""
    counts = [int(np.ceil(extent / knot_mm)) + 3 for extent in np.asarray(extent_mm, np.float64)]
    return SmoothField(generator.standard_normal(counts[::-1]).astype(np.float32), knot_mm)


def smooth_field(
    generator: np.random.Generator, axes_mm: Sequence[NDArray[np.float64]], *, knot_mm: float, extent_mm: ArrayLike
) -> NDArray[np.float32]:
    """A random field on the grid that the axes (x, y[, z]) span, as (z,) y, x float32."""
    return random_field(generator, knot_mm=knot_mm, extent_mm=extent_mm).on(axes_mm)


def blur(array: NDArray[np.float32], sigma_voxel: float | Sequence[float]) -> NDArray[np.float32]:
    """Gaussian blur, edges repeated; sigma per axis in the array's order, or one for all."""
    sigmas = [float(sigma_voxel)] * array.ndim if np.isscalar(sigma_voxel) else [float(s) for s in sigma_voxel]  # type: ignore[arg-type, union-attr]
    for axis, sigma in enumerate(sigmas):
        if sigma < 0.05:
            continue
        radius = max(1, int(np.ceil(3 * sigma)))
        offsets = np.arange(-radius, radius + 1)
        weights = np.exp(-0.5 * (offsets / sigma) ** 2)
        weights = (weights / weights.sum()).astype(np.float32)
        padding = [(radius, radius) if i == axis else (0, 0) for i in range(array.ndim)]
        padded = np.pad(array, padding, mode="edge")
        result = np.zeros_like(array)
        for shift, weight in enumerate(weights):
            window = [slice(shift, shift + array.shape[axis]) if i == axis else slice(None) for i in range(array.ndim)]
            result += weight * padded[tuple(window)]
        array = result
    return array


def x_ray_counts(
    generator: np.random.Generator, attenuation: NDArray[np.float32], photons: float
) -> NDArray[np.float32]:
    """Photon counts behind `attenuation` (Beer-Lambert, Poisson), at least one each."""
    counts = generator.poisson(photons * np.exp(-attenuation))
    return np.maximum(counts, 1).astype(np.float32)


def rician(generator: np.random.Generator, signal: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The magnitude of `signal` with complex Gaussian noise of `sigma` per channel, as in MR."""
    shape = signal.shape
    real = signal + sigma * generator.standard_normal(shape, dtype=np.float32)
    return np.hypot(real, sigma * generator.standard_normal(shape, dtype=np.float32)).astype(np.float32, copy=False)


def quantised(array: NDArray[np.float32], dtype: type[np.integer]) -> NDArray:
    """Rounded and clipped to an integer type."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(array), limits.min, limits.max).astype(dtype)
