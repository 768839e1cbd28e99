"""A task: which landmarks, in which images, scored how. One YAML file each in `data_specs/tasks/`."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from . import files
from .errors import ChallengeError

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LandmarkSpec(_Spec):
    """One landmark: its slug, where it lies in the field's terms, and the labels by which files may mean it."""

    name: Slug
    definition: str = Field(min_length=1)
    abbreviation: str | None = None
    aliases: tuple[str, ...] = ()


class ReferenceRule(_Spec):
    """How the scored reference comes from the observers: one named observer, or the mean of several."""

    rule: Literal["observer", "mean"]
    observers: tuple[Slug, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_observer_is_not_a_mean(self) -> "ReferenceRule":
        if (self.rule == "observer") != (len(self.observers) == 1):
            raise ValueError(f"rule '{self.rule}' does not go with {len(self.observers)} observers")
        return self

    @property
    def text(self) -> str:
        """For example `mean of senior, junior`."""
        return self.observers[0] if self.rule == "observer" else f"mean of {', '.join(self.observers)}"


class Intensity(_Spec):
    """How grey values become 0..1 before a network sees them."""

    rule: Literal["equalise", "window", "percentile"]
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _range_where_one_is_needed(self) -> "Intensity":
        if self.rule == "equalise":
            if self.low is not None or self.high is not None:
                raise ValueError("rule 'equalise' takes neither low nor high")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"rule '{self.rule}' takes low < high")
        return self


class Socket(_Spec):
    """A named input or output of an algorithm container and where it lies below /input or /output."""

    slug: Slug
    relative_path: str = Field(pattern=r"^[A-Za-z0-9_\-./]+$")


class Sockets(_Spec):
    """The three sockets of an algorithm; a task may rename them."""

    image: Socket = Socket(slug="medical-image", relative_path="images/medical-image")
    landmarks: Socket = Socket(slug="anatomical-landmarks", relative_path="anatomical-landmarks.json")
    uncertainty: Socket = Socket(slug="landmark-uncertainty", relative_path="landmark-uncertainty.json")


class RankingColumn(_Spec):
    """One leaderboard column: a dotted path in metrics.json and its direction."""

    title: str
    path: str
    order: Literal["asc", "desc"]


class Ranking(_Spec):
    """How submissions are ordered."""

    rule: Literal["score", "mean-rank", "significance"] = "score"
    columns: tuple[RankingColumn, ...] = Field(
        default=(RankingColumn(title="Mean radial error (mm)", path="aggregates.mre_mm.mean", order="asc"),),
        min_length=1,
    )


class PlaneSpec(_Spec):
    """A standard plane by the landmarks that lie in it: its picture's rows run from the first to the second, the third
    lies in the upper half.
    """

    name: Slug
    title: str = Field(min_length=1)
    landmarks: tuple[Slug, ...] = Field(min_length=3)


class PublishedResult(_Spec):
    """A figure from a paper, with its source; never mixed with our own measurements."""

    method: str
    figures: str
    source: str


