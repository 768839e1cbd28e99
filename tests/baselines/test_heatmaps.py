"""Rendering and decoding against positions that are known, and against SciPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from landmark_baselines import heatmaps
from landmark_baselines.grids import rescale

SHAPES = {2: (60, 64), 3: (54, 58, 56)}
DECODERS = sorted(heatmaps.DECODERS)


def _interior(ndim: int, sigma: float, *, count: int = 8, seed: int = 0) -> torch.Tensor:
    """(2, count, ndim) random positions at least 4 sigma inside the grid."""
    extent = torch.tensor(SHAPES[ndim][::-1], dtype=torch.float32) - 1
    room = extent - 2 * 4 * sigma
    return 4 * sigma + torch.rand(2, count, ndim, generator=torch.Generator().manual_seed(seed)) * room


def _errors(found: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(found - points, dim=-1)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("sigma", [1.2, 2.0, 3.5, 6.0])
def test_decoders_find_random_positions_between_voxels(ndim: int, sigma: float) -> None:
    points = _interior(ndim, sigma, count=8 if ndim == 2 else 3)
    maps = heatmaps.render_gaussians(points, SHAPES[ndim], sigma)
    errors = {name: _errors(decode(maps, sigma), points).max().item() for name, decode in heatmaps.DECODERS.items()}
    assert max(errors["quadratic"], errors["local"], errors["whole"]) < 0.02
    assert 0.1 < errors["argmax"] <= 0.5 * ndim**0.5 + 1e-3  # half a voxel along every axis, and not better


def test_a_gaussian_by_hand() -> None:
    maps = heatmaps.render_gaussians(torch.tensor([[[2.0, 0.5]]]), (2, 4), 1.5)
    by_hand = [[np.exp(-((x - 2) ** 2 + (y - 0.5) ** 2) / (2 * 1.5**2)) for x in range(4)] for y in range(2)]
    np.testing.assert_allclose(maps[0, 0], by_hand, rtol=1e-6)


def test_every_landmark_has_its_own_sigma_and_gradients_reach_it() -> None:
    points = _interior(2, 3.0, count=3)
    sigma = torch.tensor([1.2, 2.0, 3.0], requires_grad=True)
    together = heatmaps.render_gaussians(points, SHAPES[2], sigma)
    for i in range(3):
        alone = heatmaps.render_gaussians(points[:, i : i + 1], SHAPES[2], sigma[i].item())
        torch.testing.assert_close(together[:, i : i + 1], alone)
    together.sum().backward()  # the mass of a Gaussian in the plane is 2 pi sigma^2, for each of the two images
    assert sigma.grad is not None
    torch.testing.assert_close(sigma.grad, 2 * 4 * torch.pi * sigma.detach(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("ndim", [2, 3])
def test_normalised_maps_sum_to_one_even_for_points_outside(ndim: int) -> None:
    points = torch.cat([_interior(ndim, 2.0, count=2), torch.full((2, 1, ndim), -40.0)], dim=1)
    maps = heatmaps.render_gaussians(points, SHAPES[ndim], 2.0, normalised=True)
    torch.testing.assert_close(maps.flatten(2).sum(dim=-1), torch.ones(2, 3))


def test_an_unknown_point_gives_an_empty_map() -> None:
    points = torch.tensor([[[float("nan"), float("nan")], [3.0, 4.0]]])
    for normalised in (False, True):
        maps = heatmaps.render_gaussians(points, (8, 9), 1.0, normalised=normalised)
        assert (maps[0, 0] == 0).all() and maps[0, 1].sum() > 0.9


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_weighted_sum_is_that_of_the_rendered_maps(ndim: int) -> None:
    points = _interior(ndim, 2.0, count=3)
    maps = torch.randn(2, 3, *SHAPES[ndim], generator=torch.Generator().manual_seed(1))
    factors = heatmaps.gaussian_factors(points, SHAPES[ndim], 2.0)
    expected = (maps * heatmaps.render_gaussians(points, SHAPES[ndim], 2.0)).flatten(2).sum(dim=-1)
    torch.testing.assert_close(heatmaps.weighted_sum(maps, factors), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["quadratic", "local", "whole"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("stride", [2, 3])
def test_the_half_pixel_convention_survives_resampling(name: str, ndim: int, stride: int) -> None:
    """A fine map is averaged to cells of `stride` voxels; decoded there and brought back it is where it was."""
    points = _interior(ndim, 4.0, count=4)
    shape = tuple(count - count % stride for count in SHAPES[ndim])
    maps = heatmaps.render_gaussians(points, shape, 4.0)
    coarse = (torch.nn.functional.avg_pool2d if ndim == 2 else torch.nn.functional.avg_pool3d)(maps, stride)
    found = heatmaps.DECODERS[name](coarse, 4.0 / stride)
    assert _errors(rescale(found, spacing_from=stride, spacing_to=1.0), points).max() < 0.05


def test_the_quadratic_decoder_is_exact_for_a_turned_gaussian() -> None:
    points = _interior(2, 3.0, count=5)
    precision = torch.linalg.inv(torch.tensor([[9.0, 4.0], [4.0, 4.0]]))
    height, width = SHAPES[2]
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")[::-1], dim=-1)
    offset = grid - points[:, :, None, None]
    maps = torch.exp(-0.5 * torch.einsum("blyxi,ij,blyxj->blyx", offset, precision, offset))
    assert _errors(heatmaps.quadratic_points(maps), points).max() < 1e-3


@given(st.integers(0, 10_000))
def test_whole_map_and_arg_max_agree_with_scipy(seed: int) -> None:
    values = np.random.default_rng(seed).random((5, 4, 3)).astype(np.float32)
    maps = torch.from_numpy(values)[None, None]
    centre = ndimage.center_of_mass(values)[::-1]
    np.testing.assert_allclose(heatmaps.centre_of_mass(maps)[0, 0], centre, atol=1e-4)
    assert tuple(heatmaps.argmax_points(maps)[0, 0]) == ndimage.maximum_position(values)[::-1]


def test_a_second_peak_moves_the_whole_centre_and_not_the_local_one() -> None:
    points = torch.tensor([[[12.3, 20.6]]])
    maps = heatmaps.render_gaussians(points, SHAPES[2], 2.0)
    maps = maps + 0.9 * heatmaps.render_gaussians(points + 30, SHAPES[2], 2.0)
    assert _errors(heatmaps.DECODERS["local"](maps, 2.0), points).max() < 0.02
    assert _errors(heatmaps.centre_of_mass(maps), points).max() > 10


def test_second_moments_are_the_covariance() -> None:
    for ndim in (2, 3):
        points = _interior(ndim, 2.5, count=2)
        maps = heatmaps.render_gaussians(points, SHAPES[ndim], 2.5, normalised=True)
        expected = (2.5**2 * torch.eye(ndim)).expand(2, 2, ndim, ndim)
        torch.testing.assert_close(heatmaps.second_moments(maps, points), expected, rtol=0.02, atol=0.02)
    values = np.random.default_rng(0).random((6, 5))
    values /= values.sum()
    y, x = np.indices(values.shape)
    moments = heatmaps.second_moments(torch.from_numpy(values)[None, None], torch.tensor([[[1.0, 2.0]]]).double())
    assert moments[0, 0, 0, 1].item() == pytest.approx(((x - 1) * (y - 2) * values).sum())
    assert moments[0, 0, 1, 1].item() == pytest.approx(((y - 2) ** 2 * values).sum())


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (2, 1, 4)])
def test_empty_flat_and_tiny_maps_give_finite_points_on_the_map(name: str, shape: tuple[int, ...]) -> None:
    extent = torch.tensor(shape[::-1]) - 1
    for value in (0.0, 1.0, -1.0):
        found = heatmaps.DECODERS[name](torch.full((1, 2, *shape), value), 1.5)
        assert found.shape == (1, 2, len(shape))
        assert ((found >= 0) & (found <= extent)).all()


@pytest.mark.parametrize("name", ["quadratic", "local"])
def test_a_peak_on_the_border_stays_on_the_map(name: str) -> None:
    maps = heatmaps.render_gaussians(torch.tensor([[[0.0, 11.0], [-2.0, 5.25]]]), (12, 20), 2.0)
    found = heatmaps.DECODERS[name](maps, 2.0)
    assert (found >= 0).all() and (found[..., 1] <= 11).all()
    assert found[0, 1, 1].item() == pytest.approx(5.25, abs=0.1)
