"""What is wrong, or worth a look, in a dataset: points, names, left and right, outliers, images, splits, raters.

Images are not decoded: geometry comes from headers, identity from the digests stored at import.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .dataset import REFERENCE, Case, Dataset
from .errors import ChallengeError
from .images import Image
from .progress import track
from .shape import (
    MIN_CASES,
    MIN_LANDMARKS,
    OUTLIER_RATIO,
    align,
    align_all,
    deviations_mm,
    fit,
    mirrored_pairs,
    ratios,
    turns_degrees,
)

Severity = Literal["error", "warning", "note"]
Array = NDArray[np.float64]

READERS = 8
SPACING_RATIO = 3.0
EXTENT_RANGE_MM = (5.0, 3000.0)
# A landmark that fewer cases than this lack was more likely forgotten than absent.
FORGOTTEN_SHARE = 0.05
# Squared Mahalanobis distance that putting left and right the other way round must save to be called a swap.
SWAP_GAIN = 60.0
SWAP_PLAUSIBLE = 4.0
TURN_USUAL_DEGREES = 45.0
TURN_MAX_DEGREES = 90.0
RATER_LANDMARK_RATIO = 2.5
RATER_CASE_RATIO = 10.0
RATER_MIN_CASES = 5


@dataclass(frozen=True)
class Finding:
    """One thing found. kind: what was checked. case, landmark: where, empty for the whole dataset."""

    severity: Severity
    kind: str
    text: str
    case: str = ""
    landmark: str = ""


@dataclass(frozen=True, eq=False)
class Contents:
    """What the checks look at: (n_cases, n_landmarks, 3) points by observer, NaN where absent, and geometry by case."""

    dataset: Dataset
    cases: list[Case]
    points_mm: dict[str, Array]
    geometry: dict[str, Image]

    @property
    def main(self) -> str:
        """The observer that is scored, or the first one."""
        return REFERENCE if REFERENCE in self.points_mm else next(iter(self.points_mm), "")


def check(folder: Path) -> tuple[list[Finding], Contents | None]:
    """Everything found, the worst first; no contents where the folder is no dataset at all."""
    try:
        dataset = Dataset(folder)
    except ChallengeError as error:
        return [Finding("error", "dataset", str(error))], None
    findings: list[Finding] = []
    contents = _read(dataset, findings)
    checks: Sequence[Callable[[Contents], Iterable[Finding]]] = (
        stray_files,
        missing_references,
        missing_landmarks,
        points_not_assessed,
        points_outside,
        unlikely_spacing,
        identical_images,
        turned_cases,
        swapped_sides,
        outliers,
        disagreeing_raters,
    )
    for look in checks:
        findings += look(contents)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(findings, key=lambda finding: order[finding.severity]), contents


def _read(dataset: Dataset, findings: list[Finding]) -> Contents:
    """Points and geometry of every case; what cannot be read becomes a finding."""
    cases = dataset.cases()
    points = {who: np.full((len(cases), len(dataset.task.names), 3), np.nan) for who in dataset.observers}
    geometry: dict[str, Image] = {}
    # Small files wait for the disk, not for the processor.
    with ThreadPoolExecutor(READERS) as pool:
        parts = pool.map(lambda case: _read_case(dataset, case), cases)
        for row, case in enumerate(track(cases, "checking")):
            marked, image, wrong = next(parts)
            for who, array in marked.items():
                points[who][row] = array
            if image is not None:
                geometry[case.name] = image
            findings += wrong
    return Contents(dataset, cases, points, geometry)


def _read_case(dataset: Dataset, case: Case) -> tuple[dict[str, Array], Image | None, list[Finding]]:
    """Points by observer, geometry and findings of one case."""
    marked: dict[str, Array] = {}
    image = None
    wrong = []
    for who in dataset.observers:
        try:
            if dataset.landmarks_path(case.name, observer=who).is_file():
                marked[who] = dataset.landmarks(case.name, observer=who).aligned_mm(dataset.task.names)
        except ChallengeError as error:
            wrong.append(Finding("error", "points", str(error), case.name))
    if dataset.has_images:
        try:
            image = dataset.geometry(case.name)
        except ChallengeError as error:
            wrong.append(Finding("error", "image", str(error), case.name))
    return marked, image, wrong


def stray_files(contents: Contents) -> Iterable[Finding]:
    """Points files of no case."""
    known = {f"{case.name}.json" for case in contents.cases}
    for who in contents.points_mm:
        for path in sorted((contents.dataset.folder / "landmarks" / who).iterdir()):
            if path.name not in known and not path.name.startswith("."):
                yield Finding("warning", "stray", f"{path}: belongs to no case of cases.csv")


def missing_references(contents: Contents) -> Iterable[Finding]:
    """Cases without scored points, unless their whole split has none: then they are hidden."""
    dataset = contents.dataset
    if REFERENCE not in contents.points_mm:
        yield Finding("error", "reference", f"wanted the observer '{REFERENCE}', there is none")
        return
    for split in dict.fromkeys(case.split for case in contents.cases if case.split != "excluded"):
        cases = dataset.cases(split=split)
        without = [case for case in cases if not dataset.landmarks_path(case.name).is_file()]
        if len(without) == len(cases):
            yield Finding("note", "reference", f"none of the {len(cases)} cases of split '{split}' has points: hidden")
            continue
        for case in without:
            yield Finding("error", "reference", "wanted reference points, there are none", case.name)


def missing_landmarks(contents: Contents) -> Iterable[Finding]:
    """Landmarks that were assessed and are not there: rarely so is forgotten, often so is absent."""
    if REFERENCE not in contents.points_mm:
        return
    there: NDArray[np.bool_] = np.all(np.isfinite(contents.points_mm[REFERENCE]), axis=2)
    has_file = np.array([contents.dataset.landmarks_path(case.name).is_file() for case in contents.cases])
    for column, name in enumerate(contents.dataset.task.names):
        assessed = np.array([name not in case.not_assessed for case in contents.cases]) & has_file
        absent = np.flatnonzero(assessed & ~there[:, column])
        if len(absent) and len(absent) < max(2, FORGOTTEN_SHARE * assessed.sum()):
            for row in absent:
                text = "not there; list it in not_assessed if nobody looked for it"
                yield Finding("warning", "missing", text, contents.cases[row].name, name)
        elif len(absent):
            yield Finding("note", "missing", f"absent in {len(absent)} of {assessed.sum()} cases", landmark=name)


def points_not_assessed(contents: Contents) -> Iterable[Finding]:
    """Points of landmarks that are listed as not assessed: neither learned from nor scored."""
    names = contents.dataset.task.names
    for row, case in enumerate(contents.cases):
        for name in case.not_assessed:
            column = names.index(name)
            who = [who for who, points in contents.points_mm.items() if np.isfinite(points[row, column]).all()]
            if who:
                text = (
                    f"listed in not_assessed, yet there are points of {', '.join(who)}: nothing learns or scores them"
                )
                yield Finding("warning", "assessed", text, case.name, name)


def points_outside(contents: Contents) -> Iterable[Finding]:
    """Points beyond the outer faces of their image; of the reference those that no observer has there too."""
    told: set[tuple[int, int]] = set()
    for who, points in sorted(contents.points_mm.items(), key=lambda each: each[0] == REFERENCE):
        for row, case in enumerate(contents.cases):
            image = contents.geometry.get(case.name)
            if image is None:
                continue
            there = np.isfinite(points[row]).all(axis=1)
            outside = there.copy()
            outside[there] = ~image.contains(points[row][there])
            for column in np.flatnonzero(outside).tolist():
                if who == REFERENCE and (row, column) in told:
                    continue
                told.add((row, column))
                index = image.mm_to_index(points[row, column])[0]
                text = f"{who}: outside the image, at voxel {np.round(index, 1).tolist()} of {image.size}"
                yield Finding("error", "outside", text, case.name, contents.dataset.task.names[column])


def unlikely_spacing(contents: Contents) -> Iterable[Finding]:
    """Spacings far from those of the other images, of 1 mm in a picture, and images of impossible extent."""
    if not contents.geometry:
        return
    # Sorted, since images may be stored along any axes.
    spacings = {name: np.sort(image.spacing_mm) for name, image in contents.geometry.items()}
    usual = np.median(list(spacings.values()), axis=0)
    for name, image in contents.geometry.items():
        ratio = spacings[name] / usual
        if ratio.max() > SPACING_RATIO or ratio.min() < 1 / SPACING_RATIO:
            text = f"spacing {image.spacing_mm.tolist()} mm, usual are {usual.round(4).tolist()}"
            yield Finding("warning", "spacing", text, name)
        extent = image.spacing_mm * image.size
        low, high = EXTENT_RANGE_MM
        if extent.min() < low or extent.max() > high:
            yield Finding("warning", "spacing", f"the image is {extent.round(1).tolist()} mm large", name)
    if contents.dataset.task.dimension == 2 and (usual == 1).all():
        yield Finding("warning", "spacing", "every pixel is exactly 1 mm: is the spacing known?")


def identical_images(contents: Contents) -> Iterable[Finding]:
    """Images of equal content by the digests stored at import."""
    digests = contents.dataset.header.get("digests", {})
    same: dict[str, list[Case]] = {}
    for case in contents.cases:
        if case.name in digests:
            same.setdefault(digests[case.name], []).append(case)
        elif case.name in contents.geometry:
            yield Finding("warning", "identical", "no digest is stored, so copies of it cannot be found", case.name)
    for twins in same.values():
        if len(twins) < 2:
            continue
        names = " = ".join(f"{case.name} ({case.split})" for case in twins)
        used = {case.split for case in twins if case.split != "excluded"}
        active = [case for case in twins if case.split != "excluded"]
        if len(used) > 1:
            yield Finding("error", "identical", f"one image in several splits: {names}", active[0].name)
        elif len(active) > 1:
            yield Finding("warning", "identical", f"one image several times: {names}", active[0].name)
        else:
            yield Finding("note", "identical", f"identical images, all but one excluded: {names}", twins[0].name)


def _shapes(contents: Contents) -> tuple[Array, NDArray[np.intp]] | None:
    """Aligned shapes of the cases with enough landmarks and their rows; None where there are too few for a model."""
    if not contents.main:
        return None
    points = contents.points_mm[contents.main]
    rows = np.flatnonzero(np.isfinite(points).all(axis=2).sum(axis=1) >= MIN_LANDMARKS)
    if len(rows) < MIN_CASES or not np.isfinite(points[rows]).all(axis=2).any(axis=0).all():
        return None
    return align_all(points[rows]), rows


def outliers(contents: Contents) -> Iterable[Finding]:
    """Points far from where the others of the case and the other cases expect them."""
    shapes = _shapes(contents)
    if shapes is None:
        yield Finding("note", "outlier", f"not looked for: wanted {MIN_CASES} cases with {MIN_LANDMARKS} landmarks")
        return
    aligned, rows = shapes
    deviation = deviations_mm(contents.points_mm[contents.main][rows][..., : aligned.shape[2]])
    ratio = np.nan_to_num(ratios(deviation))
    for index in np.flatnonzero((ratio > OUTLIER_RATIO).any(axis=1)):
        column = int(np.argmax(ratio[index]))
        others = int((ratio[index] > OUTLIER_RATIO).sum()) - 1
        times = f"{ratio[index, column]:.0f} times the usual"
        text = f"{deviation[index, column]:.1f} mm from where the others let expect it, {times}"
        text += f"; {others} more of this case" if others else ""
        yield Finding("warning", "outlier", text, contents.cases[rows[index]].name, contents.dataset.task.names[column])


def turned_cases(contents: Contents) -> Iterable[Finding]:
    """Cases turned by far more than the others: what a wrong coordinate system, or all sides exchanged, look like."""
    shapes = _shapes(contents)
    if shapes is None:
        return
    aligned, rows = shapes
    points = contents.points_mm[contents.main][rows][..., : aligned.shape[2]]
    turns = turns_degrees(points, np.nanmedian(aligned, axis=0))
    # Only where nearly all cases lie alike does the direction of one mean anything.
    if np.percentile(turns, 90) > TURN_USUAL_DEGREES:
        return
    for index in np.flatnonzero(turns > TURN_MAX_DEGREES):
        text = (
            f"the points are turned by {turns[index]:.0f} degrees against the others: RAS for LPS, or sides exchanged?"
        )
        yield Finding("error", "turned", text, contents.cases[rows[index]].name)


def _typical(aligned: Array) -> NDArray:
    """Which shapes lie near the median shape, point by point."""
    distance = np.linalg.norm(aligned - np.nanmedian(aligned, axis=0), axis=2)
    typical = np.nan_to_num(ratios(distance)).max(axis=1) <= OUTLIER_RATIO
    return typical if typical.sum() >= MIN_CASES // 2 else np.ones(len(aligned), bool)


def swapped_sides(contents: Contents) -> Iterable[Finding]:
    """Cases whose shape becomes far likelier with left and right exchanged, in one pair or in all."""
    names = contents.dataset.task.names
    pairs = mirrored_pairs(names)
    shapes = _shapes(contents)
    if not pairs or shapes is None:
        return
    _, rows = shapes
    points = contents.points_mm[contents.main][rows]
    planar = shapes[0].shape[2]
    # The model is that of cases without a point far off, so that the wrong ones do not shape it.
    model = fit(shapes[0][_typical(shapes[0])])

    def distance(candidate: Array) -> Array:
        turned = align(candidate[..., :planar], model.mean_mm)
        return model.distance(model.completed(turned))

    before = distance(points)
    trials = [[pair] for pair in pairs] + ([pairs] if len(pairs) > 1 else [])
    after = []
    for trial in trials:
        order = np.arange(len(names))
        for left, right in trial:
            order[[left, right]] = right, left
        after.append(distance(points[:, order]))
    # The other way round it must be a shape like any other: a broken one is an outlier, whichever way round.
    likely = (before - np.min(after, axis=0) > SWAP_GAIN) & (np.min(after, axis=0) < SWAP_PLAUSIBLE * np.median(before))
    for index in np.flatnonzero(likely):
        best = int(np.argmin([other[index] for other in after]))
        left, right = trials[best][0]
        what = "left and right of all pairs" if len(trials[best]) > 1 else f"{names[left]} and {names[right]}"
        text = f"{what} are exchanged: the other way round the shape is far likelier"
        yield Finding("error", "swap", text, contents.cases[rows[index]].name, names[left])


def disagreeing_raters(contents: Contents) -> Iterable[Finding]:
    """Landmarks that two raters mark by different definitions, and single points on which they differ by far."""
    raters = [who for who in contents.points_mm if who != REFERENCE]
    # A consensus is made of the others, so it says nothing about them.
    raters = [who for who in raters if len(raters) < 3 or (who,) != contents.dataset.task.reference.observers]
    names = contents.dataset.task.names
    for one, other in itertools.combinations(raters, 2):
        offset = contents.points_mm[one] - contents.points_mm[other]
        distance = np.linalg.norm(offset, axis=2)
        both = np.isfinite(distance)
        if both.any(axis=1).sum() < RATER_MIN_CASES or not both.any(axis=0).all() or np.nanmax(distance) == 0:
            continue
        mean = np.nanmean(distance, axis=0)
        usual = np.median(mean)
        for column in np.flatnonzero(mean > RATER_LANDMARK_RATIO * usual):
            shift = np.linalg.norm(np.nanmean(offset[:, column], axis=0))
            text = f"{one} and {other} lie {mean[column]:.1f} mm apart on average, usual are {usual:.1f} mm"
            text += "; the same way in most cases: two definitions?" if shift > mean[column] / 2 else ""
            yield Finding("warning", "raters", text, landmark=names[column])
        ratio = distance / np.maximum(np.nanmedian(distance, axis=0), 0.1 * usual)
        for row, column in np.argwhere(np.nan_to_num(ratio) > RATER_CASE_RATIO):
            text = (
                f"{one} and {other} lie {distance[row, column]:.1f} mm apart, {ratio[row, column]:.0f} times the usual"
            )
            yield Finding("warning", "raters", text, contents.cases[row].name, names[column])
