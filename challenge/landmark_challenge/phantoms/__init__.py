"""Synthetic images with exact landmarks: one module per task, over a small shared vocabulary.

Same task, seed and index give the same bytes. Anatomy is parametric and moved by a smooth map whose action on the
landmarks is computed exactly, so references are free of observer error.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ..dataset import REFERENCE, Case, DatasetWriter
from ..errors import ChallengeError
from ..task import load_task
from .case import PhantomCase, Plan, case_streams

PHANTOMS: dict[str, str] = {
    "brainstem-mr-1": "landmark_challenge.phantoms.brainstem_mr_1",
    "carotid-cta-2": "landmark_challenge.phantoms.carotid_cta_2",
    "ccta-8": "landmark_challenge.phantoms.ccta_8",
    "ceph-19": "landmark_challenge.phantoms.ceph_19",
    "fetal-us-10": "landmark_challenge.phantoms.fetal_us_10",
    "olfactory-mr-2": "landmark_challenge.phantoms.olfactory_mr_2",
    "spine-mr-11": "landmark_challenge.phantoms.spine_mr_11",
}
TRAIN_SHARE, VALIDATION_SHARE = 0.60, 0.15
MIN_CASES = 3

__all__ = ["PHANTOMS", "PhantomCase", "Plan", "make_case", "plan_case", "write_phantoms"]


def make_case(task_name: str, seed: int, *, index: int, full_size: bool = False) -> PhantomCase:
    """Case `index` of the set that `seed` names; `full_size` draws the same anatomy at clinical resolution.

    Raises ChallengeError for a task without a phantom or a negative number.

    >>> make_case("ceph-19", 1, index=0).image.ndim
    2
    """
    return plan_case(task_name, seed, index=index, full_size=full_size).draw()


def plan_case(task_name: str, seed: int, *, index: int, full_size: bool = False) -> Plan:
    """What `make_case` draws: the landmarks and the empty image at once, the grey values when asked for."""
    if task_name not in PHANTOMS:
        raise ChallengeError(f"phantom: wanted one of {', '.join(sorted(PHANTOMS))}, got '{task_name}'")
    if seed < 0 or index < 0:
        raise ChallengeError(f"phantom: wanted a seed and an index of 0 or more, got {seed} and {index}")
    plan: Callable[..., Plan] = import_module(PHANTOMS[task_name]).plan
    return plan(case_streams(task_name, seed, index=index), full_size=full_size)


def write_phantoms(task_name: str, folder: Path, *, cases: int, seed: int, full_size: bool = False) -> None:
    """Write a Dataset of `cases` phantoms: first 60 % train, then 15 % validation, the rest test, each at least one.

    The first observer of the task's rule and `reference` both hold the exact points. Raises ChallengeError for fewer
    than three cases, a task without a phantom, or a folder that exists and is not empty.
    """
    if cases < MIN_CASES:
        raise ChallengeError(f"phantom: wanted at least {MIN_CASES} cases (one per split), got {cases}")
    if task_name not in PHANTOMS:
        raise ChallengeError(f"phantom: wanted one of {', '.join(sorted(PHANTOMS))}, got '{task_name}'")
    task = load_task(task_name)
    observer = task.reference.observers[0]
    size = "clinical size" if full_size else "default size"
    source = f"Synthetic phantoms of landmark-challenge-kit: {task_name}, seed {seed}, {size}"
    with DatasetWriter(folder, task, source=source, licence="CC0-1.0") as writer:
        for index, split in enumerate(case_splits(cases)):
            made = make_case(task_name, seed, index=index, full_size=full_size)
            name = f"phantom-{index:04d}"
            observers = {observer: made.landmarks, REFERENCE: made.landmarks}
            writer.add(Case(name, split, name), made.image, observers, compress=True)


def case_splits(cases: int) -> list[str]:
    """The split of each of `cases` (at least 3) cases in order.

    >>> case_splits(4)
    ['train', 'train', 'validation', 'test']
    """
    train = max(1, min(round(cases * TRAIN_SHARE), cases - 2))
    validation = max(1, min(round(cases * VALIDATION_SHARE), cases - train - 1))
    return ["train"] * train + ["validation"] * validation + ["test"] * (cases - train - validation)
