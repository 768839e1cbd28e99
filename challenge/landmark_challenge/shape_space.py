"""A space of few dimensions for landmark sets: their principal components where they stand, neither turned nor scaled.

Where `shape.py` asks whether a shape is usual whatever its pose, this one keeps the pose: its components say where in
the image a set of landmarks lies and how large it is, and then how it is deformed (Li et al., MICCAI 2018, equations 3
and 4).
NumPy only, millimetres.
"""

from dataclasses import dataclass

import numpy as np

from .errors import ChallengeError
from .shape import Array, fit

SAME_MM2 = 1e-12  # a millionth of a millimetre: rounding


@dataclass(frozen=True, eq=False)
class ShapeSpace:
    """mean_mm: (n_landmarks, d). basis: (k, n_landmarks, d), orthonormal. spread_mm: (k,) standard deviation along each
    component, largest first.
    """

    mean_mm: Array
    basis: Array
    spread_mm: Array

    def project(self, points_mm: Array) -> Array:
        """(n_cases, n_landmarks, d) -> (n_cases, k) mm along the components: b = W^T (X - mean)."""
        return np.einsum("cld,kld->ck", points_mm - self.mean_mm, self.basis)

    def rebuild(self, components_mm: Array) -> Array:
        """(n_cases, k) -> (n_cases, n_landmarks, d): X = mean + W b."""
        return self.mean_mm + np.einsum("ck,kld->cld", components_mm, self.basis)

    def sample(self, random: np.random.Generator, count: int, *, within: float = 3.0) -> Array:
        """(count, k) components, each uniform within that many standard deviations and independent of the others."""
        return random.uniform(-within, within, (count, len(self.spread_mm))) * self.spread_mm

    def is_plausible(self, points_mm: Array, *, within: float = 3.0) -> np.ndarray:
        """(n_cases,) whether no component is further than that many standard deviations from the mean."""
        return np.all(np.abs(self.project(points_mm)) <= within * self.spread_mm, axis=1)


def fit_space(points_mm: Array, *, explained: float) -> tuple[ShapeSpace, Array]:
    """The fewest components that explain at least the share `explained` of the variance, and the sets they come from.

    points_mm: (n_cases, n_landmarks, d) in one frame; absent points (NaN) become what the others let expect, so that
    the sets returned are complete. Covariance with n - 1. Raises ChallengeError where there is no variance.
    """
    complete = fit(points_mm).completed(points_mm) if np.isnan(points_mm).any() else points_mm
    mean = complete.mean(axis=0)
    flat = (complete - mean).reshape(len(complete), -1)
    _, singular, rows = np.linalg.svd(flat, full_matrices=False)
    variance = singular**2 / max(1, len(complete) - 1)
    if variance.sum() < SAME_MM2:
        raise ChallengeError("landmark sets: wanted at least two different ones, they are all the same")
    share = np.cumsum(variance) / variance.sum()
    # A component without variance says nothing, however much is to be explained.
    count = min(int(np.searchsorted(share, explained - 1e-12)) + 1, int((variance > 1e-12 * variance[0]).sum()))
    basis = rows[:count] * np.sign(rows[:count, :1] + 1e-300)  # one sign for one space
    return ShapeSpace(mean, basis.reshape(count, *mean.shape), np.sqrt(variance[:count])), complete
