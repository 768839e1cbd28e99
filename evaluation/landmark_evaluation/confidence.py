"""The 95 % intervals in metrics.json, and what all parts of a result are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Interval95 = tuple[Finite, Finite]
Key = Annotated[str, Field(pattern=r"^[^.]+$")]


class Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LandmarkConfidence(Result):
    """95 % intervals of error statistics and success rates: of one landmark, one observer or one subgroup."""

    mre_mm: dict[Key, Interval95]
    sdr: dict[Key, Interval95]


class CorrelationConfidence(Result):
    """95 % interval of a correlation coefficient."""

    r: Interval95


class UncertaintyConfidence(Result):
    """95 % intervals of the figures of an uncertainty section."""

    share_with_covariance: Interval95 | None = None
    pearson: CorrelationConfidence | None = None
    spearman: CorrelationConfidence | None = None
    ellipsoid_90_mm3: dict[Key, Interval95] | None = None
    ellipsoid_90_mm2: dict[Key, Interval95] | None = None
    coverage: dict[Key, Interval95]
    sparsification_error: Interval95 | None = None


class ObserversConfidence(Result):
    """95 % intervals of the noise ceiling, and of this submission's error relative to it."""

    mean_mm: Interval95 | None = None
    landmark_mean_mm: dict[Key, Interval95] | None = None
    relative_error: Interval95 | None = None


class PairConfidence(Result):
    """95 % intervals of the distances between two observers, and of their agreement by axis."""

    mre_mm: dict[Key, Interval95]
    agreement: dict[Key, dict[Key, Interval95]]


class Confidence(LandmarkConfidence):
    """95 % intervals by bootstrap over groups of cases; the path mirrors the one of the figure itself.

    Observers, pairs and subgroups carry their own beside them. Counts and maxima have none.
    """

    landmarks: dict[Key, LandmarkConfidence]
    success_curve_area: Interval95 | None = None
    presence: dict[Key, Interval95] | None = None
    bias: dict[Key, dict[Key, Interval95]] | None = None
    clinical: dict[Key, dict[Key, Interval95]] | None = None
    observers: ObserversConfidence | None = None
    uncertainty: UncertaintyConfidence | None = None
    runtime_s: dict[Key, Interval95] | None = None
    runtime_cold_s: dict[Key, Interval95] | None = None
    runtime_warm_s: dict[Key, Interval95] | None = None
