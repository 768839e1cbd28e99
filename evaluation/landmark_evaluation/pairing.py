"""Submissions from disk, paired with the reference: every scored case must be there, and nothing unknown may be.

Two layouts: the platform's (`predictions.json` beside `<pk>/output/...`, DESIGN section 4), and a plain folder of
`<case>.json` points files. No path is followed out of the given folder.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import image_stem
from landmark_challenge.landmarks import Landmarks, read_landmarks
from landmark_challenge.task import Socket

from .references import Reference

PREDICTIONS = "predictions.json"
MAX_POINTS_BYTES = 4 * 1024**2
MAX_SHOWN = 80
SUCCEEDED = "Succeeded"
DURATION = re.compile(
    r"^P(?:(?P<days>\d{1,6})D)?(?:T(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?(?:(?P<seconds>\d{1,9}(?:\.\d{1,9})?)S)?)?$"
)


@dataclass(frozen=True, eq=False)
class Submission:
    """A submission in the order of the reference's cases and the task's landmarks.

    points_mm: (cases, landmarks, 3) float64, LPS mm, NaN where a landmark is not given. probability: (cases, landmarks)
    that the landmark is in the image, 0 where it is left out. covariance_mm2: (cases, landmarks, 3, 3), NaN where none
    is given. cold_s, warm_s: (cases,) run time with and without start-up (`exec_duration`, `invoke_duration`), NaN
    where not measured. beyond: how many cases were given that are known but not scored here.
    """

    points_mm: NDArray[np.float64]
    probability: NDArray[np.float64]
    covariance_mm2: NDArray[np.float64]
    cold_s: NDArray[np.float64]
    warm_s: NDArray[np.float64]
    beyond: int

    @property
    def runtime_s(self) -> NDArray[np.float64]:
        """(cases,) whichever run time was measured."""
        return np.where(np.isfinite(self.cold_s), self.cold_s, self.warm_s)


@dataclass(frozen=True)
class _Output:
    """Where one case's answer lies."""

    landmarks: Path
    uncertainty: Path | None
    cold_s: float = np.nan
    warm_s: float = np.nan


def read_submission(folder: Path, reference: Reference) -> Submission:
    """Read and pair the submission in `folder`.

    Raises ChallengeError for a missing or unknown case, and for any file that is not what the contract says: the file,
    what was wanted, what came.
    """
    if not folder.is_dir():
        raise ChallengeError(f"{folder}: wanted a folder of predictions, there is none")
    root = folder.resolve()
    platform = (root / PREDICTIONS).is_file()
    outputs = dict(_platform_outputs(root, reference) if platform else _plain_outputs(root, reference))
    scored = [case.name for case in reference.cases]
    lost = [name for name in scored if name not in outputs]
    if lost:
        raise ChallengeError(
            f"{folder}: wanted all {len(scored)} cases, got {len(scored) - len(lost)}; the first missing is '{lost[0]}'"
        )
    names = reference.task.names
    shape = (len(scored), len(names))
    points, probability = np.full((*shape, 3), np.nan), np.zeros(shape)
    covariance = np.full((*shape, 3, 3), np.nan)
    for row, name in enumerate(scored):
        landmarks = read_landmarks(_limited(outputs[name].landmarks), names=names)
        points[row] = landmarks.aligned_mm(names)
        probability[row] = _probability(landmarks, names)
        uncertainty = outputs[name].uncertainty
        if uncertainty is not None:
            covariance[row] = read_covariance(uncertainty, names=names)
    return Submission(
        points_mm=points,
        probability=probability,
        covariance_mm2=covariance,
        cold_s=np.array([outputs[name].cold_s for name in scored]),
        warm_s=np.array([outputs[name].warm_s for name in scored]),
        beyond=len(outputs) - len(scored),
    )


