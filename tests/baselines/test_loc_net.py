"""The parts of Loc-Net against hand-computed numbers, its geometry as properties, and a short training."""

import resource
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark_baselines import loc_net as method
from landmark_baselines import loc_net_network as network
from landmark_baselines import loc_net_training as training
from landmark_baselines import scales
from landmark_baselines.ablation import rows_of, trainings_of
from landmark_baselines.augmentation import FEW_IMAGES, Augmentation
from landmark_baselines.blocks import autocast, parameter_count
from landmark_baselines.checkpoints import Model
from landmark_baselines.heatmaps import render_gaussians
from landmark_baselines.method import load_model, train_method
from landmark_baselines.patches import sample_windows
from landmark_baselines.presets import from_plain, overridden
from landmark_baselines.store import Store, prepare
from landmark_baselines.training import Schedule, Step
from landmark_baselines.unet import Architecture
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.task import Intensity, Task, load_task

from .learning import assert_beats_the_floor

CEPH = load_task("ceph-19")
SMALL = Architecture((4, 6), convolutions=1)
# Three scales of 4, 2 and 1 mm on crops of 16 voxels, after the paper.
PLAIN = network.Settings(
    (4.0, 2.0, 1.0), 16, SMALL, SMALL, Schedule(4, 2, 1e-3, validate_every=4), noise_mm=2.0, passes=6
)


