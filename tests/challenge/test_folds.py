"""Folds: every training case is tested once, groups stay together, the test cases of the dataset are out of reach."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark_challenge import folds as folds_module
from landmark_challenge.cli import main
from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.folds import write_folds
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.task import load_task

TASK = load_task("ceph-19")


def make(folder: Path, groups: list[int]) -> Dataset:
    """Training cases of those groups, one validation, two test cases and one excluded."""
    splits = ["train"] * len(groups) + ["validation", "test", "test", "excluded"]
    names = [f"g{group}" for group in groups] + ["v", "t", "t", "g0"]
    with DatasetWriter(folder, TASK, source="test", licence="none") as writer:
        for number, (split, group) in enumerate(zip(splits, names, strict=True)):
            image = Image.of(np.full((4, 5), number, np.uint8), (1.0, 1.0))
            points = Landmarks(TASK.names, np.full((19, 3), number) * [1.0, 1.0, 0.0])
            subset = "late" if split in ("train", "test") else ""
            case = Case(f"c{number:02d}", split, group, subset, ("porion",) if number % 3 else (), {"age": str(number)})
            writer.add(case, image, {"senior": points, "junior": points})
    return Dataset(folder)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.integers(2, 4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_every_training_case_is_tested_once(tmp_path_factory, groups: list[int], count: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("folds")
    dataset = make(folder / "set", groups)
    if count > len(set(groups)):
        with pytest.raises(ChallengeError, match="count"):
            write_folds(dataset, folder / "out", count=count, seed=seed)
        assert not (folder / "out").exists()
        return
    parts = [Dataset(path) for path in write_folds(dataset, folder / "out", count=count, seed=seed)]
    tested = [case.name for part in parts for case in part.cases(split="test")]
    assert sorted(tested) == [case.name for case in dataset.cases(split="train")]
    largest = max(groups.count(group) for group in groups)
    sizes = [len(part.cases(split="test")) for part in parts]
    assert max(sizes) - min(sizes) <= largest
    hidden = {case.name for case in dataset.cases(split="test")}
    for part in parts:  # that no group spans splits is checked on opening
        assert hidden <= {case.name for case in part.cases(split="excluded")}
        assert part.cases(split="validation") == dataset.cases(split="validation")
        for case in part.cases(split="test"):
            before = dataset.case(case.name)
            assert (case.group, case.columns, case.not_assessed) == (before.group, before.columns, before.not_assessed)
            assert part.landmarks(case.name) == dataset.landmarks(case.name)
            assert np.array_equal(part.image(case.name).array, dataset.image(case.name).array)


def test_the_seed_decides_and_images_are_links(tmp_path, monkeypatch) -> None:
    dataset = make(tmp_path / "set", list(range(12)))

    def tested(out: str, seed: int) -> list[list[str]]:
        paths = write_folds(dataset, tmp_path / out, count=3, seed=seed)
        return [[case.name for case in Dataset(path).cases(split="test")] for path in paths]

    first = tested("a", 1)
    assert first == tested("b", 1) and first != tested("c", 2)
    image = tmp_path / "a" / "fold-1" / "images" / "c00.mha"
    assert image.samefile(dataset.image_path("c00"))

    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(folds_module.os, "link", refuse)
    assert tested("d", 1) == first
    copy = tmp_path / "d" / "fold-1" / "images" / "c00.mha"
    assert copy.read_bytes() == image.read_bytes() and not copy.samefile(image)


def test_folds_may_lie_in_their_dataset_and_are_edited_apart_from_it(tmp_path) -> None:
    dataset = make(tmp_path / "set", [0, 1, 2])
    (dataset.folder / "notes").mkdir()
    first, second = write_folds(dataset, dataset.folder / "folds", count=2, seed=0)
    assert {path.name for path in first.iterdir()} == {"dataset.json", "cases.csv", "images", "landmarks"}
    text = dataset.landmarks_path("c00").read_text()
    with Dataset(first).landmarks_path("c00").open("a") as file:  # in place, as some editors write
        file.write(" ")
    assert dataset.landmarks_path("c00").read_text() == text == Dataset(second).landmarks_path("c00").read_text()


def test_raters_without_images_are_parted_too(tmp_path) -> None:
    dataset = make(tmp_path / "set", [0, 1, 2])
    shutil.rmtree(dataset.folder / "images")
    for path in write_folds(Dataset(dataset.folder), tmp_path / "out", count=3, seed=0):
        assert not Dataset(path).has_images and len(Dataset(path).cases(split="test")) == 1


def test_the_command_says_what_it_wrote(tmp_path, capsys) -> None:
    make(tmp_path / "set", [0, 1, 2, 3])
    arguments = ["data", "folds", str(tmp_path / "set"), "--out", str(tmp_path / "out"), "--count", "2"]
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert not done.value.code
    assert capsys.readouterr().out.count("2 train, 1 validation, 2 test, 3 excluded") == 2
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code and str(tmp_path / "out") in capsys.readouterr().err
