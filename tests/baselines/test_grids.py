"""Cells and their centres: hand-computed numbers and properties."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from landmark_baselines.grids import cell_centres, cell_of, rescale


def test_centres_follow_the_half_pixel_convention() -> None:
    centres = cell_centres((2, 3), 32)
    assert centres.shape == (2, 2, 3)
    assert centres[0, 0].tolist() == [15.5, 47.5, 79.5]  # x
    assert centres[1, :, 0].tolist() == [15.5, 47.5]  # y


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_a_point_lies_in_the_cell_that_covers_it(power: int, nx: int, ny: int, nz: int, data: st.DataObject) -> None:
    stride = 2**power
    shape = (nz, ny, nx)
    cell = [data.draw(st.integers(0, count - 1)) for count in (nx, ny, nz)]
    share = [data.draw(st.floats(0, 0.999)) for _ in range(3)]
    point = torch.tensor([stride * (k + s) - 0.5 for k, s in zip(cell, share, strict=True)], dtype=torch.float64)
    flat, inside = cell_of(point, shape, stride)
    assert bool(inside)
    assert int(flat) == (cell[2] * ny + cell[1]) * nx + cell[0]
    centre = cell_centres(shape, stride).flatten(1)[:, int(flat)]
    assert ((point - centre).abs() <= stride / 2).all()


def test_points_outside_or_absent_are_in_no_cell() -> None:
    points = torch.tensor([[-0.51, 0.0], [16.0, 3.0], [float("nan"), 1.0], [15.49, 7.49], [-0.5, -0.5]])
    _, inside = cell_of(points, (1, 2), 8)
    assert inside.tolist() == [False, False, False, True, True]


@given(st.floats(-100, 100), st.floats(0.05, 3), st.floats(0.05, 3))
def test_rescale_keeps_millimetres(index: float, spacing_from: float, spacing_to: float) -> None:
    point = torch.tensor([index], dtype=torch.float64)
    there = rescale(point, spacing_from=spacing_from, spacing_to=spacing_to)
    assert torch.allclose((there + 0.5) * spacing_to, (point + 0.5) * spacing_from, atol=1e-9)
