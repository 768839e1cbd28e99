"""Shape models against closed forms and against the anatomy of a made-up population."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from landmark_challenge.shape import (
    ShapeModel,
    align,
    align_all,
    deviations_mm,
    fit,
    mirrored_pairs,
    ratios,
)


def population(count: int, *, dims: int = 3, seed: int = 0) -> np.ndarray:
    """Shapes of six landmarks with two modes of variation and a little noise."""
    random = np.random.default_rng(seed)
    base = np.random.default_rng(1).normal(0, 20, (6, dims))
    modes = np.random.default_rng(2).normal(0, 1, (2, 6, dims))
    weights = random.normal(0, 3, (count, 2))
    return base + np.tensordot(weights, modes, axes=1) + random.normal(0, 0.3, (count, 6, dims))


@given(st.integers(0, 10**6), st.sampled_from([2, 3]))
@settings(max_examples=40)
def test_alignment_undoes_any_turn_and_shift(seed, dims) -> None:
    random = np.random.default_rng(seed)
    shape = random.normal(0, 10, (5, dims))
    turn = Rotation.random(random_state=seed).as_matrix() if dims == 3 else Rotation.from_euler("z", seed).as_matrix()
    moved = shape @ turn[:dims, :dims] + random.normal(0, 50, dims)
    np.testing.assert_allclose(align(moved[None], shape)[0], shape, atol=1e-8)


def test_alignment_never_mirrors() -> None:
    shape = np.array([[0.0, 0], [10, 0], [10, 4], [3, 9]])
    assert np.abs(align((shape * [-1, 1])[None], shape)[0] - shape).max() > 1


def test_alignment_works_with_absent_points() -> None:
    shape = np.random.default_rng(0).normal(0, 10, (6, 3))
    moved = shape @ Rotation.from_euler("xyz", (0.3, 0.2, 0.1)).as_matrix() + 7
    moved[2] = np.nan
    result = align(moved[None], shape)[0]
    assert np.isnan(result[2]).all()
    np.testing.assert_allclose(np.delete(result, 2, axis=0), np.delete(shape, 2, axis=0), atol=1e-9)


def test_planar_shapes_lose_their_third_coordinate() -> None:
    flat = np.concatenate([population(12, dims=2), np.zeros((12, 6, 1))], axis=2)
    assert align_all(flat).shape == (12, 6, 2) and align_all(population(12)).shape == (12, 6, 3)


def test_the_conditional_mean_is_the_textbook_one() -> None:
    covariance = np.array([[4.0, 1.5], [1.5, 9.0]])
    model = ShapeModel(np.array([[1.0], [2.0]]), covariance)
    shape = np.array([[[5.0], [8.0]]])
    assert model.expected(shape, 0)[0, 0] == pytest.approx(1 + 1.5 / 9 * (8 - 2))
    assert model.expected(shape, 1)[0, 0] == pytest.approx(2 + 1.5 / 4 * (5 - 1))
    shape[0, 0] = np.nan
    assert model.expected(shape, 1)[0, 0] == pytest.approx(2)
    assert model.completed(shape)[0, :, 0].tolist() == [pytest.approx(1 + 1.5 / 9 * 6), 8.0]


def test_the_expected_point_is_that_of_a_regression_on_the_others() -> None:
    shapes = population(400)
    model = fit(shapes)
    flat = shapes.reshape(400, -1)
    others, own = flat[:, 3:], flat[:, :3]
    design = np.column_stack([np.ones(400), others])
    wanted = design @ np.linalg.lstsq(design, own, rcond=None)[0]
    np.testing.assert_allclose(model.expected(shapes, 0), wanted, atol=0.15)


def test_modes_and_samples_carry_the_covariance() -> None:
    model = fit(population(300))
    variance, modes = model.modes
    assert (np.diff(variance) <= 0).all() and variance[:2].sum() > 10 * variance[2:].sum()
    flat = modes.reshape(len(modes), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(18), atol=1e-9)
    drawn = model.sample(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(drawn.mean(axis=0), model.mean_mm, atol=0.3)
    scale = np.trace(model.covariance_mm2) / 18
    np.testing.assert_allclose(np.cov(drawn.reshape(20_000, -1).T), model.covariance_mm2, atol=0.1 * scale)
    assert model.distance(drawn).mean() == pytest.approx(18, rel=0.05)


def test_fewer_cases_than_coordinates_still_give_a_model() -> None:
    shapes = population(10)
    assert np.isfinite(fit(shapes).distance(shapes)).all()
    assert np.isfinite(fit(np.repeat(shapes[:1], 10, axis=0)).distance(shapes)).all()


def test_absent_points_are_filled_by_what_the_others_say() -> None:
    shapes = population(200)
    holed = shapes.copy()
    random = np.random.default_rng(3)
    holed[random.random((200, 6)) < 0.1] = np.nan
    model = fit(holed)
    np.testing.assert_allclose(model.mean_mm, shapes.mean(axis=(0)), atol=0.5)
    assert np.isfinite(model.completed(holed)).all()


@pytest.mark.parametrize("shift_mm", [8.0, 40.0])
def test_one_wrong_point_stands_out_and_its_case_alone(shift_mm) -> None:
    shapes = population(80)
    shapes[17, 4] += (0, shift_mm, 0)
    turns = Rotation.random(len(shapes), random_state=0).as_matrix()
    ratio = ratios(deviations_mm(shapes @ turns))
    case, landmark = np.unravel_index(np.nanargmax(ratio), ratio.shape)
    assert (case, landmark) == (17, 4) and ratio[17, 4] > 6
    assert (np.delete(ratio, 17, axis=0) < 6).all()


def test_a_few_wrong_cases_do_not_spoil_the_model() -> None:
    shapes = population(100)
    before = deviations_mm(shapes)
    shapes[:8, 0] += 50
    after = deviations_mm(shapes)
    assert (ratios(after)[:8, 0] > 6).all() and (ratios(after)[8:] < 6).all()
    np.testing.assert_allclose(np.median(after[8:], axis=0), np.median(before[8:], axis=0), rtol=0.3)


def test_pairs_are_told_by_left_and_right() -> None:
    names = ["l-mb", "r-mb", "t1-upper-left", "t1-upper-right", "ostium-left", "middle", "left-ear", "right-ear"]
    assert mirrored_pairs(names) == [(0, 1), (2, 3), (6, 7)]
