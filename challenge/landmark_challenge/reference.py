"""The reference folder: what an organiser hides, and all that an evaluation ever sees of a dataset.

`reference.json` beside `landmarks/<observer>/<case>.json`; images never travel with it.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from . import files
from .dataset import REFERENCE, Case, Dataset
from .errors import ChallengeError
from .landmarks import write_landmarks
from .task import ReferenceRule, Task

HEADER = "reference.json"
SECRET_BYTES = 32


class ReferenceCase(BaseModel):
    """A case as an evaluation knows it.

    size, spacing (mm), origin (mm): in the order x, y[, z]; direction: row by row, columns are the image axes in LPS.
    All four are absent where the dataset has no image of the case. columns: the subgroups to report by. group: which
    cases are of one patient, by a number that tells nothing else; absent where every case is of its own.
    """

    model_config = ConfigDict(frozen=True)

    size: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None
    group: str | None = Field(default=None, min_length=1)
    subset: str = ""
    not_assessed: tuple[str, ...] = ()
    columns: dict[str, str] = Field(default_factory=dict)


class ReferenceHeader(BaseModel):
    """`reference.json`. details: whether a container may write details.json (only with `open`).

    secret: hexadecimal key of the noise on `protected` scores; it never leaves the folder.
    """

    model_config = ConfigDict(frozen=True)

    task: Task
    rule: str
    disclosure: Literal["open", "protected"]
    split: str = "test"
    details: bool = False
    secret: str | None = Field(default=None, pattern=r"^[0-9a-f]{64,}$")
    cases: dict[str, ReferenceCase] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_agree(self) -> "ReferenceHeader":
        if self.disclosure == "protected" and self.secret is None:
            raise ValueError("disclosure 'protected' needs a secret")
        if self.disclosure == "protected" and self.details:
            raise ValueError("disclosure 'protected' and details exclude each other")
        known = set(self.task.names)
        for name, case in self.cases.items():
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"cases: wanted plain file names, got '{name[:60]}'")
            if not known.issuperset(case.not_assessed):
                raise ValueError(f"cases: {name}: not_assessed: wanted landmarks of {self.task.name}")
        return self


def check_details(disclosure: str, *, details: bool) -> None:
    """Raise ChallengeError where details.json would tell what protected scores hide."""
    if details and disclosure != "open":
        raise ChallengeError(f"--details: goes with --disclosure open, got {disclosure}")


def read_reference_header(folder: Path) -> ReferenceHeader:
    """The checked `reference.json` of a reference folder. Raises ChallengeError: what was wanted, what came."""
    path = folder / HEADER
    try:
        return ReferenceHeader.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the reference"
        raise ChallengeError(f"{path}: {place}: {first['msg']}") from None


def write_reference(
    dataset: Dataset,
    folder: Path,
    *,
    split: str = "test",
    subset: str | None = None,
    disclosure: Literal["open", "protected"] = "protected",
    details: bool = False,
    observer: str | None = None,
) -> ReferenceHeader:
    """Write the reference folder of one split of `dataset`, whole or not at all; every observer goes with it.

    observer: whose points are scored in place of the task's rule; the task that travels with the folder says so.
    Raises ChallengeError for a split without cases, or a case without a reference.
    """
    check_details(disclosure, details=details)
    cases = dataset.wanted_cases(split, subset=subset)
    task = dataset.task
    if observer is not None:
        named = ReferenceRule(rule="observer", observers=(observer,))
        task = task.model_copy(update={"reference": named})
    groups = _group_numbers(cases)
    header = ReferenceHeader(
        task=task,
        rule=task.reference.text,
        disclosure=disclosure,
        split=split,
        details=details,
        secret=secrets.token_hex(SECRET_BYTES) if disclosure == "protected" else None,
        cases={case.name: _describe(dataset, case, group=groups.get(case.group)) for case in cases},
    )
    with files.staged_folder(folder) as staging:
        for who in dataset.observers:
            source = observer if who == REFERENCE and observer is not None else who
            for case in cases:
                # A rater need not have marked every case; what is scored must be there.
                if who == REFERENCE or dataset.landmarks_path(case.name, observer=who).is_file():
                    points = dataset.landmarks(case.name, observer=source)
                    write_landmarks(staging / "landmarks" / who / f"{case.name}.json", points)
        files.write_json(staging / HEADER, header.model_dump(mode="json", exclude_none=True))
    return header


def _group_numbers(cases: Sequence[Case]) -> dict[str, str]:
    """An opaque number for each group, as its name may be a patient's; none where every case is a group of its own."""
    groups = list(dict.fromkeys(case.group for case in cases))
    return {group: str(number) for number, group in enumerate(groups, start=1)} if len(groups) < len(cases) else {}


def _describe(dataset: Dataset, case: Case, *, group: str | None) -> ReferenceCase:
    image = dataset.geometry(case.name) if dataset.has_images else None
    return ReferenceCase(
        group=group,
        subset=case.subset,
        not_assessed=case.not_assessed,
        columns=dict(case.columns),
        size=None if image is None else image.size,
        spacing=None if image is None else tuple(image.spacing_mm.tolist()),
        origin=None if image is None else tuple(image.origin_mm.tolist()),
        direction=None if image is None else tuple(image.direction.flatten().tolist()),
    )
