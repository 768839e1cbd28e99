"""One case's answer: the points and, where a method gives one, the covariance of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import read_landmarks

MAX_ANSWER_BYTES = 4 * 1024**2
MAX_SHOWN = 80
# Beyond this nothing is a landmark, and eigenvalues and squares would overflow.
MAX_COORDINATE_MM = 1e6
MAX_VARIANCE_MM2 = 1e12


@dataclass(frozen=True, eq=False)
class Answer:
    """In the order of the task's landmarks: points_mm (n, 3) and covariance_mm2 (n, 3, 3), NaN where there is none;
    probability (n,) that the landmark is in the image, 0 where it is left out."""

    points_mm: NDArray[np.float64]
    probability: NDArray[np.float64]
    covariance_mm2: NDArray[np.float64]


def read_answer(landmarks: Path, uncertainty: Path | None, *, names: Sequence[str]) -> Answer:
    """Read a points file and its `landmark-uncertainty.json`; ChallengeError for any that is not what it should be."""
    given = read_landmarks(limited(landmarks), names=names)
    if (np.abs(given.points_mm) > MAX_COORDINATE_MM).any():
        raise ChallengeError(f"{landmarks}: wanted coordinates within {MAX_COORDINATE_MM:g} mm, got larger ones")
    chances = dict(zip(given.names, given.probability.tolist(), strict=True))
    return Answer(
        given.aligned_mm(names),
        np.array([chances.get(name, 0.0) for name in names]),
        np.full((len(names), 3, 3), np.nan) if uncertainty is None else read_covariance(uncertainty, names=names),
    )


def read_covariance(path: Path, *, names: Sequence[str]) -> NDArray[np.float64]:
    """(landmarks, 3, 3) covariances in mm^2 of a `landmark-uncertainty.json`, NaN where there is none.

    Raises ChallengeError for an unknown name, and for anything but a symmetric matrix without negative eigenvalues.
    """
    value = files.read_json(limited(path))
    order = {name: row for row, name in enumerate(names)}
    if not isinstance(value, dict):
        raise ChallengeError(f"{path}: wanted an object of 3 x 3 covariances by landmark, got {shown(value)}")
    result = np.full((len(order), 3, 3), np.nan)
    for name, rows in value.items():
        if name not in order:
            raise ChallengeError(f"{path}: wanted a landmark of the task, got the unknown name {shown(name)}")
        matrix = _matrix(rows)
        if matrix is None:
            raise ChallengeError(f"{path}: {name}: wanted a finite 3 x 3 covariance in mm^2, got something else")
        scale = max(np.abs(matrix).max(), np.finfo(float).tiny)
        if np.abs(matrix - matrix.T).max() > 1e-6 * scale or np.linalg.eigvalsh(matrix / scale).min() < -1e-6:
            raise ChallengeError(
                f"{path}: {name}: wanted a symmetric covariance without negative eigenvalues, got another matrix"
            )
        result[order[name]] = matrix
    return result


def _matrix(rows: Any) -> NDArray[np.float64] | None:
    if not (isinstance(rows, list) and len(rows) == 3 and all(isinstance(row, list) and len(row) == 3 for row in rows)):
        return None
    numbers = [number for row in rows for number in row]
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        return None
    try:
        matrix = np.array(numbers, np.float64).reshape(3, 3)
    except OverflowError:
        return None
    return matrix if np.isfinite(matrix).all() and np.abs(matrix).max() <= MAX_VARIANCE_MM2 else None


def limited(path: Path) -> Path:
    """The same path; ChallengeError where the file is larger than any set of landmarks."""
    size = path.stat().st_size
    if size > MAX_ANSWER_BYTES:
        raise ChallengeError(f"{path}: wanted at most {MAX_ANSWER_BYTES} bytes, got {size}")
    return path


def shown(value: Any) -> str:
    """A short one-line picture of a value that may be huge.

    >>> shown({"a": 1}), shown(None), shown("x" * 200) == repr("x" * 80)
    ('an object of 1', 'nothing', True)
    """
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value[:MAX_SHOWN])
    return str(value)[:MAX_SHOWN]
