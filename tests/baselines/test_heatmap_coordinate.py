"""The product against the algebra of Gaussians, the parts by hand, and a short training against the floor."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from landmark_baselines import ablation
from landmark_baselines import heatmap_coordinate as method
from landmark_baselines import heatmap_coordinate_network as network
from landmark_baselines import heatmap_coordinate_training as training
from landmark_baselines.augmentation import Augmentation
from landmark_baselines.checkpoints import read_model
from landmark_baselines.heatmaps import render_gaussians
from landmark_baselines.method import load_model, train_method
from landmark_baselines.presets import from_plain, overridden
from landmark_baselines.unet import Architecture
from landmark_baselines.whole_image import Frames, augmented_frames, load_frames, resized, to_shares, to_voxels
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.task import load_task

from .learning import floor_mm, training_error_mm

TASK = load_task("spine-mr-11")
TINY = method.preset_settings("tiny", TASK)
NAN = float("nan")


def _log_gaussian(point: tuple[float, ...], shape: tuple[int, ...], sigma: float) -> torch.Tensor:
    return render_gaussians(torch.tensor([[point]], dtype=torch.float64), shape, sigma).log()


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_product_of_gaussians_is_the_gaussian_of_the_weighted_mean(ndim: int) -> None:
    point, mean, sigma_map, sigma = (9.3, 11.2, 7.6)[:ndim], (13.0, 8.0, 10.0)[:ndim], 2.5, 4.0
    product = network.log_product(
        _log_gaussian(point, (20,) * ndim, sigma_map),
        torch.tensor([[mean]], dtype=torch.float64),
        torch.tensor([sigma], dtype=torch.float64),
    )
    weights = np.array([sigma_map**-2, sigma**-2])
    middle = (weights[0] * np.array(point) + weights[1] * np.array(mean)) / weights.sum()
    expected = _log_gaussian(tuple(middle), (20,) * ndim, weights.sum() ** -0.5)
    torch.testing.assert_close(product - product.max(), expected - expected.max(), atol=1e-9, rtol=0)


def test_the_product_takes_the_peak_that_the_coordinates_mean() -> None:
    near, far = _log_gaussian((10.0, 12.4), (64, 24), 1.2), _log_gaussian((10.0, 30.0), (64, 24), 1.2)
    two_peaks = torch.logaddexp(near + math.log(0.4), far)  # the wrong one is the higher
    alone = network.decode(two_peaks, None, None, TINY)
    assert alone[0, 0, 1] == pytest.approx(30.0, abs=0.05)
    means, sigma = torch.tensor([[[12.0, 15.0]]], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    together = network.decode(two_peaks, means, sigma, TINY)
    # the right peak, where the map itself has it, not pulled to the coordinates
    np.testing.assert_allclose(together[0, 0], [10.0, 12.4], atol=0.02)
    as_published = network.decode(two_peaks, means, sigma, replace(TINY, decoding="argmax"))
    assert as_published[0, 0].tolist() in ([10.0, 12.0], [10.0, 13.0])


def test_the_product_decides_where_both_factors_underflow() -> None:
    log_maps = torch.full((1, 1, 8, 400), -1000.0)
    log_maps[0, 0, 4, 100], log_maps[0, 0, 4, 300] = -500.0, -300.0
    means, sigma = torch.tensor([[[90.0, 4.0]]]), torch.tensor([2.0])
    assert log_maps.exp().max() == 0
    for decoding in ("local", "argmax"):
        chosen = replace(TINY, decoding=decoding)
        assert network.decode(log_maps, means, sigma, chosen)[0, 0].tolist() == [100.0, 4.0]
        # no longer, where the coordinates are less sure
        assert network.decode(log_maps, means, 20 * sigma, chosen)[0, 0].tolist() == [300.0, 4.0]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-40.0, 80.0), min_size=2, max_size=2), st.floats(0.3, 60.0))
def test_any_coordinates_give_a_point_of_the_image(mean: list[float], sigma: float) -> None:
    log_maps = torch.randn(1, 1, 24, 40, generator=torch.Generator().manual_seed(0))
    point = network.decode(log_maps, torch.tensor([[mean]]), torch.tensor([sigma]), TINY)
    assert torch.isfinite(point).all() and (point >= 0).all() and (point[0, 0] <= torch.tensor([39.0, 23.0])).all()


@pytest.mark.parametrize("loss", ["bce", "mse", "spatial_cross_entropy"])
def test_ideal_outputs_of_every_loss_give_the_logarithm_of_the_same_gaussian(loss: str) -> None:
    gaussian = render_gaussians(torch.tensor([[[9.3, 6.0]]], dtype=torch.float64), (12, 20), 2.0)
    ideal = {"bce": gaussian.logit(eps=1e-12), "mse": gaussian, "spatial_cross_entropy": gaussian.log() + 3.0}[loss]
    found = network.log_heatmaps(ideal, loss)
    clear = gaussian < 0.9  # the logit has no value for a peak of 1
    torch.testing.assert_close((found - found.max())[clear], gaussian.log()[clear], atol=0.03, rtol=1e-3)


def test_the_fitted_sigma_is_the_most_likely_one() -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(9, 3, 2, generator=generator)
    found = points + torch.tensor([0.01, 0.05, 0.02])[:, None] * torch.randn(9, 3, 2, generator=generator)
    points[4, 1] = NAN
    sigma = network.fitted_sigma(found, points, least=1e-4)
    for landmark in range(3):
        errors = (found - points)[:, landmark].numpy()
        errors = errors[np.isfinite(errors).all(axis=1)]
        best = minimize_scalar(lambda s, e=errors: -norm.logpdf(e, scale=s).sum(), bounds=(1e-3, 0.5), method="bounded")
        assert sigma[landmark].item() == pytest.approx(best.x, rel=1e-3)
    points[:, 2] = NAN
    assert network.fitted_sigma(found, points, least=0.004)[2].item() == pytest.approx(0.004)


def test_the_coordinate_loss_by_hand() -> None:
    found = torch.tensor([[[0.5, 0.5], [0.2, 0.4], [0.9, 0.9]]], requires_grad=True)
    points = torch.tensor([[[0.5, 0.7], [0.1, 0.4], [NAN, NAN]]])
    loss = network.coordinate_loss(found, points)
    assert loss.item() == pytest.approx((0.2**2 + 0.1**2) / 4)
    loss.backward()
    assert found.grad is not None and (found.grad[0, 2] == 0).all() and torch.isfinite(found.grad).all()
    assert network.coordinate_loss(found, torch.full_like(points, NAN)).item() == 0


def test_the_coordinate_network_begins_at_the_mean_shape() -> None:
    stage = TINY.coordinate
    whole = network.CoordinateNetwork(2, 11, stage.architecture, side=stage.side)
    mean = torch.rand(11, 2, generator=torch.Generator().manual_seed(0))
    whole.start_at(mean)
    found = whole(torch.rand(3, 1, stage.side, stage.side))
    torch.testing.assert_close(found, mean.expand(3, 11, 2))


def test_shares_are_the_same_place_on_any_side() -> None:
    rows, columns = np.mgrid[:90, :60]
    blob = 255 * np.exp(-((columns - 41.0) ** 2 + (rows - 22.0) ** 2) / 72)
    image = Image.of(blob.astype(np.float32), (0.5, 0.8), (-30.0, 12.5))
    task = TASK.model_copy(
        update={"intensity": TASK.intensity.model_copy(update={"rule": "range", "low": 0.0, "high": 255.0})}
    )
    expected = np.array([(41.5 / 60, 22.5 / 90)])
    for side in (48, 77, 128):
        grid = resized(image, task, side)
        assert grid.array.shape == (side, side)
        y, x = np.unravel_index(grid.array.argmax(), grid.array.shape)
        found = to_shares(torch.tensor([[x, y]], dtype=torch.float64), side).numpy()
        assert np.abs(found - expected).max() < 1.0 / side
        np.testing.assert_allclose(
            grid.index_to_mm(to_voxels(torch.from_numpy(expected), side).numpy()),
            image.index_to_mm([[41, 22]]),
            atol=1e-6,
        )


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_move_with_the_image_that_is_changed(ndim: int) -> None:
    side, points = 48, torch.tensor([[[0.45, 0.6, 0.5][:ndim]], [[0.6, 0.5, 0.4][:ndim]]])
    maps = render_gaussians(to_voxels(points, side), (side,) * ndim, 2.0)
    extent = torch.tensor([[100.0, 260.0, 150.0][:ndim], [180.0, 120.0, 100.0][:ndim]])
    frames = Frames((maps * 255).round().to(torch.uint8), points, extent)
    shaken = Augmentation(rotation_degrees=25, scale=0.2, elastic_mm=1.5)
    for position in (0, 6):
        images, moved = augmented_frames(
            frames, [position, position + 1], augmentation=shaken, shift=(35 / 512, 8 / 512, 0.0)[:ndim], seed=3
        )
        for image, point in zip(images, moved, strict=True):
            axes = [torch.arange(side, dtype=torch.float32)] * ndim
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
            centre = (image[0].unsqueeze(-1) * grid).flatten(0, -2).sum(dim=0) / image.sum()
            assert (centre - to_voxels(point[0], side)).abs().max() < 0.25
        assert (moved - points).abs().max() > 0.01


def test_an_image_turns_in_millimetres_though_its_voxels_are_not_square() -> None:
    side, extent = 64, torch.tensor([[100.0, 300.0]])
    ends = torch.tensor([[[0.35, 0.5], [0.65, 0.5], [0.5, 0.4], [0.5, 0.6]]])
    frames = Frames(torch.zeros(1, 1, side, side, dtype=torch.uint8), ends, extent)
    turned = Augmentation(rotation_degrees=40)
    _, moved = augmented_frames(frames, range(6), augmentation=turned, shift=(0.0, 0.0), seed=1)
    lengths = torch.linalg.vector_norm((moved[:, ::2] - moved[:, 1::2]) * extent, dim=-1)
    torch.testing.assert_close(lengths, torch.tensor([[30.0, 60.0]]).expand(6, 2), rtol=1e-4, atol=1e-3)
    across = ((moved[:, 0] - moved[:, 1]) * extent * ((moved[:, 2] - moved[:, 3]) * extent)).sum(dim=-1)
    assert across.abs().max() < 0.1 and (moved - ends).abs().max() > 0.02


def test_frames_hold_where_the_landmarks_are(tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    case = dataset.cases(split="test")[0]
    small, large = load_frames(dataset, [case], sides=(32, 64))
    assert small.images.shape == (1, 1, 32, 32) and large.images.shape == (1, 1, 64, 64)
    grid = resized(dataset.image(case.name), dataset.task, 64)
    np.testing.assert_allclose(
        grid.index_to_mm(to_voxels(large.points[0].double(), 64).numpy()),
        dataset.landmarks(case.name).aligned_mm(dataset.task.names),
        atol=1e-3,
    )


def test_paper_settings() -> None:
    paper = method.preset_settings("paper", TASK)
    assert (paper.heatmap.side, paper.coordinate.side) == (512, 299)
    assert paper.heatmap.loss == "bce" and paper.heatmap.sigma_voxel == 1.2 and paper.decoding == "argmax"
    assert paper.coordinate.schedule.learning_rate == 1e-4 and paper.coordinate.schedule.weight_decay == 0
    assert paper.coordinate.architecture.features == 2048
    assert np.allclose(np.array(paper.shift) * 512, [35, 8])
    for stage in (paper.coordinate, paper.heatmap):
        assert asdict(stage.augmentation) == asdict(Augmentation(rotation_degrees=25, scale=0.3))
    assert TASK.intensity.rule == "equalise"


@pytest.mark.parametrize("preset", list(method.PRESETS))
@pytest.mark.parametrize("task", ["spine-mr-11", "ccta-8"])
def test_settings_survive_model_json_and_fit_the_networks(preset: str, task: str) -> None:
    chosen = method.preset_settings(preset, load_task(task))
    assert from_plain(method.Settings, asdict(chosen), source="model.json") == chosen
    assert chosen.heatmap.side % chosen.heatmap.architecture.multiple == 0
    assert chosen.coordinate.architecture.grid(chosen.coordinate.side) >= 2


def test_the_comparison_of_the_paper_needs_one_training() -> None:
    rows = ablation.rows_of(method)
    assert [row.view.get("combine", "fitted") for row in rows] == ["coordinate", "heatmap", "fixed", "fitted"]
    assert len(ablation.trainings_of(rows)) == 1


def test_what_is_not_there_is_refused(tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", TASK)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("sum", TINY)
    for wrong in (
        "heatmap.loss=dice", "decoding=median", "combine=sum", "shift=[0.1]", "heatmap.side=130", "coordinate.side=4",
    ):  # fmt: skip
        with pytest.raises(ChallengeError, match=wrong.partition("=")[0].replace("heatmap.loss", "loss")):
            method.train(Dataset(tiny_dataset), output=tmp_path, device="cpu", settings=overridden(TINY, [wrong]))


def _quick(tiny: method.Settings, iterations: int) -> method.Settings:
    schedule = {"iterations": iterations, "batch": 4, "validate_every": iterations, "average": 0.8}
    return replace(
        tiny,
        coordinate=replace(
            tiny.coordinate,
            side=48,
            augmentation=Augmentation(),
            schedule=replace(tiny.coordinate.schedule, **schedule),
        ),
        heatmap=replace(
            tiny.heatmap,
            side=48,
            augmentation=Augmentation(),
            architecture=Architecture((16, 24, 32, 32), convolutions=1),
            schedule=replace(tiny.heatmap.schedule, learning_rate=1e-2, **schedule),
        ),
        shift=(0.0, 0.0),
    )


@pytest.fixture(scope="module")
def trained(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heatmap_coordinate") / "model"
    chosen = _quick(method.preset_settings("tiny", load_task("ceph-19")), 100)
    train_method(
        "heatmap_coordinate", Dataset(tiny_dataset), output=folder, device="cpu", settings=chosen, preset="tiny"
    )
    return folder


def test_trains_localizes_and_beats_the_floor(trained: Path, tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    whole = load_model(trained, device="cpu")
    assert isinstance(whole, method.HeatmapCoordinate)
    shown = {combine: replace(whole, settings=replace(whole.settings, combine=combine)) for combine in method.VARIANTS}
    errors = {name: training_error_mm(localizer, dataset) for name, localizer in shown.items()}
    errors["floor"] = floor_mm(dataset, tmp_path / "floor")
    assert errors["fitted"] < errors["floor"] and errors["heatmap"] < errors["floor"]
    assert len({round(value, 6) for value in errors.values()}) == 5
    assert (trained / "weights.safetensors").stat().st_size < 2_000_000
    assert not list(trained.glob("*.checkpoint"))
    sigma = read_model(trained).settings["sigma"]
    assert len(sigma) == 19 and all(1 / 48 <= value < 0.5 for value in sigma)


@pytest.mark.parametrize("combine", ["coordinate", "heatmap"])
def test_a_network_alone_is_a_whole_model(combine: str, tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    chosen = method.variant_settings(combine, _quick(TINY, 1))
    method.train(dataset, output=tmp_path, device="cpu", settings=chosen)
    assert {key.partition(".")[0] for key in read_model(tmp_path).weights} == {combine}
    localizer = method.load(tmp_path)
    image = dataset.image(dataset.cases(split="test")[0].name)
    assert np.isfinite(localizer.localize(image).landmarks.points_mm).all()
    with pytest.raises(ChallengeError, match="combine"):
        replace(localizer, settings=replace(localizer.settings, combine="fitted")).localize(image)


def test_a_run_that_stopped_between_the_networks_goes_on(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, chosen = Dataset(tiny_dataset), _quick(TINY, 2)
    method.train(dataset, output=tmp_path / "at-once", device="cpu", settings=chosen)
    with monkeypatch.context() as patch:
        patch.setattr(training, "heatmap_loss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            method.train(dataset, output=tmp_path / "resumed", device="cpu", settings=chosen)
    assert not (tmp_path / "resumed" / "model.json").exists()
    monkeypatch.setattr(training, "coordinate_loss", lambda *_: pytest.fail("the coordinates are trained already"))
    method.train(dataset, output=tmp_path / "resumed", device="cpu", settings=chosen, resume=True)
    models = [read_model(tmp_path / name) for name in ("at-once", "resumed")]
    assert models[0].settings == models[1].settings
    for key, value in models[0].weights.items():
        torch.testing.assert_close(models[1].weights[key], value, rtol=0, atol=1e-6)
