"""One suite over every method: the contract of `landmark_baselines.method`."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from landmark_baselines.checkpoints import read_model
from landmark_baselines.method import METHODS, load_model, method_module, train_method
from landmark_baselines.presets import overridden
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.platform import Localizer

# The least training that still gives every part of a model; methods without settings need none.
QUICK: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "mean_shape": (),
        "global_to_local": (
            "global_stage.schedule.iterations=6",
            "global_stage.schedule.validate_every=6",
            "local_stage.schedule.iterations=2",
            "local_stage.schedule.validate_every=2",
            "local_stage.schedule.batch=2",
        ),
        "md_gru": tuple(
            f"{stage}.schedule.{field}"
            for stage in ("coarse", "fine")
            for field in ("iterations=2", "validate_every=2", "batch=2")
        ),
        "heatmap_unet": ("schedule.iterations=6", "schedule.validate_every=6", "schedule.batch=2"),
        "pin": ("schedule.iterations=6", "schedule.validate_every=6", "schedule.batch=2"),
        "scn": ("schedule.iterations=6", "schedule.validate_every=6", "schedule.batch=2"),
        "loc_net": ("schedule.iterations=6", "schedule.validate_every=6", "schedule.batch=2"),
        "heatmap_coordinate": (
            "coordinate.schedule.iterations=6",
            "coordinate.schedule.validate_every=6",
            "coordinate.schedule.batch=2",
            "heatmap.schedule.iterations=6",
            "heatmap.schedule.validate_every=6",
            "heatmap.schedule.batch=2",
        ),
        "cascade": tuple(
            f"{stage}.schedule.{field}"
            for stage in ("coarse", "middle", "fine", "finest")
            for field in ("iterations=2", "validate_every=2", "batch=2")
        ),
        "dqn_agent": (
            "schedule.iterations=6",
            "schedule.validate_every=6",
            "schedule.batch=2",
            "exploration.warm_up=20",
        ),
    }
)


def test_every_method_is_in_this_suite() -> None:
    assert set(QUICK) == set(METHODS)


def _train(method: str, dataset: Dataset, folder: Path) -> Path:
    options: dict[str, Any] = {}
    if QUICK[method]:
        settings = method_module(method).preset_settings("tiny", dataset.task)
        # in 2D cascade has no middle stage
        there = [each for each in QUICK[method] if getattr(settings, each.partition(".")[0]) is not None]
        options["settings"] = overridden(settings, there)
    train_method(method, dataset, output=folder, device="cpu", preset="tiny", **options)
    return folder


@pytest.fixture(scope="module", params=list(METHODS))
def trained(request: pytest.FixtureRequest, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(request.param, Dataset(tiny_dataset), tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module", params=list(METHODS))
def trained_3d(request: pytest.FixtureRequest, tiny_volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(request.param, Dataset(tiny_volumes), tmp_path_factory.mktemp(request.param) / "model")


def _points(localizer: Localizer, image: Image) -> np.ndarray:
    return localizer.localize(image).landmarks.aligned_mm(localizer.task.names)


def test_model_folder_says_where_it_comes_from(trained: Path) -> None:
    model = read_model(trained)
    assert {path.name for path in trained.iterdir()} >= {"model.json", "weights.safetensors"}
    assert not list(trained.glob("*.p*t")) and not list(trained.glob("*.pkl"))
    for key in ("data_digest", "data_licence", "seed", "versions", "training_cases", "training_seconds"):
        assert key in model.provenance
    json.loads((trained / "model.json").read_text())


def test_localizes_every_landmark_the_same_way_twice(trained: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    first = load_model(trained, device="cpu").localize(image)
    again = load_model(trained, device="cpu").localize(image)
    assert first.landmarks.names == dataset.task.names
    assert first.landmarks == again.landmarks
    assert np.isfinite(first.landmarks.points_mm).all()
    assert (first.landmarks.points_mm[:, 2] == 0).all()
    for covariance in first.covariance_mm2.values():
        assert covariance.shape == (3, 3) and np.allclose(covariance, covariance.T)


def test_any_stored_orientation_gives_the_same_millimetres(trained: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    localizer = load_model(trained, device="cpu")
    expected = _points(localizer, image)
    for flip_x, flip_y, transpose in [(1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1)]:
        array, direction = image.array, image.direction.copy()
        corner = [(image.size[0] - 1) * flip_x, (image.size[1] - 1) * flip_y]
        origin = image.index_to_mm([corner])[0, :2]
        if flip_x:
            array, direction[:, 0] = array[:, ::-1], -direction[:, 0]
        if flip_y:
            array, direction[:, 1] = array[::-1], -direction[:, 1]
        spacing = image.spacing_mm
        if transpose:
            array, direction, spacing = array.T, direction[:, ::-1], spacing[::-1]
        stored = Image.of(np.ascontiguousarray(array), spacing, origin, direction)
        np.testing.assert_allclose(_points(localizer, stored), expected, atol=1e-3)


def test_moving_the_patient_moves_the_points(trained: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    localizer = load_model(trained, device="cpu")
    moved = Image.of(image.array, image.spacing_mm, image.origin_mm + [120.5, -33.25], image.direction)
    shift = _points(localizer, moved) - _points(localizer, image)
    np.testing.assert_allclose(shift, np.broadcast_to([120.5, -33.25, 0], shift.shape), atol=1e-2)


@pytest.mark.parametrize("shape", [(3, 3), (40, 700), (1, 1)])
def test_odd_images_give_finite_points(trained: Path, shape: tuple[int, int]) -> None:
    localizer = load_model(trained, device="cpu")
    image = Image.of(np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape), (0.5, 0.5))
    assert np.isfinite(_points(localizer, image)).all()
    flat = Image.of(np.full(shape, 7, np.uint8), (0.5, 0.5))
    assert np.isfinite(_points(localizer, flat)).all()


def test_the_fall_back_is_the_mean_shape(trained: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    fall_back = load_model(trained, device="cpu").mean_shape(image)
    assert set(fall_back.names) == set(dataset.task.names)
    assert image.contains(fall_back.points_mm).all()


def test_a_damaged_model_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text((trained / "model.json").read_text())
    with pytest.raises(ChallengeError, match="weights"):
        load_model(tmp_path, device="cpu")
    (tmp_path / "weights.safetensors").write_bytes((trained / "weights.safetensors").read_bytes()[:10])
    with pytest.raises(ChallengeError, match="weights"):
        load_model(tmp_path, device="cpu")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ChallengeError, match=r"model\.json"):
        load_model(tmp_path, device="cpu")


def test_any_stored_orientation_of_a_volume_gives_the_same_millimetres(trained_3d: Path, tiny_volumes: Path) -> None:
    dataset = Dataset(tiny_volumes)
    image = dataset.image(dataset.cases(split="test")[0].name)
    localizer = load_model(trained_3d, device="cpu")
    expected = _points(localizer, image)
    assert np.isfinite(expected).all()
    for order, flips in [((0, 1, 2), (1, 0, 1)), ((2, 0, 1), (0, 0, 0)), ((1, 0, 2), (0, 1, 0))]:
        corner = [(count - 1) * flip for count, flip in zip(image.size, flips, strict=True)]
        signs = np.where(flips, -1.0, 1.0)
        array = image.array[tuple(slice(None, None, -1 if flip else 1) for flip in flips[::-1])]
        array = array.transpose([2 - axis for axis in order[::-1]])
        stored = Image.of(
            np.ascontiguousarray(array),
            image.spacing_mm[list(order)],
            image.index_to_mm([corner])[0],
            (image.direction * signs)[:, list(order)],
        )
        np.testing.assert_allclose(_points(localizer, stored), expected, atol=1e-2)
