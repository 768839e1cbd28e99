"""torch.compile: training goes on without it where it does not work, and gives the same losses where it does."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from landmark_baselines import compilation
from landmark_baselines.compilation import compiled, why_not

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    why_not.cache_clear()
    yield
    why_not.cache_clear()


def test_without_a_compiler_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nmore lines")

    monkeypatch.setattr(compilation.torch, "compile", fails)
    model = nn.Linear(2, 1)
    assert compiled(model, CPU) is model
    assert capsys.readouterr().err == "not compiled: no C++ compiler\n"


def test_a_compiler_that_fails_late_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def lazily(layer: nn.Module, **_: object) -> object:
        def first_call(x: torch.Tensor) -> torch.Tensor:
            raise OSError

        return first_call

    monkeypatch.setattr(compilation.torch, "compile", lazily)
    assert why_not(CPU) == "OSError"


@pytest.mark.slow
def test_compiled_networks_share_their_weights_and_gradients() -> None:
    if why_not(CPU):
        pytest.skip(f"cannot compile here: {why_not(CPU)}")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    plain, x = copy.deepcopy(model), torch.randn(2, 1, 16, 16)
    fast = compiled(model, CPU)
    assert fast is not model
    losses = [network(x).square().mean() for network in (fast, plain)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
