"""Are an evaluation container's metrics right? Standard library only: `python3 -c "..." EXPECTED METRICS`.

Every value in EXPECTED (JSON) must stand at the same place in METRICS, numbers within 1e-9 relative.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any


def differences(expected: Any, found: Any, place: str = "metrics") -> list[str]:
    """Where `found` is not what is expected, in lines; keys beyond the expected ones are not looked at."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return [f"{place}: wanted an object, got {found!r}"]
        lines = []
        for key, value in expected.items():
            if key not in found:
                lines.append(f"{place}.{key}: wanted {value!r}, it is not there")
            else:
                lines += differences(value, found[key], f"{place}.{key}")
        return lines
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expected, found))
    if numbers:
        same = math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-12)
    else:
        same = type(expected) is type(found) and expected == found  # true is not 1
    return [] if same else [f"{place}: wanted {expected!r}, got {found!r}"]


def main(arguments: list[str]) -> int:
    """Compare and say what differs; exit code 1 if anything does."""
    expected, found = (json.loads(Path(name).read_text(encoding="utf-8")) for name in arguments)
    wrong = differences(expected, found)
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
