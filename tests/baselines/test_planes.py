"""Cuts through a volume whose grey values say where they are, and the command."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from landmark_baselines.method import train_method
from landmark_baselines.planes import cut_planes, resample, write_cut
from landmark_challenge.cli import cli
from landmark_challenge.dataset import Dataset
from landmark_challenge.images import Image, read_image
from landmark_challenge.landmarks import Landmarks, read_landmarks
from landmark_challenge.phantoms import write_phantoms
from landmark_challenge.phantoms.deformation import rotation
from landmark_challenge.planes import fit_plane
from landmark_challenge.task import load_task

TASK = load_task("fetal-us-10")


def _ramp() -> tuple[Image, np.ndarray]:
    """A turned volume whose grey value is a linear function of millimetres, and that function's gradient."""
    gradient = np.array([1.5, -2.0, 0.7])
    image = Image.of(
        np.zeros((20, 24, 28), np.float32), (1.0, 1.2, 1.4), (-3, 8, 2), rotation(np.array([0.3, 0.2, -0.5]))
    )
    index = np.stack(np.meshgrid(*[np.arange(count) for count in image.size], indexing="ij"), -1)
    values = image.index_to_mm(index.reshape(-1, 3)) @ gradient
    array = values.reshape(image.size).transpose().astype(np.float32)
    return Image(array, image.spacing_mm, image.origin_mm, image.direction), gradient


def _points_in(image: Image, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return image.index_to_mm((0.25 + 0.5 * random.random((3, 3))) * (np.array(image.size) - 1))


def test_grey_values_are_those_of_the_place_in_space() -> None:
    image, gradient = _ramp()
    for seed in range(4):
        points = _points_in(image, seed)
        plane = fit_plane(points)
        assert plane is not None
        cut = resample(image, plane)
        index = np.stack(np.meshgrid(*[np.arange(count) for count in cut.size], indexing="ij"), -1).reshape(-1, 3)
        places = cut.index_to_mm(index)
        np.testing.assert_allclose((places - plane.centre_mm) @ plane.normal, 0, atol=1e-9)
        found = cut.array.transpose().reshape(-1)
        inner = image.mm_to_index(places)
        inside = ((inner >= 0) & (inner <= np.array(image.size) - 1)).all(axis=1)
        assert inside.sum() > 100
        np.testing.assert_allclose(found[inside], (places @ gradient)[inside], atol=1e-3)
        beyond = ((inner < -1) | (inner > np.array(image.size))).any(axis=1)
        assert beyond.any()
        np.testing.assert_allclose(found[beyond], image.array.min(), atol=1e-3)
        assert cut.contains(points).all()


def test_the_whole_volume_is_covered_and_one_beside_it_is_bearable() -> None:
    image = Image.of(np.full((10, 12, 14), 9, np.uint8), [1.0] * 3)
    plane = fit_plane([[0, 0, 4], [9, 0, 4], [0, -5, 4]])
    assert plane is not None
    cut = resample(image, plane)
    assert cut.array.shape == (1, 12, 14) and (cut.array == 9).all() and cut.array.dtype == np.uint8
    beside = fit_plane([[0, 0, 40], [9, 0, 40], [0, -5, 40]])
    assert beside is not None and resample(image, beside).array.size == 1


def test_files_carry_the_plane_s_place(tmp_path: Path) -> None:
    image, _ = _ramp()
    points = Landmarks(TASK.planes[1].landmarks, _points_in(image))
    other = Landmarks(points.names, points.points_mm + [0.5, -0.2, 1.0])
    cuts, lost = cut_planes(image, TASK, points, reference=other)
    assert lost == ["transventricular"] and [cut.spec.name for cut in cuts] == ["transcerebellar"]
    assert cuts[0].comparison.startswith("0.0 degrees and")
    paths = write_cut(cuts[0], tmp_path, name="a", landmarks=points, reference=other)
    assert sorted(path.suffix for path in paths) == [".mha", ".png", ".svg"] and all(path.is_file() for path in paths)
    stored = read_image(tmp_path / "a.mha", dimension=3)
    np.testing.assert_allclose(stored.mm_to_index(points.points_mm)[:, 2], 0, atol=1e-4)


def test_the_command(tmp_path: Path) -> None:
    write_phantoms("fetal-us-10", tmp_path / "data", cases=4, seed=7)
    dataset = Dataset(tmp_path / "data")
    train_method("mean_shape", dataset, output=tmp_path / "model", device="cpu")
    name = dataset.cases(split="test")[0].name
    words = ["planes", tmp_path / "model", dataset.image_path(name), "--out", tmp_path / "out"]
    words += ["--reference", dataset.landmarks_path(name)]
    done = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "transventricular: " in done.output and "degrees" in done.output
    assert (tmp_path / "out" / f"{name}-transcerebellar.mha").is_file()
    located = read_landmarks(tmp_path / "out" / f"{name}.json")
    assert located.names == TASK.names
    refused = CliRunner().invoke(cli, ["planes", str(tmp_path), str(dataset.image_path(name)), "--out", "x"])
    assert refused.exit_code != 0 and isinstance(refused.exception, Exception)


@pytest.mark.parametrize("name", ["ceph-19", "ccta-8"])
def test_tasks_without_planes_have_none(name: str) -> None:
    assert load_task(name).planes == ()
