"""What training takes for true."""

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.dataset import REFERENCE, Case, Dataset


def reference_mm(dataset: Dataset, case: Case, *, observer: str = REFERENCE) -> NDArray[np.float64]:
    """(L, 3) points of a case in the task's order, NaN where a landmark is absent or nobody assessed it.

    A point that a file gives of a landmark that was not assessed is left out of every score, so it teaches nothing.
    """
    names = dataset.task.names
    points = dataset.landmarks(case.name, observer=observer).aligned_mm(names)
    assessed = np.array([name not in case.not_assessed for name in names])
    return np.where(assessed[:, None], points, np.nan)
