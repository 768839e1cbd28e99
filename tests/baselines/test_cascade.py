"""The parts of cascade against what they must give, its geometry as properties, calibration, resume and a training."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from landmark_baselines import cascade as method
from landmark_baselines import cascade_network as network
from landmark_baselines import cascade_training as training
from landmark_baselines.ablation import rows_of, trainings_of
from landmark_baselines.augmentation import FEW_IMAGES, Augmentation
from landmark_baselines.blocks import parameter_count
from landmark_baselines.checkpoints import read_model, save_model
from landmark_baselines.heatmaps import argmax_points, render_gaussians
from landmark_baselines.method import load_model, train_method
from landmark_baselines.neighbour_shape import NeighbourShape
from landmark_baselines.patches import sample_windows
from landmark_baselines.presets import from_plain, overridden
from landmark_baselines.pretrained import Pretrained, PretrainedUNet
from landmark_baselines.scales import StoreReader
from landmark_baselines.store import Store, load_store
from landmark_baselines.training import Schedule, Step
from landmark_baselines.unet import Architecture, UNet
from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, write_landmarks
from landmark_challenge.task import Task, load_task

from .learning import assert_beats_the_floor

CEPH, CCTA = load_task("ceph-19"), load_task("ccta-8")
SMALL = Architecture((4, 6), convolutions=1)
STAGE = network.Stage(4.0, SMALL, Schedule(2, 2, 1e-3, validate_every=2), Augmentation(), 4.0)
# 4, 2, 1 and 0.5 mm, crops of 16 voxels
PLAIN = network.Settings(
    STAGE,
    replace(STAGE, spacing_mm=2.0, sigma_mm=2.0),
    replace(STAGE, spacing_mm=1.0, sigma_mm=1.0),
    replace(STAGE, spacing_mm=0.5, sigma_mm=0.5),
    16,
)


class Seer(torch.nn.Module):
    """Logits whose softmax is a narrow Gaussian around the brightest place of a broad one."""

    def forward(self, x: torch.Tensor, landmarks: torch.Tensor | None = None) -> torch.Tensor:
        logits = 40 * x.clamp(min=0.03).log()
        return logits if landmarks is None else logits[:, 0]


def _stores(points_mm: torch.Tensor, side_mm: int, spacings: tuple[float, ...]) -> list[Store]:
    """An image with a broad Gaussian around the one (1, 1, ndim) point, at every spacing."""
    ndim = points_mm.shape[-1]
    stores = []
    for spacing in spacings:
        points = points_mm / spacing - 0.5
        image = render_gaussians(points, (int(side_mm / spacing),) * ndim, 14.0 / spacing)
        stores.append(Store((image * 255).round().to(torch.uint8), points, spacing))
    return stores


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("passes", [1, 4])
def test_every_stage_looks_where_the_one_before_found(ndim: int, passes: int) -> None:
    points_mm = torch.tensor([[[41.3, 22.7, 50.9][:ndim]]])
    chosen = replace(PLAIN, passes=passes, shift_mm=2.0)
    stores = _stores(points_mm, 64, chosen.spacings_mm)
    reader = StoreReader(stores, torch.zeros(1, dtype=torch.long), chosen.window_voxels, 8)

    def read(scale: int, centres: torch.Tensor | None) -> torch.Tensor:
        if centres is None:
            return reader.read(scale, None)
        assert len(centres) == passes
        return torch.cat([reader.read(scale, one) for one in centres.split(1)])

    found = network.run(dict.fromkeys(network.STAGES, Seer()), read, chosen)
    assert tuple(found) == network.STAGES
    every = [*found.values(), network.result(found)]
    for part, tolerance_mm in zip(every, (1.0, 0.5, 0.25, 0.125, 0.125), strict=True):
        assert torch.linalg.vector_norm(part.points - points_mm[0], dim=-1).max() < tolerance_mm  # not half a voxel off
        assert torch.linalg.eigvalsh(part.moments).min() > 0
    assert len(network.run(dict.fromkeys(network.STAGES, Seer()), read, chosen, upto=1)) == 2
    without = replace(chosen, skipped=("middle", "fine"))
    stores[:] = [stores[0], stores[3]]
    found = network.run(dict.fromkeys(network.STAGES, Seer()), read, without)
    assert tuple(found) == ("coarse", "finest")
    assert torch.linalg.vector_norm(network.result(found).points - points_mm[0], dim=-1).max() < 0.125


def test_a_crop_network_begins_as_a_unet_that_answers_for_one_landmark() -> None:
    torch.manual_seed(0)
    crops, which = torch.rand(5, 1, 8, 8), torch.tensor([3, 0, 3, 2, 1])
    told = network.CropUNet(2, 4, SMALL).eval()
    plain = UNet(2, 4, SMALL).eval()
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("told")})
    every = plain(crops)
    torch.testing.assert_close(told(crops, which), torch.stack([every[i, at] for i, at in enumerate(which)]))
    torch.nn.init.normal_(told.told[1].weight.data[3:])  # type: ignore[operator, union-attr, index]
    changed = (told(crops, which) - torch.stack([every[i, at] for i, at in enumerate(which)])).abs().amax(dim=(1, 2))
    assert (changed[[0, 2]] > 1e-4).all() and (changed[[1, 3, 4]] < 1e-6).all()
    untold = network.CropUNet(2, 4, SMALL, told=False)
    assert not any(key.startswith("told") for key in untold.state_dict())


def test_shifts_begin_at_the_point_and_stay_in_their_box() -> None:
    shifts = network.shifts_of(replace(PLAIN, passes=9, shift_mm=1.5), 3)
    assert shifts.shape == (9, 1, 3) and torch.equal(shifts[0], torch.zeros(1, 3))
    assert shifts.abs().max() <= 1.5 and (shifts[1:].abs().amax(dim=(0, 1)) > 0.7).all()
    assert len(shifts.flatten(0, 1).unique(dim=0)) == 9
    assert torch.equal(shifts, network.shifts_of(replace(PLAIN, passes=9, shift_mm=1.5), 3))


def _found(x: float, variance: float, y: float = 0.0) -> network.Found:
    return network.Found(torch.tensor([[x, y]]), variance * torch.eye(2)[None])


def test_what_stages_find_is_weighted_by_precision() -> None:
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    first = network.Found(torch.tensor([[4.0, 1.0]]), (turn @ torch.diag(torch.tensor([4.0, 1.0])) @ turn.T)[None])
    second = network.Found(torch.tensor([[0.0, 3.0]]), torch.tensor([[[1.0, 0.5], [0.5, 2.0]]]))
    both = network.fused([first, second])
    precisions = [np.linalg.inv(part.moments[0].numpy().astype(float)) for part in (first, second)]
    covariance = np.linalg.inv(sum(precisions))
    points = [part.points[0].numpy() for part in (first, second)]
    np.testing.assert_allclose(both.moments[0], covariance, rtol=1e-5)
    np.testing.assert_allclose(both.points[0], covariance @ sum(p @ x for p, x in zip(precisions, points, strict=True)))
    alone = network.fused([first])
    torch.testing.assert_close((alone.points, alone.moments), (first.points, first.moments))


def test_the_result_by_hand() -> None:
    stages = [_found(0, 9), _found(4, 3), _found(6, 1), _found(9, 2)]
    # the fine stages say (2 x 6 + 9) / 3 = 7; maps over crops (3 + 1 + 2) / 3; apart by 7, 3, 1 and 2 in x
    expected = [
        (stages, 7.0, 2.0 + (49 + 9 + 1 + 4) / 4, 2.0),
        (stages[:3], 6.0, 2.0 + (36 + 4) / 3, 2.0),
        (stages[:2], 3.0, 3.0 + (9 + 1) / 2, 3.0),  # (0 / 9 + 4 / 3) / (1 / 9 + 1 / 3)
        (stages[:1], 0.0, 9.0, 9.0),
    ]
    for found, x, along, across in expected:
        together = network.result(dict(zip(network.STAGES, found, strict=False)))
        torch.testing.assert_close(together.points, torch.tensor([[x, 0.0]]))
        torch.testing.assert_close(together.moments, torch.diag(torch.tensor([along, across]))[None])
    # without a middle stage: apart by 7, 1 and 2
    without = dict(zip(("coarse", "fine", "finest"), (stages[0], *stages[2:]), strict=True))
    together = network.result(without)
    torch.testing.assert_close(together.points, torch.tensor([[7.0, 0.0]]))
    torch.testing.assert_close(together.moments, torch.diag(torch.tensor([1.5 + 54 / 3, 1.5]))[None])
    torch.testing.assert_close(
        network.looked_around(dict(zip(network.STAGES, stages, strict=True))), torch.tensor([[3.0, 0.0]])
    )
    torch.testing.assert_close(network.looked_around(without), torch.tensor([[0.0, 0.0]]))


@given(st.integers(2, 3), st.lists(st.floats(-10, 50), min_size=3, max_size=3), st.integers(12, 60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_cut_shows_what_the_image_shows(ndim: int, centre: list[float], length: int, window: int) -> None:
    shape = (length, 40, 33)[-ndim:]
    images = torch.randint(0, 256, (2, 1, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    store = Store(images, torch.zeros(2, 1, ndim), 1.0)
    at = torch.tensor([centre[:ndim]])
    part, first = training.cut(store, torch.tensor([1]), at, 2 * window + 4)
    here = sample_windows(part, (at - first)[None], (window,) * ndim)
    there = sample_windows(images[1:].float() / 255, at[None], (window,) * ndim)
    torch.testing.assert_close(here, there, atol=2e-4, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_move_with_what_the_crops_show(ndim: int) -> None:
    """A spot at every landmark: it must be seen where the points of a changed crop say."""
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(3, 4, ndim, generator=generator) * 24 + 20
    images = render_gaussians(points, (64,) * ndim, 1.0).amax(dim=1, keepdim=True)
    points[2, 1] = torch.nan
    store = Store((images * 255).round().to(torch.uint8), points, 1.0)
    shaken = replace(FEW_IMAGES, shift_mm=1.0, elastic_mm=0.4, elastic_nodes=3, noise=0.0, gamma=0.0, brightness=0.0)
    stage = replace(PLAIN.fine, augmentation=shaken, schedule=Schedule(9, 3, 1e-3), crops=3)
    batches = training.Batches(store, stage, replace(PLAIN, window_voxels=24), torch.full((4,), 1.5), 4, 0)
    seen = 0
    for number in range(6):
        crops, which, inside = batches.crops(Step(number))
        assert crops.shape == (9, 1, *(24,) * ndim) and which.shape == (9,) and inside.shape == (9, 1, ndim)
        for crop, point in zip(crops, inside[:, 0], strict=True):
            middle = torch.nan_to_num(point, nan=-99)
            if (middle < 2).any() or (middle > 21).any():
                continue
            near = render_gaussians(point[None, None], (24,) * ndim, 3.0)
            apart = argmax_points(crop[None] * near)[0, 0] - point
            assert apart.abs().max() < 1.0
            seen += 1
        assert (which.reshape(3, 3).sort(dim=1).values.diff(dim=1) > 0).all()  # no landmark twice
    assert seen > 25


def test_a_landmark_that_nobody_knows_teaches_nothing() -> None:
    points = torch.full((1, 2, 2), torch.nan)
    store = Store(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), points, 1.0)
    model = network.CropUNet(2, 2, SMALL)
    batches = training.Batches(store, replace(PLAIN.fine, schedule=Schedule(1, 1, 1e-3)), PLAIN, torch.ones(2), 2, 0)
    loss = batches.crop_loss(model, Step(0))
    loss.backward()
    assert loss.item() == 0
    assert all(part.grad is None or not part.grad.any() for part in model.parameters())


def test_maps_are_taught_what_every_observer_says(tmp_path: Path) -> None:
    """Observers count without what they always say otherwise; a loss is the mean of the losses of each."""
    with DatasetWriter(tmp_path / "data", CEPH, source="test", licence="none") as writer:
        for case, more in (("a", 1.0), ("b", -1.0)):
            points = {
                # in x they disagree from case to case, in y always
                name: Landmarks(CEPH.names, [[8 + sign * more + i / 4, 9 - 3 * sign, 0] for i in range(19)])
                for name, sign in (("senior", 1), ("junior", -1))
            }
            writer.add(Case(case, "train", case), Image.of(np.zeros((32, 32), np.uint8), (1.0, 1.0)), points)
    dataset = Dataset(tmp_path / "data")
    reference = np.array([[8 + i / 4, 9] for i in range(19)], np.float32)
    images = torch.randint(0, 256, (2, 1, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    store = Store(images, torch.from_numpy(np.stack([reference] * 2)), 1.0)
    every = training.with_observers(store, dataset, dataset.cases())
    torch.testing.assert_close(every.points[0, :19], torch.from_numpy(reference + np.float32([1, 0])))
    torch.testing.assert_close(every.points[0, 19:38], torch.from_numpy(reference - np.float32([1, 0])))
    torch.testing.assert_close(every.points[1, :19], torch.from_numpy(reference - np.float32([1, 0])))
    assert torch.equal(every.points[:, 38:], store.points)
    chosen = replace(PLAIN, distance_weight=0.0)
    torch.manual_seed(0)
    model = network.CropUNet(2, 19, SMALL).eval()

    def loss(points: torch.Tensor) -> float:
        stage = replace(PLAIN.fine, schedule=Schedule(1, 1, 1e-3))
        batches = training.Batches(replace(store, points=points), stage, chosen, torch.zeros(19), 19, 0)
        return batches.crop_loss(model, Step(0)).item()

    torch.nn.init.normal_(model.output.weight)
    # the crops lie around the reference, the last of the points
    apart = [loss(torch.cat([part, every.points[:, 38:]], dim=1)) for part in every.points[:, :38].split(19, dim=1)]
    assert loss(every.points) == pytest.approx(np.mean(apart), rel=1e-4)
    assert abs(apart[0] - apart[1]) > 1e-3


def test_fine_crops_lie_as_far_off_as_the_validation_cases_say() -> None:
    found = torch.zeros(50, 2, 2)
    found[:, 0] += torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * 4
    points = torch.zeros(50, 2, 2)
    points[3, 1] = torch.nan
    store = Store(torch.zeros(50, 1, 8, 8, dtype=torch.uint8), points, 2.0)
    judged = training.Judged([store], PLAIN, {}, 0)
    moments = torch.eye(2).expand(50, 2, 2, 2)
    object.__setattr__(judged, "found", lambda: {"coarse": network.Found(2 * (found + 0.5), moments)})  # mm
    own = found[:, 0].square().mean() * 4
    everyone = torch.cat([found[:, 0].flatten(), torch.zeros(98)]).square().mean() * 4
    torch.testing.assert_close(judged.spread_mm(), torch.stack([(own + everyone) / 2, everyone / 2]).sqrt())
    radial = torch.linalg.vector_norm(found, dim=-1).flatten() * 2
    assert len(judged.errors_mm(2 * (found + 0.5))) == 99
    torch.testing.assert_close(judged.errors_mm(2 * (found + 0.5)).sum(), radial.sum())


@pytest.mark.parametrize(("error_mm", "spread_mm"), [(None, 8 / 3**0.5), (torch.full((2,), 1.5), None)])
def test_crops_lie_anywhere_or_as_far_off_as_they_are_told(
    error_mm: torch.Tensor | None, spread_mm: float | None
) -> None:
    """Anywhere is uniform within a third of the 24 mm on either side; else normal, but for a tenth of far misses."""
    points = torch.full((40, 2, 2), 32.0)
    store = Store(torch.zeros(40, 1, 64, 64, dtype=torch.uint8), points, 1.0)
    stage = replace(PLAIN.fine, schedule=Schedule(9, 40, 1e-3))
    batches = training.Batches(store, stage, replace(PLAIN, window_voxels=24), error_mm, 2, 0)
    inside = torch.cat([batches.crops(Step(number))[2] for number in range(20)])[:, 0]
    beside = inside - 11.5
    assert beside.abs().max() <= 8 and beside.abs().max() > 7.5
    wanted = spread_mm or (0.9 * 1.5**2 + 0.1 * 64 / 3) ** 0.5
    assert beside.square().mean().sqrt() == pytest.approx(wanted, rel=0.08)


def test_a_case_that_an_observer_skipped_teaches_what_the_others_say(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", CEPH, source="test", licence="none") as writer:
        for case in ("a", "b"):
            points = {name: Landmarks(CEPH.names, np.full((19, 3), [9, 9, 0])) for name in ("senior", "junior")}
            writer.add(Case(case, "train", case), Image.of(np.zeros((32, 32), np.uint8), (1.0, 1.0)), points)
    dataset = Dataset(tmp_path / "data")
    dataset.landmarks_path("b", observer="junior").unlink()
    points = torch.full((2, 19, 2), 9.0)
    store = Store(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), points, 1.0)
    every = training.with_observers(store, dataset, dataset.cases()).points.unflatten(1, (3, 19))
    senior, junior = (CEPH.reference.observers.index(name) for name in ("senior", "junior"))
    assert every[1, junior].isnan().all() and torch.equal(every[1, senior], points[1])
    assert torch.equal(every[0], points[:1].expand(3, 19, 2)) and torch.equal(every[:, 2], points)


@pytest.mark.parametrize("task", [CEPH, CCTA, load_task("hippocampus-5"), load_task("fetal-us-10")])
@pytest.mark.parametrize("preset", ["fast", "cpu", "tiny"])
def test_settings_survive_model_json_and_networks_stay_small(preset: str, task: Task) -> None:
    chosen = network.checked(method.preset_settings(preset, task))
    assert from_plain(network.Settings, asdict(chosen), source="model.json") == chosen
    weights = sum(
        parameter_count(network.make_network(task.dimension, len(task.names), chosen, number))
        for number in range(len(chosen.stages))
    )
    assert weights * 2 < {"fast": 2.5e7, "cpu": 5e6, "tiny": 1e6}[preset]  # bytes, kept in bfloat16


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("skipped=[coarse]", "skipped"),
        ("middle.spacing_mm=9.0", "spacing_mm"),
        ("fine.spacing_mm=-1.0", "spacing_mm"),
        ("window_voxels=17", "window_voxels"),
        ("passes=0", "passes"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: str, named: str, tmp_path: Path, tiny_dataset: Path) -> None:
    with pytest.raises(ChallengeError, match=named):
        method.train(Dataset(tiny_dataset), output=tmp_path, settings=overridden(PLAIN, [wrong]), **OPTIONS)
    with pytest.raises(ChallengeError, match="preset"):
        method.preset_settings("huge", CEPH)
    with pytest.raises(ChallengeError, match="variant"):
        method.variant_settings("huge", PLAIN)
    flat = replace(PLAIN, coarse=replace(PLAIN.coarse, architecture=Pretrained()))
    with pytest.raises(ChallengeError, match="volumes"):
        network.make_network(3, 8, flat, 0)


OPTIONS = {"device": "cpu", "seed": 0, "resume": False}


def test_a_study_trains_once_for_what_only_looks_differently() -> None:
    rows = rows_of(method)  # type: ignore[arg-type]
    trainings = trainings_of(rows)
    assert len(trainings) == 1 + len({row.variant for row in rows if row.variant})
    chosen = method.preset_settings("cpu", CEPH)
    differ = {variant: method.variant_settings(variant, chosen) for variant in {row.variant for row in rows} - {""}}
    assert len({str(asdict(each)) for each in [chosen, *differ.values()]}) == 1 + len(differ)
    for row in rows:
        network.checked(replace(chosen, **row.view))
    volume = method.preset_settings("cpu", CCTA)
    assert method.variant_settings("scratch", volume) == method.variant_settings("middle", volume) == volume


def _quick(iterations: int) -> network.Settings:
    def quick(stage: network.Stage, spacing: float) -> network.Stage:
        schedule = Schedule(iterations, 4, 1e-2, "one-cycle", average=0.8, validate_every=iterations)
        return replace(
            stage, spacing_mm=spacing, sigma_mm=1.5 * spacing, schedule=schedule, augmentation=Augmentation()
        )

    tiny = method.preset_settings("tiny", CEPH)
    spacings = dict(zip(network.STAGES, (8.0, 4.0, 4.0, 3.0), strict=True))
    stages = {name: quick(getattr(tiny, name) or tiny.fine, spacing) for name, spacing in spacings.items()}
    return replace(tiny, **stages, window_voxels=16, passes=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    folder = tmp_path_factory.mktemp("cascade")
    train_method("cascade", Dataset(tiny_dataset), output=folder, device="cpu", settings=_quick(60), preset="tiny")
    return folder


def test_trains_localizes_and_beats_the_floor(trained: Path, tmp_path: Path, tiny_dataset: Path) -> None:
    assert_beats_the_floor(trained, Dataset(tiny_dataset), tmp_path / "floor")


def test_a_training_begins_from_imagenet_and_says_so(trained: Path, tmp_path: Path, tiny_dataset: Path) -> None:
    dataset, chosen = Dataset(tiny_dataset), _quick(2)
    chosen = replace(chosen, coarse=replace(chosen.coarse, architecture=Pretrained(width=8)))
    method.train(dataset, output=tmp_path / "model", settings=chosen, **OPTIONS)
    model = read_model(tmp_path / "model")
    assert "ImageNet" in model.provenance["begun_from"] and "Apache-2.0" in model.provenance["begun_from"]
    assert "begun_from" not in read_model(trained).provenance
    begun = PretrainedUNet(19, Pretrained(width=8))
    begun.start_from_imagenet()
    for name, value in begun.stem.state_dict().items():
        torch.testing.assert_close(model.weights[f"coarse.stem.{name}"].float(), value.float(), rtol=0.05, atol=0.05)
    case = dataset.cases(split="test")[0]
    found = method.load(tmp_path / "model").localize(dataset.image(case.name))
    assert np.isfinite(found.landmarks.points_mm).all()
    random = overridden(chosen, ["coarse.architecture.imagenet=false"])
    method.train(dataset, output=tmp_path / "random", settings=random, **OPTIONS)
    assert "begun_from" not in read_model(tmp_path / "random").provenance


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("share", [0.1, 0.9, 0.999])
def test_the_quantile_is_scipys(ndim: int, share: float) -> None:
    assert method.chi2_quantile(share, ndim) == pytest.approx(chi2.ppf(share, ndim), rel=1e-9)


def test_the_upper_quantile_is_a_standard_error_above() -> None:
    same = np.full((5, 20), 3.0)
    same[1:, 4:] = np.nan
    assert method.upper_quantile(same, 0.9) == 3
    # independent normal numbers: sqrt(p (1 - p) / n) / density
    drawn = np.random.default_rng(4).normal(size=(4000, 1))
    error = np.sqrt(0.9 * 0.1 / len(drawn)) / norm.pdf(norm.ppf(0.9))
    above = method.upper_quantile(drawn, 0.9) - np.quantile(drawn, 0.9)
    assert above == pytest.approx(error, rel=0.25)
    # twenty points of a case, or of a landmark, that are wrong together tell as much as one
    alone = method.upper_quantile(drawn[:200], 0.9)
    together = np.repeat(drawn[:200], 20, axis=1)
    assert method.upper_quantile(together, 0.9) == pytest.approx(alone, abs=error)
    assert method.upper_quantile(together.T, 0.9) == pytest.approx(alone, abs=error)


def test_nine_of_ten_validation_points_lie_in_their_regions(trained: Path, tiny_dataset: Path) -> None:
    dataset, localizer = Dataset(tiny_dataset), load_model(trained, device="cpu")
    held = []
    for case in dataset.cases(split="validation"):
        found = localizer.localize(dataset.image(case.name))
        reference = dataset.landmarks(case.name)
        for name, point in zip(reference.names, reference.points_mm, strict=True):
            apart = (point - found.landmarks.points_mm[found.landmarks.names.index(name)])[:2]
            inverse = np.linalg.inv(found.covariance_mm2[name][:2, :2])
            held.append(apart @ inverse @ apart <= chi2.ppf(0.9, 2) * (1 + 1e-6))
    assert 0.9 - 1 / len(held) <= np.mean(held) < 1


def test_calibration_does_not_depend_on_the_scale_that_was(trained: Path, tiny_dataset: Path) -> None:
    localizer, dataset = method.load(trained), Dataset(tiny_dataset)
    assert method.calibrated(localizer, dataset) == pytest.approx(localizer.scale, rel=1e-3)
    assert method.calibrated(replace(localizer, scale=7.0), dataset) == pytest.approx(localizer.scale, rel=1e-3)


def test_the_shape_of_the_training_cases_is_kept_exactly(trained: Path, tmp_path: Path, tiny_dataset: Path) -> None:
    dataset = Dataset(tiny_dataset)
    store = load_store(dataset, dataset.cases(split="train"), spacing_mm=[8.0])[0]
    of_cases, kept = NeighbourShape.of((store.points + 0.5) * 8.0), method.load(trained).shape
    assert of_cases is not None and kept is not None
    for name, part in vars(of_cases).items():
        torch.testing.assert_close(getattr(kept, name), part)
    model = read_model(trained)
    without = {name: part for name, part in model.weights.items() if not name.startswith("shape.")}
    save_model(tmp_path, replace(model, weights=without))
    assert method.load(tmp_path).shape is None
    save_model(tmp_path, replace(model, weights=without | {"shape.means": model.weights["shape.means"]}))
    with pytest.raises(ChallengeError, match="whole shape"):
        method.load(tmp_path)


def test_a_model_that_was_not_calibrated_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "model")
    content = json.loads((tmp_path / "model/model.json").read_text())
    del content["settings"][method.SCALE]
    (tmp_path / "model/model.json").write_text(json.dumps(content))
    with pytest.raises(ChallengeError, match="covariance_scale"):
        method.load(tmp_path / "model")


def test_a_run_stopped_in_calibration_leaves_no_model_and_goes_on(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(tiny_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(method, "calibrated", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            method.train(dataset, output=tmp_path, settings=_quick(2), **OPTIONS)
    assert not (tmp_path / "model.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(training.Batches, "crop_loss", lambda *_: pytest.fail("trained again"))
        method.train(dataset, output=tmp_path, settings=_quick(2), **{**OPTIONS, "resume": True})
    assert method.load(tmp_path).scale > 0


def test_cases_without_landmarks_calibrate_nothing(trained: Path, tmp_path: Path, tiny_dataset: Path) -> None:
    shutil.copytree(tiny_dataset, tmp_path / "data")
    dataset, localizer = Dataset(tmp_path / "data"), method.load(trained)
    first, *rest = dataset.cases(split="validation")
    write_landmarks(dataset.landmarks_path(first.name), Landmarks([], np.zeros((0, 3))))
    assert np.isfinite(method.calibrated(localizer, dataset))
    for case in rest:
        write_landmarks(dataset.landmarks_path(case.name), Landmarks([], np.zeros((0, 3))))
    with pytest.raises(ChallengeError, match="validation"):
        method.calibrated(localizer, dataset)


def test_a_run_stopped_between_the_stages_ends_as_one_that_was_not(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(tiny_dataset)

    def weights(name: str, **options: bool) -> dict[str, torch.Tensor]:
        options = {**OPTIONS, **options}
        method.train(dataset, output=tmp_path / name, settings=_quick(2), **options)
        return dict(read_model(tmp_path / name).weights)

    at_once = weights("at-once")
    with monkeypatch.context() as patch:
        patch.setattr(training.Batches, "crop_loss", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            weights("resumed")
    resumed = weights("resumed", resume=True)
    assert at_once.keys() == resumed.keys() and any(key.startswith("finest.") for key in at_once)
    for key, value in at_once.items():
        torch.testing.assert_close(resumed[key], value, rtol=0, atol=0)
