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
USUAL_MIN_MM = 0.1
CANDIDATES = 5
WRONG_MAX = 3
TRAINING_CASES = 1000
FILL_ROUNDS = 2
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

    def expected(self, points_mm: Array, landmark: int) -> Array:
        """(n_cases, d) where the other landmarks let expect one: its conditional mean. Absent others are NaN."""
        dims = self.mean_mm.shape[1]
        seen = np.isfinite(points_mm[..., 0])
        seen[:, landmark] = False
        offset = (points_mm - self.mean_mm).reshape(len(points_mm), -1)
        own = np.arange(landmark * dims, (landmark + 1) * dims)
        result = np.tile(self.mean_mm[landmark], (len(points_mm), 1))
        for pattern in np.unique(seen, axis=0):
            rows = np.flatnonzero(np.all(seen == pattern, axis=1))
            others = np.flatnonzero(np.repeat(pattern, dims))
            if len(others):
                among = self.covariance_mm2[np.ix_(others, others)]
                gain = np.linalg.solve(among, self.covariance_mm2[np.ix_(others, own)])
                result[rows] += offset[np.ix_(rows, others)] @ gain
        return result

    def completed(self, points_mm: Array) -> Array:
        """The shapes (n_cases, n_landmarks, d) with absent points where the others let expect them."""
        result = points_mm.copy()
        for landmark in np.flatnonzero(np.isnan(points_mm[..., 0]).any(axis=0)):
            rows = np.isnan(points_mm[:, landmark, 0])
            result[rows, landmark] = self.expected(points_mm[rows], int(landmark))
        return result


def fit(points_mm: Array) -> ShapeModel:
    """The model of aligned shapes (n_cases, n_landmarks, d); absent points (NaN) are filled in by expectation."""
    absent = np.isnan(points_mm)
    model = _gaussian(np.where(absent, np.nanmean(points_mm, axis=0), points_mm))
    for _ in range(FILL_ROUNDS if absent.any() else 0):
        model = _gaussian(model.completed(points_mm))
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


def align(points_mm: Array, reference_mm: Array, *, use: NDArray | None = None) -> Array:
    """Shapes (n_cases, n_landmarks, d) turned and shifted (no scale, no mirror) onto `reference_mm` (n_landmarks, d).

    Least squares over the landmarks that are there (Kabsch), or over those of them in `use` (n_landmarks,); NaN stays.
    """
    turn, centre, goal = _rigid(points_mm, reference_mm, use)
    return (points_mm - centre) @ turn + goal


def turns_degrees(points_mm: Array, reference_mm: Array) -> Array:
    """(n_cases,) angle in 0..180 by which each shape must be turned to lie on `reference_mm`."""
    turn, _, _ = _rigid(points_mm, reference_mm, None)
    trace = np.trace(turn, axis1=1, axis2=2)
    cosine = trace / 2 if turn.shape[1] == 2 else (trace - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _rigid(points_mm: Array, reference_mm: Array, use: NDArray | None) -> tuple[Array, Array, Array]:
    """Rotations (n_cases, d, d) for row vectors, and the centres that they move onto each other."""
    weight = np.isfinite(points_mm[..., :1]).astype(float)
    if use is not None:
        weight = weight * use[:, None]
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1)
    safe = np.where(weight > 0, points_mm, 0)
    centre = safe.sum(axis=1, keepdims=True) / total
    goal = (weight * reference_mm).sum(axis=1, keepdims=True) / total
    cross = np.einsum("cni,cnj->cij", (safe - centre) * weight, reference_mm - goal)
    left, _, right = np.linalg.svd(cross)
    flip = np.ones(cross.shape[:2])
    flip[:, -1] = np.sign(np.linalg.det(left @ right))
    return (left * flip[:, None, :]) @ right, centre, goal


def align_all(points_mm: Array) -> Array:
    """Shapes (n_cases, n_landmarks, 3) aligned to their common mean; planar ones lose their third coordinate."""
    shapes = points_mm[..., :2] if not np.nan_to_num(points_mm[..., 2:]).any() else points_mm
    complete = np.isfinite(shapes).all(axis=(1, 2))
    reference = shapes[np.argmax(complete)] if complete.any() else np.nanmedian(shapes, axis=0)
    reference = np.where(np.isfinite(reference), reference, np.nanmean(reference, axis=0))
    aligned = shapes
    for _ in range(ALIGN_ROUNDS):
        aligned = align(shapes, reference)
        # The median: a few wrong points must not turn everybody.
        reference = np.nanmedian(aligned, axis=0)
    return aligned


