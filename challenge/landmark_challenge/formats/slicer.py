"""3D Slicer markups: `.fcsv` and `.mrk.json`, and folders of images with such files.

Both formats carry their coordinate system: `0` and `RAS` mean right-anterior-superior, `1` and `LPS` the kit's own.
A point whose position is not defined is absent; locked, hidden and unselected points are points like any other.
Format: 3D Slicer documentation, Markups module, and the JSON schema of markups 1.0.x.
"""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import ChallengeError
from ..landmarks import PRESENT_PROBABILITY, Landmarks
from ..task import Task
from .folder import import_folder
from .naming import named
from .pairing import Layout

ENDINGS = (".fcsv", ".mrk.json")
TO_LPS = {"0": (-1, -1, 1), "RAS": (-1, -1, 1), "1": (1, 1, 1), "LPS": (1, 1, 1)}
FCSV_COLUMNS = ["id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label", "desc", "associatedNodeID"]
# Slicer 5 adds two columns that its header line does not name: the state of the position, and whether it is automatic.
STATUS_COLUMN = len(FCSV_COLUMNS)
DEFINED_STATUS = "2"
CONFIDENCE = re.compile(r"probability=([0-9.eE+-]+)")
PRESENT_COLOUR, DOUBTFUL_COLOUR = [0.2, 0.9, 0.2], [1.0, 0.5, 0.1]


@dataclass(frozen=True)
class ControlPoint:
    """One point of a markups file, in millimetres LPS."""

    label: str
    description: str
    point_mm: tuple[float, float, float]
    defined: bool


def import_dataset(
    source: Path,
    output: Path,
    *,
    task: Task | None = None,
    spacing_mm: Sequence[float] | None = None,
    layout: Layout | None = None,
) -> None:
    """Import a folder of images with Slicer markups, paired by `layout`. Raises ChallengeError."""
    layout = layout or Layout()
    import_folder(source, output, task=task, spacing_mm=spacing_mm, layout=layout, endings=ENDINGS, read=read_points)


def read_points(path: Path, *, task: Task | None = None) -> Landmarks:
    """The defined points of a markups file; with a task, labels become its names. Raises ChallengeError."""
    points = _read_json(path) if path.name.lower().endswith(".json") else _read_fcsv(path)
    points = [point for point in points if point.defined]
    for point in points:
        if not all(map(math.isfinite, point.point_mm)):
            raise ChallengeError(f"{path}: point '{point.label[:40]}': wanted finite coordinates, got NaN or infinity")
    return named(
        [(point.label, point.description) for point in points],
        [point.point_mm for point in points],
        probability=[_probability(path, point) for point in points],
        task=task,
        source=str(path),
    )


def write_points(path: Path, landmarks: Landmarks) -> None:
    """Write markups that Slicer opens with names, colours and confidence.

    The description holds the probability; a landmark that counts as absent is unselected, which Slicer draws in another
    colour.
    """
    for name in landmarks.names:
        if not name.isprintable():
            raise ChallengeError(f"{path}: wanted a printable name, got {name!r}")
    if path.name.lower().endswith(".json"):
        files.write_json(path, _to_json(landmarks))
    else:
        files.write_text(path, _to_fcsv(landmarks))


def _read_fcsv(path: Path) -> list[ControlPoint]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ChallengeError(f"{path}: wanted a .fcsv file in UTF-8, it cannot be read") from None
    columns, signs, points = FCSV_COLUMNS, None, []
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path}: line {number}"
        if line.startswith("#"):
            key, _, value = line.lstrip("# ").partition("=")
            if key.strip().lower() == "coordinatesystem":
                signs = _signs(value, where)
            elif key.strip().lower() == "columns":
                columns = [part.strip() for part in value.split(",")]
                if not {"x", "y", "z", "label"} <= set(columns):
                    raise ChallengeError(f"{where}: wanted the columns x, y, z and label, got '{value.strip()[:80]}'")
        elif line.strip():
            if signs is None:
                break
            points.append(_fcsv_point(line, columns, signs, where))
    # Without points too: an empty file is a broken one, not a case without landmarks.
    if signs is None:
        raise ChallengeError(f"{path}: wanted a line '# CoordinateSystem = ...' before the points, there is none")
    return points


def _fcsv_point(line: str, columns: Sequence[str], signs: Sequence[int], where: str) -> ControlPoint:
    try:
        row = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise ChallengeError(f"{where}: wanted comma-separated values, got an error: {error}") from None
    last = max(columns.index(key) for key in ("x", "y", "z", "label"))
    if len(row) <= last:
        raise ChallengeError(f"{where}: wanted {len(columns)} values, got {len(row)}")
    value = dict(zip(columns, row, strict=False))
    status = row[STATUS_COLUMN] if len(row) > STATUS_COLUMN and columns == FCSV_COLUMNS else DEFINED_STATUS
    defined = status == DEFINED_STATUS
    try:
        x, y, z = (sign * float(value[axis]) for sign, axis in zip(signs, "xyz", strict=True))
    except ValueError:
        if defined:
            raise ChallengeError(f"{where}: wanted numbers as x, y, z, got '{line[:60]}'") from None
        x = y = z = 0.0
    return ControlPoint(value["label"].strip(), value.get("desc", "").strip(), (x, y, z), defined)


