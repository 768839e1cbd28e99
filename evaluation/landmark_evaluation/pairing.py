"""Submissions from disk, paired with the reference: every scored case must be there, and nothing unknown may be.

Two layouts: the platform's (`predictions.json` beside `<pk>/output/...`), and a plain folder of
`<case>.json` points files. No path is followed out of the given folder.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import image_stem
from landmark_challenge.task import Socket

from .answers import read_answer, shown
from .references import Reference

PREDICTIONS = "predictions.json"
MAX_DURATION_LENGTH = 80
SUCCEEDED = "Succeeded"
DURATION = re.compile(
    r"P(?:(?P<days>\d{1,6})D)?(?:T(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?(?:(?P<seconds>\d{1,9}(?:\.\d{1,9})?)S)?)?",
    re.ASCII,
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
        answer = read_answer(outputs[name].landmarks, outputs[name].uncertainty, names=names)
        points[row], probability[row], covariance[row] = answer.points_mm, answer.probability, answer.covariance_mm2
    return Submission(
        points_mm=points,
        probability=probability,
        covariance_mm2=covariance,
        cold_s=np.array([outputs[name].cold_s for name in scored]),
        warm_s=np.array([outputs[name].warm_s for name in scored]),
        beyond=len(outputs) - len(scored),
    )


def parse_duration_s(value: Any, *, source: str) -> float:
    """Seconds of an ISO 8601 duration as the platform writes it; NaN for null.

    >>> parse_duration_s("P0DT00H01M03.250000S", source="doctest")
    63.25
    """
    if value is None:
        return np.nan
    match = DURATION.fullmatch(value) if isinstance(value, str) and len(value) <= MAX_DURATION_LENGTH else None
    parts = match.groupdict() if match else {}
    if not any(parts.values()):
        raise ChallengeError(f"{source}: wanted a duration such as PT3.25S or null, got {shown(value)}")
    factors = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
    return sum(float(parts[key] or 0) * factor for key, factor in factors.items())


def _plain_outputs(root: Path, reference: Reference) -> Iterator[tuple[str, _Output]]:
    """A folder of `<case>.json`, and `<case>.landmark-uncertainty.json` where a method gives covariances; hidden files
    and other extensions are left alone."""
    ending = f".{reference.task.sockets.uncertainty.slug}.json"
    found = sorted(path.name for path in root.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    if not found:
        raise ChallengeError(f"{root}: wanted {PREDICTIONS} or <case>.json files, got neither")
    answers = {name.removesuffix(".json") for name in found if not name.endswith(ending)}
    for name in found:
        case = name.removesuffix(ending) if name.endswith(ending) else name.removesuffix(".json")
        _check_known(case, reference, source=str(root / name[:80]))
        if case not in answers:
            raise ChallengeError(
                f"{root / name[:80]}: wanted the points of this case beside it, {case}.json is not there"
            )
    uncertain = {
        name.removesuffix(ending): _inside(root, name, source=str(root)) for name in found if name.endswith(ending)
    }
    for case in sorted(answers):
        yield case, _Output(_inside(root, f"{case}.json", source=str(root)), uncertain.get(case))


def _platform_outputs(root: Path, reference: Reference) -> Iterator[tuple[str, _Output]]:
    """The jobs in predictions.json, in whatever order they come."""
    path = root / PREDICTIONS
    jobs = files.read_json(_inside(root, PREDICTIONS, source=str(root)))
    if not isinstance(jobs, list):
        raise ChallengeError(f"{path}: wanted a list of jobs, got {shown(jobs)}")
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
            raise ChallengeError(f"{source}: case '{case}': wanted status {SUCCEEDED}, got {shown(job['status'])}")
        pk = job.get("pk")
        if not isinstance(pk, str) or not re.fullmatch(r"[A-Za-z0-9_\-]{1,100}", pk):
            raise ChallengeError(f"{source}: wanted pk to be letters, digits, - and _, got {shown(pk)}")
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
        raise ChallengeError(f"{source}: wanted a list of {key}, got {shown(values)}")
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
        raise ChallengeError(f"{source}: inputs: wanted image.name of '{socket.slug}', got {shown(name)}")
    return name


def _relative_path(job: dict[str, Any], socket: Socket, source: str) -> str | None:
    found = _socket_values(job, "outputs", socket, source)
    if not found:
        return None
    path = found[0][1].get("relative_path")
    if not isinstance(path, str) or not path:
        raise ChallengeError(f"{source}: outputs: wanted relative_path of '{socket.slug}', got {shown(path)}")
    return path


def _inside(root: Path, relative: str, *, source: str, folder: str = "") -> Path:
    """The file `relative` below `root/folder`; refuses every way out of `root`: `..`, absolute paths, links."""
    parts = PurePosixPath(relative).parts
    if relative.startswith("/") or ".." in parts or "\\" in relative or "\0" in relative or len(relative) > 1000:
        raise ChallengeError(f"{source}: wanted a path inside the folder, got {shown(relative)}")
    path = root.joinpath(folder, *parts)
    try:
        outside = not path.resolve().is_relative_to(root)
        exists = path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long for the file system, a loop of links, no text
        outside, exists = False, False
    if outside:
        raise ChallengeError(f"{source}: wanted a path inside the folder, {shown(relative)} leads out of it")
    if not exists:
        raise ChallengeError(f"{source}: wanted the file {shown(relative)}, there is none")
    return path


def _check_known(case: str, reference: Reference, *, source: str) -> None:
    if case not in reference.known_cases:
        raise ChallengeError(f"{source}: wanted a case of the reference, got the unknown case {shown(case)}")


def _want_object(value: Any, source: str) -> None:
    if not isinstance(value, dict):
        raise ChallengeError(f"{source}: wanted an object, got {shown(value)}")