class Seer(torch.nn.Module):
    """A network that finds the brightest spot: its maps are a steep power of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0) ** 8


def _blob_stores(points_mm: torch.Tensor, side_mm: int, spacings: tuple[float, ...]) -> list[Store]:
    """One image with a broad Gaussian around each of the (1, 1, ndim) points, at every spacing."""
    ndim = points_mm.shape[-1]
    stores = []
    for spacing in spacings:
        points = points_mm / spacing - 0.5
        image = render_gaussians(points, (int(side_mm / spacing),) * ndim, 6.0 / spacing)
        stores.append(Store((image * 255).round().to(torch.uint8), points, spacing))
    return stores


def _reader(stores: list[Store], crop: int = 16) -> scales.Reader:
    return scales.StoreReader(stores, torch.arange(len(stores[0])), crop, 8).read


def _chain(ndim: int, landmarks: int, chosen: network.Settings, seed: int = 0) -> network.Chain:
    torch.manual_seed(seed)
    return network.Chain(ndim, landmarks, chosen).eval()


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_chain_hands_points_from_scale_to_scale(ndim: int) -> None:
    points_mm = torch.tensor([[[41.3, 22.7, 50.9][:ndim]]])
    stores = _blob_stores(points_mm, 64, PLAIN.spacings_mm)
    chain = _chain(ndim, 1, PLAIN)
    chain.scales = torch.nn.ModuleList(Seer() for _ in PLAIN.spacings_mm)
    shift = torch.tensor([[[1.3, -0.6, 0.9][:ndim]]])
    found = chain(_reader(stores), shift)
    for part, store in zip(found, stores, strict=True):
        error_mm = torch.linalg.vector_norm(part.points - store.points, dim=-1) * store.spacing_mm
        assert (
            error_mm.max() < 0.1
        )  # a crop that is off by a voxel, or an offset that is not the crop's, is off by 1 mm
    wanted = (found[1].points + 0.5) * 2 - 0.5 + shift - 7.5  # 1 mm voxels; the middle of 16 is 7.5
    torch.testing.assert_close(found[2].corner, wanted)
    assert torch.equal(found[0].corner, torch.zeros_like(found[0].corner))


def test_gradients_reach_the_coarser_scale_through_the_crop_and_its_offset() -> None:
    """Against differences; the network is smooth, and the crop's corner stays between the same voxels."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(2, 2, 5, padding=2, groups=2)
    torch.nn.init.normal_(layer.weight)
    chosen = replace(PLAIN, maps="softmax")
    image = torch.rand(1, 1, 32, 32)

    def found(before: torch.Tensor) -> torch.Tensor:
        return network.look(
            layer,
            1,
            lambda _, centres: sample_windows(image, centres, (16, 16))[:, :, 0],  # type: ignore[arg-type]
            chosen,
            before=before,
        ).points[0, 0, 0]

    before = torch.tensor([[[7.3, 8.1], [6.2, 9.4]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(found(before), before)
    step = torch.tensor([0.01, 0.0])
    with torch.no_grad():
        numeric = (found(before + step) - found(before - step)).item() / 0.02
    assert gradient[0, 0, 0].item() == pytest.approx(numeric, rel=1e-2)
    assert abs(numeric - 2) > 0.1  # 2 is the offset alone; what is seen in the crop counts too
    assert (gradient[0, 1] == 0).all()  # the other landmark has a crop of its own


def test_the_finest_loss_trains_the_coarsest_network() -> None:
    chain = _chain(2, 2, PLAIN)
    stores = _blob_stores(torch.tensor([[[33.0, 29.0]]]), 64, PLAIN.spacings_mm)
    chain(_reader(stores), torch.zeros(1, 2, 2))[-1].points.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in chain.scales[0].parameters() if p.ndim > 1)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([2, 3]), st.data())
def test_a_shift_by_the_coarsest_stride_shifts_the_points(ndim: int, data: st.DataObject) -> None:
    """To 1e-3 voxels of the finest scale, as long as nothing that the networks see of the object reaches the border.

    Without biases a network is silent where all is black. Coarser than the stride of the pooling (2 levels of 4 mm
    voxels: 8 mm) nothing else differs between the two images.
    """
    chosen = replace(PLAIN, coarse=replace(SMALL, norm=False), fine=replace(SMALL, norm=False))
    chain = _chain(ndim, 2, chosen, seed=data.draw(st.integers(0, 50)))
    for name, parameter in chain.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        if name.endswith("output.weight"):
            parameter.data.abs_()  # no dead map
    side, stride_mm = 96, 4 * chosen.coarse.multiple
    steps = [data.draw(st.integers(-1, 1)) for _ in range(ndim)]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    texture = torch.rand(1, 1, *(24,) * ndim, generator=generator)

    def found(offset_mm: list[int]) -> torch.Tensor:
        image = torch.zeros(1, 1, *(side,) * ndim)
        corner = [(side - 24) // 2 // 8 * 8 + move for move in offset_mm]
        image[(0, 0, *[slice(at, at + 24) for at in reversed(corner)])] = texture[0, 0]
        pyramid = [torch.nn.functional.avg_pool2d, torch.nn.functional.avg_pool3d][ndim - 2]
        images = [pyramid(image, 4), pyramid(image, 2), image]

        def read(scale: int, centres: torch.Tensor | None) -> torch.Tensor:
            size = (16,) * ndim
            return images[scale] if centres is None else sample_windows(images[scale], centres, size)[:, :, 0]

        with torch.no_grad():
            return torch.as_tensor(chain(read, torch.zeros(1, 2, ndim))[-1].points)

    moved = [step * stride_mm for step in steps]
    torch.testing.assert_close(
        found(moved) - found([0] * ndim), torch.tensor(moved).expand(1, 2, -1).float(), atol=1e-3, rtol=0
    )


def test_a_dead_map_gives_its_middle_and_can_be_revived() -> None:
    maps = torch.full((1, 1, 5, 7), -2.0, requires_grad=True)
    weights = network.weights_of(maps, "relu")
    point = network.centre_of_mass(weights)
    torch.testing.assert_close(point, torch.tensor([[[3.0, 2.0]]]))
    (gradient,) = torch.autograd.grad(point[0, 0, 0], maps)
    assert gradient.abs().sum() > 0
    alive = torch.tensor([[[[-1.0, 0.0, 3.0, 1.0]]]])
    assert network.weights_of(alive, "relu").flatten().tolist() == [0, 0, 3, 1]
    assert network.centre_of_mass(network.weights_of(alive, "relu")).flatten().tolist() == [2.25, 0.0]


def test_the_loss_is_in_square_millimetres_at_every_scale() -> None:
    """2 voxels off along x at 4 mm, 1 at 2 mm and 3 at 1 mm: 64, 4 and 9 mm^2."""
    target = torch.tensor([[[5.0, 6.0], [float("nan"), 0.0]]])
    found = []
    for ratio, off in ((1, 2.0), (2, 1.0), (4, 3.0)):
        points = (target.nan_to_num() + 0.5) * ratio - 0.5 + torch.tensor([off, 0.0])
        found.append(network.Found(points, torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2)))
    for progress, wanted in ((0.0, 64.0), (0.25, 0.75 * 64 + 0.5 * 4 + 0.25 * 9), (0.5, 32 + 4 + 4.5), (1.0, 9.0)):
        assert training.chain_loss(found, target, PLAIN, progress=progress).item() == pytest.approx(wanted)
    even = replace(PLAIN, weighting="even", loss="distance")
    assert training.chain_loss(found, target, even, progress=0.0).item() == pytest.approx(8 + 2 + 3, rel=1e-4)
    unknown = torch.full_like(target, float("nan"))
    assert training.chain_loss(found, unknown, PLAIN, progress=0.5).item() == 0


def test_the_schedule_of_the_paper() -> None:
    rows = np.array([training.scale_weights(4, progress) for progress in np.linspace(0, 1, 501)])
    np.testing.assert_allclose(rows[0], [1, 0, 0, 0])
    np.testing.assert_allclose(rows[250], [0.5, 1, 1, 0.5])
    np.testing.assert_allclose(rows[-1], [0, 0, 0, 1])
    assert np.allclose(np.diff(rows[:251], 2, axis=0), 0) and np.allclose(np.diff(rows[250:], 2, axis=0), 0)
    assert training.scale_weights(1, 0.3) == [1.0]


def test_maps_are_taught_where_the_landmark_lies_in_the_crop() -> None:
    chosen = replace(PLAIN, maps="softmax", map_weight=1.0)
    target = torch.tensor([[[5.0, 6.0]]])
    corner = torch.tensor([[[7.0, 9.0]]])  # of a crop of the second scale, in which the landmark is at 10.5, 12.5
    at = torch.tensor([[[10.5 - 7.0, 12.5 - 9.0]]])
    maps = render_gaussians(at, (16, 16), training.MAP_SIGMA_VOXEL).clamp(min=1e-30).log()
    good = training.scale_loss(network.Found(corner + at, maps, corner), target, chosen, scale=1)
    wrong = training.scale_loss(network.Found(corner + at, maps.roll(1, dims=-1), corner), target, chosen, scale=1)
    assert good < wrong - 0.1


@pytest.mark.parametrize("shared", [True, False])
def test_each_landmark_is_looked_for_in_its_own_crop(shared: bool) -> None:
    torch.manual_seed(0)
    scale = network.ScaleNetwork(2, 3, SMALL, shared=shared).eval()
    crops = torch.rand(2, 3, 8, 8)
    maps = scale(crops)
    other = crops.clone()
    other[:, 1] = 0
    changed = (scale(other) != maps).flatten(2).any(dim=-1)
    assert changed.tolist() == [[False, True, False]] * 2
    whole = scale(crops[:, :1])
    assert whole.shape == maps.shape
    torch.testing.assert_close(whole[:, 0], maps[:, 0])
    assert not torch.allclose(whole[:, 1], whole[:, 2])


@pytest.mark.parametrize("ndim", [2, 3])
def test_training_crops_show_what_the_whole_warped_image_shows(ndim: int) -> None:
    """One warp for all scales: the crop around a point is cut out of the warped picture, up to interpolation."""
    points_mm = torch.tensor([[[33.0, 29.0, 35.0][:ndim]]])
    stores = _blob_stores(points_mm, 64, (4.0, 1.0))
    geometry = replace(FEW_IMAGES, contrast=0, brightness=0, gamma=0, noise=0)
    chosen = replace(PLAIN, spacings_mm=(4.0, 1.0), augmentation=geometry)
    read, points, _ = training.draw_batch(stores, Step(3), replace(chosen, schedule=Schedule(9, 1, 1.0)), seed=5)
    centre = (points + 0.5) * 4 - 0.5
    crop = read(1, centre)
    assert crop.shape == (1, 1, *(16,) * ndim)
    brightest = network.argmax_points(crop) - 7.5
    assert torch.linalg.vector_norm(brightest) < 1.5  # of 16 voxels: the blob is where its point went
    assert torch.linalg.vector_norm(points - stores[0].points) > 0.3


def test_the_same_case_is_the_same_in_any_batch() -> None:
    stores = _blob_stores(torch.tensor([[[33.0, 29.0]]]), 64, PLAIN.spacings_mm)
    stores = [
        replace(each, images=each.images.repeat(3, 1, 1, 1), points=each.points.repeat(3, 1, 1)) for each in stores
    ]
    chosen = replace(PLAIN, augmentation=FEW_IMAGES)
    _, points, shifts = training.draw_batch(stores, Step(1), chosen, seed=5)
    _, later, later_shifts = training.draw_batch(stores, Step(3), replace(chosen, schedule=Schedule(9, 1, 1.0)), seed=5)
    torch.testing.assert_close(points[1:], later)
    torch.testing.assert_close(shifts[1:], later_shifts)
    assert shifts.abs().max() <= 2.0 and shifts.unique().numel() == shifts.numel()


def _image_reader(image: Image, task: Task, **more: object) -> scales.ImageReader:
    options = {"average": True, **more}
    return scales.ImageReader(image, task, (4.0, 2.0, 1.0), 16, 2, device=torch.device("cpu"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize(
    "rule", [Intensity(rule="window", low=0, high=900), Intensity(rule="percentile", low=1, high=99)]
)
def test_crops_of_an_image_are_those_of_its_whole_grid(rule: Intensity, average: bool) -> None:
    generator = np.random.default_rng(4)
    image = Image.of(generator.integers(0, 1000, (50, 61, 47)).astype(np.int16), (0.9, 0.8, 1.1), (5, -30, 8))
    task = load_task("carotid-cta-2").model_copy(update={"intensity": rule})
    reader = _image_reader(image, task, average=average)
    for scale, spacing in ((1, 2.0), (2, 1.0)):
        whole = torch.from_numpy(prepare(image, task, spacing, average=average).array)[None, None]
        extent = torch.tensor(whole.shape[:1:-1])
        inside = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(scale)) * extent
        corners = torch.tensor([-0.5, -0.5, -0.5]).expand(3, 1, 3)
        outside = torch.cat([corners, (extent + 20.0).expand(3, 1, 3)], dim=1)
        for centres in (inside, outside):
            wanted = sample_windows(whole.expand(3, -1, -1, -1, -1), centres, (16,) * 3)[:, :, 0]
            torch.testing.assert_close(reader.read(scale, centres), wanted, atol=2e-3, rtol=0)


def test_no_more_than_the_crops_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.of(np.zeros((80, 80, 80), np.int16), (1.0, 1.0, 1.0))
    seen = []

    def counted(*given: object, **more: object) -> Image:
        seen.append(prepare(*given, **more))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(scales, "prepare", counted)
    reader = _image_reader(image, load_task("carotid-cta-2"))
    reader.read(0, None)
    assert seen[-1].size == (20, 20, 20)
    reader.read(2, torch.full((1, 2, 3), 40.25))
    assert [part.size for part in seen[1:]] == [(20, 20, 20)] * 2 or max(seen[1].size) <= 19


def _localizer(task: Task, chosen: network.Settings, seed: int = 0) -> method.LocNet:
    chain = _chain(task.dimension, len(task.names), chosen, seed)
    model = Model("loc_net", "tiny", asdict(chosen), task, {}, {}, chain.state_dict())
    return method.LocNet(model, chosen, chain, torch.device("cpu"))


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1), (9, 300, 2)])
def test_volumes_smaller_than_a_crop(shape: tuple[int, ...]) -> None:
    image = Image.of(np.random.default_rng(0).normal(size=shape).astype(np.float32), (1.0, 0.7, 1.3))
    found = _localizer(load_task("hippocampus-5"), PLAIN).localize(image)
    assert np.isfinite(found.landmarks.points_mm).all() and len(found.covariance_mm2) == 5


