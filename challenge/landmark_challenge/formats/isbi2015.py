"""The archive of the ISBI 2015 cephalometric challenge: 400 lateral X-rays, 19 landmarks, two raters.

`RawImage/{TrainingData,Test1Data,Test2Data}/<number>.<bmp|jpg|png|tif>` and
`AnnotationsByMD/{400_senior,400_junior}/<number>.txt`: 19 lines `x,y` in 0-based pixels, in the original files followed
by eight lines of classes. A pixel is 0.1 mm (Wang et al., Medical Image Analysis 31, 2016, section 2).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from ..dataset import Case, DatasetWriter
from ..errors import ChallengeError
from ..images import Image, read_image
from ..landmarks import Landmarks
from ..progress import track
from ..task import Task, load_task

# Folder -> its numbers, split and subset.
PARTS = {
    "TrainingData": (range(1, 151), "train", ""),
    "Test1Data": (range(151, 301), "test", "test1"),
    "Test2Data": (range(301, 401), "test", "test2"),
}
VALIDATION = range(141, 151)
# Byte for byte the images 283 and 173 of Test1Data: training on them would train on the test.
EXCLUDED = (38, 144)
OBSERVERS = {"senior": "400_senior", "junior": "400_junior"}
IMAGE_SUFFIXES = {".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff"}
SPACING_MM = (0.1, 0.1)
CLASS_LINES = 8


def import_dataset(
    source: Path, output: Path, *, task: Task | None = None, spacing_mm: Sequence[float] | None = None
) -> None:
    """Import the archive at `source` as the dataset `output`: splits, subsets and both observers.

    A part that is not there (Test2Data was published later) is left out; within a part every image needs both
    annotation files and the other way round. Raises ChallengeError.
    """
    task = task or load_task("ceph-19")
    folders = {observer: source / "AnnotationsByMD" / name for observer, name in OBSERVERS.items()}
    for folder in (source / "RawImage", *folders.values()):
        if not folder.is_dir():
            raise ChallengeError(f"{folder}: wanted a folder of the ISBI 2015 archive, there is none")
    images = _find_images(source / "RawImage")
    _refuse_orphans(images, folders)
    with DatasetWriter(output, task, source=task.source, licence=task.licence) as writer:
        for number in track(sorted(images), "importing"):
            path = images[number]
            pixels = read_image(path, dimension=2, spacing_mm=spacing_mm or SPACING_MM)
            image = Image.of(pixels.array, pixels.spacing_mm)
            points = {
                observer: read_annotation(folder / f"{path.stem}.txt", names=task.names, image=image)
                for observer, folder in folders.items()
            }
            writer.add(_case(number, path), image, points)


def read_annotation(path: Path, *, names: Sequence[str], image: Image) -> Landmarks:
    """The points of one annotation file in the order of `names`, as millimetres of `image`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise ChallengeError(f"{path}: wanted an annotation file, there is none") from None
    except (OSError, UnicodeDecodeError):
        raise ChallengeError(f"{path}: wanted {len(names)} lines 'x,y', it cannot be read as text") from None
    if len(lines) not in (len(names), len(names) + CLASS_LINES):
        raise ChallengeError(
            f"{path}: wanted {len(names)} lines 'x,y' with or without {CLASS_LINES} lines of classes, "
            f"got {len(lines)} lines"
        )
    index = [_pixel(line, f"{path}: line {number}") for number, line in enumerate(lines[: len(names)], start=1)]
    for number, line in enumerate(lines[len(names) :], start=len(names) + 1):
        if not line.strip().isdecimal():
            raise ChallengeError(f"{path}: line {number}: wanted the number of a class, got {line[:40]!r}")
    return Landmarks(names, image.index_to_mm(index))


def _pixel(line: str, where: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in line.split(","))
    except ValueError:
        raise ChallengeError(f"{where}: wanted 'x,y' in pixels, got {line[:40]!r}") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ChallengeError(f"{where}: wanted finite pixels, got {line[:40]!r}")
    return x, y


def _find_images(raw: Path) -> dict[int, Path]:
    """The image of every number, over the parts that are there."""
    images: dict[int, Path] = {}
    for part, (numbers, _, _) in PARTS.items():
        if not (raw / part).is_dir():
            continue
        for path in sorted((raw / part).iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
                continue
            if not path.stem.isdecimal() or int(path.stem) not in numbers:
                raise ChallengeError(
                    f"{path}: wanted images {numbers[0]} to {numbers[-1]} in {part}, got '{path.stem}'"
                )
            if int(path.stem) in images:
                raise ChallengeError(f"{path}: wanted one image per number, there is {images[int(path.stem)].name} too")
            images[int(path.stem)] = path
    if not images:
        raise ChallengeError(f"{raw}: wanted images in {', '.join(PARTS)}, there are none")
    return images


def _refuse_orphans(images: dict[int, Path], folders: dict[str, Path]) -> None:
    """Every annotation of a part that is there must have its image."""
    parts = {path.parent.name for path in images.values()}
    expected = {number for part in parts for number in PARTS[part][0]}
    for folder in folders.values():
        for path in sorted(folder.glob("*.txt")):
            number = int(path.stem) if path.stem.isdecimal() else -1
            if number in expected and number not in images:
                raise ChallengeError(f"{path}: wanted an image of this annotation in RawImage, there is none")


def _case(number: int, path: Path) -> Case:
    _, split, subset = PARTS[path.parent.name]
    if number in EXCLUDED:
        split = "excluded"
    elif number in VALIDATION:
        split = "validation"
    return Case(path.stem, split, path.stem, subset)
