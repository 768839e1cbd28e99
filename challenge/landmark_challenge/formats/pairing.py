"""Which files below a folder make a case: its image and one points file per observer.

Regular expressions of the user decide; without them names do: `scan.nii.gz` goes with `scan.fcsv` and
`scan_rater1.fcsv`, and a file below a folder that holds a single image goes with that image.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ChallengeError
from ..images import EXTENSIONS, image_stem
from .naming import slug

SEPARATORS = "_-. "
RATER = re.compile(
    r"(?:^|[_\-. ])(?:desc-)?(?P<observer>rater[-_]?\d+)(?:[_-](?P<session>\d{1,2})(?=[_\-. ]|$))?", re.I
)
AGREED = re.compile(
    r"(?:^|[_\-. ])(?:desc-)?(mean|consensus|groundtruth|ground-truth|reference|gold)(?=[_\-. ]|$)", re.I
)


@dataclass(frozen=True)
class Layout:
    """How a folder is read.

    images, points: regular expressions on the path below the folder, with the group `case`, for points also `observer`
    and `session`; a points expression `NAME=EXPRESSION` gives all its files to the observer NAME. group: an expression
    on the case name, whose first group is the patient. split: a split for all, or the shares of train, validation and
    test. mean_as: an observer made as the mean of the others. pad: voxels to which every image grows, placed at random;
    by default what the task says.
    """

    images: str | None = None
    points: tuple[str, ...] = ()
    group: str | None = None
    split: str = "0.7,0.1,0.2"
    seed: int = 0
    mean_as: str | None = None
    pad: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Found:
    """The files of one case: its image, None for raters only, and the points of each observer."""

    image: Path | None
    points: Mapping[str, Path]


def find_cases(source: Path, *, layout: Layout, endings: tuple[str, ...], observer: str) -> dict[str, Found]:
    """The cases below `source` in the order of their names.

    endings: of points files. observer: whose a file is that names nobody. Raises ChallengeError for an image without
    points, for points without an image where there are images, and for two files of one observer.
    """
    images = find_images(source, layout.images)
    files = [path for path in files_below(source) if _ending(path, endings) is not None]
    owners: list[tuple[str, str, Path]] = []
    for path in files:
        below = path.relative_to(source).as_posix()
        stem = path.name[: -len(_ending(path, endings) or "")]
        owner = _by_expression(below, layout.points) if layout.points else _by_name(path, stem, images, source)
        if owner is not None:
            owners.append((owner[0], owner[1] or observer, path))
    counts = Counter((name, who) for name, who, _ in owners)
    points: dict[str, dict[str, Path]] = {}
    for name, who, path in owners:
        if counts[name, who] > 1 and not layout.points:
            # The same rater in two folders, such as raw and quality-checked: the folder tells them apart.
            who = "-".join(part for part in (slug(path.parent.name), who) if part)
        own = points.setdefault(name, {})
        if who in own:
            raise ChallengeError(
                f"{path}: wanted one file of observer '{who}' for case '{name}', {own[who]} is another"
            )
        own[who] = path
    return _complete(source, images, points, endings)


def _complete(
    source: Path, images: Mapping[str, Path], points: Mapping[str, Mapping[str, Path]], endings: Sequence[str]
) -> dict[str, Found]:
    if not points:
        raise ChallengeError(f"{source}: wanted points files ({', '.join(endings)}) that belong to a case, got none")
    for name, own in points.items():
        if images and name not in images:
            raise ChallengeError(f"{next(iter(own.values()))}: wanted an image of case '{name}', there is none")
    for name, path in images.items():
        if name not in points:
            raise ChallengeError(f"{path}: wanted points of case '{name}', there are none")
    return {name: Found(images.get(name), points[name]) for name in sorted(points)}


def find_images(source: Path, expression: str | None = None) -> dict[str, Path]:
    """The images below `source` by case name; a folder of DICOM files is one image."""
    images: dict[str, Path] = {}
    for path in files_below(source):
        if not path.name.lower().endswith(EXTENSIONS):
            continue
        path = path.parent if path.suffix.lower() == ".dcm" else path
        name = image_stem(path.name)
        if expression is not None:
            match = re.search(expression, path.relative_to(source).as_posix())
            if match is None:
                continue
            name = match["case"]
        if images.setdefault(name, path) != path:
            raise ChallengeError(f"{path}: wanted one image of case '{name}', {images[name]} is another")
    return images


def files_below(source: Path) -> list[Path]:
    """Every file below `source` in the order of paths, hidden ones and those in hidden folders left out."""
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(source).parts)]


def _ending(path: Path, endings: Sequence[str]) -> str | None:
    name = path.name.lower()
    if name.endswith(".mrk.json") and ".mrk.json" not in endings:
        return None
    return next((ending for ending in endings if name.endswith(ending)), None)


def _by_expression(path: str, expressions: Sequence[str]) -> tuple[str, str] | None:
    """Case and observer of a points file by the first expression that fits."""
    for text in expressions:
        who, expression = split_expression(text)
        match = re.search(expression, path)
        if match is not None:
            groups = match.groupdict()
            parts = (who or groups.get("observer"), groups.get("session"))
            return groups["case"], slug("-".join(part for part in parts if part))
    return None


def _by_name(path: Path, stem: str, images: Mapping[str, Path], source: Path) -> tuple[str, str] | None:
    """Case and observer of a points file by its name and its place among the images."""
    if not images:
        rater = RATER.search(stem)
        name = stem[: rater.start()] if rater and rater.start() else stem
        return name, _observer(stem[len(name) :])
    fitting = [name for name in images if stem == name or (stem.startswith(name) and stem[len(name)] in SEPARATORS)]
    if fitting:
        name = max(fitting, key=len)
        return name, _observer(stem[len(name) :])
    for folder in path.parents:
        inside = [name for name, image in images.items() if folder in image.parents]
        if folder == source or len(inside) > 1:
            break
        if inside:
            return inside[0], _observer(stem)
    return stem, ""


def _observer(text: str) -> str:
    """Who a file name says it is of; nothing for what was agreed on, which is the task's own observer."""
    if AGREED.search(text):
        return ""
    rater = RATER.search(text)
    return slug(text) if rater is None else slug("-".join(part for part in rater.groups() if part))


def split_expression(text: str) -> tuple[str, str]:
    """Observer and expression of `NAME=EXPRESSION`; no observer where it is a plain expression."""
    head, equals, tail = text.partition("=")
    return (head, tail) if equals and re.fullmatch(r"[a-z0-9-]+", head) else ("", text)


def check_expression(text: str, *, wanted: str = "case") -> None:
    """Raise ChallengeError if `text` is no regular expression with the group `wanted`, where empty with any group."""
    try:
        groups = re.compile(split_expression(text)[1])
    except re.error as error:
        raise ChallengeError(f"'{text}': wanted a regular expression, got an error: {error}") from None
    if (wanted and wanted not in groups.groupindex) or groups.groups < 1:
        group = f"(?P<{wanted}>...)" if wanted else "(...)"
        raise ChallengeError(f"'{text}': wanted a regular expression with the group {group}")
