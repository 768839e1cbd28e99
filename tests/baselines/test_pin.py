"""The method's parts against hand-computed numbers, walks of networks that know the way, and a short training."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landmark_baselines import pin as method
from landmark_baselines import pin_bench, pin_training
from landmark_baselines.ablation import rows_of, trainings_of
from landmark_baselines.augmentation import Augmentation
from landmark_baselines.method import load_model, train_method
from landmark_baselines.pin_network import PinNetwork, build_network, look, step_of, walk
from landmark_baselines.pin_presets import Architecture
from landmark_baselines.planar_patches import PatchShape
from landmark_baselines.presets import from_plain
from landmark_baselines.store import Store
from landmark_baselines.training import Step, cases_at
from landmark_baselines.volumes import Volumes
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.platform import Localizer
from landmark_challenge.shape_space import ShapeSpace, fit_space
from landmark_challenge.task import load_task

TASK = load_task("fetal-us-10")
SETTINGS = method.preset_settings("tiny", TASK)
SMALL = Architecture((4, 6), hidden=8, dropout=0.0)


def _space(landmarks: int = 3, ndim: int = 3) -> ShapeSpace:
    sets = np.random.default_rng(2).normal(20, 4, (30, landmarks, ndim))
    return fit_space(sets, explained=0.9)[0]


def _volumes(ndim: int = 3) -> Volumes:
    shape = (30, 36, 40)[:ndim]
    return Volumes.of(torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0)), 1.0)


def test_the_network_of_the_paper() -> None:
    settings = method.preset_settings("paper", TASK)
    mean, basis = np.zeros((10, 3)), np.eye(30)[:15].reshape(15, 10, 3)
    network = build_network(TASK, settings, ShapeSpace(mean, basis, np.ones(15)))
    kernels = [(layer.in_channels, layer.out_channels) for layer in network.body if isinstance(layer, nn.Conv2d)]
    assert kernels == [(30, 32), (32, 64), (64, 128), (128, 256), (256, 512)]
    assert network.body(torch.zeros(1, 30, 101, 101)).shape == (1, 512, 1, 1)
    for tower, outputs in ((network.regress, 15), (network.classify, 30)):
        widths = [layer.out_channels for layer in tower if isinstance(layer, nn.Conv2d)]
        assert widths == [1024, 1024, outputs] and sum(isinstance(layer, nn.Dropout) for layer in tower) == 2
    network.initialise_like_the_paper()
    weights = torch.cat([layer.weight.flatten() for layer in network.modules() if isinstance(layer, nn.Conv2d)])
    assert weights.abs().max() <= 0.2 and weights.mean().abs() < 1e-3 and 0.08 < weights.std() < 0.1
    assert settings.alpha == 0.5 and settings.unit == "voxel" and settings.iterations == 10
    assert settings.pixel_iterations == 350 and settings.settled_mm == 0 and settings.explained == 0.995


def test_the_loss_by_hand() -> None:
    regressed = torch.tensor([[[0.5, -1.0]]])
    logits = torch.tensor([[[1.0, 2.0, 0.0, -1.0]]])
    target = torch.tensor([[[1.0, -4.0]]])  # largest along the second axis and negative: class 3
    chances = np.exp([1.0, 2.0, 0.0, -1.0])
    entropy = -math.log(chances[3] / chances.sum())
    error = ((0.5 - 1.0 / 2) ** 2 + (-1.0 + 4.0 / 2) ** 2) / 2
    for alpha in (0.0, 0.3, 1.0):
        loss = pin_training.pin_loss((regressed, logits), target, unit_mm=torch.tensor(2.0), alpha=alpha)
        assert loss.item() == pytest.approx((1 - alpha) * error + alpha * entropy, rel=1e-6)


def test_a_group_without_a_target_teaches_nothing() -> None:
    outputs = torch.randn(2, 3, 2, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    target = torch.randn(2, 3, 2)
    target[0, 1, 0] = float("nan")
    pin_training.pin_loss(outputs, target, unit_mm=torch.ones(1), alpha=0.5).backward()
    for output in outputs:
        assert output.grad is not None and (output.grad[0, 1] == 0).all() and (output.grad[1, 1] != 0).any()


def test_the_rules_by_hand() -> None:
    regressed = torch.tensor([2.0, -6.0])
    logits = torch.log(torch.tensor([0.5, 0.1, 0.05, 0.35]))
    assert step_of(regressed, logits, "A", pixel_mm=0.5).tolist() == [0.5, 0.0]
    assert step_of(regressed, logits.flip(0), "A", pixel_mm=0.5).tolist() == [0.0, -0.5]
    assert step_of(regressed, logits, "B", pixel_mm=0.5).tolist() == [2.0, -6.0]
    np.testing.assert_allclose(step_of(regressed, logits, "C", pixel_mm=0.5), [2 * 0.5, -6 * 0.35], rtol=1e-6)


def test_nineteen_starts_and_the_mean_first() -> None:
    volumes = _volumes()
    single = PinNetwork(None, 4, 3, SMALL, patch=15).starts(volumes, 6, seed=0)
    centre, quarter = volumes.extent_mm / 2, volumes.extent_mm / 4
    assert single.shape == (19, 4, 3)
    steps = (single[:, 0] - centre) / quarter
    assert steps[0].abs().max() == 0
    kinds = sorted(int(step.abs().round().sum()) for step in steps)
    assert kinds == [0] + [1] * 6 + [2] * 12 and len({tuple(step.round().tolist()) for step in steps}) == 19
    assert PinNetwork(None, 4, 2, SMALL, patch=15).starts(_volumes(2), 6, seed=0).shape == (9, 4, 2)
    space = _space()
    joint = PinNetwork(space, 3, 3, SMALL, patch=15)
    starts = joint.starts(volumes, 6, seed=3)
    assert starts.shape == (6, 1, len(space.spread_mm)) and (starts[0] == 0).all()
    assert (starts.abs() <= 3 * joint.spread_mm + 1e-4).all() and (starts[1:] != 0).all()
    np.testing.assert_allclose(joint.to_points(starts)[0], space.mean_mm, atol=1e-4)
    torch.testing.assert_close(joint.to_state(joint.to_points(starts)), starts, atol=1e-3, rtol=0)


class _Guide(PinNetwork):
    """Knows the way along x from the brightness of a ramp: the image says where a patch is."""

    goal: torch.Tensor
    steps = 0

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.steps += 1
        middle = patches.unflatten(1, (self.landmarks, -1))[:, :, :, patches.shape[-1] // 2, patches.shape[-1] // 2]
        way = torch.zeros(len(patches), self.groups, self.size)
        way[..., 0] = self.goal - 100 * middle[..., 0]  # the ramp below
        axis = way.abs().argmax(-1, keepdim=True)
        logits = torch.zeros(*way.shape[:2], 2 * self.size)
        logits.scatter_(-1, 2 * axis + (way.gather(-1, axis) <= 0), 5.0)
        return way / self.unit_mm, logits


def _ramp() -> Volumes:
    x = torch.arange(40.0) / 100
    return Volumes.of(x.expand(1, 1, 40, 40, 40).contiguous(), 1.0)


@pytest.mark.parametrize("rule", ["A", "B", "C"])
def test_every_rule_leads_a_network_that_knows_the_way_to_the_goal(rule: str) -> None:
    guide = _Guide(None, 2, 3, SMALL, patch=15)
    guide.unit_mm.fill_(3.0)
    guide.goal = torch.tensor([20.3, 11.7])
    starts = torch.tensor([[[15.0] * 3, [18.0] * 3], [[30.0] * 3, [5.0] * 3]])
    path = walk(
        guide, _ramp(), torch.zeros(2, dtype=torch.long), starts,
        shape=PatchShape(15, 1.0), rule=rule, iterations=101, settled_mm=1e-3,
    )  # fmt: skip
    assert (path[0] == starts).all()
    assert (path[-1][..., 1:] == starts[..., 1:]).all()
    away = (path[-1][..., 0] - guide.goal).abs().max()
    assert away < (1.0 if rule == "A" else 0.02)
    assert guide.steps < 101  # to and fro, or settled: the rest is not computed


def test_the_shortcut_of_rule_a_ends_where_all_steps_would() -> None:
    guide = _Guide(None, 1, 3, SMALL, patch=15)
    guide.goal = torch.tensor([20.3])
    starts, ends = torch.full((1, 1, 3), 15.0), []
    for iterations in range(14, 40):
        options = {"shape": PatchShape(15, 1.0), "rule": "A", "iterations": iterations, "settled_mm": 0.0}
        path = walk(guide, _ramp(), torch.zeros(1, dtype=torch.long), starts, **options)  # type: ignore[arg-type]
        state = starts
        for _ in range(iterations):
            regressed, logits = guide(look(_ramp(), torch.zeros(1, dtype=torch.long), state, PatchShape(15, 1.0)))
            state = state + step_of(regressed, logits, "A", pixel_mm=1.0)
        torch.testing.assert_close(path[-1], state, atol=1e-3, rtol=0)
        ends.append(len(path))
    assert max(ends) < 26


def test_patches_are_taken_around_every_landmark() -> None:
    volumes = _volumes()
    points = 10 + 10 * torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(1))
    which = torch.zeros(4, dtype=torch.long)
    patches = look(volumes, which, points, PatchShape(9, 1.0))
    assert patches.shape == (4, 9, 9, 9)
    alone = look(volumes, which[:1], points[2:3, 1:2], PatchShape(9, 1.0))
    torch.testing.assert_close(patches[2, 3:6], alone[0])


def test_networks_of_single_landmarks_are_apart() -> None:
    network = PinNetwork(None, 3, 3, SMALL, patch=15).eval()
    patches = torch.rand(2, 9, 15, 15, generator=torch.Generator().manual_seed(0))
    changed = patches.clone()
    changed[:, 3:6] += 1
    for before, after in zip(network(patches), network(changed), strict=True):
        same = (before == after).flatten(2).all(-1).all(0)
        assert same.tolist() == [True, False, True]


def test_landmarks_that_are_walked_together_can_have_convolutions_of_their_own() -> None:
    apart = PinNetwork(_space(), 3, 3, replace(SMALL, apart=True), patch=15).eval()
    mixed = PinNetwork(_space(), 3, 3, SMALL, patch=15).eval()
    patches = torch.rand(2, 9, 15, 15, generator=torch.Generator().manual_seed(0))
    changed = patches.clone()
    changed[:, 3:6] += 1
    for network, same in ((apart, [True, False, True]), (mixed, [False] * 3)):
        before, after = (network.body(each).unflatten(1, (-1, SMALL.widths[-1])) for each in (patches, changed))
        if network is mixed:
            before, after = (each.expand(-1, 3, -1, -1, -1) for each in (before, after))
        assert (before == after).flatten(2).all(-1).all(0).tolist() == same
        assert not any((a == b).all() for a, b in zip(network(patches), network(changed), strict=True))


def _teach(augmentation: Augmentation, *, joint: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L, ndim): where the patches of a training batch were taken, read off a ramp, and where the network is told
    to go from there, both in mm along x."""
    seen: list[torch.Tensor] = []
    told: list[torch.Tensor] = []
    truth = torch.tensor(np.random.default_rng(0).normal(20, 3, (5, 3, 3)), dtype=torch.float32)
    space = fit_space(truth.double().numpy(), explained=1.0)[0] if joint else None
    network = PinNetwork(space, 3, 3, SMALL, patch=15)

    def catch(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(patches.unflatten(1, (3, 3))[:, :, 1, 7, 7])
        return torch.zeros(len(patches), network.groups, network.size), torch.zeros(
            len(patches), network.groups, 2 * network.size
        )

    def loss(outputs: object, target_mm: torch.Tensor, **_: object) -> torch.Tensor:
        told.append(target_mm)
        return target_mm.sum()

    network.forward = catch  # type: ignore[method-assign]
    images = (torch.arange(60.0) * 4).byte().expand(5, 1, 60, 60, 60)
    store = Store(images, truth, 1.0)
    settings = replace(
        SETTINGS, patch=15, spacing_mm=1.0, augmentation=augmentation, joint=joint,
        schedule=replace(SETTINGS.schedule, batch=5),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pin_training, "pin_loss", loss)
        pin_training._loss(network, Step(0), store, truth, torch.full((5, 3), 59.0), settings, seed=1)
    x = seen[0] * 255 / 4
    way = told[0] if not joint else torch.einsum("bk,kld->bld", told[0][:, 0], network.basis)
    order = cases_at(range(5), 5, seed=1)
    return x, way[..., 0] - (truth[order] - x[..., None])[..., 0] if not augmentation.scale else way[..., 0]


@pytest.mark.parametrize("joint", [True, False])
def test_the_way_that_is_taught_leads_from_the_patches_to_the_landmarks(joint: bool) -> None:
    x, wrong = _teach(Augmentation(), joint=joint)
    inside = (x > 1) & (x < 58)
    assert inside.sum() > 8
    assert wrong[inside].abs().max() < 0.02


def test_rows_of_the_tables_share_six_trainings() -> None:
    rows = rows_of(method)
    names = [[*(f"PIN{i}-{kind}" for i in range(1, 6)), f"PIN5-{kind} in 40 steps"] for kind in ("Single", "Multiple")]
    assert [row.name for row in rows] == names[0] + names[1]
    trainings = {training.folder: training for training in trainings_of(rows)}
    assert len(trainings) == 6
    for training in trainings.values():
        settings = replace(method.variant_settings(training.variant, SETTINGS), **training.fixed)
        for row in training.rows:
            seen = replace(settings, **row.view)
            number = int(row.name[3])
            assert seen.iterations == (40 if "40 steps" in row.name else SETTINGS.iterations)
            assert seen.joint == ("Multiple" in row.name)
            assert (seen.alpha, seen.rule) == {1: (1, "A"), 2: (0, "B"), 3: (0.5, "A"), 4: (0.5, "B"), 5: (0.5, "C")}[
                number
            ]


@pytest.mark.parametrize("preset", list(method.PRESETS))
def test_settings_survive_model_json(preset: str) -> None:
    settings = method.preset_settings(preset, TASK)
    assert from_plain(method.Settings, asdict(settings), source="model.json") == settings


@pytest.mark.parametrize(("field", "value"), [("rule", "D"), ("outside", "mirror"), ("unit", "inch")])
def test_unknown_choices_are_refused(field: str, value: str, tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ChallengeError, match=field):
        method.train(Dataset(tiny_dataset), output=tmp_path, device="cpu", settings=replace(SETTINGS, **{field: value}))
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", TASK)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("PIN6", SETTINGS)


def test_the_spread_of_the_starts_is_the_covariance() -> None:
    ends = np.random.default_rng(0).normal(0, [1.0, 2.0, 3.0], (6, 4, 3))
    found = method.Walk(np.stack([ends * 2, ends * 1.5, ends]))
    for landmark in range(4):
        np.testing.assert_allclose(found.covariance_mm2[landmark], np.cov(ends[:, landmark].T), rtol=1e-9)
    np.testing.assert_allclose(found.points_mm, ends.mean(axis=0))
    np.testing.assert_allclose(found.last_step_mm, np.linalg.norm(0.5 * ends, axis=-1).max(axis=-1))
    assert method.Walk(ends[None, :1].repeat(2, axis=0)).covariance_mm2.max() == 0


def _errors_mm(localizer: Localizer, dataset: Dataset) -> list[float]:
    found = []
    for case in dataset.cases(split="train"):
        answer = localizer.localize(dataset.image(case.name))
        away = answer.landmarks.points_mm - dataset.landmarks(case.name).aligned_mm(answer.landmarks.names)
        found.append(float(np.linalg.norm(away, axis=1).mean()))
    return found


def test_trains_localizes_and_beats_the_floor(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    tiny = method.preset_settings("tiny", dataset.task)
    schedule = replace(tiny.schedule, iterations=80, validate_every=40, average=0.9)
    settings = replace(tiny, schedule=schedule, spacing_mm=4.0, explained=0.99)
    train_method("pin", dataset, output=tmp_path / "model", device="cpu", settings=settings, preset="tiny")
    train_method("mean_shape", dataset, output=tmp_path / "floor", device="cpu")
    floor = np.mean(_errors_mm(load_model(tmp_path / "floor", device="cpu"), dataset))
    localizer = load_model(tmp_path / "model", device="cpu")
    assert np.mean(_errors_mm(localizer, dataset)) < 0.5 * floor
    covariance = localizer.localize(dataset.image(dataset.cases(split="test")[0].name)).covariance_mm2
    assert set(covariance) == set(dataset.task.names)
    assert all(np.trace(each) > 0 and (each[2] == 0).all() for each in covariance.values())
    assert (tmp_path / "model" / "weights.safetensors").stat().st_size < 2_000_000


def test_single_networks_walk_from_the_middle_to_the_landmarks(tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    tiny = method.variant_settings("C+R, single", method.preset_settings("tiny", dataset.task))
    schedule = replace(tiny.schedule, iterations=60, validate_every=30, average=0.9)
    architecture = replace(tiny.architecture, widths=(8, 16), hidden=24)
    tiny = replace(tiny, augmentation=Augmentation(), rule="C", spacing_mm=4.0)
    settings = replace(tiny, schedule=schedule, architecture=architecture)
    train_method("pin", dataset, output=tmp_path, device="cpu", settings=settings, preset="tiny")
    image = dataset.image(dataset.cases(split="train")[0].name)
    middle = np.array([*image.index_to_mm([(count - 1) / 2 for count in image.size])[0]])
    reference = dataset.landmarks(dataset.cases(split="train")[0].name).aligned_mm(dataset.task.names)
    still = np.linalg.norm(reference - middle, axis=1).mean()
    assert np.mean(_errors_mm(load_model(tmp_path, device="cpu"), dataset)) < 0.6 * still


def test_the_space_is_kept_exact_in_the_smallest_models(tmp_path: Path, tiny_volumes: Path) -> None:
    dataset = Dataset(tiny_volumes)
    tiny = method.preset_settings("tiny", dataset.task)
    settings = replace(tiny, schedule=replace(tiny.schedule, iterations=1, validate_every=1, batch=2))
    train_method("pin", dataset, output=tmp_path, device="cpu", settings=settings, preset="tiny")
    loaded = method.load(tmp_path)
    truth, _ = pin_training.training_sets(dataset, settings.spacing_mm)
    space, _ = fit_space(truth, explained=settings.explained)
    np.testing.assert_array_equal(loaded.network.mean_mm, space.mean_mm.astype(np.float32))
    assert next(loaded.network.body.parameters()).dtype in (torch.bfloat16, torch.float32)
    image = dataset.image(dataset.cases(split="test")[0].name)
    found = loaded.walk(image)
    assert found.path_mm.shape[1:] == (6, 8, 3) and found.last_step_mm.shape == (6,)
    moved = Image.of(image.array, image.spacing_mm, image.origin_mm + [5, -7, 11], image.direction)
    np.testing.assert_allclose(loaded.walk(moved).points_mm - found.points_mm, np.tile([5, -7, 11], (8, 1)), atol=1e-2)


def test_the_benchmark_samples_the_same_patches_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin_bench, "SIZE", (40, 30, 36))
    monkeypatch.setattr(pin_bench, "PATCH", 9)
    seen: list[torch.Tensor] = []
    plain = torch.nn.functional.grid_sample
    monkeypatch.setattr(pin_bench.F, "grid_sample", lambda *a, **k: seen.append(plain(*a, **k)))
    ours, other = pin_bench.triples(pin_bench.volume(), 5, device=torch.device("cpu"))
    patches = ours()
    other()
    assert isinstance(patches, torch.Tensor)
    torch.testing.assert_close(patches.flatten(2), torch.stack([each[0, 0, 0] for each in seen], 1), atol=1e-4, rtol=0)
    assert pin_bench.volume(2).size == (80, 60, 72)
    monkeypatch.setattr(pin_bench, "SIZE", (110, 104, 108))
    found = pin_bench.untrained(torch.device("cpu")).localize(pin_bench.volume())
    assert len(found.landmarks) == 10
