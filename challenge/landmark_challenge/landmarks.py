"""Named points of one image in millimetres, and the platform's JSON for them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import files
from .errors import ChallengeError

PRESENT_PROBABILITY = 0.5
MAX_POINTS = 10_000


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Landmarks of one image.

    names: unique names, in any order. points_mm: (n_points, 3) float64, millimetres, LPS (ITK physical space); a 2D
    image has z = 0. probability: (n_points,) float64 in 0..1 that the landmark is in the image, 1 where none is given.
    A landmark that is not listed is absent. Raises ChallengeError on other shapes, doubled names or values not finite.

    >>> Landmarks(["sella"], [[1.0, 2.0, 0.0]]).point_mm("sella")
    array([1., 2., 0.])
    """

    names: tuple[str, ...]
    points_mm: NDArray[np.float64]
    probability: NDArray[np.float64]

    def __init__(self, names: Sequence[str], points_mm: ArrayLike, probability: ArrayLike | None = None) -> None:
        names = tuple(names)
        points = np.array(points_mm, dtype=np.float64).reshape(-1, 3) if len(names) else np.zeros((0, 3))
        chances = np.ones(len(names)) if probability is None else np.array(probability, dtype=np.float64).reshape(-1)
        if len(points) != len(names) or len(chances) != len(names):
            raise ChallengeError(f"landmarks: {len(names)} names, {len(points)} points, {len(chances)} probabilities")
        if len(set(names)) != len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise ChallengeError(f"landmarks: wanted each name once, got '{doubled}' twice")
        if not np.isfinite(points).all():
            raise ChallengeError("landmarks: wanted finite coordinates, got NaN or infinity")
        if not ((chances >= 0) & (chances <= 1)).all():
            raise ChallengeError("landmarks: wanted probabilities in 0..1")
        points.flags.writeable = chances.flags.writeable = False
        for name, value in (("names", names), ("points_mm", points), ("probability", chances)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Landmarks)
            and self.names == other.names
            and np.array_equal(self.points_mm, other.points_mm)
            and np.array_equal(self.probability, other.probability)
        )

    __hash__ = None  # type: ignore[assignment]

    def point_mm(self, name: str) -> NDArray[np.float64]:
        """(3,) millimetres of the landmark `name`; KeyError if it is not listed."""
        try:
            return self.points_mm[self.names.index(name)]
        except ValueError:
            raise KeyError(name) from None

    def aligned_mm(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(len(names), 3) millimetres in the order of `names`; NaN where a landmark is absent."""
        result = np.full((len(names), 3), np.nan)
        index = {name: i for i, name in enumerate(self.names)}
        for row, name in enumerate(names):
            if name in index and self.probability[index[name]] >= PRESENT_PROBABILITY:
                result[row] = self.points_mm[index[name]]
        return result


@dataclass(frozen=True)
class Localization:
    """What a method finds in one image: the landmarks, and (3, 3) covariances in mm^2 by name where it has them."""

    landmarks: Landmarks
    covariance_mm2: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def to_platform_json(landmarks: Landmarks, *, title: str = "landmarks") -> dict[str, Any]:
    """The platform's "Multiple points" v1.0 of `landmarks`, ready for JSON; a probability of 1 is left out."""
    points: list[dict[str, Any]] = []
    for name, point, chance in zip(landmarks.names, landmarks.points_mm, landmarks.probability, strict=True):
        item: dict[str, Any] = {"name": name, "point": [float(value) for value in point]}
        if chance != 1.0:
            item["probability"] = float(chance)
        points.append(item)
    return {"name": title, "type": "Multiple points", "points": points, "version": {"major": 1, "minor": 0}}


def from_platform_json(value: Any, *, source: str, names: Sequence[str] | None = None) -> Landmarks:
    """The landmarks in a "Multiple points" v1.0 value.

    Every point needs a name, each name comes once, and with `names` given only those are known. The optional key
    that the platform may add (`time_index`) is tolerated. Raises ChallengeError: `source`, what was wanted, what came.
    """
    _expect(isinstance(value, dict), source, "an object of type 'Multiple points'", value)
    _expect(value.get("type") == "Multiple points", source, "type 'Multiple points'", value.get("type"))
    _expect_keys(value, {"name", "type", "points", "version"}, {"time_index"}, source)
    _expect(isinstance(value.get("name", ""), str), source, "a text as name", value.get("name"))
    version = value.get("version")
    _expect(
        isinstance(version, dict)
        and set(version) == {"major", "minor"}
        and all(isinstance(part, int) and not isinstance(part, bool) for part in version.values())
        and version["major"] == 1,
        source,
        "version {'major': 1, 'minor': 0}",
        version,
    )
    points = value.get("points")
    _expect(isinstance(points, list), source, "a list of points", points)
    if len(points) > MAX_POINTS:
        raise ChallengeError(f"{source}: wanted at most {MAX_POINTS} points, got {len(points)}")
    known = None if names is None else set(names)
    seen: set[str] = set()
    coordinates: list[list[float]] = []
    chances: list[float] = []
    order: list[str] = []
    for index, item in enumerate(points):
        where = f"{source}: point {index}"
        _expect(isinstance(item, dict), where, "an object", item)
        _expect_keys(item, {"name", "type", "point", "probability"}, {"time_index"}, where)
        name = item.get("name")
        _expect(isinstance(name, str) and bool(name), where, "a name", name)
        _expect(item.get("type", "Point") == "Point", where, "type 'Point'", item.get("type"))
        if known is not None and name not in known:
            raise ChallengeError(f"{where}: wanted a landmark of the task, got the unknown name {_brief(name)}")
        if name in seen:
            raise ChallengeError(f"{where}: wanted each landmark once, got {_brief(name)} twice")
        seen.add(name)
        point = item.get("point")
        _expect(isinstance(point, list) and len(point) == 3, where, "point [x, y, z] in mm", point)
        coordinates.append([_finite(number, where) for number in point])
        chance = _finite(item.get("probability", 1.0), where)
        _expect(0.0 <= chance <= 1.0, where, "a probability in 0..1", chance)
        chances.append(chance)
        order.append(name)
    return Landmarks(order, coordinates, chances)


def read_landmarks(path: Path, *, names: Sequence[str] | None = None) -> Landmarks:
    """The landmarks in a points JSON file; see `from_platform_json`."""
    return from_platform_json(files.read_json(path), source=str(path), names=names)


def write_landmarks(path: Path, landmarks: Landmarks, *, title: str = "landmarks") -> None:
    """Write the platform's points JSON, whole or not at all."""
    files.write_json(path, to_platform_json(landmarks, title=title))


def _finite(number: Any, where: str) -> float:
    if type(number) is float and math.isfinite(number):
        return number
    _expect(isinstance(number, int | float) and not isinstance(number, bool), where, "a number", number)
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ChallengeError(f"{where}: wanted a finite number, got one too large")
    return value


def _expect_keys(value: dict[str, Any], known: set[str], tolerated: set[str], where: str) -> None:
    extra = [key for key in value if key not in known | tolerated]
    if extra:
        raise ChallengeError(f"{where}: wanted only {sorted(known)}, got the key {_brief(extra[0])}")


def _expect(condition: bool, where: str, wanted: str, came: Any) -> None:
    if not condition:
        raise ChallengeError(f"{where}: wanted {wanted}, got {_brief(came)}")


def _brief(value: Any) -> str:
    """A short, single-line picture of a value that may be huge or deeply nested."""
    if isinstance(value, dict | list):
        kind = "an object" if isinstance(value, dict) else "a list"
        return f"{kind} of {len(value)}"
    if value is None:
        return "nothing"
    text = repr(value[:60] if isinstance(value, str) else value) if not isinstance(value, int) else str(value)[:60]
    return text[:80]
