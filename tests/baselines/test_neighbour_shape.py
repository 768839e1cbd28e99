"""Where landmarks lie by the others: against fits that leave a case out, geometry, and maps of two places."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from landmark_baselines import neighbour_shape
from landmark_baselines.cascade_network import plausible
from landmark_baselines.heatmaps import argmax_points, render_gaussians
from landmark_baselines.neighbour_shape import NeighbourShape


def _heads(count: int, landmarks: int = 5, ndim: int = 2, spread_mm: float = 1.0) -> Tensor:
    """Shapes that vary around one mean, anywhere."""
    generator = torch.Generator().manual_seed(7)
    mean = torch.rand(landmarks, ndim, generator=generator) * 60
    apart = torch.randn(count, landmarks, ndim, generator=generator) * spread_mm
    return mean + apart + torch.rand(count, 1, ndim, generator=generator) * 30


@pytest.mark.parametrize("ridge", [4.0, 64.0])
@pytest.mark.parametrize("ndim", [2, 3])
def test_precision_is_that_of_cases_left_out(ndim: int, ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case predicted by a fit to the others, whose penalty is that of all cases."""
    monkeypatch.setattr(neighbour_shape, "RIDGES_MM2", (ridge,))
    heads = _heads(12, landmarks=4, ndim=ndim, spread_mm=3.0)
    shape = NeighbourShape.of(heads)
    assert shape is not None
    count = len(heads)
    for landmark in range(4):
        others = np.delete(heads.double().numpy(), landmark, axis=1)
        centroid = others.mean(axis=1)
        x = (others - centroid[:, None]).reshape(count, -1)
        y = heads[:, landmark].double().numpy() - centroid
        left = []
        for case in range(count):
            kept = np.arange(count) != case
            # the penalty as further observations, the constant without one
            design = np.vstack([np.c_[np.ones(count - 1), x[kept]], np.c_[np.zeros(x.shape[1]), np.eye(x.shape[1])]])
            design[count - 1 :] *= np.sqrt(count * ridge)
            seen = np.vstack([y[kept], np.zeros((x.shape[1], ndim))])
            fitted = np.linalg.lstsq(design, seen, rcond=None)[0]
            left.append(y[case] - np.r_[1, x[case]] @ fitted)
        covariance = np.array(left).T @ np.array(left) / count + np.eye(ndim)
        np.testing.assert_allclose(shape.precisions[landmark], np.linalg.inv(covariance), rtol=1e-4)


def test_a_landmark_that_follows_from_the_others_is_expected_where_it_is() -> None:
    heads = _heads(200, spread_mm=4.0)
    centroid = heads[:, 1:].mean(dim=1)
    heads[:, 0] = centroid + 0.5 * (heads[:, 1] - centroid) - 0.8 * (heads[:, 2] - centroid) + torch.tensor([3.0, -9.0])
    shape = NeighbourShape.of(heads[:150])
    assert shape is not None
    expected = torch.stack([shape.expected(head) for head in heads[150:]])
    apart = torch.linalg.vector_norm(expected - heads[150:], dim=-1).mean(dim=0)
    assert apart[0] < 0.3 and (apart[3:] > 2).all()  # of the others, the first two tell each other
    squared = torch.stack([shape.squared_distances(*each) for each in zip(heads[150:], expected, strict=True)])
    assert squared[:, 0].mean() < 0.2 and (squared[:, 3:].mean(dim=0) - 2).abs().max() < 1  # 2 along two axes


@given(st.lists(st.floats(-500, 500), min_size=2, max_size=2))
@settings(deadline=None)
def test_what_is_expected_moves_with_the_head(shift: list[float]) -> None:
    heads = _heads(20)
    shape = NeighbourShape.of(heads[:15])
    assert shape is not None
    moved = torch.tensor(shift)
    torch.testing.assert_close(shape.expected(heads[16] + moved), shape.expected(heads[16]) + moved, atol=1e-3, rtol=0)


def test_too_few_cases_or_landmarks_tell_no_shape() -> None:
    heads = _heads(5)
    assert NeighbourShape.of(heads[:2]) is None
    assert NeighbourShape.of(heads[:, :1]) is None
    heads[:3, 2] = torch.nan  # only complete cases count
    assert NeighbourShape.of(heads) is None
    assert NeighbourShape.of(_heads(9)[:, :2]) is not None


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_place_that_cannot_be_gives_way_to_one_that_can(ndim: int) -> None:
    heads = _heads(40, ndim=ndim)[..., :ndim] / 1.5 + 2
    shape = NeighbourShape.of(heads[:39])
    assert shape is not None
    head, spacing_mm, size = heads[39], 2.0, (40,) * ndim
    places = render_gaussians(head.unsqueeze(0) / spacing_mm - 0.5, size, 1.0)[0]
    wrong = render_gaussians(torch.full((1, 1, ndim), 36.0), size, 1.0)[0, 0]
    places[1] = 0.4 * places[1] + 0.6 * wrong
    maps = (places + 1e-9).flatten(1)
    maps = (maps / maps.sum(dim=1, keepdim=True)).log().view_as(places)
    chosen = plausible(maps, spacing_mm, 4, shape)
    assert torch.equal(chosen[[0, 2, 3, 4]], maps[[0, 2, 3, 4]])
    torch.testing.assert_close(chosen.exp().flatten(1).sum(dim=1), torch.ones(5))
    found = argmax_points(chosen.exp().unsqueeze(0))[0, 1]
    assert (argmax_points(maps.exp().unsqueeze(0))[0, 1] == 36).all()
    assert (found - (head[1] / spacing_mm - 0.5)).abs().max() <= 1
