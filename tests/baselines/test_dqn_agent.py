"""The DQN agent: its network, what it learns from a step, and that it learns to walk to a bright spot."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from landmark_baselines.checkpoints import read_model
from landmark_baselines.dqn_agent import VARIANTS, Settings, preset_settings, train, variant_settings
from landmark_baselines.dqn_network import QNetwork, expected_rewards, run
from landmark_baselines.dqn_presets import Architecture, Exploration
from landmark_baselines.dqn_training import Explorer, exploring
from landmark_baselines.store import Store
from landmark_baselines.training import Schedule, Step
from landmark_baselines.walks import Scales, Walkers, random_places
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import load_task

SMALL = Settings(
    1.0,
    Architecture(9, (4, 8, 8, 8), (3, 3, 3, 3), (16,)),
    Schedule(200, 8, 5e-3, gradient_norm=10.0),
    Exploration(walkers=4, capacity=2000, warm_up=100, first_share=0.5, longest=100, near=True),
    Scales((3, 2, 1), (5, 2, 1)),
    frames=2,
    sync_every=25,
)


def _spots(count: int, *, seed: int = 0, side: int = 40) -> Store:
    """Images of two blobs, a bright one and a dark one, which are the two landmarks."""
    generator = torch.Generator().manual_seed(seed)
    points = side * (0.2 + 0.6 * torch.rand(count, 2, 2, generator=generator))
    axis = torch.arange(side, dtype=torch.float32)
    distance = (axis - points[..., 0, None])[:, :, None, :] ** 2 + (axis - points[..., 1, None])[:, :, :, None] ** 2
    blobs = torch.exp(-distance / 80)
    images = (127 + 120 * (blobs[:, :1] - blobs[:, 1:])).to(torch.uint8)
    return Store(images, points, 1.0)


def test_duelling_advantages_have_no_mean_and_one_trunk_serves_all_agents() -> None:
    torch.manual_seed(0)
    network = QNetwork(2, 3, SMALL.architecture, frames=2)
    views = torch.rand(3, 5, 2, 9, 9)
    expected = network(views)
    assert expected.shape == (3, 5, 4)
    assert network.value is not None
    trunk = views.flatten(0, 1)
    for i, (layer, bend) in enumerate(zip(network.trunk, network.bend, strict=True)):
        trunk = bend(layer(trunk))
        trunk = torch.nn.functional.max_pool2d(trunk, 2) if i < 3 else trunk
    value = network.value(trunk.flatten(1).unflatten(0, (3, 5)))
    torch.testing.assert_close(expected.mean(dim=-1, keepdim=True), value)
    changed = views.clone()
    changed[1] = 0
    again = network(changed)
    assert torch.allclose(again[0], expected[0]) and torch.allclose(again[2], expected[2])
    assert not torch.allclose(again[1], expected[1])


def test_a_remembered_step_has_the_reward_of_its_distances() -> None:
    store = _spots(6)
    torch.manual_seed(0)
    explorer = Explorer(QNetwork(2, 2, SMALL.architecture, frames=2), store, SMALL, seed=1)
    drawn = explorer.memory.sample(60, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor(SMALL.scales.steps)[drawn["scale_before"]]
    moves = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])[drawn["action"]] * steps.unsqueeze(-1)
    before = drawn["before"][:, :, -1]
    landmark = torch.stack([store.points[drawn["image"][agent], agent] for agent in range(2)])
    inside = ((before + moves >= 0) & (before + moves < 40)).all(dim=-1)
    gained = torch.linalg.vector_norm(before - landmark, dim=-1) - torch.linalg.vector_norm(
        before + moves - landmark, dim=-1
    )
    expected = torch.where(inside, gained.clamp(-1, 1), -1.0)
    torch.testing.assert_close(drawn["reward"], expected)
    near = torch.linalg.vector_norm(before + moves - landmark, dim=-1) <= 1
    assert drawn["last"][near & inside].all()
    stayed = drawn["scale_after"] == drawn["scale_before"]
    after = drawn["after"][:, :, -1]
    moved = torch.where(inside.unsqueeze(-1), before + moves, before)
    assert torch.equal(after[stayed & ~drawn["last"]], moved[stayed & ~drawn["last"]])


def test_the_loss_is_the_bellman_residual() -> None:
    store = _spots(4)
    torch.manual_seed(0)
    network = QNetwork(2, 2, SMALL.architecture, frames=2)
    explorer = Explorer(network, store, SMALL, seed=0)

    class Constant(torch.nn.Module):
        """Expects the same of every view."""

        def __init__(self, values: list[float]) -> None:
            super().__init__()
            self.values = torch.tensor(values)

        def forward(self, views: torch.Tensor) -> torch.Tensor:
            return self.values.expand(*views.shape[:2], 4)

    explorer.target = Constant([0.0, 1.0, 0.5, -2.0])
    places = torch.full((2, 2, 2, 2), 20)
    drawn = {
        "image": torch.zeros(2, 2, dtype=torch.long),
        "before": places,
        "after": places,
        "scale_before": torch.zeros(2, 2, dtype=torch.long),
        "scale_after": torch.zeros(2, 2, dtype=torch.long),
        "action": torch.tensor([[0, 1], [2, 3]]),
        "reward": torch.tensor([[0.5, -1.0], [0.25, 1.0]]),
        "last": torch.tensor([[False, True], [True, False]]),
    }
    loss = explorer.residual(Constant([0.4, 0.0, 0.25, 5.0]), drawn)
    # 0.4 - (0.5 + 0.9), 0 + 1, 0.25 - 0.25, 5 - (1 + 0.9)
    huber = [0.5 * 1.0**2, 0.5 * 1.0**2, 0.0, 3.1 - 0.5]
    assert float(loss) == pytest.approx(sum(huber) / 4)


def test_fewer_and_fewer_actions_are_random() -> None:
    shares = [exploring(step, SMALL) for step in range(200)]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True)
    assert shares[100] == pytest.approx(0.1) and shares[-1] == pytest.approx(0.01, abs=0.002)


def test_it_learns_to_walk_to_spots() -> None:
    settings = replace(
        SMALL,
        schedule=replace(SMALL.schedule, iterations=400, batch=64),
        exploration=replace(SMALL.exploration, walkers=16, capacity=4000, warm_up=400),
        scales=Scales((2,), (2,)),
        discount=0.5,
    )
    store, judge = _spots(40, side=30), _spots(10, seed=9, side=30)
    torch.manual_seed(0)
    network = QNetwork(2, 2, settings.architecture, frames=2)
    explorer = Explorer(network, store, settings, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)

    def error() -> float:
        ends = [run(network, judge.batch(torch.tensor([i])), settings, starts=2) for i in range(len(judge))]
        return float(torch.linalg.vector_norm(torch.stack(ends).float().mean(dim=2) - judge.points, dim=-1).mean())

    untrained = error()
    for step in range(400):
        loss = explorer.loss(network, Step(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.schedule.gradient_norm)
        optimizer.step()
    trained = error()
    assert trained < 0.6 * untrained, (trained, untrained)  # 0.33 to 0.53 with three seeds


class _Climber(torch.nn.Module):
    """Expects the more of a direction the brighter a view is on that side; keeps how many views it was shown."""

    agents = 2

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        self.shown.append(views.shape[0] * views.shape[1])
        newest = views[:, :, -1]
        sides = [newest[..., 5:], newest[..., :4], newest[..., 5:, :], newest[..., :4, :]]
        signs = torch.tensor([1.0, -1.0]).reshape(2, 1)  # the second agent is for the dark spot
        return torch.stack([signs * side.mean(dim=(-1, -2)) for side in sides], dim=-1)


def test_walks_that_have_ended_are_not_looked_at_and_change_nothing() -> None:
    store = _spots(1, seed=4)
    images = store.batch(torch.tensor([0]))
    climber = _Climber()
    ends = run(climber, images, SMALL, starts=5)
    assert climber.shown[0] == 10 and climber.shown == sorted(climber.shown, reverse=True) and climber.shown[-1] < 10
    places = random_places(10, torch.tensor([40, 40]), share=0.5, generator=torch.Generator().manual_seed(0))
    volumes = (images[:, 0] * 255).round().to(torch.uint8)
    for number in range(10):  # each alone, as if there were no others
        agent = number // 5
        walker = Walkers.at(
            places[number : number + 1], torch.zeros(1, dtype=torch.long), torch.tensor([40, 40]), frames=2
        )
        for _ in range(SMALL.exploration.longest):
            state = walker.image.expand(2, 1), walker.history.expand(2, 1, 2, 2), walker.scale.expand(2, 1)
            expected = expected_rewards(climber, volumes, *state, SMALL)[agent]
            walker.move(expected.argmax(dim=-1), expected.max(dim=-1).values, SMALL.scales)
        assert ends[agent, number % 5].tolist() == walker.places[0].tolist()


def test_variants_and_presets_are_settings() -> None:
    task = load_task("hippocampus-5")
    for preset in ("paper", "fast", "cpu", "tiny"):
        settings = preset_settings(preset, task)
        for variant in VARIANTS:
            variant_settings(variant, settings)
    assert not variant_settings("DDQN", SMALL).architecture.duelling
    assert len(variant_settings("duelling DQN, finest scale alone", SMALL).scales) == 1
    with pytest.raises(ChallengeError, match="variant"):
        variant_settings("none", SMALL)
    with pytest.raises(ChallengeError, match="preset"):
        preset_settings("none", task)


def test_scales_that_do_not_fit_are_refused(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset(tiny_dataset)
    for wrong in (replace(SMALL, scales=Scales((1, 2), (1,))), replace(SMALL, scales=Scales((0,), (1,)))):
        with pytest.raises(ChallengeError, match="scales"):
            train(dataset, settings=wrong, output=tmp_path / "model", device="cpu")


def test_the_seed_decides_the_weights(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = replace(
        preset_settings("tiny", load_task("ceph-19")),
        schedule=Schedule(2, 2, 1e-3, validate_every=2),
        exploration=replace(SMALL.exploration, warm_up=20, longest=5),
    )
    models = []
    for name, seed, before in (("first", 3, 0), ("again", 3, 1), ("other", 4, 1)):
        torch.manual_seed(before)
        train(Dataset(tiny_dataset), settings=settings, output=tmp_path / name, device="cpu", seed=seed)
        models.append(read_model(tmp_path / name).weights)
    for key, value in models[0].items():
        torch.testing.assert_close(models[1][key], value, rtol=0, atol=0)
    assert not torch.equal(models[0]["trunk.0.weight"], models[2]["trunk.0.weight"])
