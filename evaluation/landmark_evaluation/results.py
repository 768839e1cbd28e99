"""metrics.json: what a result holds (DESIGN, section 4). Finite numbers only; no key has a dot, so every path works."""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError

METRICS = "metrics.json"
DETAILS = "details.json"
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Key = Annotated[str, Field(pattern=r"^[^.]+$")]


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Protocol(_Result):
    """What a number means: without it two results cannot be compared."""

    reference: str
    tie: str
    missing_error_mm: Finite
    split: str
    subset: str | None = None
    n_cases: Count
    n_points: Count
    disclosure: str


class ErrorSummary(_Result):
    """Radial errors in mm; sd with n - 1, absent for a single point. `protected` gives mean, median and IQR alone."""

    mean: Finite
    sd: Finite | None = None
    median: Finite
    q25: Finite | None = None
    q75: Finite | None = None
    iqr: Finite
    rms: Finite | None = None
    p95: Finite | None = None
    max: Finite | None = None


class LandmarkResult(_Result):
    """One landmark over all cases."""

    mre_mm: ErrorSummary
    sdr: dict[Key, Share]
    n_missing: Count = 0
    n_false_alarms: Count = 0


class Runtime(_Result):
    """Seconds per case, over the cases that were timed."""

    mean: Finite
    median: Finite
    p95: Finite
    max: Finite


class Aggregates(_Result):
    """The scores. `confidence` mirrors the rest: the 95 % interval of mre_mm.mean is confidence.mre_mm.mean."""

    mre_mm: ErrorSummary
    sdr: dict[Key, Share]
    landmarks: dict[Key, LandmarkResult] | None = None
    n_missing: Count
    n_false_alarms: Count
    runtime_s: Runtime | None = None
    confidence: dict[Key, Any]


class Metrics(_Result):
    """metrics.json."""

    task: str
    task_version: int
    kit_version: str
    protocol: Protocol
    aggregates: Aggregates

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, None left out; raises ValueError for a number that is not finite."""
        value = self.model_dump(mode="json", exclude_none=True)
        _check_finite(value, "metrics")
        return value


def read_metrics(folder: Path) -> Metrics:
    """The metrics.json in a result folder. Raises ChallengeError where it is not one."""
    path = folder / METRICS
    try:
        return Metrics.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the result"
        raise ChallengeError(f"{path}: {place}: {first['msg']}") from None


def _check_finite(value: Any, place: str) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            if "." in key:
                raise ValueError(f"{place}: the key {key} has a dot")
            _check_finite(part, f"{place}.{key}")
    elif isinstance(value, list):
        for part in value:
            _check_finite(part, place)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place}: {value} is not finite")
