"""The loop itself: a resumed run continues the same curve, the best validation wins, bad losses stop it."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from landmark_baselines import training
from landmark_baselines.augmentation import Draws
from landmark_baselines.training import Schedule, Step, cases_at, clear_checkpoints, fit, launch, learning_rate_at
from landmark_challenge.errors import ChallengeError

SCHEDULE = Schedule(30, 4, 1e-2, policy="one-cycle", validate_every=10, average=0.9, gradient_norm=1.0)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))


def _loss(model: nn.Module, step: Step) -> Tensor:
    x = Draws.of(1, step.positions(4)).normal(3)
    return (model(x).float() - x.sum(dim=1, keepdim=True)).square().mean()


def _validate(model: nn.Module) -> float:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return float((model.eval()(x).float() - x.sum(dim=1, keepdim=True)).abs().mean())


def _run(folder: Path, model: nn.Module, loss: object = _loss, **options: object) -> list[training.Point]:
    fabric = launch("cpu")
    settings = {"schedule": SCHEDULE, "stage": "demo", "seed": 1, "fabric": fabric, "validate": _validate, **options}
    return fit(model, loss, folder=folder, **settings)  # type: ignore[arg-type]


class _KilledError(Exception):
    pass


def test_a_killed_run_resumes_on_the_same_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _model()
    curve = _run(tmp_path / "whole", whole)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)

    def dies_at_17(model: nn.Module, step: Step) -> Tensor:
        if step.number == 17:
            raise _KilledError
        return _loss(model, step)

    with pytest.raises(_KilledError):
        _run(tmp_path / "cut", _model(), dies_at_17)
    assert (tmp_path / "cut" / "demo.checkpoint").is_file()
    resumed = _model()
    for parameter in resumed.parameters():  # nothing may come from the fresh model
        nn.init.zeros_(parameter)
    again = _run(tmp_path / "cut", resumed, resume=True)
    assert [point.loss for point in again] == [point.loss for point in curve], "losses before the cut count too"
    assert [point.iteration for point in again] == [point.iteration for point in curve]
    assert [point.validation_mm for point in again] == [point.validation_mm for point in curve]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    finished = _model()
    assert _run(tmp_path / "cut", finished, dies_at_17, resume=True) == again  # a finished stage is not trained again
    for key, value in whole.state_dict().items():
        assert torch.equal(value, finished.state_dict()[key]), key
    clear_checkpoints(tmp_path / "cut")
    assert not (tmp_path / "cut" / "demo.checkpoint").exists()


def test_resume_refuses_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)

    def dies_at_5(model: nn.Module, step: Step) -> Tensor:
        if step.number == 5:
            raise _KilledError
        return _loss(model, step)

    with pytest.raises(_KilledError):
        _run(tmp_path, _model(), dies_at_5)
    with pytest.raises(ChallengeError, match="same settings"):
        _run(tmp_path, _model(), resume=True, schedule=replace(SCHEDULE, learning_rate=0.5))
    with pytest.raises(ChallengeError, match="same settings"):
        _run(tmp_path, _model(), resume=True, fingerprint="another")


def test_the_best_validation_wins(tmp_path: Path) -> None:
    seen: list[tuple[float, dict[str, Tensor]]] = []

    def judged(model: nn.Module) -> float:
        error = [3.0, 1.0, 2.0, 4.0][len(seen)]
        seen.append((error, {key: value.clone() for key, value in model.state_dict().items()}))
        return error

    model = _model()
    curve = _run(tmp_path, model, validate=judged)
    assert [point.validation_mm for point in curve] == [3.0, 1.0, 2.0, 4.0]
    assert [point.iteration for point in curve] == [1, 10, 20, 30]
    for key, value in seen[1][1].items():
        assert torch.equal(value, model.state_dict()[key])
    lines = (tmp_path / "demo.csv").read_text().splitlines()
    assert lines[0] == "iteration,loss,validation_mm,seconds"
    assert len(lines) == 5


def test_the_curve_holds_the_mean_loss_since_the_validation_before(tmp_path: Path) -> None:
    curve = _run(tmp_path, _model(), lambda model, step: 0 * _loss(model, step) + step.number)
    assert [point.loss for point in curve] == [0.0, 5.0, 14.5, 24.5]


def test_patience_stops_early(tmp_path: Path) -> None:
    errors = iter([1.0, 2.0, 2.0, 2.0])
    curve = _run(
        tmp_path, _model(), validate=lambda _: next(errors), schedule=replace(SCHEDULE, patience=2, iterations=1000)
    )
    assert curve[-1].iteration == 20


def test_patience_goes_on_counting_in_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)
    schedule = replace(SCHEDULE, patience=2, iterations=1000)
    errors = iter([1.0, 2.0, 2.0, 2.0])

    def dies_at_15(model: nn.Module, step: Step) -> Tensor:
        if step.number == 15:
            raise _KilledError
        return _loss(model, step)

    with pytest.raises(_KilledError):
        _run(tmp_path, _model(), dies_at_15, validate=lambda _: next(errors), schedule=schedule)
    curve = _run(tmp_path, _model(), validate=lambda _: next(errors), schedule=schedule, resume=True)
    assert [point.iteration for point in curve] == [1, 10, 20]


def test_a_loss_that_is_not_finite_stops_with_a_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ChallengeError, match="not finite"):
        _run(tmp_path, _model(), lambda model, step: _loss(model, step) * math.nan)


@pytest.mark.parametrize("error_mm", [math.nan, math.inf])
def test_a_validation_that_is_not_finite_stops_with_its_cause(error_mm: float, tmp_path: Path) -> None:
    with pytest.raises(ChallengeError, match=r"demo: iteration 1: .* no landmark is known in a validation case"):
        _run(tmp_path, _model(), validate=lambda _: error_mm)


def test_positions_stay_in_float32_and_the_network_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "precision_for", lambda device: "bf16-mixed")
    seen = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    def loss_of(model: nn.Module, step: Step) -> Tensor:
        turned = torch.einsum("ij,bj->bi", torch.eye(3), torch.full((4, 3), 1234.567))
        assert turned.dtype == torch.float32 and turned[0, 0] == torch.tensor(1234.567)
        return model(turned / 1000).float().square().mean()

    _run(tmp_path, nn.Sequential(Watched(3, 1)), loss_of, validate=lambda _: 1.0)
    assert all(seen)


def test_one_cycle_rises_and_falls() -> None:
    rates = [learning_rate_at(SCHEDULE, step) for step in range(30)]
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) in (2, 3)
    assert rates[-1] < 1e-4
    assert learning_rate_at(replace(SCHEDULE, policy="constant"), 29) == 1e-2
    with pytest.raises(ChallengeError, match="policy"):
        learning_rate_at(replace(SCHEDULE, policy="stairs"), 0)


def test_momentum_is_nesterovs(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    _run(
        tmp_path,
        model,
        lambda model, step: 3.0 * model(torch.ones(1, 1)).float().sum(),
        schedule=Schedule(2, 1, 0.1, momentum=0.5, weight_decay=0.2, validate_every=2),
        validate=lambda model: float(model.weight.detach()),  # the smaller, the later
    )
    weight, velocity = 2.0, 0.0
    for _ in range(2):
        gradient = 3.0 + 0.2 * weight
        velocity = 0.5 * velocity + gradient
        weight -= 0.1 * (gradient + 0.5 * velocity)
    assert float(model.weight.detach()) == pytest.approx(weight, rel=1e-6)


def test_every_case_comes_once_per_epoch() -> None:
    seen = torch.cat([cases_at(Step(number).positions(5), 10, seed=3) for number in range(4)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_processes_share_the_batch_of_one() -> None:
    alone = Step(7).positions(6)
    shares = [Step(7, rank, 3).positions(6) for rank in range(3)]
    assert sorted(position for share in shares for position in share) == alone
    assert all(len(share) == 2 for share in shares)
    together = Draws.of(5, alone).normal(2)
    for rank, share in enumerate(shares):
        assert torch.equal(Draws.of(5, share).normal(2), together[rank::3])


PARALLEL = """
import sys, torch
from pathlib import Path
from torch import nn
from landmark_baselines.augmentation import Draws
from landmark_baselines import training
from landmark_baselines.training import Schedule, fit, launch

