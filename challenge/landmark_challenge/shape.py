"""Shapes: how the landmarks of one case lie to each other, as a Gaussian over aligned landmark sets, in millimetres.

Uses: outliers and swaps in a dataset, plausibility of a result, sampling of new shapes. NumPy only. The covariance is
shrunk towards a multiple of the identity (Ledoit and Wolf, Journal of Multivariate Analysis 88, 2004), so that its
inverse exists with fewer cases than coordinates; what one landmark is expected to be is its mean given the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ALIGN_ROUNDS = 4
MIN_CASES = 10
MIN_LANDMARKS = 3
# A distance this many times the median distance of its landmark is an outlier: in a plane, one in 10^11 if Gaussian.
OUTLIER_RATIO = 6.0
FOLDS = 5


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """A Gaussian over aligned shapes.

    mean_mm: (n_landmarks, d), d = 2 for planar shapes, else 3. covariance_mm2: (n_landmarks * d, n_landmarks * d), of
    the flattened shape.
    """

    mean_mm: Array
    covariance_mm2: Array

    @property
    def modes(self) -> tuple[Array, Array]:
        """Variances (k,) in mm^2, largest first, and unit modes (k, n_landmarks, d): the principal components."""
        variance, vectors = np.linalg.eigh(self.covariance_mm2)
        return variance[::-1], vectors.T[::-1].reshape(-1, *self.mean_mm.shape)

    def sample(self, random: np.random.Generator, count: int) -> Array:
        """(count, n_landmarks, d) shapes drawn from the model, in its own frame."""
        variance, modes = self.modes
        weights = random.standard_normal((count, len(variance))) * np.sqrt(np.maximum(variance, 0))
        return self.mean_mm + np.tensordot(weights, modes, axes=1)

    def distance(self, points_mm: Array) -> Array:
        """(n_cases,) squared Mahalanobis distance of aligned shapes (n_cases, n_landmarks, d) without absent points."""
        offset = (points_mm - self.mean_mm).reshape(len(points_mm), -1)
        return np.einsum("ci,ij,cj->c", offset, np.linalg.inv(self.covariance_mm2), offset)

    def expected(self, points_mm: Array) -> Array:
        """Each landmark of each case as the others let expect it: (n_cases, n_landmarks, d), NaN points allowed.

        The conditional mean of the Gaussian. A landmark that is NaN is expected from those that are there.
        """
        result = np.empty_like(points_mm)
        there = np.isfinite(points_mm[..., 0])
        for pattern in np.unique(there, axis=0):
            rows = np.flatnonzero(np.all(there == pattern, axis=1))
            result[rows] = self._expected_of(points_mm[rows], pattern)
        return result

    def _expected_of(self, points_mm: Array, there: NDArray) -> Array:
        count, dims = self.mean_mm.shape
        seen: NDArray = np.repeat(there, dims)
        precision = np.linalg.inv(self.covariance_mm2[np.ix_(seen, seen)])
        offset = (points_mm - self.mean_mm).reshape(len(points_mm), -1)
        result = np.tile(self.mean_mm.reshape(-1), (len(points_mm), 1))
        if seen.any():
            weighted = offset[:, seen] @ precision
            result[:, ~seen] += weighted @ self.covariance_mm2[np.ix_(seen, ~seen)]
            for block in range(int(there.sum())):
                place = slice(block * dims, (block + 1) * dims)
                residual = np.linalg.solve(precision[place, place], weighted[:, place].T).T
                columns = np.flatnonzero(seen)[place]
                result[:, columns] += offset[:, columns] - residual
        return result.reshape(-1, count, dims)


def fit(points_mm: Array) -> ShapeModel:
    """The model of aligned shapes (n_cases, n_landmarks, d); absent points (NaN) are filled in by expectation."""
    there = np.isfinite(points_mm[..., 0])
    filled = np.where(there[..., None], points_mm, np.nanmean(points_mm, axis=0))
    model = _gaussian(filled)
    for _ in range(0 if there.all() else 3):
        filled = np.where(there[..., None], points_mm, model.expected(points_mm))
        model = _gaussian(filled)
    return model


def _gaussian(points_mm: Array) -> ShapeModel:
    """Mean and shrunk covariance of complete shapes (Ledoit and Wolf 2004, equations 11 to 14)."""
    cases, landmarks, dims = points_mm.shape
    flat = points_mm.reshape(cases, -1)
    offset = flat - flat.mean(axis=0)
    sample = offset.T @ offset / cases
    size = landmarks * dims
    scale = np.trace(sample) / size
    target = scale * np.eye(size)
    spread = np.sum((sample - target) ** 2) / size
    noise = np.sum((offset**2).T @ (offset**2) / cases - sample**2) / (size * cases)
    share = 1.0 if spread == 0 else min(1.0, max(0.0, noise / spread))
    # Identical shapes have no spread at all; a micrometre keeps the inverse.
    covariance = share * target + (1 - share) * sample + 1e-6 * np.eye(size)
    return ShapeModel(flat.mean(axis=0).reshape(landmarks, dims), covariance)


def align(points_mm: Array, reference_mm: Array) -> Array:
    """Shapes (n_cases, n_landmarks, d) turned and shifted (no scale, no mirror) onto `reference_mm` (n_landmarks, d).

    Least squares over the landmarks that are there (Kabsch); NaN stays NaN.
    """
    weight = np.isfinite(points_mm).all(axis=2, keepdims=True).astype(float)
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1)
    safe = np.where(weight > 0, points_mm, 0)
    centre = safe.sum(axis=1, keepdims=True) / total
    goal = (weight * reference_mm).sum(axis=1, keepdims=True) / total
    cross = np.einsum("cni,cnj->cij", (safe - centre) * weight, reference_mm - goal)
    left, _, right = np.linalg.svd(cross)
    flip = np.ones(cross.shape[:2])
    flip[:, -1] = np.sign(np.linalg.det(left @ right))
    turn = (left * flip[:, None, :]) @ right
    return np.where(weight > 0, (points_mm - centre) @ turn + goal, np.nan)


def align_all(points_mm: Array) -> Array:
    """Shapes (n_cases, n_landmarks, 3) aligned to their common mean; planar ones lose their third coordinate."""
    flat = np.nanmax(np.ptp(np.where(np.isfinite(points_mm), points_mm, 0)[..., 2], axis=1)) == 0
    shapes = points_mm[..., :2] if flat else points_mm
    complete = np.isfinite(shapes).all(axis=(1, 2))
    reference = shapes[np.argmax(complete)] if complete.any() else np.nanmedian(shapes, axis=0)
    reference = np.where(np.isfinite(reference), reference, np.nanmean(reference, axis=0))
    aligned = shapes
    for _ in range(ALIGN_ROUNDS):
        aligned = align(shapes, reference)
        # The median: a few wrong points must not turn everybody.
        reference = np.nanmedian(aligned, axis=0)
    return aligned


def deviations_mm(aligned_mm: Array) -> Array:
    """(n_cases, n_landmarks) how far each point lies from where the other points and the other cases expect it.

    Every case is judged by a model of the other folds, fitted once more without the cases that fit it badly. NaN where
    a landmark is absent.
    """
    cases = len(aligned_mm)
    result = np.full(aligned_mm.shape[:2], np.nan)
    for fold in range(min(FOLDS, cases)):
        inside = np.arange(cases) % FOLDS == fold
        model = robust_fit(aligned_mm[~inside])
        result[inside] = np.linalg.norm(aligned_mm[inside] - model.expected(aligned_mm[inside]), axis=2)
    return result


def robust_fit(aligned_mm: Array) -> ShapeModel:
    """`fit` without the cases that hold an outlier by a first fit; the shapes must be aligned."""
    model = fit(aligned_mm)
    deviation = np.linalg.norm(aligned_mm - model.expected(aligned_mm), axis=2)
    good = np.asarray(~(np.nan_to_num(ratios(deviation)) > OUTLIER_RATIO).any(axis=1))
    return fit(aligned_mm[good]) if good.sum() >= max(MIN_CASES // 2, len(good) // 2) else model


def ratios(deviation_mm: Array) -> Array:
    """Deviations over the median deviation of their landmark, of at least a tenth of a millimetre."""
    return deviation_mm / np.maximum(np.nanmedian(deviation_mm, axis=0), 0.1)


def mirrored_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of landmarks whose names differ by left and right alone.

    >>> mirrored_pairs(["ostium-left", "ostium-right", "l-mb", "r-mb", "left"])
    [(0, 1), (2, 3)]
    """
    other = {"left": "right", "l": "r"}
    places = {name: index for index, name in enumerate(names)}
    pairs = []
    for name, index in places.items():
        twin = "-".join(other.get(part, part) for part in name.split("-"))
        if twin != name and twin in places:
            pairs.append((index, places[twin]))
    return pairs
