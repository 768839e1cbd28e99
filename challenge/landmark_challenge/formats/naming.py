"""What people call a landmark -> the task's name for it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ..errors import ChallengeError
from ..landmarks import Landmarks
from ..progress import note
from ..task import Task


def slug(text: str) -> str:
    """Lower case, everything but letters and digits as single hyphens.

    >>> slug(" R superior AM  temporal horn ")
    'r-superior-am-temporal-horn'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def known_labels(task: Task) -> dict[str, str]:
    """Every label by which a file may mean a landmark -> its name: name, abbreviation, aliases, its number from 1.

    A label that two landmarks share means neither; a name goes before anything else.
    """
    labels = [
        (slug(label), landmark.name)
        for landmark in task.landmarks
        for label in {landmark.abbreviation or "", *landmark.aliases}
    ]
    counts = Counter(label for label, _ in labels)
    known = {label: name for label, name in labels if label and counts[label] == 1}
    known |= {str(number): name for number, name in enumerate(task.names, start=1)}
    return known | {name: name for name in task.names}


def resolve(label: str, description: str, known: Mapping[str, str]) -> str | None:
    """The task's name for a label, or for the description where the label says nothing; None where neither does.

    The label decides: raters type descriptions by hand, and numbered protocols mean the number.
    """
    for text in (slug(label), slug(description)):
        found = known.get(str(int(text)) if text.isdecimal() else text)
        if found is not None:
            return found
    return None


def named(
    labels: Sequence[tuple[str, str]],
    points_mm: Sequence[Sequence[float]],
    *,
    probability: Sequence[float],
    task: Task | None,
    source: str,
) -> Landmarks:
    """Landmarks of (label, description) pairs; with a task its names, otherwise the labels as they stand.

    Raises ChallengeError for a label that is empty or that the task does not know, for one that comes twice, unless the
    descriptions of the two tell them apart, and for a probability beyond 0..1.
    """
    if task is None:
        names = [label for label, _ in labels]
        if "" in names:
            raise ChallengeError(f"{source}: point {names.index('')}: wanted a name, got none")
    else:
        names = _task_names(labels, known_labels(task), task, source)
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise ChallengeError(f"{source}: wanted each landmark once, got '{doubled}' twice")
    for name, chance in zip(names, probability, strict=True):
        if not 0 <= chance <= 1:
            raise ChallengeError(f"{source}: '{name}': wanted a probability in 0..1, got {chance:g}")
    return Landmarks(names, points_mm, probability)


def _task_names(labels: Sequence[tuple[str, str]], known: Mapping[str, str], task: Task, source: str) -> list[str]:
    names = []
    for label, description in labels:
        name = resolve(label, description, known)
        if name is None:
            raise ChallengeError(
                f"{source}: wanted a landmark of {task.name} by name, abbreviation or number, "
                f"got label '{label[:40]}', description '{description[:40]}'"
            )
        names.append(name)
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        # A mistyped number is told from the other by what the rater wrote beside it.
        told = [known.get(slug(description), "") if name in doubled else name
                for name, (_, description) in zip(names, labels, strict=True)]  # fmt: skip
        if len(set(told)) == len(told) and "" not in told:
            note(f"{source}: the label of '{sorted(doubled)[0]}' comes twice; the descriptions tell which is which")
            return told
    return names
