"""Tables of points: any CSV whose columns are named, in voxels or millimetres, 0- or 1-based, RAS or LPS.

`read_points` and `write_points` know the kit's own table: name,x,y,z,probability in millimetres LPS.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from .. import files
from ..dataset import SPLITS, Case, check_groups
from ..errors import ChallengeError
from ..images import Image
from ..landmarks import Landmarks
from ..task import Task
from .folder import needed, write_dataset
from .naming import named, slug
from .pairing import Layout, find_images

OWN_COLUMNS = ("name", "x", "y", "z", "probability")
ROLES = ("case", "landmark", "x", "y", "z", "observer", "split", "group", "probability")
TO_LPS = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1)}


@dataclass(frozen=True)
class Columns:
    """How a table is read.

    table: its path below the folder; by default the only .csv there. columns: role -> column, for `ROLES`; where `x`
    holds `{name}` or `{number}`, a row is a case and every landmark has columns of its own. units: `voxel` (of the
    stored array) or `mm`; may be left out where the columns are called i, j, k or end with _mm. first_index: 0 or 1,
    that of the first voxel. axes: `LPS` or `RAS`, of millimetres.
    """

    table: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    units: str | None = None
    first_index: int = 0
    axes: str = "LPS"

    def role(self, name: str) -> str:
        """The column that plays the role `name`."""
        return self.columns.get(name, name)

    @property
    def wide(self) -> bool:
        """Whether a row is a case."""
        return "{" in self.role("x")


@dataclass(frozen=True)
class Row:
    """One point of a table, its numbers as they stand there."""

    case: str
    observer: str
    label: str
    numbers: tuple[float, ...]
    probability: float
    split: str
    group: str


def import_dataset(
    source: Path,
    output: Path,
    *,
    task: Task | None = None,
    spacing_mm: Sequence[float] | None = None,
    layout: Layout | None = None,
    columns: Columns | None = None,
) -> None:
    """Import a folder with one table of points and, unless it is of raters only, images named by case.

    Raises ChallengeError for a column that is not there, a number that is none, a case without its image.
    """
    task, layout, columns = needed(task), layout or Layout(), columns or Columns()
    table = _find_table(source, columns.table)
    columns = _told_by_header(table, columns, task)
    _check_columns(columns, dimension=task.dimension)
    rows = _read_rows(table, columns, task)
    images = find_images(source, layout.images)
    names = list(dict.fromkeys(row.case for row in rows))
    if (images or columns.units == "voxel") and (absent := [name for name in names if name not in images]):
        raise ChallengeError(f"{table}: wanted an image of case '{absent[0]}' below {source}, there is none")
    by_case: dict[str, list[Row]] = {name: [] for name in names}
    for row in rows:
        by_case[row.case].append(row)

    def place(name: str, image: Image | None) -> dict[str, Landmarks]:
        return _landmarks(by_case[name], image, columns, task, source=f"{table}: case '{name}'")

    write_dataset(
        output,
        task=task,
        images=dict(images),
        points={name: partial(place, name) for name in names},
        layout=layout,
        spacing_mm=spacing_mm,
        cases=_own_splits(by_case, columns, table),
    )


def read_points(path: Path, *, task: Task | None = None) -> Landmarks:
    """The points of one case in the kit's own table. Raises ChallengeError."""
    rows, header = _read_table(path)
    # Without rows too: an empty file is a broken one, not a case without landmarks.
    absent = [column for column in OWN_COLUMNS[:4] if column not in header]
    if absent:
        raise ChallengeError(f"{path}: wanted the columns {','.join(OWN_COLUMNS)}, '{absent[0]}' is not there")
    points = [[_number(row[axis], f"{path}: line {line}") for axis in "xyz"] for line, row in enumerate(rows, start=2)]
    chances = [_number(row.get("probability") or "1", str(path)) for row in rows]
    return named([(row["name"], "") for row in rows], points, probability=chances, task=task, source=str(path))


