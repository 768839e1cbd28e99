"""The store holds what preparing each image alone gives, whether cached, mapped or in memory."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from landmark_baselines import store, whole_image
from landmark_baselines.references import reference_mm
from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.task import load_task


@pytest.fixture
def mixed(tmp_path: Path) -> Dataset:
    """Two images of different size, spacing and origin; in the second a landmark is absent and one is not assessed."""
    task = load_task("ceph-19")
    generator = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "mixed", task, source="test", licence="none") as writer:
        for name, shape, spacing, absent in [("a", (40, 60), 0.5, None), ("b", (33, 41), 0.7, "sella")]:
            image = Image.of(generator.integers(0, 255, shape).astype(np.uint8), (spacing, spacing), (5.0, -3.0))
            names = [landmark for landmark in task.names if landmark != absent]
            points = image.index_to_mm(generator.uniform(2, 30, (len(names), 2)))
            skipped = ("nasion",) if absent else ()
            writer.add(Case(name, "train", name, "", skipped), image, {"reference": Landmarks(names, points)})
    return Dataset(tmp_path / "mixed")


def _load(dataset: Dataset) -> store.Store:
    return store.load_store(dataset, dataset.cases(split="train"), spacing_mm=(1.0,))[0]


def test_images_and_points_agree_with_preparing_each_alone(mixed: Dataset) -> None:
    held = _load(mixed)
    for i, case in enumerate(mixed.cases(split="train")):
        grid = store.prepare(mixed.image(case.name), mixed.task, 1.0)
        height, width = grid.array.shape
        np.testing.assert_allclose(held.batch(torch.tensor([i]))[0, 0, :height, :width], grid.array, atol=0.5 / 255)
        index = grid.mm_to_index(reference_mm(mixed, case))
        np.testing.assert_allclose(held.points[i], index, atol=1e-4)
        # beyond a smaller image its border goes on, as sampling outside an image does
        assert torch.equal(held.images[i, 0, height - 1, :], held.images[i, 0, -1, :])
    absent = mixed.task.names.index("sella")
    assert torch.isnan(held.points[1, absent]).all() and not torch.isnan(held.points[0]).any()
    assert torch.isnan(held.points[1, mixed.task.names.index("nasion")]).all()


def test_one_image_alone_is_seen_in_its_own_size(mixed: Dataset) -> None:
    held = _load(mixed)
    for i, case in enumerate(mixed.cases(split="train")):
        grid = store.prepare(mixed.image(case.name), mixed.task, 1.0)
        assert held.sizes[i].tolist() == list(grid.size)
        assert held.alone(i).shape[2:] == grid.array.shape
        np.testing.assert_allclose(held.alone(i)[0, 0], grid.array, atol=0.5 / 255)
    alike = store.load_store(mixed, mixed.cases(split="train")[:1], spacing_mm=(1.0,))[0]
    assert alike.own_size is None and alike.sizes.tolist() == [list(alike.images.shape[:1:-1])]


def test_a_set_that_does_not_fit_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load_task("ceph-19")
    with DatasetWriter(tmp_path / "large", task, source="test", licence="none") as writer:
        for number in range(12):
            image = Image.of(np.full((600, 500), number, np.uint8), (1.0, 1.0), (0.0, 0.0))
            points = Landmarks(task.names, np.zeros((19, 3)))
            writer.add(Case(f"{number}", "train", f"{number}"), image, {"reference": points})
    dataset = Dataset(tmp_path / "large")
    _load(dataset)  # prepares, and keeps what it prepared
    monkeypatch.setattr(store, "_fits", lambda *_: False)
    tracemalloc.start()
    held = _load(dataset)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < held.images.nbytes / 3


def test_a_point_that_is_not_finite_is_no_landmark_that_is_absent() -> None:
    nan = [math.nan, math.nan]
    points = torch.tensor([[[0.0, 0.0], [0.0, 0.0], nan]])
    images = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    held = store.Store(images, points, 2.0)
    frames = whole_image.Frames(images, points, torch.tensor([[2.0, 2.0]]))
    for found, whole in (([3.0, 4.0], True), (nan, False)):
        each = torch.tensor([[found, [0.0, 1.0], [5.0, 5.0]]])
        for errors in (store.radial_errors_mm(each, held), whole_image.errors_mm(each, frames)):
            assert len(errors) == 2 and errors[1] == 2
            assert errors[0] == 10 if whole else errors.mean().isnan()


def test_sampled_images_are_not_taken_for_averaged_ones(mixed: Dataset) -> None:
    cases = mixed.cases(split="train")
    averaged, sampled, again = (
        store.load_store(Dataset(mixed.folder), cases, spacing_mm=(3.0,), average=average)[0]
        for average in (True, False, True)
    )
    assert torch.equal(averaged.images, again.images) and not torch.equal(averaged.images, sampled.images)
    wanted = store.prepare(mixed.image("a"), mixed.task, 3.0, average=False).array
    np.testing.assert_allclose(
        sampled.batch(torch.tensor([0]))[0, 0, : len(wanted), : len(wanted[0])], wanted, atol=0.002
    )


def test_the_second_time_no_image_is_decoded(mixed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _load(mixed)

    def refuse(self: Dataset, name: str) -> Image:
        raise AssertionError(name)

    monkeypatch.setattr(Dataset, "image", refuse)
    again = _load(Dataset(mixed.folder))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.points.nan_to_num(), again.points.nan_to_num())


def test_a_damaged_cache_is_made_anew(mixed: Dataset) -> None:
    first = _load(mixed)
    for path in (mixed.folder / ".cache").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(first.images, _load(mixed).images)


def test_a_set_that_does_not_fit_is_mapped(mixed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _load(mixed)
    monkeypatch.setattr(store, "MEMORY_SHARE", 0.0)
    assert isinstance(store._allocate((3, 4)), np.memmap)
    assert torch.equal(first.images, _load(mixed).images)
