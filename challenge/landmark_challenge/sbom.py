"""A software bill of materials of the image it runs in: `python3 -c "$(cat sbom.py)" NAME` prints CycloneDX 1.5.

Standard library only. Lists the Python distributions on the path, with versions and licences, and the system's Debian
packages; save.sh puts it beside the upload archive.
"""

import json
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

DPKG_STATUS = Path("/var/lib/dpkg/status")
KIT = "landmark_challenge"


def python_components() -> Iterator[dict[str, Any]]:
    """Every installed Python distribution, once."""
    seen: set[tuple[str, str]] = set()
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if not name or (name.lower(), version) in seen:
            continue
        seen.add((name.lower(), version))
        component: dict[str, Any] = {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version.partition('+')[0]}",
        }
        fields = distribution.metadata
        licence = next((fields[key] for key in ("License-Expression", "License") if key in fields), "")
        if licence:
            component["licenses"] = [{"license": {"name": licence.splitlines()[0][:100]}}]
        yield component


def debian_components(status: Path = DPKG_STATUS) -> Iterator[dict[str, Any]]:
    """Every installed Debian package; none where the system has no dpkg."""
    if not status.is_file():
        return
    for paragraph in status.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if {"Package", "Version"} <= set(fields) and "installed" in fields.get("Status", ""):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def kit_component() -> dict[str, Any]:
    """The kit itself, which lies in the image as plain source."""
    try:
        version = str(__import__(KIT).__version__)
    except ImportError:
        version = "unknown"
    return {"type": "application", "name": "landmark-challenge-kit", "version": version}


def bill(name: str) -> dict[str, Any]:
    """The whole bill, components in a fixed order, nothing in it that changes from run to run."""
    interpreter = {"type": "platform", "name": "python", "version": platform.python_version()}
    components = [kit_component(), interpreter]
    components += sorted(python_components(), key=lambda part: str(part["name"]).lower())
    components += sorted(debian_components(), key=lambda part: str(part["name"]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name}},
        "components": components,
    }


if __name__ == "__main__":
    json.dump(bill(sys.argv[1]), sys.stdout, indent=1)
    print()
