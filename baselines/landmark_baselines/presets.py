"""Settings are plain dataclasses; here they are read back, checked and overridden field by field."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task

Settings = TypeVar("Settings")

# No setting may be negative; with 0 of these there is nothing to train or to look at.
ABOVE_ZERO = (
    "schedule.iterations",
    "schedule.batch",
    "schedule.validate_every",
    "spacing_mm",
    "spacings_mm",
    "width",
    "widths",
)


def of_preset(presets: Mapping[str, Callable[[Task], Settings]], preset: str, task: Task) -> Settings:
    """The settings of a preset for a task. Raises ChallengeError for an unknown one."""
    if preset not in presets:
        raise ChallengeError(f"preset: wanted one of {', '.join(presets)}, got '{preset}'")
    return presets[preset](task)


def from_plain(kind: type[Settings], value: Mapping[str, Any], *, source: str) -> Settings:
    """The settings dataclass in plain values (JSON, YAML). ChallengeError names `source` and the first wrong field."""
    known = {key: part for key, part in value.items() if key in kind.__dataclass_fields__}  # type: ignore[attr-defined]
    try:
        return TypeAdapter(kind).validate_python(known)
    except ValidationError as error:
        # of several kinds that a part may be, the one that had all its fields was meant
        first = min(error.errors(), key=lambda each: each["type"] == "missing")
        came = "" if first["type"] == "missing" else f", got {str(first['input'])[:60]!r}"
        raise ChallengeError(
            f"{source}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}{came}"
        ) from None


def overridden(settings: Settings, assignments: Sequence[str]) -> Settings:
    """Settings with `field=value` or `part.field=value` applied, values in YAML.

    Raises ChallengeError for an unknown field, a value of another type or a number that cannot be.
    """
    plain = asdict(settings)  # type: ignore[call-overload]
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        *parents, last = path.split(".")
        place = plain
        for part in parents:
            place = place.get(part) if isinstance(place.get(part), dict) else {}
        if not equals or last not in place or isinstance(place[last], dict):
            raise ChallengeError(f"--set: wanted field=value with a field of the preset, got '{assignment}'")
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ChallengeError(f"--set: wanted a value in YAML, got '{assignment}'") from None
    changed = from_plain(type(settings), plain, source="--set")
    _refuse_impossible(asdict(changed))  # type: ignore[call-overload]
    return changed


def _refuse_impossible(value: Any, path: str = "") -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _refuse_impossible(part, f"{path}.{key}" if path else key)
    elif isinstance(value, tuple):
        for part in value:
            _refuse_impossible(part, path)
    elif isinstance(value, int | float):
        above = f".{path}".endswith(tuple(f".{name}" for name in ABOVE_ZERO))
        if not math.isfinite(value) or value < 0 or (above and value == 0):
            raise ChallengeError(
                f"--set: {path}: wanted a number {'above 0' if above else 'of at least 0'}, got {value}"
            )
