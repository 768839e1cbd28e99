"""The method's parts against hand-computed numbers, and a short training against the floor."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from landmark_baselines import heatmap_unet as method
from landmark_baselines import training
from landmark_baselines.augmentation import Augmentation, augmented_batch
from landmark_baselines.blocks import parameter_count
from landmark_baselines.heatmaps import render_gaussians
from landmark_baselines.method import load_model, train_method
from landmark_baselines.presets import from_plain, overridden
from landmark_baselines.store import load_store
from landmark_baselines.unet import Architecture, UNet
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task

TASK = load_task("ceph-19")
SETTINGS = method.preset_settings("tiny", TASK)


def test_the_cross_entropy_by_hand() -> None:
    settings = replace(SETTINGS, spacing_mm=1.0, sigma_mm=1.0)
    logits = torch.tensor([[[[0.5, -1.0, 2.0]]]])
    weights = np.exp(-0.5 * (np.arange(3) - 0.75) ** 2)
    by_hand = -(weights / weights.sum() * np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum())).sum()
    loss = method.heatmap_loss(logits, torch.tensor([[[0.75, 0.0]]]), settings)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_the_other_losses_by_hand(loss: str) -> None:
    settings = replace(SETTINGS, spacing_mm=1.0, sigma_mm=1.0, loss=loss)
    outputs = np.array([0.5, -1.0, 2.0])
    target = np.exp(-0.5 * (np.arange(3) - 0.75) ** 2)
    chance = 1 / (1 + np.exp(-outputs))
    entropy = -(target * np.log(chance) + (1 - target) * np.log(1 - chance))
    by_hand = {"bce": entropy.sum(), "mse": ((outputs - target) ** 2).sum()}[loss]
    found = method.heatmap_loss(
        torch.from_numpy(outputs).float().reshape(1, 1, 1, 3), torch.tensor([[[0.75, 0.0]]]), settings
    )
    assert found.item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("loss", list(method.VARIANTS))
def test_an_unknown_point_teaches_nothing(loss: str) -> None:
    settings = method.variant_settings(loss, SETTINGS)
    outputs = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    points = torch.tensor([[[3.0, 2.0], [float("nan"), float("nan")]]])
    together = method.heatmap_loss(outputs, points, settings)
    together.backward()
    assert outputs.grad is not None and (outputs.grad[0, 1] == 0).all() and (outputs.grad[0, 0] != 0).any()
    alone = method.heatmap_loss(outputs[:, :1], points[:, :1], settings)
    torch.testing.assert_close(together, alone)
    nothing = method.heatmap_loss(outputs, torch.full_like(points, float("nan")), settings)
    assert nothing.item() == 0


def test_a_point_outside_the_grid_is_no_target_of_the_cross_entropy() -> None:
    outputs = torch.randn(1, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    assert method.heatmap_loss(outputs, torch.tensor([[[-3.0, 2.0]]]), SETTINGS) == 0
    pushed = method.heatmap_loss(outputs, torch.tensor([[[-30.0, 2.0]]]), method.variant_settings("mse", SETTINGS))
    torch.testing.assert_close(pushed, outputs.square().sum())  # an empty map


@pytest.mark.parametrize("loss", list(method.VARIANTS))
@pytest.mark.parametrize("ndim", [2, 3])
def test_outputs_of_the_least_loss_decode_to_the_point(loss: str, ndim: int) -> None:
    settings = replace(method.variant_settings(loss, SETTINGS), sigma_mm=2.0 * SETTINGS.spacing_mm)
    points = 14 + 4 * torch.rand(1, 3, ndim, generator=torch.Generator().manual_seed(1))
    maps = render_gaussians(points, (32,) * ndim, 2.0)
    ideal = {"spatial_cross_entropy": maps.clamp(min=1e-30).log(), "bce": maps.logit(eps=1e-7), "mse": maps}[loss]
    assert method.heatmap_loss(ideal, points, settings) < method.heatmap_loss(ideal, points + 0.5, settings)
    found, _ = method.run(lambda _: ideal, torch.zeros(1, 1, *(32,) * ndim), settings)  # type: ignore[arg-type]
    assert torch.linalg.vector_norm(found - points, dim=-1).max() < 0.02


def test_batches_and_losses_are_exact_where_the_network_computes_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_dataset: Path
) -> None:
    seen = []

    def loss(outputs: torch.Tensor, points: torch.Tensor, settings: method.Settings) -> torch.Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.append(points)
        return outputs.square().mean()

    monkeypatch.setattr(method, "heatmap_loss", loss)
    monkeypatch.setattr(training, "precision_for", lambda device: "bf16-mixed")
    schedule = replace(SETTINGS.schedule, iterations=1, validate_every=1, batch=2)
    settings = replace(SETTINGS, spacing_mm=4.0, architecture=Architecture((4, 4)), schedule=schedule)
    dataset = Dataset(tiny_dataset)
    method.train(dataset, output=tmp_path, device="cpu", settings=settings, seed=3)
    store = load_store(dataset, dataset.cases(split="train"), spacing_mm=(4.0,))[0]
    exact = augmented_batch(store, [0, 1], augmentation=settings.augmentation, multiple=2, seed=3)[1]
    torch.testing.assert_close(seen[0], exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("architecture", [Architecture((4, 6, 8)), Architecture((4, 6), 1, False, 0.5, False)])
def test_maps_have_the_size_of_the_image(ndim: int, architecture: Architecture) -> None:
    network = UNet(ndim, 5, architecture).eval()
    shape = (8, 12, 16)[:ndim]
    maps = network(torch.rand(2, 1, *shape))
    assert maps.shape == (2, 5, *shape) and maps.is_contiguous()


def _reach(network: torch.nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of the box of voxels that the middle of the output looks at."""
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    network(x)[(0, 0, *[count // 2 for count in shape])].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero()
    return tuple((seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist())


def test_the_cpu_preset_sees_a_whole_cephalogram() -> None:
    settings = method.preset_settings("cpu", TASK)
    assert settings.spacing_mm == 0.8 and settings.loss == "spatial_cross_entropy"
    network = UNet(2, 19, settings.architecture).eval()
    assert 1.5e6 < parameter_count(network) < 1.9e6
    assert _reach(network, (320, 256)) == (320, 256)


def test_paper_settings() -> None:
    flat = method.preset_settings("paper", load_task("spine-mr-11"))
    assert flat.loss == "bce" and flat.sigma_voxel == pytest.approx(1.2) and flat.architecture.widths[-1] == 1024
    volume = method.preset_settings("paper", load_task("carotid-cta-2"))
    assert volume.loss == "mse" and volume.sigma_mm == 6.0 and volume.spacing_mm == 1.0
    network = UNet(3, 2, volume.architecture)
    kernels = [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv3d)]
    assert kernels == [16, 32, 64, 128, 256, 16, 32, 64, 128]  # one convolution a level, down and then up
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())


@pytest.mark.parametrize("preset", list(method.PRESETS))
def test_settings_survive_model_json(preset: str) -> None:
    settings = method.preset_settings(preset, TASK)
    assert from_plain(method.Settings, asdict(settings), source="model.json") == settings


def test_what_is_not_there_is_refused(tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", TASK)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("dice", SETTINGS)
    for wrong in ("loss=dice", "decoding=median"):
        with pytest.raises(ChallengeError, match=wrong.partition("=")[0]):
            method.train(Dataset(tiny_dataset), output=tmp_path, device="cpu", settings=overridden(SETTINGS, [wrong]))


def test_trains_localizes_and_beats_the_floor(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    settings = replace(
        SETTINGS,
        spacing_mm=5.0,
        sigma_mm=7.0,
        architecture=Architecture((16, 24, 32, 32), convolutions=1),
        schedule=replace(SETTINGS.schedule, iterations=100, validate_every=100, learning_rate=1e-2, average=0.8),
        augmentation=Augmentation(),
    )
    train_method("heatmap_unet", dataset, output=tmp_path / "model", device="cpu", settings=settings, preset="tiny")
    train_method("mean_shape", dataset, output=tmp_path / "floor", device="cpu")
    errors = {}
    for name in ("model", "floor"):
        localizer = load_model(tmp_path / name, device="cpu")
        found = []
        for case in dataset.cases(split="train"):
            reference = dataset.landmarks(case.name)
            result = localizer.localize(dataset.image(case.name))
            points = result.landmarks.aligned_mm(reference.names)
            found.append(np.linalg.norm(points - reference.points_mm, axis=1).mean())
            for covariance in result.covariance_mm2.values():
                # at least the learned Gaussian's variance, about; nothing along z
                assert np.linalg.eigvalsh(covariance[:2, :2]).min() > 0.3 * settings.sigma_mm**2
                assert not covariance[2].any() and not covariance[:, 2].any()
            assert len(result.covariance_mm2) == (19 if name == "model" else 0)
        errors[name] = np.mean(found)
    assert errors["model"] < errors["floor"] and math.isfinite(errors["model"])
    assert (tmp_path / "model" / "weights.safetensors").stat().st_size < 2_000_000
    assert not list((tmp_path / "model").glob("*.checkpoint"))
