"""The method's parts against hand-computed numbers, and a short training against the floor."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from landmark_baselines import scn as method
from landmark_baselines.augmentation import Augmentation
from landmark_baselines.blocks import parameter_count
from landmark_baselines.checkpoints import read_model
from landmark_baselines.method import train_method
from landmark_baselines.presets import from_plain, overridden
from landmark_baselines.scn_network import Architecture, SpatialConfigurationNet, enlarged, tile_starts
from landmark_baselines.store import Store
from landmark_baselines.training import Step
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task

from .learning import assert_beats_the_floor

TASK = load_task("ceph-19")
SETTINGS = method.preset_settings("tiny", TASK)
SMALL = Architecture(width=4, levels=2, dropout=0.0, spatial_stride=4, spatial_kernel=3)
SMALL_2016 = Architecture(generation=2016, width=4, levels=1, spatial_stride=4, spatial_kernel=3)
NOWHERE = [float("nan")] * 2


def _network(ndim: int, landmarks: int, architecture: Architecture) -> SpatialConfigurationNet:
    torch.manual_seed(0)
    return SpatialConfigurationNet(ndim, landmarks, architecture, sigma_voxel=2.0, learned_sigma=True).eval()


def test_the_loss_by_hand() -> None:
    settings = replace(SETTINGS, scale=10.0, sigma_penalty=3.0)
    maps = np.random.default_rng(0).normal(size=(2, 5, 6))
    points, sigmas = [(2.25, 3.0), (4.5, 1.0)], [1.5, 0.8]
    by_hand = 0.0
    for drawn, (x, y), sigma in zip(maps, points, sigmas, strict=True):
        rows, columns = np.mgrid[:5, :6]
        gaussian = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
        by_hand += 0.5 * ((drawn - 10 * gaussian) ** 2).sum() + 0.5 * 3 * sigma**2
    both = torch.from_numpy(maps)[None].expand(2, -1, -1, -1)  # the loss is per image: twice the same is no more
    where = torch.tensor(points, dtype=torch.float64).expand(2, 2, 2)
    loss = method.configuration_loss(both, where, torch.tensor(sigmas, dtype=torch.float64), settings)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(("side", "window", "wanted_mm"), [(64, 0, 2.56), (200, 32, 1.28), (200, 0, 5.8)])
def test_the_field_of_a_small_image_does_not_fold(
    side: int, window: int, wanted_mm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = method.preset_settings("paper", TASK)
    settings = replace(paper, spacing_mm=1.0, window=window, architecture=SMALL)
    store = Store(torch.zeros(1, 1, side, 220, dtype=torch.uint8), torch.zeros(1, 3, 2), 1.0)
    seen: list[Augmentation] = []

    def recorded(*_: object, augmentation: Augmentation, **__: object) -> tuple[Tensor, Tensor]:
        seen.append(augmentation)
        return torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 2)

    monkeypatch.setattr(method, "augmented_batch", recorded)
    method._loss(_network(2, 3, SMALL), Step(0), store, settings, seed=0)
    assert seen[0].elastic_mm == pytest.approx(wanted_mm)
    assert replace(seen[0], elastic_mm=5.8) == paper.augmentation


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_target_integrates_to_the_scale(ndim: int) -> None:
    maps = method.targets(torch.full((1, 2, ndim), 15.3), (32,) * ndim, torch.tensor([1.5, 3.0]), scale=100.0)
    torch.testing.assert_close(maps.flatten(2).sum(dim=-1), torch.full((1, 2), 100.0), rtol=1e-3, atol=0)


def test_the_gradient_of_sigma_is_that_of_finite_differences() -> None:
    maps = torch.rand(1, 2, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[3.3, 2.0], [5.0, 4.5]]], dtype=torch.float64)
    sigma = torch.tensor([1.4, 2.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: method.configuration_loss(maps, points, s, SETTINGS), sigma)


def test_the_learned_sigma_balances_uncertainty_and_penalty() -> None:
    # The best maps for a point that scatters by tau are the mean of their targets: Gaussians of variance
    # sigma^2 + tau^2. The integral of what is left of the squared error, and the penalty, are closed forms.
    settings = replace(SETTINGS, scale=100.0, sigma_penalty=20.0)
    scatter = [0.7, 2.0]

    def expected(sigma: float, tau: float) -> float:
        left = 100.0**2 / (4 * math.pi) * (1 / sigma**2 - 1 / (sigma**2 + tau**2))
        return float(left + 20.0 * sigma**2)

    generator = torch.Generator().manual_seed(0)
    maps = torch.zeros(1, 2, 33, 33, requires_grad=True)
    sigma = torch.full((2,), 2.5, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [maps], "lr": 0.05}, {"params": [sigma], "lr": 0.02}])
    for _ in range(300):
        points = 16 + torch.randn(64, 2, 2, generator=generator) * torch.tensor(scatter)[:, None]
        optimizer.zero_grad()
        method.configuration_loss(maps.expand(64, -1, -1, -1), points, sigma, settings).backward()
        optimizer.step()
    for found, tau in zip(sigma.tolist(), scatter, strict=True):
        best = minimize_scalar(expected, bounds=(0.5, 5), args=(tau,), method="bounded").x
        assert found == pytest.approx(best, rel=0.05)
    assert sigma[1] > sigma[0]


@pytest.mark.parametrize("architecture", [SMALL, SMALL_2016])
def test_an_unknown_point_teaches_nothing(architecture: Architecture) -> None:
    maps = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sigma = torch.tensor([1.5, 2.0], requires_grad=True)
    points = torch.tensor([[[3.0, 2.0], NOWHERE]])
    together = method.configuration_loss(maps, points, sigma, SETTINGS)
    together.backward()
    assert maps.grad is not None and (maps.grad[0, 1] == 0).all() and (maps.grad[0, 0] != 0).any()
    assert sigma.grad is not None and sigma.grad[1] == 0 and sigma.grad[0] != 0
    alone = method.configuration_loss(maps[:, :1], points[:, :1], sigma[:1], SETTINGS)
    torch.testing.assert_close(together, alone)
    assert method.configuration_loss(maps, torch.full_like(points, float("nan")), sigma, SETTINGS) == 0


@pytest.mark.parametrize("decoding", ["quadratic", "local"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_ideal_maps_decode_to_the_point(decoding: str, ndim: int) -> None:
    points = 15 + 2 * torch.rand(1, 3, ndim, generator=torch.Generator().manual_seed(1))

    class Ideal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sigma = nn.Parameter(torch.tensor([1.5, 2.0, 2.5]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return method.targets(points, tuple(x.shape[2:]), self.sigma, scale=100.0)

    settings = replace(SETTINGS, decoding=decoding, architecture=SMALL)
    found, _ = method.run(Ideal(), torch.zeros(1, 1, *(32,) * ndim), settings)
    assert torch.linalg.vector_norm(found - points, dim=-1).max() < 0.05


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("landmarks", [1, 3])
@pytest.mark.parametrize("architecture", [SMALL, SMALL_2016, replace(SMALL, spatial=False)])
def test_maps_have_the_size_of_the_image_and_depend_on_it(
    ndim: int, landmarks: int, architecture: Architecture
) -> None:
    network = _network(ndim, landmarks, architecture)
    images = torch.rand(2, 1, *(8, 12, 16)[:ndim])
    maps = network(images)
    assert maps.shape == (2, landmarks, *images.shape[2:]) and maps.is_contiguous() and maps.dtype == torch.float32
    assert (maps[0] != maps[1]).any()
    for name, weight in network.named_parameters():
        if name != "sigma":
            gradient = torch.autograd.grad(network(images).square().sum(), weight, allow_unused=True)[0]
            assert gradient is not None and gradient.abs().sum() > 0, name


def test_the_map_is_the_product_of_local_and_spatial() -> None:
    network = _network(2, 3, SMALL)
    images = torch.rand(1, 1, 16, 16)
    local = network.local(2 * images - 1)
    assert network.spatial is not None
    spatial = network.spatial(F.avg_pool2d(local, 4))
    assert spatial.abs().max() < 1 and spatial.shape == (1, 3, 4, 4)
    by_hand = local * F.interpolate(spatial, scale_factor=4, mode="bicubic")
    torch.testing.assert_close(network(images), by_hand)
    alone = replace(SMALL, spatial=False)
    only = _network(2, 3, alone)
    only.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(only(images), local)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_enlarging_is_interpolation(mode: str) -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    theirs = F.interpolate(maps, scale_factor=8, mode={"linear": "bilinear", "cubic": "bicubic"}[mode])
    torch.testing.assert_close(enlarged(maps, 8, mode=mode), theirs, atol=1e-5, rtol=0)
    volume = torch.randn(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    if mode == "linear":
        theirs = F.interpolate(volume, scale_factor=4, mode="trilinear")
    else:  # plane by plane, and then along z with a second axis that stays as it is
        stacked = torch.stack([F.interpolate(volume[:, :, z], scale_factor=4, mode="bicubic") for z in range(3)], dim=2)
        theirs = F.interpolate(stacked.flatten(3), size=(12, 320), mode="bicubic").reshape(1, 2, 12, 16, 20)
    torch.testing.assert_close(enlarged(volume, 4, mode=mode), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("landmarks", [1, 3])
def test_in_2016_a_landmark_does_not_see_itself(landmarks: int) -> None:
    network = _network(2, landmarks, SMALL_2016)
    assert network.spatial is not None
    local = torch.rand(1, landmarks, 4, 4, requires_grad=True)
    for seen in range(landmarks):
        gradient = torch.autograd.grad(network.spatial(local)[0, seen].sum(), local)[0][0].abs().sum(dim=(1, 2))
        assert ((gradient == 0) == (torch.arange(landmarks) == seen)).all() or landmarks == 1
    assert landmarks > 1 or gradient > 0


def test_the_papers_network() -> None:
    settings = method.preset_settings("paper", TASK)
    network = SpatialConfigurationNet(2, 19, settings.architecture, sigma_voxel=2.5, learned_sigma=True)
    small = 128 * 128 * 9 + 128
    large = 128 * 128 * 121 + 128
    maps = (128 * 19 * 9 + 19) + (128 * 19 * 121 + 19)
    by_hand = (9 * 128 + 128) + 12 * small + (19 * 128 * 121 + 128) + 2 * large + maps + 19
    assert parameter_count(network) == by_hand
    assert settings.architecture.multiple == 16 and settings.scale == 100 and settings.sigma_penalty == 20
    assert settings.sigma_mm / settings.spacing_mm == pytest.approx(2.5)
    assert (settings.schedule.iterations, settings.schedule.batch, settings.schedule.learning_rate) == (30_000, 1, 1e-6)
    first = method.variant_settings("scn", settings).architecture
    kernels = [(m.kernel_size[0], m.out_channels) for m in _network(2, 19, first).modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(5, 128), (5, 128), (5, 128), (5, 19), (15, 19)]
    volume = method.preset_settings("paper", load_task("ccta-8"))
    assert volume.spacing_mm == 2.0 and volume.architecture.width == 64 and volume.architecture.spatial_kernel == 7


def test_the_cpu_preset_has_half_the_width_and_sees_a_whole_cephalogram() -> None:
    architecture = method.preset_settings("cpu", TASK).architecture
    assert architecture.width == Architecture().width // 2
    x = torch.rand(1, 1, 208, 168, generator=torch.Generator().manual_seed(0), requires_grad=True)
    _network(2, 2, replace(architecture, width=2))(x)[0, 0, 100, 80].backward()
    assert x.grad is not None and (x.grad != 0).double().mean() > 0.98


@given(count=st.integers(1, 40), window=st.integers(2, 16), step=st.integers(1, 8))
def test_tiles_cover_everything(count: int, window: int, step: int) -> None:
    step = min(step, window)
    starts = tile_starts(count, window, step)
    covered = {place for start in starts for place in range(start, min(start + window, count))}
    assert covered == set(range(count))
    assert list(starts) == sorted(set(starts)) and (count <= window or starts[-1] + window == count)


def test_large_images_are_the_mean_of_their_tiles() -> None:
    seen: list[tuple[int, ...]] = []

    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sigma = nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape[2:]))
            return torch.full((1, 2, *x.shape[2:]), float(len(seen)))

    settings = replace(SETTINGS, architecture=SMALL, window=8)
    _, maps = method.run(Numbered(), torch.zeros(1, 1, 4, 16), settings)
    assert seen == [(4, 8)] * 3  # from 0, 4 and 8
    assert maps[0, 0, 0].tolist() == [1] * 4 + [1.5] * 4 + [2.5] * 4 + [3] * 4
    seen.clear()
    method.run(Numbered(), torch.zeros(1, 1, 8, 8), settings)
    assert seen == [(8, 8)]


@pytest.mark.parametrize("preset", list(method.PRESETS))
@pytest.mark.parametrize("task", ["ceph-19", "ccta-8", "hippocampus-5"])
def test_settings_survive_model_json(preset: str, task: str) -> None:
    for variant in method.VARIANTS:
        settings = method.variant_settings(variant, method.preset_settings(preset, load_task(task)))
        assert from_plain(method.Settings, asdict(settings), source="model.json") == settings
        assert settings.window % settings.architecture.multiple == 0


def test_what_is_not_there_is_refused(tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", TASK)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("global", SETTINGS)
    for wrong in ("decoding=median", "architecture.generation=2018", "window=20"):
        with pytest.raises(ChallengeError, match=wrong.partition("=")[0]):
            method.train(Dataset(tiny_dataset), output=tmp_path, device="cpu", settings=overridden(SETTINGS, [wrong]))


COARSE = replace(
    SETTINGS,
    spacing_mm=5.0,
    sigma_mm=10.0,
    architecture=Architecture(width=16, levels=3, dropout=0.0, spatial_stride=8, spatial_kernel=5),
    schedule=replace(SETTINGS.schedule, iterations=100, validate_every=100, learning_rate=5e-3, average=0.8),
    augmentation=Augmentation(),
)


def test_trains_localizes_and_beats_the_floor(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    train_method("scn", dataset, output=tmp_path / "model", device="cpu", settings=COARSE, preset="tiny")
    assert_beats_the_floor(tmp_path / "model", dataset, tmp_path / "floor")
    assert (read_model(tmp_path / "model").weights["sigma"].float() - 2).abs().max() > 0.05


def test_a_fixed_sigma_stays(tmp_path: Path, tiny_dataset: Path) -> None:
    short = replace(COARSE, schedule=replace(COARSE.schedule, iterations=5, validate_every=5))
    fixed = method.variant_settings("scn_mia_fixed_sigma", short)
    method.train(Dataset(tiny_dataset), output=tmp_path, device="cpu", settings=fixed, preset="tiny")
    assert (read_model(tmp_path).weights["sigma"] == 2).all()