def write_points(path: Path, landmarks: Landmarks) -> None:
    """Write the kit's own table of one case: name,x,y,z,probability in millimetres LPS."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(OWN_COLUMNS)
    for name, point, chance in zip(landmarks.names, landmarks.points_mm, landmarks.probability, strict=True):
        table.writerow([name, *(repr(float(value)) for value in point), repr(float(chance))])
    files.write_text(path, text.getvalue())


def _told_by_header(table: Path, columns: Columns, task: Task) -> Columns:
    """`columns` with the coordinates and units that the header itself tells, where the user says nothing of them."""
    _, header = _read_table(table)
    known = {slug(name) for name in header}
    if "x" not in columns.columns:
        for stem in ("", "{name}_", "{number}_"):
            for axes in (("x", "y", "z"), ("i", "j", "k"), ("x_mm", "y_mm", "z_mm")):
                names = [stem + axis for axis in axes[: task.dimension]]
                if all(slug(name.format(name=task.names[0], number=1)) in known for name in names):
                    found = dict(zip("xyz", names, strict=False))
                    columns = replace(columns, columns={**columns.columns, **found})
    if columns.units is None:
        for units, ends in (("voxel", ("i", "_i")), ("mm", ("x_mm",))):
            if columns.role("x").endswith(ends):
                columns = replace(columns, units=units)
    return columns


def _check_columns(columns: Columns, *, dimension: int) -> None:
    unknown = [role for role in columns.columns if role not in ROLES]
    if unknown:
        raise ChallengeError(f"--columns: wanted the roles {', '.join(ROLES)}, got '{unknown[0]}'")
    if columns.units not in ("voxel", "mm") or columns.axes not in TO_LPS or columns.first_index not in (0, 1):
        if not columns.units:
            raise ChallengeError("csv: wanted --units voxel or mm: the table's header does not tell")
        raise ChallengeError("csv: wanted --units voxel or mm, --axes LPS or RAS and --first-index 0 or 1")
    axes = [role for role in "xyz"[:dimension] if role in columns.columns]
    if columns.wide and not all("{" in columns.role(axis) for axis in axes):
        raise ChallengeError("--columns: wanted {name} or {number} in x, y and z alike")


def _find_table(source: Path, name: str | None) -> Path:
    if name is not None:
        return source / name
    found = sorted(path for path in source.rglob("*.csv") if not path.name.startswith("."))
    if len(found) != 1:
        raise ChallengeError(f"{source}: wanted one .csv table or --table, got {len(found)}")
    return found[0]


def _read_table(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows and the header of a table with commas, semicolons or tabs."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ChallengeError(f"{path}: wanted a table in UTF-8, it cannot be read") from None
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ChallengeError(f"{path}: wanted a table, got an error: {error}") from None
    header = [name or "" for name in reader.fieldnames or []]
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ChallengeError(f"{path}: line {line}: wanted {len(header)} fields, got another number")
    return rows, header


def _read_rows(path: Path, columns: Columns, task: Task) -> list[Row]:
    table, header = _read_table(path)
    if not table:
        raise ChallengeError(f"{path}: wanted a header and at least one row, got none")
    axes = "xyz" if task.dimension == 3 or columns.role("z") in header else "xy"
    labels = [(name, number) for number, name in enumerate(task.names, start=1)] if columns.wide else [("", 0)]
    places = {}
    for name, number in labels:
        patterns = [columns.role(axis) for axis in axes]
        wanted = [pattern.replace("{name}", name).replace("{number}", str(number)) for pattern in patterns]
        places[name] = [_column(path, header, column) for column in wanted]
    case = _column(path, header, columns.role("case"))
    label = None if columns.wide else _column(path, header, columns.role("landmark"))
    optional = {role: columns.role(role) for role in ("observer", "split", "group", "probability")}
    for role, column in optional.items():
        if role in columns.columns:
            optional[role] = _column(path, header, column)
    rows = []
    for line, row in enumerate(table, start=2):
        where = f"{path}: line {line}"
        extra = {role: row.get(column, "").strip() for role, column in optional.items()}
        for name, place in places.items():
            cells = [row[column].strip() for column in place]
            # An empty cell is how a table says that nobody saw the landmark.
            if all(cell == "" or cell.lower() in ("nan", "na") for cell in cells):
                continue
            rows.append(
                Row(
                    row[case].strip(),
                    slug(extra["observer"]) or task.reference.observers[0],
                    name if label is None else row[label],
                    tuple(_number(cell, where) for cell in cells),
                    _number(extra["probability"] or "1", where),
                    extra["split"],
                    extra["group"],
                )
            )
    if not rows:
        raise ChallengeError(f"{path}: wanted at least one point, got none")
    return rows


def _column(path: Path, header: Sequence[str], wanted: str) -> str:
    """The column of that name; letters, digits and their order count, the rest does not."""
    found = [name for name in header if name == wanted] or [name for name in header if slug(name) == slug(wanted)]
    if len(found) != 1:
        raise ChallengeError(f"{path}: wanted one column '{wanted}', got the columns {', '.join(header)[:200]}")
    return found[0]


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ChallengeError(f"{where}: wanted a finite number, got '{text[:40]}'")
    return value


def _landmarks(
    rows: Sequence[Row], image: Image | None, columns: Columns, task: Task, *, source: str
) -> dict[str, Landmarks]:
    """The points of one case by observer, in millimetres LPS."""
    observers: dict[str, list[Row]] = {}
    for row in rows:
        observers.setdefault(row.observer, []).append(row)
    placed = {}
    for who, marked in observers.items():
        numbers = np.array([row.numbers for row in marked])
        if columns.units == "mm":
            points = np.zeros((len(numbers), 3))
            points[:, : numbers.shape[1]] = numbers
            points *= TO_LPS[columns.axes]
        elif image is None:
            raise ChallengeError(f"{source}: wanted an image to place voxels in, there is none")
        else:
            points = image.index_to_mm(numbers[:, : image.ndim] - columns.first_index)
        chances = [row.probability for row in marked]
        labels = [(row.label, "") for row in marked]
        placed[who] = named(labels, points.tolist(), probability=chances, task=task, source=source)
    return placed


def _own_splits(by_case: Mapping[str, Sequence[Row]], columns: Columns, table: Path) -> dict[str, Case]:
    """The cases whose split the table itself names."""
    cases = {}
    for name, rows in by_case.items():
        splits, groups = {row.split for row in rows}, {row.group for row in rows}
        if len(splits) > 1 or len(groups) > 1:
            raise ChallengeError(
                f"{table}: case '{name}': wanted one split and one group, got {len(splits)}, {len(groups)}"
            )
        split, group = splits.pop(), groups.pop() or name
        if split and split not in SPLITS:
            raise ChallengeError(f"{table}: case '{name}': wanted a split of {', '.join(SPLITS)}, got '{split[:40]}'")
        if split:
            cases[name] = Case(name, split, group)
    check_groups(cases.values(), source=str(table))
    return cases


def parse_columns(text: str | None, **options: object) -> Columns:
    """`Columns` from `role=column,role=column`.

    >>> parse_columns("case=id,x={name}_i").columns
    {'case': 'id', 'x': '{name}_i'}
    """
    pairs = {}
    for part in (text or "").split(",") if text else []:
        role, equals, column = part.partition("=")
        if not equals or not re.fullmatch("[a-z]+", role.strip()):
            raise ChallengeError(f"--columns: wanted role=column,..., got '{part[:40]}'")
        pairs[role.strip()] = column.strip()
    return replace(Columns(columns=pairs), **options)  # type: ignore[arg-type]
