"""What every file that crosses a boundary looks like, as models and as JSON Schemas (`data_specs/schemas`).

The programs read these files with their own strict parsers, whose messages name the file and the fault; the models here
are the written contract. Tests hold both to each other.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from . import files
from .reference import ReferenceHeader
from .task import Slug, Task

Finite = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
CaseName = Annotated[str, Field(pattern=r"^[^./][^/]*$")]
ThresholdKey = Annotated[str, Field(pattern=r"^[0-9]+_[0-9]+mm$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Vector = tuple[Finite, Finite, Finite]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Open(BaseModel):
    """Further keys are allowed: the platform, or a later version of the kit, adds its own."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Version(_Closed):
    """The version of the platform's annotation format."""

    major: Literal[1]
    minor: int


class Point(_Closed):
    """One landmark: millimetres, LPS; a 2D image has z = 0. Without a probability it is 1."""

    name: str = Field(min_length=1)
    type: Literal["Point"] = "Point"
    point: Vector
    probability: Fraction = 1.0


class Points(_Closed):
    """landmarks/<observer>/<case>.json and anatomical-landmarks.json: the platform's "Multiple points"."""

    name: str = "landmarks"
    type: Literal["Multiple points"]
    points: tuple[Point, ...] = Field(max_length=10_000)
    version: Version


class Uncertainty(RootModel[dict[str, tuple[Vector, Vector, Vector]]]):
    """landmark-uncertainty.json: a covariance in mm^2 by landmark name; `{}` where a method has none."""


class DatasetFile(_Closed):
    """dataset.json. digests: SHA-256 of each case's grey values, to find identical images."""

    task: Slug
    task_version: int = Field(ge=1)
    source: str
    licence: str
    digests: dict[CaseName, Digest] = {}


class SocketName(_Open):
    """What a value belongs to."""

    slug: str
    relative_path: str


class SocketImage(_Open):
    """The stored image; its name is the case key plus an extension."""

    name: str
    pk: str | None = None


class SocketValue(_Open):
    """One input or output of a job; older records say `interface` where newer ones say `socket`."""

    socket: SocketName | None = None
    interface: SocketName | None = None
    image: SocketImage | None = None


class Job(_Open):
    """One case: what went in, what came out below `<pk>/output/`, how long it took (ISO 8601)."""

    pk: str = Field(min_length=1)
    inputs: tuple[SocketValue, ...] = Field(min_length=1)
    outputs: tuple[SocketValue, ...]
    status: str
    exec_duration: str | None = None
    invoke_duration: str | None = None


class Predictions(RootModel[tuple[Job, ...]]):
    """predictions.json: one job per case, in no specific order."""


class ErrorFigures(_Open):
    """Of radial errors in millimetres; sd with n - 1, absent for one alone. `protected` gives mean, median, IQR."""

    mean: NotNegative
    sd: NotNegative | None = None
    median: NotNegative
    q25: NotNegative | None = None
    q75: NotNegative | None = None
    iqr: NotNegative
    rms: NotNegative | None = None
    p95: NotNegative | None = None
    max: NotNegative | None = None


class LandmarkFigures(_Open):
    """The figures of one landmark."""

    mre_mm: ErrorFigures
    sdr: dict[ThresholdKey, Fraction]


class RuntimeFigures(_Open):
    """Seconds per case."""

    mean: NotNegative
    median: NotNegative
    p95: NotNegative
    max: NotNegative


class Aggregates(_Open):
    """Over all cases and points; `landmarks` is absent under `protected`."""

    mre_mm: ErrorFigures
    sdr: dict[ThresholdKey, Fraction]
    landmarks: dict[Slug, LandmarkFigures] | None = None
    n_missing: Count
    n_false_alarms: Count
    runtime_s: RuntimeFigures | None = None
    confidence: dict[str, Any] | None = None


class Protocol(_Open):
    """Against what and how a result was scored."""

    reference: str
    reference_digest: Digest | None = None
    tie: Literal["strict", "inclusive"]
    missing_error_mm: NotNegative
    n_cases: Count
    n_groups: Count | None = None
    n_points: Count
    disclosure: Literal["open", "protected"]


class Metrics(_Open):
    """metrics.json."""

    task: Slug
    task_version: int = Field(ge=1)
    kit_version: str
    protocol: Protocol
    aggregates: Aggregates


class ModelFile(_Open):
    """model.json of a model folder; the weights lie beside it in weights.safetensors."""

    method: str
    preset: str
    settings: dict[str, Any]
    task: Task
    provenance: dict[str, Any]
    mean_shape: Any


SCHEMAS: dict[str, type[BaseModel]] = {
    "task": Task,
    "points": Points,
    "uncertainty": Uncertainty,
    "dataset": DatasetFile,
    "predictions": Predictions,
    "reference": ReferenceHeader,
    "metrics": Metrics,
    "model": ModelFile,
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema (2020-12) of every boundary file by its short name."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {name: {"$schema": dialect, **model.model_json_schema()} for name, model in SCHEMAS.items()}


def export_schemas(folder: Path) -> list[Path]:
    """Write `<name>.schema.json` for every boundary file into `folder`; the paths written."""
    paths = []
    for name, schema in sorted(json_schemas().items()):
        path = folder / f"{name}.schema.json"
        files.write_json(path, schema)
        paths.append(path)
    return paths
