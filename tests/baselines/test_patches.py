"""Window sampling against SciPy's and SimpleITK-free oracles: linear ramps and map_coordinates."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from landmark_baselines.patches import sample_points, sample_windows


@pytest.mark.parametrize("shape", [(9, 13), (7, 9, 11)])
def test_agrees_with_scipy_inside_the_image(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    images = generator.normal(size=(2, 3, *shape))
    positions = generator.uniform(0, 1, (2, 50, len(shape))) * (np.array(shape[::-1]) - 1)
    ours = sample_points(torch.from_numpy(images), torch.from_numpy(positions)).numpy()
    for b in range(2):
        for c in range(3):
            oracle = map_coordinates(images[b, c], positions[b, :, ::-1].T, order=1)
            np.testing.assert_allclose(ours[b, c], oracle, atol=1e-9)


def test_outside_lies_the_border_value() -> None:
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    got = sample_points(image, torch.tensor([[[-5.0, 0.0], [10.0, 10.0]]]))
    assert got.flatten().tolist() == pytest.approx([0.0, 11.0], abs=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_integer_windows_are_slices(ndim: int) -> None:
    shape = (12, 10, 8)[:ndim]
    image = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    size = (4, 6, 2)[:ndim]
    start = (3, 1, 2)[:ndim]  # (z,) y, x
    centre = torch.tensor([[[s + (n - 1) / 2 for s, n in zip(start, size, strict=True)][::-1]]])
    window = sample_windows(image, centre, size)
    slices = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
    assert window.shape == (1, 1, 2, *size)
    torch.testing.assert_close(window[0, 0], image[(0, slice(None), *slices)], atol=1e-5, rtol=0)


def test_matrices_turn_and_stretch_the_window() -> None:
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    image = (x + 100 * y)[None, None]
    quarter = torch.tensor([[[[0.0, -2.0], [1.0, 0.0]]]])  # window x runs along image y, window y along -2 image x
    window = sample_windows(image, torch.tensor([[[10.0, 9.0]]]), (3, 3), matrices=quarter)[0, 0, 0]
    assert window[1, 1] == pytest.approx(10 + 900, abs=1e-3)
    assert window[1, 2] == pytest.approx(10 + 1000, abs=1e-3)
    assert window[2, 1] == pytest.approx(8 + 900, abs=1e-3)
