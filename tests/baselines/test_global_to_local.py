"""The method's parts against hand-computed numbers, and a short training against the floor."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from landmark_baselines import global_to_local as method
from landmark_baselines import global_to_local_training as training
from landmark_baselines.blocks import parameter_count
from landmark_baselines.checkpoints import read_model
from landmark_baselines.grids import cell_centres
from landmark_baselines.method import train_method
from landmark_baselines.patches import padded
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task, load_task, task_names

from .learning import assert_beats_the_floor

TASK = load_task("ceph-19")
SETTINGS = method.preset_settings("tiny", TASK)


def _ideal_outputs(points: torch.Tensor, shape: tuple[int, ...], stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    centres = cell_centres(shape, stride)
    displacement = points.reshape(*points.shape, *[1] * len(shape)) - centres
    nearest = displacement.square().sum(dim=2).flatten(2).argmin(dim=-1)
    logits = torch.full((*points.shape[:2], math.prod(shape)), -12.0)
    logits.scatter_(2, nearest.unsqueeze(-1), 12.0)
    return logits.reshape(*points.shape[:2], *shape), method.to_log(displacement)


@given(st.floats(-2000, 2000))
def test_log_displacement_is_odd_and_invertible(value: float) -> None:
    d = torch.tensor(value, dtype=torch.float64)
    assert torch.allclose(method.from_log(method.to_log(d)), d, rtol=1e-9, atol=1e-9)
    assert method.to_log(-d) == -method.to_log(d)


def test_log_displacement_by_hand() -> None:
    assert method.to_log(torch.tensor(-3.0)).item() == pytest.approx(-math.log(4.0))


@pytest.mark.parametrize("ndim", [2, 3])
def test_ideal_outputs_decode_to_the_point(ndim: int) -> None:
    generator = torch.Generator().manual_seed(2)
    shape = (4, 5, 6)[:ndim]
    points = torch.rand(3, 7, ndim, generator=generator) * 30
    outputs = _ideal_outputs(points, shape, 8)
    assert torch.allclose(method.decode(outputs, SETTINGS, stride=8), points, atol=1e-3)


def test_decoding_is_the_posterior_weighted_mean_of_the_paper() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, -4.0]).reshape(1, 1, 2, 2)
    regressed = torch.randn(1, 1, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    posterior = 1 / (1 + np.exp(-logits.double().numpy().reshape(4)))
    displacement = regressed.double().numpy().reshape(2, 4)
    displacement = np.sign(displacement) * (np.exp(np.abs(displacement)) - 1)
    centres = np.array([[3.5, 11.5, 3.5, 11.5], [3.5, 3.5, 11.5, 11.5]])
    by_hand = ((centres + displacement) * posterior).sum(axis=1) / posterior.sum()
    ours = method.decode((logits, regressed), SETTINGS, stride=8)[0, 0]
    np.testing.assert_allclose(ours.numpy(), by_hand, rtol=1e-5)


def test_without_any_posterior_the_largest_logit_decides() -> None:
    logits = torch.full((1, 1, 2, 3), -5e4)
    logits[0, 0, 1, 2] = -4e4
    decoded = method.decode((logits, torch.zeros(1, 1, 2, 2, 3)), SETTINGS, stride=8)
    assert decoded[0, 0].tolist() == [19.5, 11.5]


def test_loss_by_hand() -> None:
    settings = replace(SETTINGS, classification_weight=1.0)
    points = torch.tensor([[[5.0, 2.0], [float("nan"), float("nan")]]])
    logits = torch.tensor([[[[0.5, -1.0]], [[3.0, 3.0]]]])
    regressed = torch.zeros(1, 2, 2, 1, 2)
    entropy = (math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(-1.0))) / 2  # the point lies in cell 0
    wanted = [math.log(1 + abs(value)) for value in (5 - 3.5, 5 - 11.5, 2 - 3.5, 2 - 3.5)]
    loss = method.patch_loss((logits, regressed), points, settings, stride=8)
    assert loss.item() == pytest.approx(entropy + sum(wanted) / 4, rel=1e-5)


def test_a_point_outside_the_sub_image_still_trains() -> None:
    logits = torch.zeros(1, 1, 1, 2, requires_grad=True)
    regressed = torch.zeros(1, 1, 2, 1, 2, requires_grad=True)
    points = torch.tensor([[[-20.0, 3.0]]])
    method.patch_loss((logits, regressed), points, SETTINGS, stride=8).backward()
    assert logits.grad is not None and (logits.grad > 0).all()  # no patch holds it: every posterior is pushed down
    assert regressed.grad is not None and (regressed.grad != 0).all()


@pytest.mark.parametrize("change", [{"classification": False}, {"regression": "none"}])
def test_a_head_that_is_not_learned_has_a_gradient_all_the_same(change: dict[str, object]) -> None:
    """Several processes wait for the gradient of every weight."""
    logits = torch.randn(1, 1, 2, 2, requires_grad=True)
    regressed = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    points = torch.tensor([[[5.0, 3.0]]])
    method.patch_loss((logits, regressed), points, replace(SETTINGS, **change), stride=8).backward()
    assert logits.grad is not None and regressed.grad is not None
    unused = logits.grad if "classification" in change else regressed.grad
    assert (unused == 0).all()


def test_paper_architecture() -> None:
    ccta = TASK.model_copy(update={"dimension": 3, "working_spacing_mm": (1.5, 1.5, 1.5)})
    stage = method.preset_settings("paper", ccta).global_stage
    assert stage.architecture.stride == 8
    network = method.PatchNetwork(3, 8, stage.architecture)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)]
    body = [m for m in convolutions if m.kernel_size == (3, 3, 3)]
    assert [m.out_channels for m in body] == [32] * 6 + [64] * 8 + [128] * 12 + [256] * 6
    assert convolutions[0].kernel_size == (7, 7, 7) and convolutions[0].out_channels == 16
    logits, displacement = network.eval()(torch.zeros(1, 1, 72, 72, 72))
    assert logits.shape == (1, 8, 9, 9, 9)
    assert displacement.shape == (1, 8, 3, 9, 9, 9)


def test_paper_architecture_for_cephalograms() -> None:
    settings = method.preset_settings("paper", TASK)
    assert settings.global_stage.architecture.stride == 32
    assert settings.global_stage.window == 592
    assert settings.global_stage.spacing_mm == 0.1
    network = method.PatchNetwork(2, 19, settings.global_stage.architecture).eval()
    assert network(torch.zeros(1, 1, 592, 592))[0].shape == (1, 19, 18, 18)
    local = method.PatchNetwork(2, 19, settings.local_stage.architecture, specialised=True).eval()
    assert local(torch.zeros(2, 19, 16, 16))[1].shape == (2, 19, 2, 8, 8)
    alone = method.PatchNetwork(2, 1, settings.local_stage.architecture)
    assert parameter_count(local) == 19 * parameter_count(alone)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_grouped_specialists_are_one_network_per_landmark(ndim: int) -> None:
    architecture = method.Architecture(0, (4, 6), (1, 2), (False, True), (5,))
    torch.manual_seed(0)
    grouped = method.PatchNetwork(ndim, 3, architecture, specialised=True).eval()
    windows = torch.randn(2, 3, *(8,) * ndim)
    logits, displacement = grouped(windows)
    for i in range(3):
        alone = method.PatchNetwork(ndim, 1, architecture).eval()
        state = {}
        for key, value in alone.state_dict().items():
            whole = grouped.state_dict()[key]
            state[key] = whole[i * len(value) : (i + 1) * len(value)] if value.ndim else whole
        alone.load_state_dict(state)
        one = alone(windows[:, i : i + 1])
        torch.testing.assert_close(one[0][:, 0], logits[:, i], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one[1][:, 0], displacement[:, i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("variant", list(method.VARIANTS))
def test_every_variant_decodes_ideal_outputs_near_the_point(variant: str) -> None:
    settings = method.variant_settings(variant, SETTINGS)
    points = torch.tensor([[[20.0, 9.0]]])
    logits, regressed = _ideal_outputs(points, (3, 4), 8)
    if settings.regression == "linear":
        regressed = method.from_log(regressed)
    decoded = method.decode((logits, regressed), settings, stride=8)
    limit = 1e-3 if settings.regression != "none" else 4 * math.sqrt(2)
    assert torch.linalg.vector_norm(decoded - points) <= limit
    assert torch.isfinite(method.patch_loss((logits, regressed), points, settings, stride=8))


def test_unknown_preset_and_variant_are_refused() -> None:
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", TASK)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("Q", SETTINGS)


@pytest.mark.parametrize("task", [task for task in map(load_task, task_names()) if len(task.names) <= 10])
def test_tiny_models_are_small_enough_to_commit(task: Task) -> None:
    settings = method.preset_settings("tiny", task)
    ndim, landmarks = task.dimension, len(task.names)
    networks = (
        method.PatchNetwork(ndim, landmarks, settings.global_stage.architecture),
        method.PatchNetwork(ndim, landmarks, settings.local_stage.architecture, specialised=True),
    )
    assert 2 * sum(map(parameter_count, networks)) < 2e6  # two bytes a weight


def test_window_follows_the_validation_errors() -> None:
    stage = SETTINGS.local_stage
    unit = 2 * stage.architecture.stride
    small = method.choose_window(torch.full((100,), 1.0), SETTINGS)
    large = method.choose_window(torch.full((100,), 5.0), SETTINGS)
    wider = method.choose_window(torch.full((100,), 5.0), replace(SETTINGS, local_margin=SETTINGS.local_margin + unit))
    assert small % unit == 0 and large % unit == 0
    assert large * stage.spacing_mm >= 10.0
    assert small < large
    assert wider == large + unit


@pytest.mark.parametrize("shape", [(37, 50), (64, 64)])
def test_no_strip_of_the_image_is_dropped(shape: tuple[int, int]) -> None:
    images = padded(torch.rand(1, 1, *shape), 8)
    assert images.shape[2] % 8 == 0 and images.shape[3] % 8 == 0
    assert images.shape[2] - shape[0] < 8 and images.shape[3] - shape[1] < 8


def test_trains_localizes_and_beats_the_floor(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    coarse, fine = SETTINGS.global_stage, SETTINGS.local_stage
    settings = replace(
        SETTINGS,
        global_stage=replace(
            coarse, schedule=replace(coarse.schedule, iterations=200, validate_every=100, average=0.9)
        ),
        local_stage=replace(
            fine, window=32, schedule=replace(fine.schedule, iterations=10, validate_every=10, batch=2, average=0.0)
        ),
    )
    train_method("global_to_local", dataset, output=tmp_path / "model", device="cpu", settings=settings, preset="tiny")
    assert_beats_the_floor(tmp_path / "model", dataset, tmp_path / "floor")


def test_a_run_stopped_between_the_stages_ends_as_one_that_was_not(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse, fine = SETTINGS.global_stage, SETTINGS.local_stage
    settings = replace(
        SETTINGS,
        global_stage=replace(coarse, schedule=replace(coarse.schedule, iterations=3, validate_every=3, batch=2)),
        local_stage=replace(
            fine, window=16, schedule=replace(fine.schedule, iterations=2, validate_every=2, batch=2, average=0.0)
        ),
    )

    def weights(name: str, **options: bool) -> dict[str, torch.Tensor]:
        method.train(Dataset(tiny_dataset), output=tmp_path / name, device="cpu", settings=settings, **options)
        return dict(read_model(tmp_path / name).weights)

    at_once = weights("at-once")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_train_local", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            weights("resumed")
    resumed = weights("resumed", resume=True)
    assert at_once.keys() == resumed.keys()
    for key, value in at_once.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)