def test_a_landmark_at_the_border_is_found_there() -> None:
    """A crop that passes the border goes on with its values, and its centre stays where it is."""
    points_mm = torch.tensor([[[1.5, 62.5]]])
    stores = _blob_stores(points_mm, 64, (2.0, 1.0))
    chosen = replace(PLAIN, spacings_mm=(2.0, 1.0), maps="softmax", loss="distance")
    torch.manual_seed(0)
    chain = network.Chain(2, 1, chosen)
    optimizer = torch.optim.Adam(chain.parameters(), lr=2e-2)
    read = _reader(stores)
    for _ in range(30):
        optimizer.zero_grad()
        training.chain_loss(chain(read, torch.zeros(1, 1, 2)), stores[0].points, chosen, progress=0.5).backward()
        optimizer.step()
    error_mm = torch.linalg.vector_norm(chain(read, torch.zeros(1, 1, 2))[-1].points - stores[1].points)
    assert error_mm < 1.0


def test_passes_give_their_mean_and_covariance() -> None:
    task = load_task("hippocampus-5")
    image = Image.of(np.random.default_rng(1).normal(size=(40, 44, 36)).astype(np.float32), (1.0, 1.0, 1.0), (3, 4, 5))
    localizer = _localizer(task, PLAIN)
    reader = _image_reader(image, task, average=False).read
    points, spreads = network.run(localizer.chain, reader, passes=6)
    assert points.shape == (6, 5, 3) and not spreads.any()
    found = localizer.localize(image)
    np.testing.assert_allclose(found.landmarks.points_mm, points.mean(dim=0).numpy() + [3, 4, 5], atol=1e-3)
    for number, name in enumerate(task.names):
        wanted = np.cov(points[:, number].double().numpy().T)  # 1 mm voxels; an estimate of the variance, by n - 1
        np.testing.assert_allclose(found.covariance_mm2[name], wanted, atol=1e-5)
        assert np.linalg.eigvalsh(wanted).min() > 0
    alone = replace(localizer, settings=replace(PLAIN, passes=1)).localize(image)
    assert not alone.covariance_mm2
    one, _ = network.run(localizer.chain, reader, passes=1)
    with torch.no_grad(), autocast(torch.device("cpu")):
        torch.testing.assert_close(one, localizer.chain(reader, torch.zeros(1, 5, 3))[-1].points)


