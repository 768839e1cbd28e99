"""Is a landmark in the image at all? Decisions and probabilities against the reference, over assessed landmarks."""

import numpy as np
from numpy.typing import NDArray

from .metrics import Scores


def summarise_presence(
    scores: Scores, probability: NDArray[np.float64], *, assessed: NDArray[np.bool_]
) -> dict[str, float | int]:
    """Counts of the four outcomes, the rates that exist, and the area under the ROC where both kinds of landmark occur.

    probability: (cases, landmarks) that the landmark is in the image. sensitivity: share of those present that were
    given; specificity: share of those absent that were left out.
    """
    # Imported here: it loads SciPy, which the command line must not wait for.
    from grand_challenge_metrics.stats import calculate_confusion_matrix

    present, absent = scores.scored, assessed & ~scores.scored
    given = (present & ~scores.missing) | scores.false_alarm
    outcomes = calculate_confusion_matrix(present[assessed], given[assessed], labels=[0, 1])
    (n_rejected, n_false_alarms), (n_missing, n_found) = outcomes.tolist()
    n_present, n_absent = n_found + n_missing, n_rejected + n_false_alarms
    result: dict[str, float | int] = {
        "n_present": n_present,
        "n_absent": n_absent,
        "n_missing": n_missing,
        "n_false_alarms": n_false_alarms,
        "n_rejected": n_rejected,
    }
    if n_present:
        result["sensitivity"] = 1 - n_missing / n_present
    if n_absent:
        result["specificity"] = 1 - n_false_alarms / n_absent
    if n_present and n_absent:
        result["roc_area"] = roc_area(probability[present], probability[absent])
    return result


def roc_area(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """The chance that a positive scores above a negative, ties counted half: the area under the ROC (Mann-Whitney).

    grand-challenge-metrics has intervals of it, but draws single points, never the last: ours are in `intervals.py`.

    >>> roc_area(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    0.875
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).sum() / 2 / (positive.size * negative.size))
