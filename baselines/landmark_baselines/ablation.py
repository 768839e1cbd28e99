"""What a method's own paper compares: the rows of its ablation, and which trainings they need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

OPTIONS = ("single", "local")


@dataclass(frozen=True)
class Row:
    """One row. variant: key of the method's VARIANTS, "" for the method as it is. view: fields of the settings that are
    changed after training, so that rows of one variant share one training. option: the row is there only if asked for;
    `single` trains one network per landmark, each for that landmark alone.
    """

    name: str
    variant: str = ""
    view: Mapping[str, Any] = field(default_factory=dict)
    option: str = ""


@dataclass(frozen=True)
class Training:
    """What is trained once and serves `rows`. fixed: what all their views agree on is already so in training."""

    folder: str
    variant: str
    fixed: Mapping[str, Any]
    single: bool
    rows: tuple[Row, ...]


def rows_of(method: ModuleType, *, options: Sequence[str] = ()) -> list[Row]:
    """The rows of a method: its STUDY, else one per entry of its VARIANTS, else the method alone."""
    rows: Sequence[Row] = getattr(method, "STUDY", ()) or [Row(name, name) for name in getattr(method, "VARIANTS", ())]
    rows = rows or [Row(method.__name__.rpartition(".")[2])]
    chosen = [row for row in rows if not row.option or row.option in options]
    if "single" in options and not any(row.option == "single" for row in chosen):
        chosen.append(Row("a network per landmark", option="single"))
    return chosen


def trainings_of(rows: Sequence[Row]) -> list[Training]:
    """The trainings that the rows need, in their order.

    >>> [training.folder for training in trainings_of([Row("a", "R", {"local": False}), Row("b", "C"), Row("c", "R")])]
    ['R', 'C']
    >>> trainings_of([Row("a", "R", {"local": False})])[0].folder
    'R-local=False'
    """
    groups: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.variant, row.option == "single"), []).append(row)
    trainings = []
    for (variant, single), members in groups.items():
        fixed = {
            key: value
            for key, value in members[0].view.items()
            if all(key in row.view and row.view[key] == value for row in members)
        }
        parts = [variant or "method", *(f"{key}={value}" for key, value in fixed.items()), *["single"] * single]
        trainings.append(Training("-".join(parts), variant, fixed, single, tuple(members)))
    return trainings