def test_the_spread_of_the_maps_is_added_to_that_of_the_passes() -> None:
    task = load_task("hippocampus-5")
    image = Image.of(np.random.default_rng(1).normal(size=(40, 44, 36)).astype(np.float32), (1.0, 1.0, 1.0))
    settings = replace(PLAIN, maps="softmax", passes=4)
    localizer = _localizer(task, settings)
    passes = localizer.localize(image)
    both = replace(localizer, settings=replace(settings, map_spread=True))
    both.chain.settings = both.settings
    found = both.localize(image)
    assert found.landmarks == passes.landmarks
    maps: list[torch.Tensor] = []
    handle = both.chain.scales[-1].register_forward_hook(lambda *given: maps.append(given[-1].float()))
    network.run(both.chain, _image_reader(image, task, average=False).read, passes=4)
    handle.remove()
    weights = torch.cat(maps).flatten(2).softmax(dim=-1).double().numpy()
    side = settings.crop_voxels
    places = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij")[::-1], axis=-1).reshape(-1, 3)
    for number, name in enumerate(task.names):
        within = np.mean([np.cov(places.T, aweights=own, ddof=0) for own in weights[:, number]], axis=0)
        np.testing.assert_allclose(
            found.covariance_mm2[name], passes.covariance_mm2[name] + within, rtol=1e-3, atol=1e-3
        )