training.precision_for = lambda device: "32-true"
folder, devices = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
fabric = launch("cpu", devices=devices)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.BatchNorm1d(8).eval(), nn.Linear(8, 1))
model[2].train = lambda mode=True: model[2]  # frozen statistics: synchronised ones have no CPU form

def loss_of(model, step):
    x = Draws.of(1, step.positions(8)).normal(3)
    return (model(x).float() - x.sum(dim=1, keepdim=True)).square().mean()

schedule = Schedule(20, 8, 1e-2, validate_every=20)
fit(model, loss_of, fabric=fabric, validate=lambda _: 1.0, schedule=schedule, folder=folder, stage="s", seed=0)
if fabric.global_rank == 0:
    torch.save(model.state_dict(), folder / f"weights-{fabric.world_size}.pt")
"""


def _in_processes(script: Path, text: str, *arguments: object) -> None:
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    for devices in (1, 2):
        _in_processes(tmp_path / "parallel.py", PARALLEL, tmp_path, devices)
    one, two = (torch.load(tmp_path / f"weights-{n}.pt", weights_only=True) for n in (1, 2))
    assert not torch.equal(one["0.weight"], torch.zeros(8, 3))
    for key, value in one.items():
        torch.testing.assert_close(value, two[key], atol=1e-5, rtol=1e-4)


OTHER_OPINIONS = """
import sys, torch
from pathlib import Path
from torch import nn
from landmark_baselines.training import Schedule, fit, launch

folder = Path(sys.argv[1])
torch.set_num_threads(1)
fabric = launch("cpu", devices=2)
torch.manual_seed(0)
model = nn.Linear(1, 1)
rank, errors = fabric.global_rank, iter([1.0, 2.0, 3.0])

def validate(_):
    error = next(errors)
    return error if rank == 0 else 5.0 - error  # the second process takes each for better than the one before

loss_of = lambda model, step: (model(torch.ones(1, 1)) - 3).square().mean()
schedule = Schedule(20, 2, 1e-2, validate_every=10)
curve = fit(
    model, loss_of, fabric=fabric, validate=validate, schedule=schedule, folder=folder, stage="s", seed=0
)
torch.save((model.state_dict(), [point.validation_mm for point in curve]), folder / f"rank-{rank}.pt")
fabric.barrier()
"""


def test_all_processes_keep_what_the_first_one_judges_best(tmp_path: Path) -> None:
    _in_processes(tmp_path / "opinions.py", OTHER_OPINIONS, tmp_path)
    (first, curve), (second, other) = (torch.load(tmp_path / f"rank-{n}.pt", weights_only=True) for n in (0, 1))
    assert curve == other == [1.0, 2.0, 3.0]
    assert torch.equal(first["weight"], second["weight"]) and torch.equal(first["bias"], second["bias"])
