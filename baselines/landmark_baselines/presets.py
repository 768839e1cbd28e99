"""Settings are plain dataclasses; here they are read back, checked and overridden field by field."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task

Settings = TypeVar("Settings")


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
        first = error.errors()[0]
        raise ChallengeError(f"{source}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def overridden(settings: Settings, assignments: Sequence[str]) -> Settings:
    """Settings with `field=value` or `part.field=value` applied, values in YAML.

    Raises ChallengeError for an unknown field or a value of another type.
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
    return from_plain(type(settings), plain, source="--set")