def test_a_flat_image_has_a_flat_covariance(tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    found = _localizer(CEPH, replace(PLAIN, passes=4)).localize(image)
    for covariance in found.covariance_mm2.values():
        assert not covariance[2].any() and not covariance[:, 2].any()
        assert np.linalg.eigvalsh(covariance[:2, :2]).min() > 0


def test_only_the_last_scale_is_repeated() -> None:
    localizer = _localizer(CEPH, PLAIN)
    counts = dict.fromkeys(range(3), 0)
    for scale, part in enumerate(localizer.chain.scales):
        part.register_forward_hook(
            lambda _, given, __, scale=scale: counts.update({scale: counts[scale] + len(given[0])})
        )  # type: ignore[misc]
    image = Image.of(np.random.default_rng(1).normal(size=(90, 70)).astype(np.float32), (1.0, 1.0))
    network.run(localizer.chain, _image_reader(image, CEPH).read, passes=50)
    assert counts == {0: 1, 1: 1, 2: 50}


def test_paper_settings() -> None:
    """Section 2.1, and the widths and the dropout of the released network."""
    chosen = method.preset_settings("paper", load_task("carotid-cta-2"))
    assert chosen.spacings_mm == (4, 2, 1, 0.5) and chosen.crop_voxels == 56 and chosen.noise_mm == 5
    assert chosen.schedule == Schedule(500 * 167, 1, 5e-4, validate_every=835) and chosen.augmentation == Augmentation()
    assert (chosen.maps, chosen.loss, chosen.weighting, chosen.map_weight) == ("relu", "squared", "schedule", 0)
    assert not chosen.shared and not chosen.anti_alias and chosen.end_to_end and chosen.passes == 50
    chain = network.Chain(3, 2, chosen)
    assert len(chain.scales) == 4 and all(len(scale.networks) == 2 for scale in chain.scales)  # type: ignore[arg-type]
    one = chain.scales[3].networks[1]  # type: ignore[index]
    layers = [m for m in one.modules() if isinstance(m, torch.nn.Conv3d | torch.nn.Linear)]
    assert [m.weight.shape[0] for m in layers] == [16, 32, 64, 128, 16, 32, 64, 1]
    assert [m.weight.shape[1] for m in layers] == [1, 16, 32, 64, 48, 96, 192, 16]
    assert {m.p for m in one.modules() if isinstance(m, torch.nn.Dropout)} == {0.5}
    assert parameter_count(chain) == 8 * sum(m.weight.numel() + m.weight.shape[0] for m in layers)


def test_the_rows_of_the_papers_table() -> None:
    assert len(rows_of(method)) == 6 and len(trainings_of(rows_of(method))) == 5
    chosen = {
        name: network.checked(method.variant_settings(name, method.preset_settings("paper", CEPH)))
        for name in method.VARIANTS
    }
    assert chosen["heatmap"].loss == "heatmap" and chosen["heatmap"].spacings_mm == (0.2,)
    assert chosen["single_scale"].coarse.widths == (16, 32, 64, 128, 256)
    assert not chosen["multi_step"].end_to_end and chosen["multi_step"].noise_mm == 0
    assert chosen["end_to_end"].end_to_end and chosen["end_to_end"].noise_mm == 0
    assert chosen["end_to_end_noise"] == method.preset_settings("paper", CEPH)


@pytest.mark.parametrize("preset", list(method.PRESETS))
@pytest.mark.parametrize("task", ["ceph-19", "hippocampus-5", "carotid-cta-2", "spine-mr-11", "brainstem-mr-1"])
def test_settings_are_valid_and_survive_model_json(preset: str, task: str) -> None:
    chosen = network.checked(method.preset_settings(preset, load_task(task)))
    assert from_plain(network.Settings, asdict(chosen), source="model.json") == chosen
    for variant in method.VARIANTS:
        network.checked(method.variant_settings(variant, chosen))


@pytest.mark.parametrize(
    "wrong",
    [
        "maps=leaky",
        "loss=dice",
        "weighting=none",
        "spacings_mm=[1.0, 2.0]",
        "crop_voxels=15",
        "passes=0",
        "map_weight=1.0",
    ],
)
def test_what_is_not_there_is_refused(wrong: str, tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(ChallengeError, match=wrong.partition("=")[0]):
        method.train(Dataset(tiny_dataset), output=tmp_path, device="cpu", settings=overridden(PLAIN, [wrong]))
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", CEPH)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("huge", PLAIN)


@pytest.mark.parametrize("variant", method.VARIANTS)
def test_every_variant_trains_and_localizes(variant: str, tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    chosen = replace(PLAIN, spacings_mm=(16.0, 8.0), shared=True, schedule=Schedule(2, 2, 1e-3, validate_every=2))
    chosen = method.variant_settings(variant, chosen)
    method.train(dataset, output=tmp_path, device="cpu", settings=chosen)
    localizer = load_model(tmp_path, device="cpu")
    found = localizer.localize(dataset.image(dataset.cases(split="test")[0].name))
    assert len(found.covariance_mm2) == (19 if variant == "end_to_end_noise" else 0)
    stages = localizer.model.provenance["validation_curve"]  # type: ignore[attr-defined]
    assert list(stages) == (["scale-1", "scale-2"] if variant == "multi_step" else ["chain"])


def test_trains_localizes_and_beats_the_floor(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    chosen = replace(
        method.preset_settings("tiny", CEPH),
        spacings_mm=(8.0, 4.0),
        schedule=Schedule(100, 4, 1e-2, "one-cycle", average=0.8, validate_every=100),
        augmentation=Augmentation(),
        crop_voxels=16,
        noise_mm=8.0,
        passes=8,
    )
    train_method("loc_net", dataset, output=tmp_path / "model", device="cpu", settings=chosen, preset="tiny")
    assert_beats_the_floor(tmp_path / "model", dataset, tmp_path / "floor")


@pytest.mark.slow
def test_a_large_volume_takes_seconds_and_fifty_passes_fourteen_times_one(capsys: pytest.CaptureFixture[str]) -> None:
    """448^3 voxels of 0.5 mm with the paper's networks for one landmark; prints what it measures (run with -s)."""
    task = load_task("carotid-cta-2")
    task = task.model_copy(update={"landmarks": task.landmarks[:1]})
    localizer = _localizer(task, method.preset_settings("paper", task))
    generator = np.random.default_rng(0)
    image = Image.of(generator.integers(-200, 700, (448, 448, 448), dtype=np.int16), (0.5, 0.5, 0.5))
    seconds = {}
    for passes in (1, 50):
        once = replace(localizer, settings=replace(localizer.settings, passes=passes))
        once.localize(image)
        begun = time.perf_counter()
        once.localize(image)
        seconds[passes] = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    with capsys.disabled():
        print(
            f"\n448^3 at 0.5 mm: one pass {seconds[1]:.2f} s, fifty {seconds[50]:.2f} s "
            f"({seconds[50] / seconds[1]:.1f} times), {memory:.2f} GB, {torch.get_num_threads()} threads"
        )
    assert seconds[1] < 6 and memory < 4 and seconds[50] <= 14 * seconds[1]