def deviations_mm(points_mm: Array) -> Array:
    """(n_cases, n_landmarks) how far each point lies from where the other points and the other cases expect it.

    Shapes (n_cases, n_landmarks, d) in any pose. Each point is judged in the alignment of the others, since its own
    part in an alignment would give it away, by a model of the other folds. NaN where a landmark is absent. In a case
    with an outlier it is told apart which point it is, see `_told_apart`.
    """
    cases = len(points_mm)
    reference = np.nanmedian(align_all(points_mm), axis=0)
    result, judges = _judged(points_mm, reference, np.ones(cases, bool))
    good = np.nan_to_num(ratios(result)).max(axis=1) <= OUTLIER_RATIO
    if max(MIN_CASES, cases // 2) <= good.sum() < cases:
        # Once more by models that no wrong point has shaped.
        result, judges = _judged(points_mm, reference, good)
    usual = np.maximum(np.nanmedian(result, axis=0), USUAL_MIN_MM)
    for row in np.flatnonzero((np.nan_to_num(result / usual) > OUTLIER_RATIO).any(axis=1)):
        result[row] = _told_apart(points_mm[row], judges[row % FOLDS], usual)
    return result


def _judged(points_mm: Array, reference_mm: Array, good: NDArray) -> tuple[Array, list["Judge"]]:
    """Deviations of every case by the `good` cases (n_cases,) of the other folds, and the judge of each fold."""
    folds = np.arange(len(points_mm)) % FOLDS
    result = np.full(points_mm.shape[:2], np.nan)
    judges = []
    for fold in range(FOLDS):
        others = points_mm[(folds != fold) & good]
        # A thousand cases tell as much about a shape as all of them.
        others = others[:: max(1, -(-len(others) // TRAINING_CASES))]
        columns = range(points_mm.shape[1])
        judge = Judge(reference_mm, [fit(_aligned_by_others(others, reference_mm, column)) for column in columns])
        result[folds == fold] = judge.deviations_mm(points_mm[folds == fold])
        judges.append(judge)
    return result, judges


@dataclass(frozen=True, eq=False)
class Judge:
    """A model per landmark, each in the alignment of the other landmarks onto `reference_mm` (n_landmarks, d)."""

    reference_mm: Array
    models: Sequence[ShapeModel]

    def deviations_mm(self, points_mm: Array, *, only: Sequence[int] | None = None) -> Array:
        """(n_cases, n_landmarks) distance of every point from where the others expect it.

        NaN where it is absent, and for landmarks that are not among `only`.
        """
        result = np.full(points_mm.shape[:2], np.nan)
        for landmark in range(len(self.models)) if only is None else only:
            placed = _aligned_by_others(points_mm, self.reference_mm, landmark)
            expected = self.models[landmark].expected(placed, landmark)
            result[:, landmark] = np.linalg.norm(placed[:, landmark] - expected, axis=1)
        return result


def _aligned_by_others(points_mm: Array, reference_mm: Array, landmark: int) -> Array:
    return align(points_mm, reference_mm, use=np.arange(points_mm.shape[1]) != landmark)


def _told_apart(shape_mm: Array, judge: Judge, usual_mm: Array) -> Array:
    """Deviations of one case in which wrong points do not make the right ones look wrong.

    As long as a point is an outlier: of those that fit worst, the one without which the others fit best is taken out. A
    case with more than `WRONG_MAX` of them is wrong as a whole.
    """
    rest = shape_mm.copy()
    result = np.full(len(shape_mm), np.nan)
    deviation = judge.deviations_mm(rest[None])[0]
    for _ in range(min(WRONG_MAX, int(np.isfinite(rest[:, 0]).sum()) - MIN_LANDMARKS)):
        ratio = np.nan_to_num(deviation / usual_mm)
        if ratio.max() <= OUTLIER_RATIO:
            break
        worst = np.argsort(-ratio)[:CANDIDATES]
        worst = worst[ratio[worst] > 0]
        trials = np.repeat(rest[None], len(worst), axis=0)
        trials[np.arange(len(worst)), worst] = np.nan
        # Those that fit well now will not fit worse without a wrong one.
        near = [int(index) for index in np.flatnonzero(ratio > OUTLIER_RATIO / 3)]
        left = np.nanmax(np.nan_to_num(judge.deviations_mm(trials, only=near) / usual_mm), axis=1)
        culprit = worst[np.argmin(left)]
        result[culprit] = deviation[culprit]
        rest[culprit] = np.nan
        deviation = judge.deviations_mm(rest[None])[0]
    return np.where(np.isfinite(deviation), deviation, result)


def ratios(deviation_mm: Array) -> Array:
    """Deviations over the median deviation of their landmark, of at least `USUAL_MIN_MM`."""
    return deviation_mm / np.maximum(np.nanmedian(deviation_mm, axis=0), USUAL_MIN_MM)


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
