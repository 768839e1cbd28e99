"""The texts of a pack: the challenge design document, the organiser's steps, the script that uploads the cases."""

import json
import math
from importlib.resources import files
from string import Template

from landmark_challenge.task import Task

from .references import Reference

POWER_FACTOR = 1.959964 + 0.841621  # two-sided 5 %, power 80 %
SPREADS_MM = (0.25, 0.5, 1.0)
DISCLOSED = {
    "open": "every figure, per landmark too, is returned. Hidden points can be reconstructed from enough submissions.",
    "protected": "rounded figures over all points with keyed noise, nothing per landmark or per case, so that many "
    "submissions do not reveal a point. The counts of missing points and false alarms are exact: which landmarks are "
    "in an image can be found out.",
}


def design_document(task: Task, reference: Reference) -> str:
    """The design of the challenge in Markdown: purpose, data, annotation, metrics, ranking, missing values, power."""
    cases = len(reference.cases)
    sample = f"{cases} cases" if reference.n_groups == cases else f"{reference.n_groups} groups of cases (patients)"
    if reference.n_groups == 1:
        sample = "1 group of cases (patient)"
    return _filled(
        "design.md",
        title=task.title,
        name=task.name,
        version=task.version,
        dimension=task.dimension,
        modality=task.modality,
        source=task.source,
        licence=task.licence,
        n_landmarks=len(task.names),
        landmarks="\n".join(f"| {spec.name} | {spec.definition} |" for spec in task.landmarks),
        n_cases=cases,
        sample=sample,
        n_points=cases * len(task.names),
        n_not_assessed=int((~reference.assessed).sum()),
        split=reference.split,
        rule=reference.rule,
        observers=", ".join(reference.observers) or "none beside the reference",
        plane=" in the image plane" if task.dimension == 2 else "",
        sign="<" if task.success_tie == "strict" else "<=",
        thresholds=", ".join(f"{value:g}" for value in task.success_thresholds_mm),
        missing_error_mm=f"{task.missing_error_mm:g}",
        ranking=task.ranking.rule,
        columns="\n".join(
            f"| {column.title} | `{column.path}` | {'low' if column.order == 'asc' else 'high'} is best |"
            for column in task.ranking.columns
        ),
        disclosure=reference.disclosure,
        disclosed=DISCLOSED[reference.disclosure],
        power="\n".join(f"| {spread:g} | {detectable_mm(spread, reference.n_groups):.3f} |" for spread in SPREADS_MM),
    )


def detectable_mm(spread_mm: float, groups: int) -> float:
    """The mean difference that a paired test finds (two-sided 5 %, power 80 %), normal approximation.

    spread_mm: SD over groups (patients; cases where each is its own) of the difference.

    >>> round(detectable_mm(1.0, 100), 3)
    0.28
    """
    return POWER_FACTOR * spread_mm / math.sqrt(groups)


def steps(task: Task, reference: Reference, *, image: str | None) -> str:
    """What an organiser does with the pack, in order."""
    left_out = "the evaluation image (not in this pack: `evaluation/save.sh invoke` writes it)"
    return _filled(
        "README.md",
        title=task.title,
        n_cases=len(reference.cases),
        image=task.sockets.image.slug,
        points=task.sockets.landmarks.slug,
        uncertainty=task.sockets.uncertainty.slug,
        archive="`evaluation.tar.gz`" if image else left_out,
    )


def upload_script(task: Task, reference: Reference) -> str:
    """A script that uploads the images of the reference's cases to an archive, and can be run again."""
    # As a literal: a name may hold blanks and quotes.
    cases = json.dumps([case.name for case in reference.cases], indent=4, ensure_ascii=False)
    return _filled("upload_cases.txt", image=task.sockets.image.slug, cases=cases)


def _filled(name: str, /, **values: object) -> str:
    text = (files(__package__) / "pack_files" / name).read_text(encoding="utf-8")
    return Template(text).substitute({key: str(value) for key, value in values.items()})