class Task(_Spec):
    """A landmark localization task."""

    name: Slug
    version: int = Field(ge=1)
    title: str
    modality: str
    dimension: Literal[2, 3]
    landmarks: tuple[LandmarkSpec, ...] = Field(min_length=1)
    reference: ReferenceRule
    success_thresholds_mm: tuple[Millimetres, ...] = Field(min_length=1)
    success_tie: Literal["strict", "inclusive"]
    missing_error_mm: Millimetres
    ranking: Ranking = Ranking()
    working_spacing_mm: tuple[Millimetres, ...]
    intensity: Intensity
    sockets: Sockets = Sockets()
    # Tight crops give positions away by their border: an import puts each at a random place in an image of this size.
    pad_to_voxels: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    planes: tuple[PlaneSpec, ...] = ()
    published: tuple[PublishedResult, ...] = ()
    source: str
    licence: str

    @model_validator(mode="after")
    def _parts_agree(self) -> "Task":
        names = [landmark.name for landmark in self.landmarks]
        if len(set(names)) != len(names):
            raise ValueError("landmark names come twice")
        if len(self.working_spacing_mm) != self.dimension:
            raise ValueError(f"working_spacing_mm: wanted {self.dimension} numbers, got {len(self.working_spacing_mm)}")
        if self.pad_to_voxels is not None and len(self.pad_to_voxels) != self.dimension:
            raise ValueError(f"pad_to_voxels: wanted {self.dimension} numbers, got {len(self.pad_to_voxels)}")
        if self.planes and self.dimension != 3:
            raise ValueError("planes: wanted a task in 3D")
        if len({plane.name for plane in self.planes}) != len(self.planes):
            raise ValueError("plane names come twice")
        for plane in self.planes:
            unknown = [name for name in plane.landmarks if name not in names]
            if unknown or len(set(plane.landmarks)) != len(plane.landmarks):
                raise ValueError(f"planes: {plane.name}: wanted landmarks of the task, each once")
        if list(self.success_thresholds_mm) != sorted(set(self.success_thresholds_mm)):
            raise ValueError("success_thresholds_mm: wanted increasing values")
        for column in self.ranking.columns:
            self._check_path(column.path)
        if self.missing_error_mm <= self.success_thresholds_mm[-1]:
            raise ValueError("missing_error_mm: wanted more than the largest success threshold")
        return self

    def _check_path(self, path: str) -> None:
        """Raise ValueError for a column of a landmark or a threshold that the task has not."""
        _, *parts = path.split(".")
        if parts[:1] == ["landmarks"] and len(parts) > 1:
            if parts[1] not in self.names:
                raise ValueError(f"ranking: {path}: wanted a landmark of the task, got {parts[1]}")
            parts = parts[2:]
        keys = [threshold_key(threshold) for threshold in self.success_thresholds_mm]
        if parts[:1] == ["sdr"] and len(parts) == 2 and parts[1] not in keys:
            raise ValueError(f"ranking: {path}: wanted one of the thresholds {', '.join(keys)}, got {parts[1]}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The landmark names in the task's order."""
        return tuple(landmark.name for landmark in self.landmarks)


def tasks_folder() -> Path:
    """Where the task files lie: inside the installed package, or in the checkout."""
    here = Path(__file__).parent
    packaged = here / "data_specs" / "tasks"
    return packaged if packaged.is_dir() else here.parents[1] / "data_specs" / "tasks"


def task_names() -> list[str]:
    """The names of the tasks that come with the kit."""
    return sorted(path.stem for path in tasks_folder().glob("*.yaml"))


def load_task(name_or_path: str | Path) -> Task:
    """The task of that name, or in that YAML file. Raises ChallengeError.

    >>> load_task("ceph-19").dimension
    2
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = tasks_folder() / f"{name_or_path}.yaml"
        if str(name_or_path) not in task_names():
            raise ChallengeError(f"task: wanted one of {', '.join(task_names())} or a .yaml file, got '{name_or_path}'")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ChallengeError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ChallengeError(f"{path}: wanted YAML in UTF-8, got something else") from None
    return parse_task(value, source=str(path))


def write_task(task: Task, path: Path) -> None:
    """Write a task as the YAML file that `load_task` reads."""
    value = task.model_dump(mode="json", exclude_none=True)
    files.write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def parse_task(value: Any, *, source: str) -> Task:
    """The task in a parsed YAML or JSON value; ChallengeError names `source` and the first thing wrong."""
    try:
        return Task.model_validate(value)
    except ValidationError as error:
        lacking = [each["loc"][0] for each in error.errors() if each["type"] == "missing" and len(each["loc"]) == 1]
        if len(lacking) > 1:
            names = ", ".join(str(name) for name in lacking)
            raise ChallengeError(f"{source}: wanted the fields {names}, got none of them") from None
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the task"
        raise ChallengeError(f"{source}: {place}: {first['msg']}") from None


def threshold_key(threshold_mm: float) -> str:
    """The key of a success threshold in metrics.json.

    >>> threshold_key(2.5)
    '2_5mm'
    """
    text = f"{threshold_mm:.6f}".rstrip("0")
    return (text + "0" if text.endswith(".") else text).replace(".", "_") + "mm"
