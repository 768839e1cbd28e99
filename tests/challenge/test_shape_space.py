"""The space of landmark sets against NumPy's covariance, and its laws."""

import numpy as np
import pytest

from landmark_challenge.errors import ChallengeError
from landmark_challenge.shape_space import fit_space

RANDOM = np.random.default_rng(5)
SPREAD = np.array([9.0, 4.0, 2.0, 0.5])


def _sets(count: int) -> np.ndarray:
    """Sets of 5 points in 3D that differ along four directions."""
    directions = np.linalg.qr(RANDOM.normal(size=(15, 4)))[0].T
    weights = RANDOM.standard_normal((count, 4)) * SPREAD
    return (RANDOM.normal(size=15) * 30 + weights @ directions).reshape(count, 5, 3)


def test_components_are_those_of_the_covariance() -> None:
    sets = _sets(60)
    space, complete = fit_space(sets, explained=1.0)
    variance, vectors = np.linalg.eigh(np.cov(sets.reshape(60, -1).T))
    np.testing.assert_allclose(space.spread_mm**2, variance[::-1][:4], rtol=1e-9)
    overlap = np.abs(np.sum(space.basis.reshape(4, -1) * vectors.T[::-1][:4], axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-9)
    np.testing.assert_array_equal(complete, sets)


def test_as_many_components_as_explain_the_share_and_no_more() -> None:
    sets = _sets(60)
    whole = fit_space(sets, explained=1.0)[0].spread_mm ** 2
    for explained in (0.5, 0.9, 0.99):
        space, _ = fit_space(sets, explained=explained)
        kept = (space.spread_mm**2).sum() / whole.sum()
        assert kept >= explained > kept - space.spread_mm[-1] ** 2 / whole.sum()


def test_projecting_and_rebuilding_are_inverse_to_each_other() -> None:
    sets = _sets(40)
    space, _ = fit_space(sets, explained=1.0)
    np.testing.assert_allclose(space.rebuild(space.project(sets)), sets, atol=1e-9)
    components = RANDOM.normal(size=(7, 4))
    np.testing.assert_allclose(space.project(space.rebuild(components)), components, atol=1e-9)


def test_samples_are_plausible_and_reach_the_edge() -> None:
    space, _ = fit_space(_sets(40), explained=1.0)
    samples = space.sample(np.random.default_rng(0), 500)
    ratio = np.abs(samples) / space.spread_mm
    assert ratio.max() <= 3 and (ratio.max(axis=0) > 2.8).all()
    assert space.is_plausible(space.rebuild(samples)).all()
    assert not space.is_plausible(space.rebuild(samples * 0 + 3.1 * space.spread_mm)).any()


def test_an_absent_point_is_where_the_others_expect_it() -> None:
    sets = _sets(60)
    holed = sets.copy()
    holed[3, 2] = np.nan
    space, complete = fit_space(holed, explained=1.0)
    assert np.isfinite(space.basis).all()
    mean_away = np.linalg.norm(sets[3, 2] - np.nanmean(holed[:, 2], axis=0))
    assert np.linalg.norm(complete[3, 2] - sets[3, 2]) < 0.7 * mean_away
    np.testing.assert_array_equal(np.delete(complete[3], 2, axis=0), np.delete(sets[3], 2, axis=0))


def test_sets_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ChallengeError, match="all the same"):
        fit_space(np.tile(RANDOM.normal(size=(1, 4, 3)), (5, 1, 1)), explained=0.99)