def read_covariance(path: Path, *, names: Iterable[str]) -> NDArray[np.float64]:
    """(landmarks, 3, 3) covariances in mm^2 of a `landmark-uncertainty.json`, NaN where there is none.

    Raises ChallengeError for an unknown name, and for anything but a symmetric matrix without negative eigenvalues.
    """
    value = files.read_json(_limited(path))
    order = {name: row for row, name in enumerate(names)}
    if not isinstance(value, dict):
        raise ChallengeError(f"{path}: wanted an object of 3 x 3 covariances by landmark, got {_shown(value)}")
    result = np.full((len(order), 3, 3), np.nan)
    for name, rows in value.items():
        if name not in order:
            raise ChallengeError(f"{path}: wanted a landmark of the task, got the unknown name {_shown(name)}")
        numbers = [number for row in rows for number in row] if _is_grid(rows) else []
        if len(numbers) != 9 or any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
            raise ChallengeError(f"{path}: {name}: wanted a 3 x 3 covariance in mm^2, got something else")
        try:
            matrix = np.array(numbers, np.float64).reshape(3, 3)
        except OverflowError:
            matrix = np.full((3, 3), np.inf)
        scale = np.abs(matrix).max()
        # Above 1e9 mm^2 nothing is a landmark, and the eigenvalues below would overflow.
        if not np.isfinite(matrix).all() or scale > 1e9 or np.abs(matrix - matrix.T).max() > 1e-6 * scale:
            raise ChallengeError(f"{path}: {name}: wanted a finite symmetric covariance in mm^2, got something else")
        if np.linalg.eigvalsh(matrix).min() < -1e-6 * scale:
            raise ChallengeError(f"{path}: {name}: wanted a covariance without negative eigenvalues, got one with")
        result[order[name]] = matrix
    return result


def parse_duration_s(value: Any, *, source: str) -> float:
    """Seconds of an ISO 8601 duration as the platform writes it; NaN for null.

    >>> parse_duration_s("P0DT00H01M03.250000S", source="doctest")
    63.25
    """
    if value is None:
        return np.nan
    match = DURATION.match(value) if isinstance(value, str) and len(value) <= MAX_SHOWN else None
    parts = match.groupdict() if match else {}
    if not any(parts.values()):
        raise ChallengeError(f"{source}: wanted a duration such as PT3.25S or null, got {_shown(value)}")
    factors = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
    return sum(float(parts[key] or 0) * factor for key, factor in factors.items())


def _probability(landmarks: Landmarks, names: Iterable[str]) -> list[float]:
    given = dict(zip(landmarks.names, landmarks.probability.tolist(), strict=True))
    return [given.get(name, 0.0) for name in names]


