"""The localizer's parts against hand-computed numbers and SciPy, and a short training against the floor."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import settings as checked
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from landmark_baselines import md_gru as method
from landmark_baselines import md_gru_training
from landmark_baselines.augmentation import WITHOUT_FOLDS, Augmentation, Warp, image_positions, warp_points
from landmark_baselines.blocks import parameter_count
from landmark_baselines.checkpoints import Model, read_model
from landmark_baselines.md_gru_layer import MDGRU
from landmark_baselines.md_gru_network import (
    Architecture,
    DenseHead,
    LightHead,
    LocalizationNetwork,
    class_loss,
    decode,
    with_high_pass,
)
from landmark_baselines.method import load_model, train_method
from landmark_baselines.presets import from_plain, overridden
from landmark_baselines.store import Store, load_store
from landmark_baselines.training import Step, cases_at
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.task import Task, load_task

from .learning import assert_beats_the_floor

BRAINSTEM, CEPH = load_task("brainstem-mr-1"), load_task("ceph-19")


def _ideal_logits(points: Tensor, window: tuple[int, ...], classes: tuple[int, ...], sigma: float) -> list[Tensor]:
    """Logits of Gaussians around the points, (B, L, ndim) voxels of the window."""
    logits = []
    for axis, (side, count) in enumerate(zip(window, classes, strict=True)):
        centres = (torch.arange(count) + 0.5) * side / count - 0.5
        logits.append(-0.5 * ((centres - points[..., axis, None]) / sigma) ** 2)
    return logits


def test_the_papers_network() -> None:
    settings = method.preset_settings("paper", BRAINSTEM)
    assert settings.coarse.window == (256,) * 3 and settings.fine.window == (64,) * 3
    assert settings.coarse.schedule.iterations == 50 * 1004 and settings.coarse.schedule.rho == 0.9
    with torch.device("meta"):
        coarse = method.make_network(3, 1, settings.coarse)
        fine = method.make_network(3, 1, settings.fine)
        plain = method.make_network(3, 1, method.variant_settings("64 classes", settings).fine)
    stem = coarse.trunk[0]
    assert isinstance(stem, nn.Conv3d) and stem.weight.shape == (16, 2, 9, 9, 9) and stem.stride == (4, 4, 4)
    grus = [layer for layer in fine.modules() if isinstance(layer, MDGRU)]
    assert [layer.channels for layer in grus] == [32, 64, 128] and all(layer.stride == 2 for layer in grus)
    assert [layer.out_channels for layer in fine.trunk if isinstance(layer, nn.Conv3d)] == [48, 96, 192]
    assert isinstance(fine.head, DenseHead) and isinstance(plain.head, DenseHead)
    assert [tuple(weight.shape) for weight in plain.head.weights] == [(1, 98_304, 768), (1, 768, 192)]
    assert [tuple(weight.shape) for weight in fine.head.weights] == [(1, 98_304, 3072), (1, 3072, 768)]
    assert 302e6 < parameter_count(fine.head) < 305e6
    assert fine.head.classes == (256,) * 3 and plain.head.classes == (64,) * 3


def test_initial_weights_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    head = DenseHead(2, 300, (8, 8, 16))
    for weight, inputs in zip(head.weights, (300, 128), strict=True):
        limit = math.sqrt(3 / inputs)
        assert 0.95 * limit < weight.abs().max() <= limit
    network = LocalizationNetwork(3, 1, Architecture(((4, 6),), kernel=3), window=(8, 8, 8), classes_per_voxel=1)
    biases = [value for name, value in network.named_parameters() if name.endswith("bias")]
    assert biases and all((bias == 0).all() for bias in biases)


@pytest.mark.parametrize("head", ["dense", "light"])
@pytest.mark.parametrize("window", [(16, 8, 12), (12, 16)])
def test_every_landmark_has_a_distribution_per_axis(window: tuple[int, ...], head: str) -> None:
    ndim = len(window)
    architecture = Architecture(((3, 4),), kernel=3, stem=2, stem_stride=2, head=head, head_width=5)
    network = LocalizationNetwork(ndim, 3, architecture, window=window, classes_per_voxel=4).eval()
    size = window[::-1]
    for windows in (torch.rand(2, 1, 2, *size), torch.rand(2, 3, 2, *size)):
        logits = network(windows)
        assert [tuple(found.shape) for found in logits] == [(2, 3, side * 2) for side in window]


def test_with_a_window_each_landmarks_do_not_see_each_others() -> None:
    architecture = Architecture(((3, 4),), kernel=3, head="light", head_width=5)
    network = LocalizationNetwork(2, 3, architecture, window=(8, 8), classes_per_voxel=1).eval()
    windows = torch.rand(1, 3, 2, 8, 8)
    changed = windows.clone()
    changed[:, 1] = torch.rand(1, 2, 8, 8)
    for before, after in zip(network(windows), network(changed), strict=True):
        torch.testing.assert_close(before[:, [0, 2]], after[:, [0, 2]])
        assert not torch.allclose(before[:, 1], after[:, 1])


def test_the_light_head_moves_with_its_features() -> None:
    torch.manual_seed(0)
    head = LightHead(1, 6, 4, grid=(8, 8), classes=(16, 32))
    features = torch.zeros(1, 1, 6, 8, 8)
    features[..., 3, 2] = torch.rand(6)
    along_x, along_y = head(features)
    moved_x, moved_y = head(features.roll((1, 2), dims=(-2, -1)))
    # Two cells of 2 classes along x, one of 4 along y; cells on the border are left out, they see zeros beyond it.
    torch.testing.assert_close(moved_x[..., 6:12], along_x[..., 2:8])
    torch.testing.assert_close(moved_y[..., 12:24], along_y[..., 8:20])
    with pytest.raises(ChallengeError, match="multiples"):
        LightHead(1, 6, 4, grid=(8, 8), classes=(16, 12))


def test_the_loss_by_hand() -> None:
    logits = [torch.tensor([[[0.5, -1.0, 2.0, 0.0]]]), torch.tensor([[[1.0, 3.0]]])]
    first = np.log(np.exp([0.5, -1.0, 2.0, 0.0]).sum()) + 1.0  # 0.3 in two voxels of two classes each: class 1
    second = np.log(np.exp([1.0, 3.0]).sum()) - 3.0
    loss = class_loss(logits, torch.tensor([[[0.3 - 0.25, 0.9]]]), (2, 2), label_sigma=0.0)
    assert loss.item() == pytest.approx(first + second, rel=1e-6)
    outside = class_loss(logits, torch.tensor([[[2.0, 0.9]]]), (2, 2), label_sigma=0.0)
    assert outside.item() == pytest.approx(second, rel=1e-6)
    nowhere = torch.full((1, 1, 2), math.nan)
    assert class_loss(logits, nowhere, (2, 2), label_sigma=0.0).item() == 0
    assert class_loss(logits, nowhere, (2, 2), label_sigma=1.0).item() == 0


def test_soft_labels_by_hand() -> None:
    logits = np.array([0.5, -1.0, 2.0, 0.0])
    labels = np.exp(-0.5 * ((np.array([-0.25, 0.25, 0.75, 1.25]) - 0.4) / 0.6) ** 2)
    by_hand = -(labels / labels.sum() * (logits - np.log(np.exp(logits).sum()))).sum()
    loss = class_loss(
        [torch.from_numpy(logits).float().reshape(1, 1, 4)], torch.tensor([[[0.4]]]), (2,), label_sigma=0.6
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


@checked(deadline=None)
@given(st.floats(-0.499, 15.499), st.sampled_from([16, 64]))
def test_the_class_of_a_place_is_the_one_around_it(place: float, classes: int) -> None:
    logits = torch.zeros(1, 1, classes, requires_grad=True)
    class_loss([logits], torch.tensor([[[place]]]), (16,), label_sigma=0.0).backward()
    assert logits.grad is not None
    assert (logits.grad < 0).sum() == 1  # the one class that should be more probable
    found, _ = decode([-logits.grad], (16,), parabola=False)
    assert abs(found.item() - place) <= 8 / classes + 1e-5


@pytest.mark.parametrize("ndim", [2, 3])
def test_ideal_logits_decode_to_the_point(ndim: int) -> None:
    window, classes = (32, 16, 24)[:ndim], (128, 64, 96)[:ndim]
    points = 3 + 9 * torch.rand(2, 5, ndim, generator=torch.Generator().manual_seed(1))
    logits = _ideal_logits(points, window, classes, 1.0)
    plain, _ = decode(logits, window, parabola=False)
    fitted, variances = decode(logits, window, parabola=True)
    assert (plain - points).abs().max() <= 0.125 + 1e-5
    assert (fitted - points).abs().max() < 0.005
    torch.testing.assert_close(variances, torch.ones_like(variances), atol=0.02, rtol=0)


def test_the_parabola_by_hand_and_on_the_border() -> None:
    chances = torch.tensor([0.1, 0.4, 0.3, 0.2])
    found, variance = decode([chances.log().reshape(1, 1, 4)], (4,), parabola=True)
    top = 1 + 0.5 * (0.1 - 0.3) / (0.1 - 0.8 + 0.3)
    assert found.item() == pytest.approx(top, rel=1e-5)
    assert variance.item() == pytest.approx(sum(p * (i - top) ** 2 for i, p in enumerate(chances.tolist())), rel=1e-5)
    for flipped in (False, True):
        border = torch.tensor([0.6, 0.3, 0.08, 0.02]).log().reshape(1, 1, 4)
        found, _ = decode([border.flip(-1) if flipped else border], (4,), parabola=True)
        assert found.item() == (3.0 if flipped else 0.0)
    assert decode([torch.zeros(1, 1, 4)], (4,), parabola=True)[0].isfinite().all()


@pytest.mark.parametrize("sigma", [1.2, 5.0])
@pytest.mark.parametrize("shape", [(40, 50, 45), (61, 50)])
def test_the_high_pass_is_the_image_without_scipys_gaussian(shape: tuple[int, ...], sigma: float) -> None:
    image = np.random.default_rng(0).random(shape)
    image[10:25, 15:40] += 2.0
    both = with_high_pass(torch.from_numpy(image)[None, None].float(), sigma)[0].numpy()
    expected = image - scipy.ndimage.gaussian_filter(image, sigma, mode="nearest")
    for found, whole in zip(both, (image, expected), strict=True):
        assert found.mean() == pytest.approx(0, abs=1e-4) and found.std() == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(found, (whole - whole.mean()) / whole.std(ddof=1), atol=1e-4)
    flat = with_high_pass(torch.full((1, 1, *shape), 0.3), sigma)
    assert flat.isfinite().all() and flat.abs().max() < 0.01


class _Oracle(nn.Module):
    """Knows where the brightest voxel of its window is and says so by Gaussian logits."""

    def __init__(self, stage: method.Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, windows: Tensor) -> list[Tensor]:
        window = self.stage.window
        flat = windows[:, :, 0].flatten(2).argmax(dim=-1)
        index = torch.stack(torch.unravel_index(flat, windows.shape[3:])[::-1], dim=-1).float()
        classes = tuple(side * self.stage.classes_per_voxel for side in window)
        return _ideal_logits(index, window, classes, 0.8)


@pytest.mark.parametrize("shape", [(40, 48, 36), (40, 44)])
@pytest.mark.parametrize("large", [False, True])
def test_windows_and_images_agree_on_where_a_point_is(shape: tuple[int, ...], large: bool) -> None:
    ndim = len(shape)
    settings = method.preset_settings("tiny", CEPH if ndim == 2 else BRAINSTEM)
    side = 32 if large else 64  # a smaller window has to see the image at a coarser spacing
    stage = replace(settings.coarse, window=(side,) * ndim)
    settings = replace(settings, coarse=stage, fine=replace(settings.fine, window=(16,) * ndim))
    place = torch.tensor([22.0, 17.0, 13.0][:ndim])
    grids = torch.meshgrid(*[torch.arange(count, dtype=torch.float32) for count in shape], indexing="ij")
    away = sum((grid - at) ** 2 for grid, at in zip(grids, place.flip(0), strict=True))
    images = torch.exp(-away / 18)[None, None]
    found, _ = method.run_coarse(_Oracle(stage), images, settings)
    scale = method.overview_scale(shape[::-1], stage.window)
    assert (scale > 1) == large
    assert (found[0, 0] - place).abs().max() <= 0.51 * scale
    estimates = torch.stack([place + 3.3, place - 2.6])[None]
    found, _ = method.run_fine(_Oracle(settings.fine), images, estimates, settings)
    assert (found[0] - place).abs().max() <= 0.51


def test_a_smaller_image_lies_in_the_window_as_it_did_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the container an image comes alone; in a training set it is continued to the size of the largest."""
    settings = method.preset_settings("tiny", CEPH)
    stage = replace(settings.coarse, window=(96, 64), offset_voxel=0, augmentation=Augmentation())
    settings = replace(settings, coarse=replace(stage, schedule=replace(stage.schedule, batch=2)))
    sizes = torch.tensor([[80, 50], [60, 40]])
    images = torch.randint(1, 255, (2, 1, 50, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[1] = torch.nn.functional.pad(images[1:, :, :40, :60].float(), (0, 20, 0, 10), mode="replicate")[0].byte()
    points = torch.tensor([30.0, 20.0]).expand(2, 19, 2).contiguous()
    store = Store(images, points, stage.spacing_mm, sizes)
    shown: dict[str, list[Tensor]] = {"training": [], "alone": []}

    def looked_at(where: str) -> nn.Module:
        class Recorder(nn.Module):
            def forward(self, windows: Tensor) -> list[Tensor]:
                shown[where] += list(windows[:, 0, 0])
                return [torch.zeros(*windows.shape[:1], 19, side) for side in stage.window]

        return Recorder()

    monkeypatch.setattr(md_gru_training, "class_loss", lambda *_, **__: torch.zeros(()))
    md_gru_training._coarse_loss(looked_at("training"), Step(0), store, settings, seed=0)
    for case in cases_at(range(2), 2, seed=0).tolist():
        width, height = sizes[case].tolist()
        whole = images[case, :, :height, :width][None].float() / 255
        assert torch.equal(store.alone(case), whole)
        method.run_coarse(looked_at("alone"), whole, settings)
    for taught, seen in zip(shown["training"], shown["alone"], strict=True):
        torch.testing.assert_close(taught[20:44, 20:76], seen[20:44, 20:76], atol=1e-3, rtol=0)


def test_windows_lie_at_fractions_so_that_every_class_is_a_label(tmp_path: Path, tiny_volumes: Path) -> None:
    dataset = Dataset(tiny_volumes)
    settings = method.preset_settings("tiny", dataset.task)
    stage = replace(settings.fine, window=(8,) * 3, offset_voxel=0, augmentation=Augmentation())
    stage = replace(stage, schedule=replace(stage.schedule, batch=2))
    settings = replace(settings, fine=stage)
    store = load_store(dataset, dataset.cases(split="train"), spacing_mm=(stage.spacing_mm,))[0]
    seen = set()

    class Recorder(nn.Module):
        def forward(self, windows: Tensor) -> list[Tensor]:
            return [torch.zeros(*windows.shape[:2], 32) for _ in range(3)]

    def record(logits: list[Tensor], points: Tensor, window: tuple[int, ...], *, label_sigma: float) -> Tensor:
        known = points[points.isfinite().all(dim=-1)]
        assert ((known >= -0.5001) & (known <= 7.5001)).all()
        seen.update(torch.floor((known[:, 0] + 0.5) * 4).int().tolist())
        return torch.zeros(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(md_gru_training, "class_loss", record)
        for step in range(20):
            md_gru_training._fine_loss(Recorder(), Step(step), store, settings, seed=0)
    assert seen >= set(range(32))


@pytest.mark.parametrize("task", [BRAINSTEM, CEPH, load_task("olfactory-mr-2"), load_task("hippocampus-5")])
@pytest.mark.parametrize("preset", ["fast", "cpu", "tiny"])
def test_what_a_window_shows_at_a_label_is_the_landmark(
    preset: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random field that folds shows a landmark several times, and no label is right."""
    settings = method.preset_settings(preset, task)
    ndim, spacing, side = task.dimension, settings.fine.spacing_mm, min(settings.fine.window)
    stage = replace(settings.fine, window=(16,) * ndim, spacing_mm=spacing * side / 16)  # as large, of fewer voxels
    stage = replace(stage, offset_voxel=0, schedule=replace(stage.schedule, batch=100))
    settings = replace(settings, fine=stage, coarse=replace(stage, offset_voxel=0), high_pass_mm=2 * stage.spacing_mm)
    points = 16 + 8 * torch.rand(100, 1, ndim, generator=torch.Generator().manual_seed(0))
    store = Store(torch.zeros(100, 1, *(40,) * ndim, dtype=torch.uint8), points, stage.spacing_mm)
    seen: list[tuple[Warp, Tensor]] = []

    def recorded(centres: Tensor, warp: Warp) -> Tensor:
        inside = warp_points(centres, warp)
        seen.append((warp, inside))
        return inside

    monkeypatch.setattr(md_gru_training, "warp_points", recorded)
    monkeypatch.setattr(md_gru_training, "class_loss", lambda *_, **__: torch.zeros(()))
    md_gru_training._fine_loss(nn.Identity(), Step(0), store, settings, seed=0)
    md_gru_training._coarse_loss(nn.Identity(), Step(0), store, settings, seed=0)  # its window holds all 40 voxels
    order = cases_at(range(100), 100, seed=0)
    for (warp, inside), extent_mm in zip(seen, (16 * stage.spacing_mm, 40 * stage.spacing_mm), strict=True):
        shown = torch.linalg.vector_norm(image_positions(inside[:, 0], warp) - points[order], dim=-1)
        assert shown.quantile(0.99) < 0.1
        assert warp.nodes is not None
        wanted_mm = min(stage.augmentation.elastic_mm, WITHOUT_FOLDS * extent_mm / stage.augmentation.elastic_nodes)
        assert float(warp.nodes.std()) * stage.spacing_mm == pytest.approx(wanted_mm, rel=0.05)


@pytest.mark.parametrize("preset", list(method.PRESETS))
@pytest.mark.parametrize("task", [BRAINSTEM, CEPH, load_task("hippocampus-5")])
def test_settings_survive_model_json_and_fit_a_network(preset: str, task: Task) -> None:
    settings = method.preset_settings(preset, task)
    assert from_plain(method.Settings, asdict(settings), source="model.json") == settings
    shape = (61, 70, 55)[: task.dimension]
    coarse = settings.coarse
    if not coarse.window:
        coarse = replace(coarse, window=method.choose_window(shape, coarse))
        assert all(side >= count for side, count in zip(coarse.window, shape[::-1], strict=True))
    with torch.device("meta"):
        for stage in (coarse, settings.fine):
            method.make_network(task.dimension, len(task.names), stage)


def test_what_is_not_there_is_refused() -> None:
    settings = method.preset_settings("tiny", CEPH)
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", CEPH)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("128 classes", settings)
    with pytest.raises(ChallengeError, match="head"):
        method.make_network(2, 1, overridden(settings, ["fine.architecture.head=wide"]).fine)
    with pytest.raises(ChallengeError, match="window"):
        method.make_network(2, 1, overridden(settings, ["fine.window=[30, 32]"]).fine)


def _quick(settings: method.Settings, iterations: int) -> method.Settings:
    def quick(stage: method.Stage) -> method.Stage:
        schedule = replace(stage.schedule, iterations=iterations, validate_every=iterations, average=0.0, batch=2)
        return replace(stage, schedule=schedule)

    return replace(settings, coarse=quick(settings.coarse), fine=quick(settings.fine))


def test_dropconnect_passes_widen_the_covariance_and_leave_the_point(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    settings = _quick(method.preset_settings("tiny", dataset.task), 1)
    train_method("md_gru", dataset, output=tmp_path, device="cpu", settings=settings, preset="tiny")
    image = dataset.image(dataset.cases(split="test")[0].name)
    localizer = load_model(tmp_path, device="cpu")
    assert isinstance(localizer, method.MDGRULocalizer)
    alone = localizer.localize(image)
    passing = replace(localizer, settings=replace(localizer.settings, passes=5))
    state = torch.random.get_rng_state()
    first, again = passing.localize(image), passing.localize(image)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.landmarks == again.landmarks == alone.landmarks
    slanted = 0
    for name, covariance in first.covariance_mm2.items():
        np.testing.assert_array_equal(covariance, again.covariance_mm2[name])
        assert np.linalg.eigvalsh(covariance[:2, :2]).min() > 0 and not covariance[2].any()
        diagonal = alone.covariance_mm2[name]
        assert np.count_nonzero(diagonal - np.diag(np.diag(diagonal))) == 0
        slanted += abs(covariance[0, 1]) > 0
    assert slanted > len(first.covariance_mm2) / 2


def test_trains_localizes_and_beats_the_floor(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    settings = _quick(replace(method.preset_settings("tiny", dataset.task), refine=False), 200)
    coarse = replace(
        settings.coarse,
        spacing_mm=8.0,
        label_sigma_mm=8.0,
        architecture=replace(settings.coarse.architecture, drop=0.0, head_width=24),
        schedule=replace(settings.coarse.schedule, batch=4, learning_rate=2e-2),
        augmentation=Augmentation(),
    )
    settings = replace(settings, coarse=coarse)
    train_method("md_gru", dataset, output=tmp_path / "model", device="cpu", settings=settings, preset="tiny")
    assert_beats_the_floor(tmp_path / "model", dataset, tmp_path / "floor")


def test_a_run_stopped_between_the_stages_ends_as_one_that_was_not(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(tiny_dataset)
    settings = _quick(method.preset_settings("tiny", dataset.task), 1)

    def weights(name: str, **options: bool) -> dict[str, Tensor]:
        method.train(dataset, output=tmp_path / name, device="cpu", settings=settings, **options)
        return dict(read_model(tmp_path / name).weights)

    at_once = weights("at-once")
    with monkeypatch.context() as patch:
        patch.setattr(md_gru_training, "_fine_loss", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            weights("resumed")
    resumed = weights("resumed", resume=True)
    assert at_once.keys() == resumed.keys() and any(key.startswith("fine.") for key in at_once)
    for key, value in at_once.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)


def test_both_stages_of_the_paper_take_less_than_650_gflop() -> None:
    """On a volume of 256^3 voxels, whatever its content: so 65 GFLOP/s are enough for 10 s."""
    chosen = method.preset_settings("paper", BRAINSTEM)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, torch.no_grad():
        for stage in (chosen.coarse, chosen.fine):
            method.make_network(3, 1, stage)(torch.empty(1, 1, 2, *stage.window))
    assert 400e9 < counter.get_total_flops() < 650e9


def test_covariances_are_in_square_millimetres() -> None:
    settings = method.preset_settings("tiny", BRAINSTEM)
    coarse = replace(settings.coarse, window=(48, 48, 48), spacing_mm=3.0)
    settings = replace(settings, refine=False, coarse=coarse)
    empty = Model("md_gru", "tiny", {}, BRAINSTEM, {}, {}, {})
    localizer = method.MDGRULocalizer(empty, settings, _Oracle(coarse), None, torch.device("cpu"))
    array = np.zeros((40, 40, 40), np.float32)
    array[20:29, 11:20, 8:17] = 1  # the oracle takes its first corner
    found = localizer.localize(Image.of(array, (3.0, 3.0, 3.0), (5.0, -7.0, 9.0)))
    np.testing.assert_allclose(found.landmarks.points_mm[0], [5 + 3 * 8, -7 + 3 * 11, 9 + 3 * 20], atol=0.05)
    np.testing.assert_allclose(found.covariance_mm2[BRAINSTEM.names[0]], np.eye(3) * (0.8 * 3) ** 2, rtol=0.1)


def test_a_study_prints_table_1a() -> None:
    from landmark_baselines.ablation import rows_of, trainings_of

    rows = rows_of(method)
    assert rows[0].name == "Coarse localization" and len(rows) == 5
    assert len(trainings_of(rows)) == 2
    assert {row.variant for row in rows} == set(method.VARIANTS)