def _read_json(path: Path) -> list[ControlPoint]:
    try:
        if path.stat().st_size > files.MAX_JSON_BYTES:
            raise ChallengeError(f"{path}: wanted at most {files.MAX_JSON_BYTES} bytes of markups")
        # Slicer may write NaN for a point that was never placed, so this is not the strict reader.
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise ChallengeError(f"{path}: wanted Slicer markups as JSON, it cannot be read") from None
    lists = value.get("markups") if isinstance(value, dict) else None
    if not isinstance(lists, list) or not all(isinstance(item, dict) for item in lists):
        raise ChallengeError(f"{path}: wanted an object with the list 'markups', got something else")
    points: list[ControlPoint] = []
    for item in lists:
        if item.get("type") != "Fiducial":
            raise ChallengeError(f"{path}: wanted markups of type 'Fiducial', got '{str(item.get('type'))[:40]}'")
        if item.get("coordinateUnits", "mm") != "mm":
            raise ChallengeError(
                f"{path}: wanted millimetres, got coordinateUnits '{str(item['coordinateUnits'])[:40]}'"
            )
        signs = _signs(str(item.get("coordinateSystem")), str(path))
        controls = item.get("controlPoints")
        if not isinstance(controls, list):
            raise ChallengeError(f"{path}: wanted the list 'controlPoints', got something else")
        points += [_json_point(control, signs, f"{path}: point {number}") for number, control in enumerate(controls)]
    return points


def _json_point(control: Any, signs: Sequence[int], where: str) -> ControlPoint:
    if not isinstance(control, dict):
        raise ChallengeError(f"{where}: wanted an object, got something else")
    defined = control.get("positionStatus", "defined") == "defined"
    position = control.get("position")
    if not isinstance(position, list) or len(position) != 3 or not all(type(part) in (int, float) for part in position):
        if defined:
            raise ChallengeError(f"{where}: wanted the position [x, y, z], got something else")
        position = [0.0, 0.0, 0.0]
    try:
        x, y, z = (sign * float(part) for sign, part in zip(signs, position, strict=True))
    except OverflowError:
        raise ChallengeError(f"{where}: wanted finite coordinates, got a number too large") from None
    return ControlPoint(_text(control, "label", where), _text(control, "description", where), (x, y, z), defined)


def _text(control: dict[str, Any], key: str, where: str) -> str:
    """A text that may be left out or null."""
    value = control.get(key)
    if value is not None and not isinstance(value, str):
        raise ChallengeError(f"{where}: {key}: wanted a text, got {type(value).__name__}")
    return value or ""


def _signs(system: str, where: str) -> tuple[int, int, int]:
    found = TO_LPS.get(system.strip().upper())
    if found is None:
        raise ChallengeError(f"{where}: wanted the coordinate system RAS (0) or LPS (1), got '{system.strip()[:40]}'")
    return found


def _probability(path: Path, point: ControlPoint) -> float:
    match = CONFIDENCE.search(point.description)
    try:
        return 1.0 if match is None else float(match[1])
    except ValueError:
        raise ChallengeError(f"{path}: wanted a number after 'probability=', got '{point.description[:40]}'") from None


def _description(chance: float) -> str:
    return f"probability={float(chance)!r}"


def _to_fcsv(landmarks: Landmarks) -> str:
    text = io.StringIO()
    text.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
    text.write(f"# columns = {','.join(FCSV_COLUMNS)}\n")
    table = csv.writer(text, lineterminator="\n")
    rows = zip(landmarks.names, landmarks.points_mm, landmarks.probability, strict=True)
    for number, (name, point, chance) in enumerate(rows, start=1):
        place = [repr(float(value)) for value in point]
        present = int(chance >= PRESENT_PROBABILITY)
        table.writerow([number, *place, 0, 0, 0, 1, 1, present, 0, name, _description(chance), ""])
    return text.getvalue()


def _to_json(landmarks: Landmarks) -> dict[str, Any]:
    rows = zip(landmarks.names, landmarks.points_mm, landmarks.probability, strict=True)
    points = [
        {
            "id": str(number),
            "label": name,
            "description": _description(chance),
            "associatedNodeID": "",
            "position": [float(value) for value in point],
            "orientation": np.eye(3).flatten().tolist(),
            "selected": bool(chance >= PRESENT_PROBABILITY),
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
        }
        for number, (name, point, chance) in enumerate(rows, start=1)
    ]
    return {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
        "markups-schema-v1.0.3.json#",
        "markups": [
            {
                "type": "Fiducial",
                "coordinateSystem": "LPS",
                "coordinateUnits": "mm",
                "locked": True,
                "labelFormat": "%N-%d",
                "controlPoints": points,
                "display": {
                    "visibility": True,
                    "opacity": 1.0,
                    "selectedColor": PRESENT_COLOUR,
                    "color": DOUBTFUL_COLOUR,
                    "propertiesLabelVisibility": True,
                    "pointLabelsVisibility": True,
                    "textScale": 3.0,
                    "glyphScale": 2.0,
                },
            }
        ],
    }
