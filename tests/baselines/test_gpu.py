"""What only a GPU can show: training steps that never wait for it, and the same answers as on the CPU."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from landmark_baselines import global_to_local as method
from landmark_baselines import global_to_local_training as training
from landmark_baselines.augmentation import FEW_IMAGES, Draws
from landmark_baselines.blocks import placed
from landmark_baselines.method import load_model
from landmark_baselines.store import load_store
from landmark_baselines.training import Step, launch
from landmark_challenge.dataset import Dataset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
COMMITTED = Path(__file__).parents[2] / "baselines" / "global_to_local" / "model"


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("stage", ["global", "local"])
def test_a_training_step_never_waits_for_the_gpu(stage: str, tiny_dataset: Path, no_waiting: None) -> None:
    dataset = Dataset(tiny_dataset)
    fabric = launch("cuda")
    assert torch.get_float32_matmul_precision() == "high"
    settings = method.preset_settings("tiny", dataset.task)
    settings = replace(
        settings,
        global_stage=replace(settings.global_stage, augmentation=replace(FEW_IMAGES, shift_mm=8)),
        local_stage=replace(settings.local_stage, augmentation=FEW_IMAGES),
    )
    part = settings.global_stage if stage == "global" else settings.local_stage
    (store,) = load_store(dataset, dataset.cases(split="train"), spacing_mm=(part.spacing_mm,), device="cuda")
    assert store.images.is_cuda and store.images.dtype == torch.uint8
    network = method.PatchNetwork(2, len(dataset.task.names), part.architecture, specialised=stage == "local")
    network = placed(network, "cuda", 2)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    model, optimizer = fabric.setup(network, optimizer)
    for number in range(4):
        if number == 2:  # kernels are chosen and memory is there
            torch.cuda.set_sync_debug_mode("error")
        step = Step(number)
        loss = (
            training._global_loss(model, step, store, settings, seed=0)
            if stage == "global"
            else training._local_loss(model, step, store, settings, window=32, seed=0)
        )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=5.0, error_if_nonfinite=False)
        optimizer.step()
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)


def test_a_case_has_its_own_noise_whatever_its_batch() -> None:
    device = torch.device("cuda")
    together = Draws.of(5, [3, 4, 5]).noise(2, 7, device=device)
    assert torch.equal(together[1], Draws.of(5, [4]).noise(2, 7, device=device)[0])
    assert not torch.equal(together[0], together[1])


def test_the_answer_is_that_of_the_cpu(tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    points = [load_model(COMMITTED, device=device).localize(image).landmarks.points_mm for device in ("cpu", "cuda")]
    assert np.linalg.norm(points[0] - points[1], axis=1).max() < 0.3  # bfloat16 against bfloat16 or float16
