"""Warped points land on warped features: checked on blobs whose positions are measured in the warped image."""

import pytest
import torch

from landmark_baselines.augmentation import (
    FEW_IMAGES,
    Augmentation,
    Draws,
    change_intensity,
    image_positions,
    random_warp,
    warp_images,
    warp_points,
    without_folds,
)
from landmark_baselines.patches import sample_points

STRONG = Augmentation(rotation_degrees=20, scale=0.2, stretch=0.1, shift_mm=3, elastic_mm=1.5, elastic_nodes=5)


def _blob(shape: tuple[int, ...], point: torch.Tensor, sigma: float) -> torch.Tensor:
    axes = [torch.arange(count, dtype=torch.float64) for count in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
    return torch.exp(-((grid - point) ** 2).sum(-1) / (2 * sigma**2))


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_follow_the_image(ndim: int) -> None:
    shape = (60, 72, 64)[:ndim]
    points = torch.tensor([[[30.3, 34.6, 28.2][:ndim]], [[41.7, 22.1, 33.9][:ndim]]], dtype=torch.float64)
    images = torch.stack([_blob(shape, point[0], 2.0)[None] for point in points])
    middle = torch.tensor([(count - 1) / 2 for count in shape[::-1]], dtype=torch.float64).expand(2, 1, -1)
    warp = random_warp(middle, shape, STRONG, spacing_mm=1.0, draws=Draws.of(3, [0, 1]))
    warped = warp_images(images, warp)[:, 0, 0]
    expected = warp_points(points, warp)[:, 0, 0]
    for image, wanted in zip(warped, expected, strict=True):
        axes = [torch.arange(count, dtype=torch.float64) for count in shape]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1)
        weight = torch.where(image > 0.3, image, 0.0)
        measured = (grid * weight.unsqueeze(-1)).flatten(0, -2).sum(0) / weight.sum()
        assert torch.linalg.vector_norm(measured - wanted) < 0.25  # a bent blob is not quite symmetric
        assert torch.linalg.vector_norm(wanted - points[0, 0]) > 0.1


def test_points_are_solved_exactly_but_for_kinks_of_the_field() -> None:
    generator = torch.Generator().manual_seed(5)
    middle = torch.full((4, 1, 2), 49.5, dtype=torch.float64)
    warp = random_warp(middle, (100, 100), STRONG, spacing_mm=0.5, draws=Draws.of(5, range(4)))
    points = torch.rand(4, 6, 2, generator=generator, dtype=torch.float64) * 60 + 20
    there = warp_points(points, warp)
    ramp = torch.stack(torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")[::-1])
    images = ramp.double().expand(4, 2, 100, 100)
    positions = warp_images(images, warp)[:, 0]  # what image position each window voxel shows
    back = sample_points(positions, there[:, 0]).transpose(1, 2)
    inside = ((there[:, 0] > 0) & (there[:, 0] < 99) & (points > 1) & (points < 98)).all(-1)
    assert inside.sum() > 12
    error = (back - points)[inside].abs()
    assert error.median() < 1e-4
    assert error.max() < 0.1  # where a kink of the field crosses the voxel it is measured in


@pytest.mark.parametrize("augmentation", [STRONG, Augmentation(rotation_degrees=20)])
@pytest.mark.parametrize("ndim", [2, 3])
def test_image_positions_are_those_that_windows_show(ndim: int, augmentation: Augmentation) -> None:
    size = (12, 14, 10)[:ndim]
    middle = torch.full((2, 1, ndim), 19.5)
    warp = random_warp(middle, size, augmentation, spacing_mm=1.0, draws=Draws.of(3, [0, 1]))
    images = torch.rand(2, 1, *(40,) * ndim, generator=torch.Generator().manual_seed(2))
    axes = torch.meshgrid(*[torch.arange(float(count)) for count in size], indexing="ij")[::-1]
    every = torch.stack(axes, dim=-1).reshape(1, -1, ndim).expand(2, -1, -1)
    shown = sample_points(images, image_positions(every, warp)).reshape(2, *size)
    torch.testing.assert_close(shown, warp_images(images, warp)[:, 0, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("extent_mm", [9.6, 19.2])
def test_small_windows_do_not_fold(ndim: int, extent_mm: float) -> None:
    """A point's place in a window shows that point: the inverse that `warp_points` looks for is there."""
    points = torch.full((200, 1, ndim), 100.0)
    draws = Draws.of(7, range(200))
    centres = points + 6 * draws.symmetric(1, ndim)

    def returned_mm(augmentation: Augmentation) -> torch.Tensor:
        spacing = extent_mm / 24
        warp = random_warp(centres, (24,) * ndim, augmentation, spacing_mm=spacing, draws=Draws.of(8, range(200)))
        back = image_positions(warp_points(points, warp)[:, 0], warp)
        return torch.linalg.vector_norm(back - points, dim=-1).flatten() * spacing

    assert returned_mm(FEW_IMAGES).quantile(0.9) > 0.2  # the fault that is to be avoided
    assert returned_mm(without_folds(FEW_IMAGES, extent_mm)).quantile(0.98) < 0.02


def test_no_change_is_the_identity() -> None:
    image = torch.rand(1, 1, 8, 10)
    centre = torch.tensor([[[4.5, 3.5]]])
    warp = random_warp(centre, (8, 10), Augmentation(), spacing_mm=1.0, draws=Draws.of(0, [0]))
    torch.testing.assert_close(warp_images(image, warp)[:, 0], image, atol=1e-6, rtol=0)
    torch.testing.assert_close(change_intensity(image, Augmentation(), draws=Draws.of(0, [0])), image)


def test_a_case_is_changed_the_same_way_in_any_batch() -> None:
    images = torch.rand(3, 2, 16, 16)
    strong = Augmentation(contrast=0.3, brightness=0.1, gamma=0.3, noise=0.1, cutout=1.0)
    together = change_intensity(images, strong, draws=Draws.of(1, [4, 5, 6]))
    alone = change_intensity(images[1:2], strong, draws=Draws.of(1, [5]))
    torch.testing.assert_close(together[1:2], alone)
    other = change_intensity(images, strong, draws=Draws.of(2, [4, 5, 6]))
    assert (together != other).any()
    assert (together != images).float().mean() > 0.9
