"""`landmarks data folds`: the training cases in parts, each the test split of a dataset of its own, to choose by.

What a method is, is to be chosen without a look at the test cases: here they are excluded, so that no command finds
them. Validation cases stay what they are.
"""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

from . import files
from .dataset import CASES_TABLE, Dataset, write_cases
from .errors import ChallengeError


def write_folds(dataset: Dataset, out: Path, *, count: int, seed: int) -> list[Path]:
    """Write the datasets out/fold-1 to out/fold-<count>, all or none; their images are links where the disk has those.

    A group stays in one part; parts are as equal as that allows. Raises ChallengeError where there are fewer groups
    than parts.
    """
    groups: dict[str, int] = {}
    for case in dataset.cases(split="train"):
        groups[case.group] = groups.get(case.group, 0) + 1
    if not 2 <= count <= len(groups):
        raise ChallengeError(f"count: wanted 2 to {len(groups)}, the groups of training cases, got {count}")
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    sizes, part_of = [0] * count, {}
    for group in sorted(order, key=lambda name: -groups[name]):
        part_of[group] = sizes.index(min(sizes))
        sizes[part_of[group]] += groups[group]
    with files.staged_folder(out) as folder:
        for part in range(count):
            _write_fold(dataset, folder / f"fold-{part + 1}", {name for name in order if part_of[name] == part})
    return [out / f"fold-{part + 1}" for part in range(count)]


def _write_fold(dataset: Dataset, folder: Path, tested: set[str]) -> None:
    folder.mkdir()
    for name in ("dataset.json", "task.yaml"):
        if (dataset.folder / name).is_file():
            shutil.copy2(dataset.folder / name, folder / name)
    # images are large and nobody edits them; points are small, and a fold's own
    for name, copy in (("images", _link_or_copy), ("landmarks", shutil.copy2)):
        if (dataset.folder / name).is_dir():
            shutil.copytree(dataset.folder / name, folder / name, copy_function=copy)
    cases = []
    for case in dataset.cases():
        held_out = case.split == "train" and case.group in tested
        split = "excluded" if case.split == "test" else "test" if held_out else case.split
        cases.append(replace(case, split=split, subset="" if held_out else case.subset))
    write_cases(folder / CASES_TABLE, cases)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
