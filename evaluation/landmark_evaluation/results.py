"""metrics.json: what a result holds. Finite numbers only; no key has a dot, so every path works."""

import math
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError

from .confidence import Confidence, Count, Finite, Key, LandmarkConfidence, PairConfidence, Result, Share

METRICS = "metrics.json"
DETAILS = "details.json"


class Protocol(Result):
    """What a number means: without it two results cannot be compared.

    left_out: a rater who is part of the declared mean and is scored against the others (`reference`) instead. n_groups:
    how many patients the cases are of; intervals and tests draw these whole. reference_digest:
    tells the declared reference's points from others (`Reference.digest`). Both absent in results of earlier versions.
    """

    reference: str
    left_out: str | None = None
    declared_reference: str | None = None
    reference_digest: str | None = None
    tie: str
    missing_error_mm: Finite
    split: str
    subset: str | None = None
    n_cases: Count
    n_groups: Count | None = None
    n_points: Count
    disclosure: str

    @property
    def drawn(self) -> str:
        """What intervals and tests draw: cases, or groups of them."""
        return "cases" if self.n_groups in (None, self.n_cases) else "groups of cases"


class ErrorSummary(Result):
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


class LandmarkResult(Result):
    """One landmark over all cases."""

    mre_mm: ErrorSummary
    sdr: dict[Key, Share]
    n_missing: Count = 0
    n_false_alarms: Count = 0


class Runtime(Result):
    """Seconds per case, over the cases that were timed."""

    mean: Finite
    median: Finite
    p95: Finite
    max: Finite


class Noise(Result):
    """What `protected` scores carry: the SD of the noise, where errors are capped in the mean, and how many submissions
    finding one point takes at least. Counts (n_missing, n_false_alarms) carry no noise."""

    mre_mm_sd: Finite
    sdr_sd: Finite
    error_cap_mm: Finite
    locate_radius_mm: Finite
    locate_submissions: Count


class Presence(Result):
    """Is the landmark there: outcomes over assessed landmarks; roc_area of `probability` where both kinds occur."""

    n_present: Count
    n_absent: Count
    n_missing: Count
    n_false_alarms: Count
    n_rejected: Count
    sensitivity: Share | None = None
    specificity: Share | None = None
    roc_area: Share | None = None


class Agreement(Result):
    """Bland-Altman along one axis, in mm: mean difference, its SD, 95 % limits of agreement."""

    bias_mm: Finite
    sd_mm: Finite
    low_mm: Finite
    high_mm: Finite


class ObserverResult(Result):
    """One observer scored like a submission; landmark_mean_mm in the task's order."""

    observer: str
    against: str
    n_cases: Count
    n_points: Count
    mre_mm: ErrorSummary
    sdr: dict[Key, Share]
    landmark_mean_mm: list[Finite | None]
    confidence: LandmarkConfidence | None = None


class ObserverPair(Result):
    """Two observers on the cases that both marked: `intra` is one person marking twice, `inter` are two."""

    observers: tuple[str, str]
    kind: str
    n_cases: Count
    n_points: Count
    mre_mm: ErrorSummary
    landmark_mean_mm: list[Finite | None]
    agreement: dict[Key, Agreement]
    confidence: PairConfidence | None = None


class Observers(Result):
    """mean_mm: mean error of the observers, the noise ceiling, and by landmark; relative_error: this submission's mean
    divided by it."""

    scored: list[ObserverResult]
    pairs: list[ObserverPair]
    mean_mm: Finite
    landmark_mean_mm: dict[Key, Finite] | None = None
    relative_error: Finite | None = None


class PartOfError(Result):
    """Radial errors and success rates of what is left of an error, or a part of it."""

    mre_mm: ErrorSummary
    sdr: dict[Key, Share]
    confidence: LandmarkConfidence | None = None


class Conventions(Result):
    """What a fixed offset of each landmark explains. offset_mm: median of submission - reference by landmark, along x,
    y[, z]. without_offsets: the errors without those of the other cases. reference_noise: what a mean of several
    observers itself errs by. offsets_and_noise: the errors of a submission that had these offsets and no other error.
    """

    offset_mm: dict[Key, tuple[Finite, ...]]
    without_offsets: PartOfError
    reference_noise: PartOfError | None = None
    offsets_and_noise: PartOfError | None = None


class Correlation(Result):
    """Correlation coefficient; its interval over groups of cases says whether it is more than chance.

    Results of earlier versions have a p-value beside it, which took points of one image as independent: it is dropped.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    r: Finite


class Uncertainty(Result):
    """Does the submission know how wrong it is? n_points: those with a covariance. coverage: nominal level in % ->
    share of errors inside, of all given points: one without a covariance counts as outside. share_with_covariance:
    absent in results of earlier versions, whose coverage is over n_points.
    """

    n_points: Count
    share_with_covariance: Share | None = None
    pearson: Correlation | None = None
    spearman: Correlation | None = None
    ellipsoid_90_mm3: dict[Key, Finite] | None = None
    ellipsoid_90_mm2: dict[Key, Finite] | None = None
    coverage: dict[Key, Share]
    sparsification_error: Finite | None = None


class ClinicalResult(Result):
    """One clinical analysis: how often the class is the reference's."""

    n_cases: Count
    success_classification_rate: Share
    mean_absolute_difference: Finite | None = None


class Subgroup(Result):
    """The cases with one value in one column of cases.csv."""

    column: str
    value: str
    n_cases: Count
    n_points: Count
    n_missing: Count
    mre_mm: ErrorSummary
    sdr: dict[Key, Share]
    confidence: LandmarkConfidence | None = None


class Aggregates(Result):
    """The scores. `confidence` mirrors the rest: the 95 % interval of mre_mm.mean is confidence.mre_mm.mean."""

    mre_mm: ErrorSummary
    sdr: dict[Key, Share]
    landmarks: dict[Key, LandmarkResult] | None = None
    n_missing: Count
    n_false_alarms: Count
    runtime_s: Runtime | None = None
    runtime_cold_s: Runtime | None = None
    runtime_warm_s: Runtime | None = None
    confidence: Confidence | None = None
    noise: Noise | None = None
    success_curve_area: Share | None = None
    n_failures: dict[Key, Count] | None = None
    presence: Presence | None = None
    bias: dict[Key, Agreement] | None = None
    observers: Observers | None = None
    conventions: Conventions | None = None
    uncertainty: Uncertainty | None = None
    clinical: dict[Key, ClinicalResult] | None = None
    subgroups: list[Subgroup] | None = None


class Metrics(Result):
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