def _plain_outputs(root: Path, reference: Reference) -> Iterator[tuple[str, _Output]]:
    """A folder of `<case>.json`; hidden files and other extensions are left alone."""
    found = sorted(path.name for path in root.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    if not found:
        raise ChallengeError(f"{root}: wanted {PREDICTIONS} or <case>.json files, got neither")
    for name in found:
        case = name.removesuffix(".json")
        _check_known(case, reference, source=str(root / name[:MAX_SHOWN]))
        yield case, _Output(_inside(root, name, source=str(root)), None)


def _platform_outputs(root: Path, reference: Reference) -> Iterator[tuple[str, _Output]]:
    """The jobs in predictions.json, in whatever order they come."""
    path = root / PREDICTIONS
    jobs = files.read_json(_inside(root, PREDICTIONS, source=str(root)))
    if not isinstance(jobs, list):
        raise ChallengeError(f"{path}: wanted a list of jobs, got {_shown(jobs)}")
    sockets = reference.task.sockets
    seen: set[str] = set()
    for number, job in enumerate(jobs):
        source = f"{path}: job {number}"
        _want_object(job, source)
        case = image_stem(_image_name(job, sockets.image, source))
        _check_known(case, reference, source=source)
        if case in seen:
            raise ChallengeError(f"{source}: wanted each case once, got '{case}' twice")
        seen.add(case)
        if job.get("status", SUCCEEDED) != SUCCEEDED:
            raise ChallengeError(f"{source}: case '{case}': wanted status {SUCCEEDED}, got {_shown(job['status'])}")
        pk = job.get("pk")
        if not isinstance(pk, str) or not re.fullmatch(r"[A-Za-z0-9_\-]{1,100}", pk):
            raise ChallengeError(f"{source}: wanted pk to be letters, digits, - and _, got {_shown(pk)}")
        folder = f"{pk}/output"
        landmarks = _relative_path(job, sockets.landmarks, source)
        if landmarks is None:
            raise ChallengeError(
                f"{source}: case '{case}': wanted the output {sockets.landmarks.slug}, it is not there"
            )
        uncertainty = _relative_path(job, sockets.uncertainty, source)
        yield (
            case,
            _Output(
                landmarks=_inside(root, landmarks, source=source, folder=folder),
                uncertainty=None if uncertainty is None else _inside(root, uncertainty, source=source, folder=folder),
                cold_s=parse_duration_s(job.get("exec_duration"), source=f"{source}: exec_duration"),
                warm_s=parse_duration_s(job.get("invoke_duration"), source=f"{source}: invoke_duration"),
            ),
        )


def _socket_values(job: dict[str, Any], key: str, wanted: Socket, source: str) -> list[tuple[dict, dict]]:
    """(value, socket) pairs of a job's inputs or outputs with the slug that is wanted."""
    values = job.get(key)
    if not isinstance(values, list):
        raise ChallengeError(f"{source}: wanted a list of {key}, got {_shown(values)}")
    found = []
    for value in values:
        _want_object(value, f"{source}: {key}")
        socket = value.get("socket") or value.get("interface")  # `interface` is the platform's older name
        _want_object(socket, f"{source}: {key}: socket")
        if socket.get("slug") == wanted.slug:
            found.append((value, socket))
    if len(found) > 1:
        raise ChallengeError(f"{source}: {key}: wanted '{wanted.slug}' once, got it {len(found)} times")
    return found


def _image_name(job: dict[str, Any], socket: Socket, source: str) -> str:
    found = _socket_values(job, "inputs", socket, source)
    if not found:
        raise ChallengeError(f"{source}: inputs: wanted the image '{socket.slug}', it is not there")
    image = found[0][0].get("image")
    name = image.get("name") if isinstance(image, dict) else None
    if not isinstance(name, str) or not name:
        raise ChallengeError(f"{source}: inputs: wanted image.name of '{socket.slug}', got {_shown(name)}")
    return name


def _relative_path(job: dict[str, Any], socket: Socket, source: str) -> str | None:
    found = _socket_values(job, "outputs", socket, source)
    if not found:
        return None
    path = found[0][1].get("relative_path")
    if not isinstance(path, str) or not path:
        raise ChallengeError(f"{source}: outputs: wanted relative_path of '{socket.slug}', got {_shown(path)}")
    return path


def _inside(root: Path, relative: str, *, source: str, folder: str = "") -> Path:
    """The file `relative` below `root/folder`; refuses every way out of `root`: `..`, absolute paths, links."""
    parts = PurePosixPath(relative).parts
    if relative.startswith("/") or ".." in parts or "\\" in relative or "\0" in relative or len(relative) > 1000:
        raise ChallengeError(f"{source}: wanted a path inside the folder, got {_shown(relative)}")
    path = root.joinpath(folder, *parts)
    try:
        outside = not path.resolve().is_relative_to(root)
        exists = path.is_file()
    except (OSError, RuntimeError):  # a name too long for the file system, a loop of links
        outside, exists = False, False
    if outside:
        raise ChallengeError(f"{source}: wanted a path inside the folder, {_shown(relative)} leads out of it")
    if not exists:
        raise ChallengeError(f"{source}: wanted the file {_shown(relative)}, there is none")
    return path


def _limited(path: Path) -> Path:
    """The same path, refused where the file is larger than any set of landmarks."""
    size = path.stat().st_size
    if size > MAX_POINTS_BYTES:
        raise ChallengeError(f"{path}: wanted at most {MAX_POINTS_BYTES} bytes, got {size}")
    return path


def _check_known(case: str, reference: Reference, *, source: str) -> None:
    if case not in reference.known_cases:
        raise ChallengeError(f"{source}: wanted a case of the reference, got the unknown case {_shown(case)}")


def _want_object(value: Any, source: str) -> None:
    if not isinstance(value, dict):
        raise ChallengeError(f"{source}: wanted an object, got {_shown(value)}")


def _is_grid(rows: Any) -> bool:
    return isinstance(rows, list) and len(rows) == 3 and all(isinstance(row, list) and len(row) == 3 for row in rows)


def _shown(value: Any) -> str:
    """A short one-line picture of a value that may be huge."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value[:MAX_SHOWN])
    return str(value)[:MAX_SHOWN]
