"""Are a container's answers right? Standard library only: `python3 -c "$(cat sample_check.py)" CASES ANSWERS LIMIT_MM`.

CASES/<case>/expected.json are points in millimetres, ANSWERS/<case>/ what the container wrote. Passes where every file
is there and well formed, every expected point is present, and the mean distance over all points is within the limit.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

PRESENT_PROBABILITY = 0.5
POINTS_FILE = "anatomical-landmarks.json"
UNCERTAINTY_FILE = "landmark-uncertainty.json"


def read_points(path: Path) -> dict[str, tuple[float, float, float]]:
    """The present points of a "Multiple points" file in mm, by name; ValueError for anything else."""
    value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    if value.get("type") != "Multiple points" or value.get("version") != {"major": 1, "minor": 0}:
        raise ValueError("wanted 'Multiple points' of version 1.0")
    points: dict[str, tuple[float, float, float]] = {}
    for item in value["points"]:
        x, y, z = (float(number) for number in item["point"])
        if item["name"] in points:
            raise ValueError(f"'{item['name']}' comes twice")
        if item.get("probability", 1.0) >= PRESENT_PROBABILITY:
            points[item["name"]] = (x, y, z)
    return points


def _refuse(name: str) -> Any:
    raise ValueError(f"the number {name}")


def distances_mm(case: Path, answer: Path) -> list[float]:
    """Distance of every expected point of a case; ValueError where the answer is incomplete."""
    expected, given = read_points(case / "expected.json"), read_points(answer / POINTS_FILE)
    missing = [name for name in expected if name not in given]
    if missing:
        raise ValueError(f"{len(missing)} of {len(expected)} points are missing, '{missing[0]}' first")
    uncertainty = json.loads((answer / UNCERTAINTY_FILE).read_text(encoding="utf-8"), parse_constant=_refuse)
    if not isinstance(uncertainty, dict) or not set(uncertainty) <= set(given):
        raise ValueError(f"{UNCERTAINTY_FILE}: wanted covariances by landmark name")
    return [math.dist(point, given[name]) for name, point in expected.items()]


def check(cases: Path, answers: Path, limit_mm: float) -> list[str]:
    """What is wrong, in lines; empty where the answers are right. Prints each case's mean distance."""
    wrong: list[str] = []
    everything: list[float] = []
    folders = sorted(path for path in cases.iterdir() if (path / "expected.json").is_file())
    if not folders:
        return [f"{cases}: wanted sample cases with expected.json, there are none"]
    for case in folders:
        try:
            distances = distances_mm(case, answers / case.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            wrong.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        everything += distances
        print(f"  {case.name}: mean error {sum(distances) / len(distances):.3f} mm over {len(distances)} points")
    if everything and not sum(everything) / len(everything) <= limit_mm:
        wrong.append(f"mean error {sum(everything) / len(everything):.3f} mm, wanted at most {limit_mm} mm")
    return wrong


def main(arguments: list[str]) -> int:
    """Check and say what is wrong; exit code 1 if anything is."""
    cases, answers, limit_mm = arguments
    wrong = check(Path(cases), Path(answers), float(limit_mm))
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
