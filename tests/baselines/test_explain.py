"""What the patches say of a landmark, and its picture."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from landmark_baselines import explain, global_to_local
from landmark_baselines.cli_explain import explain as command
from landmark_baselines.method import load_model, train_method
from landmark_baselines.presets import overridden
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import Landmarks, write_landmarks

SHORT = [
    *(f"{stage}_stage.schedule.{field}" for stage in ("global", "local") for field in ("iterations=2", "batch=2")),
    *(f"{stage}_stage.schedule.validate_every=2" for stage in ("global", "local")),
]


@pytest.fixture(scope="module")
def flat_model(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(tiny_dataset, tmp_path_factory.mktemp("flat") / "model", [])


@pytest.fixture(scope="module")
def volume_model(tiny_volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(tiny_volumes, tmp_path_factory.mktemp("volume") / "model", ["local_stage.window=16"])


def _trained(folder: Path, output: Path, assignments: list[str]) -> Path:
    dataset = Dataset(folder)
    settings = overridden(global_to_local.preset_settings("tiny", dataset.task), [*SHORT, *assignments])
    train_method("global_to_local", dataset, output=output, device="cpu", preset="tiny", settings=settings)
    return output


def _by_hand(field: explain.VectorField) -> np.ndarray:
    """The posterior-weighted mean of what the patches point to."""
    assert field.displacement is not None and field.posterior is not None
    pointed = (field.centres + field.displacement).reshape(len(field.centres), -1)
    weights = field.posterior.reshape(-1)
    return (pointed * weights).sum(axis=1) / weights.sum()


@pytest.mark.parametrize("kind", ["flat", "volume"])
def test_the_fields_are_what_the_method_decodes(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(f"{kind}_model")
    dataset = Dataset(request.getfixturevalue("tiny_dataset" if kind == "flat" else "tiny_volumes"))
    image = dataset.image(dataset.cases(split="test")[0].name)
    localizer = load_model(model, device="cpu")
    name = dataset.task.names[3]
    coarse, fine = explain.fields_of(localizer, image, name)
    assert isinstance(localizer, global_to_local.GlobalToLocal)
    wanted_coarse = localizer.localize_global(image).landmarks.point_mm(name)
    wanted_fine = localizer.localize(image).landmarks.point_mm(name)
    for field, wanted in ((coarse, wanted_coarse), (fine, wanted_fine)):
        np.testing.assert_allclose(field.point_mm, wanted, atol=1e-3)
        np.testing.assert_allclose(_by_hand(field), field.point, atol=1e-2)
        assert field.centres.shape[0] == image.ndim
    # the window of the local stage lies around the global point
    window_centre = fine.centres.reshape(image.ndim, -1).mean(axis=1)
    np.testing.assert_allclose(fine.image.index_to_mm(window_centre)[0], coarse.point_mm, atol=1e-3)


def test_a_plane_shows_the_slice_and_the_patches_through_the_point(volume_model: Path, tiny_volumes: Path) -> None:
    dataset = Dataset(tiny_volumes)
    image = dataset.image(dataset.cases(split="test")[0].name)
    field = explain.fields_of(load_model(volume_model, device="cpu"), image, dataset.task.names[0])[0]
    array = field.image.array
    where = np.array([5.2, 9.8, 7.4])
    for plane, wanted in zip(explain.ORTHOGONAL, (array[7], array[:, 10], array[:, :, 5]), strict=True):
        shown = (plane.right, plane.along)
        np.testing.assert_array_equal(explain.slice_through(array, where, shown), wanted)
        centres, displacement, posterior = explain.cells_through(field, where, shown)
        assert displacement is not None and posterior is not None and field.posterior is not None
        assert centres.shape[1:] == displacement.shape[1:] == posterior.shape
        through = 3 - sum(shown)
        cell = int(where[through] // field.cell_voxels)
        np.testing.assert_array_equal(posterior, np.take(field.posterior, cell, axis=2 - through))
        # to the right the first shown axis grows, downwards the second
        assert (np.diff(centres[0], axis=1) == field.cell_voxels).all() and (np.diff(centres[0], axis=0) == 0).all()
        assert (np.diff(centres[1], axis=0) == field.cell_voxels).all() and (np.diff(centres[1], axis=1) == 0).all()


@pytest.mark.parametrize("kind", ["flat", "volume"])
def test_the_command_draws(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = request.getfixturevalue(f"{kind}_model")
    dataset = Dataset(request.getfixturevalue("tiny_dataset" if kind == "flat" else "tiny_volumes"))
    case, name = dataset.cases(split="test")[0].name, dataset.task.names[1]
    arguments = [str(model), str(dataset.image_path(case)), "--landmark", name, "--out", str(tmp_path)]
    arguments += ["--reference", str(dataset.landmarks_path(case)), "--device", "cpu"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "error: " in done.output
    assert (tmp_path / f"{case}-{name}.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / f"{case}-{name}.svg").read_text()
    panels = ("global stage", "local stage") if kind == "flat" else ("global, axial", "local, coronal", "local, sagit")
    assert all(panel in text for panel in (*panels, "reference", "computed", "posterior above 0.5"))


def test_the_error_in_a_flat_image_is_that_of_x_and_y(flat_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset(tiny_dataset)
    case, name = dataset.cases(split="test")[0].name, dataset.task.names[1]
    known = dataset.landmarks(case)
    words = [str(flat_model), str(dataset.image_path(case)), "--landmark", name, "--out", str(tmp_path)]
    lines = []
    for depth in (0.0, 70.0):
        moved = Landmarks(known.names, known.points_mm + [0, 0, depth], known.probability)
        write_landmarks(tmp_path / "points.json", moved)
        words_now = [*words, "--reference", str(tmp_path / "points.json"), "--device", "cpu"]
        output = CliRunner().invoke(command, words_now, catch_exceptions=False).output
        lines.append(next(line for line in output.splitlines() if line.startswith("error: ")))
    assert lines[0] == lines[1]


@pytest.mark.parametrize("variant", ["R", "C"])
def test_networks_without_one_of_the_outputs_are_shown_too(
    variant: str, tiny_dataset: Path, tmp_path: Path, flat_model: Path
) -> None:
    dataset = Dataset(tiny_dataset)
    localizer = load_model(flat_model, device="cpu")
    assert isinstance(localizer, global_to_local.GlobalToLocal)
    changed = global_to_local.GlobalToLocal(
        localizer.model,
        global_to_local.variant_settings(variant, localizer.settings),
        0,
        localizer.global_network,
        None,
        localizer.device,
    )
    image = dataset.image(dataset.cases(split="test")[0].name)
    (field,) = explain.fields_of(changed, image, "sella")
    assert (field.displacement is None) == (variant == "C")
    assert (field.posterior is None) == (variant == "R")
    png, svg = explain.draw([field], tmp_path, name="x", title="sella")
    assert png.is_file() and ("displacement" in svg.read_text()) == (variant == "R")


def test_refusals(tiny_dataset: Path, flat_model: Path, tmp_path: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    with pytest.raises(ChallengeError, match=r"--landmark: wanted one of .*sella.* got 'nose'"):
        explain.fields_of(load_model(flat_model, device="cpu"), image, "nose")
    train_method("mean_shape", dataset, output=tmp_path / "floor", device="cpu")
    with pytest.raises(ChallengeError, match="mean_shape cannot explain itself"):
        explain.fields_of(load_model(tmp_path / "floor", device="cpu"), image, "sella")
