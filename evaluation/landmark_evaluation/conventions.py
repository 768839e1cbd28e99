"""How much of an error is a convention, and how much is the noise of the reference.

People place a landmark by habits of their own: half a millimetre further along a contour, in every image. A method that
learned other habits than the reference's errs by a fixed offset, however well it sees. And a reference that is the mean
of several observers has noise of its own, which nobody can predict: what they differ by once their offsets are gone.
Neither is a score: both use the reference of the scored cases.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.task import Task, threshold_key

from . import metrics
from .intervals import error_intervals
from .metrics import Scores
from .observers import differences_mm
from .pairing import Submission
from .references import Reference, person

# Fewer cases do not tell an offset from chance.
MIN_CASES = 20
# Each part of the cases is judged by offsets of the others.
FOLDS = 10


def summarise_conventions(
    scores: Scores, submission: Submission, reference: Reference, *, resamples: int, seed: int
) -> dict[str, Any] | None:
    """Offsets by landmark and the errors without them; where the reference is a mean of people, its noise, and the
    errors of a submission that had these offsets and nothing else. None where no landmark was given in enough cases.
    """
    difference = differences_mm(submission.points_mm, reference.points_mm, reference)
    enough = np.isfinite(difference[..., 0]).sum(axis=0) >= MIN_CASES
    if not enough.any():
        return None
    task, names = reference.task, np.array(reference.task.names)
    middle = _median(difference)
    offsets = np.where(enough[:, None], _offsets_mm(difference, reference.groups), 0.0)
    without = _lengths_mm(difference - offsets, task)
    parts = {"without_offsets": np.where(scores.missing, scores.error_mm, without)}
    noise = _reference_noise_mm(reference)
    if noise is not None:
        columns = np.tile(enough, noise.shape[1] // len(enough))
        noise = np.where(columns[:, None], noise, np.nan)
        again = np.tile(offsets, (1, noise.shape[1] // len(enough), 1))
        parts |= {"reference_noise": _lengths_mm(noise, task), "offsets_and_noise": _lengths_mm(again - noise, task)}
    spans = error_intervals(list(parts.values()), task, groups=reference.groups, resamples=resamples, seed=seed)
    found: dict[str, Any] = {"offset_mm": dict(zip(names[enough].tolist(), middle[enough].tolist(), strict=True))}
    for (key, errors), span in zip(parts.items(), spans, strict=True):
        if np.isfinite(errors).any():
            found[key] = {**_summary(errors, task), "confidence": span}
    return found


def _reference_noise_mm(reference: Reference) -> NDArray[np.float64] | None:
    """(cases, members * landmarks, dimension): samples of what the mean errs by, as if all observers had equal noise.

    Each is how far one of the k observers of a point lies from their mean, all without their offsets, over
    sqrt(k - 1): the variance that k equal and independent observers leave in their mean. None where the reference is
    no mean of several people.
    """
    members = reference.members if reference.left_out is None else reference.others(reference.left_out)
    if len({person(name) for name in members}) < max(2, len(members)):
        return None
    apart = np.stack([differences_mm(reference.observer_mm(name), reference.points_mm, reference) for name in members])
    counts = np.isfinite(apart[..., 0]).sum(axis=1)
    apart = np.where((counts >= MIN_CASES)[:, None, :, None], apart, np.nan)
    own = apart - np.stack([_offsets_mm(each, reference.groups) for each in apart])
    given = np.isfinite(own[..., :1]).sum(axis=0)
    mean = np.nan_to_num(own).sum(axis=0) / np.maximum(given, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        noise = np.where(given > 1, (own - mean) / np.sqrt(given - 1), np.nan)
    return np.concatenate(list(noise), axis=1) if np.isfinite(noise).any() else None


def _offsets_mm(difference_mm: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(cases, landmarks, dimension) for every case the medians over the cases of other folds; groups stay together."""
    offsets = np.zeros_like(difference_mm)
    folds = groups % FOLDS
    for fold in range(FOLDS):
        if (folds == fold).any():
            offsets[folds == fold] = np.nan_to_num(_median(difference_mm[folds != fold]))
    return offsets


def _median(difference_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(landmarks, dimension), NaN for a landmark without a difference."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all are NaN
        return np.nanmedian(difference_mm, axis=0)


def _lengths_mm(offset_mm: NDArray[np.float64], task: Task) -> NDArray[np.float64]:
    """Capped as the errors of the task are."""
    return np.minimum(np.sqrt(np.einsum("clk,clk->cl", offset_mm, offset_mm)), task.missing_error_mm)


def _summary(errors_mm: NDArray[np.float64], task: Task) -> dict[str, Any]:
    thresholds: Sequence[float] = task.success_thresholds_mm
    rates = metrics.success_rates(errors_mm, thresholds, tie=task.success_tie)
    return {
        "mre_mm": metrics.summarise_errors(errors_mm),
        "sdr": {threshold_key(threshold): rate for threshold, rate in zip(thresholds, rates, strict=True)},
    }
