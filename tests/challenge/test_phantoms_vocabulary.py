"""The shared vocabulary: exact inverses, exact edges, fields that do not depend on the resolution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark_challenge.phantoms.curves import extreme, fill, midway, oval, ring, spline, stroke
from landmark_challenge.phantoms.deformation import random_map, rotation
from landmark_challenge.phantoms.fields import blur, smooth_field, spline_basis


def _some_map(seed, n):
    generator = np.random.default_rng(seed)
    matrix = rotation(generator.uniform(-0.6, 0.6, size=1 if n == 2 else 3)) * generator.uniform(0.8, 1.2)
    return random_map(
        generator, matrix, centre_mm=[50.0] * n, offset_mm=[60.0] * n, wavelength_mm=(60.0, 200.0), strain=0.4
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3]))
def test_the_inverse_undoes_the_map(seed, n):
    placing = _some_map(seed, n)
    points = np.random.default_rng(seed).uniform(-50, 150, size=(30, n))
    np.testing.assert_allclose(placing.inverse(placing.apply(points)), points, rtol=0, atol=1e-8)
    np.testing.assert_allclose(placing.apply(placing.inverse(points)), points, rtol=0, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3]))
def test_the_map_keeps_its_promise_of_strain_and_its_derivatives(seed, n):
    placing = _some_map(seed, n)
    points = np.random.default_rng(seed).uniform(-50, 150, size=(50, n))
    jacobian = placing.jacobian(points)
    assert (np.linalg.det(jacobian) > 0).all()
    relative = np.linalg.inv(placing.matrix) @ jacobian - np.eye(n)
    assert np.linalg.norm(relative, ord=2, axis=(1, 2)).max() <= 0.4 + 1e-9
    step = 1e-5
    for axis in range(n):
        moved = (placing.apply(points + step * np.eye(n)[axis]) - placing.apply(points - step * np.eye(n)[axis])) / (
            2 * step
        )
        np.testing.assert_allclose(jacobian[:, :, axis], moved, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [2, 3])
def test_the_grid_has_the_values_of_the_points(n):
    placing = _some_map(3, n)
    axes = [np.linspace(0, 100 + 7 * i, 9 + i) for i in range(n)]
    grid = placing.on_grid(axes)
    points = np.stack([g.ravel() for g in np.meshgrid(*reversed(axes), indexing="ij")][::-1], axis=1)
    expected = placing.apply(points)
    for axis in range(n):
        assert grid[axis].shape == tuple(len(a) for a in reversed(axes))
        np.testing.assert_allclose(grid[axis].ravel(), expected[:, axis], rtol=0, atol=1e-4)


def test_rotation_turns_about_its_axis():
    np.testing.assert_allclose(rotation([0, 0, np.pi / 2]) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation([np.pi / 2, 0, 0]) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation([0, np.pi / 2, 0]) @ [0, 0, 1], [1, 0, 0], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 23), st.floats(-3, 33), st.floats(2, 9), st.floats(2, 9), st.floats(0, 3))
def test_a_filled_polygon_covers_its_area_at_its_place(x, y, a, b, angle):
    size = 30
    polygon = oval((x, y), (a, b), angle_rad=angle, step=400)
    large = np.zeros((3 * size, 3 * size), np.float32)
    fill(large, polygon + size, 2.0)
    assert large.sum() == pytest.approx(2 * np.pi * a * b, rel=0.02)
    rows, columns = np.indices(large.shape)
    assert (large * columns).sum() / large.sum() == pytest.approx(x + size, abs=0.02)
    assert (large * rows).sum() / large.sum() == pytest.approx(y + size, abs=0.06)
    # A border that cuts the polygon changes nothing inside it.
    small = np.zeros((size, size), np.float32)
    fill(small, polygon, 2.0)
    np.testing.assert_allclose(small, large[size : 2 * size, size : 2 * size], atol=1e-4)


def test_half_covered_pixels_get_half():
    target = np.zeros((4, 6), np.float32)
    fill(target, np.array([[0.5, -0.5], [3.0, -0.5], [3.0, 2.5], [0.5, 2.5]]), 1.0)
    np.testing.assert_allclose(target[1], [0, 1, 1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(target[:, 1], [1, 1, 1, 0], atol=1e-6)


def test_a_curve_passes_through_its_controls():
    curve = spline([("a", (0, 0)), (5, 4), ("b", (10, 0)), ("c", (12, -7))])
    np.testing.assert_allclose(curve.at("b"), [10, 0], atol=1e-9)
    np.testing.assert_allclose(curve.at("c"), [12, -7], atol=1e-9)
    piece = curve.between("a", "b")
    np.testing.assert_allclose(piece[[0, -1]], [[0, 0], [10, 0]], atol=1e-9)
    assert np.linalg.norm(np.diff(curve.points_mm, axis=0), axis=1).max() < 0.2
    np.testing.assert_allclose(extreme(piece, (0, 1)), [5, 4], atol=0.6)
    np.testing.assert_allclose(midway(np.array([[0.0, 0], [4, 0], [4, 2]])), [3, 0], atol=1e-12)


def test_strokes_are_as_wide_as_asked():
    line = np.stack([np.linspace(5, 45, 200), np.full(200, 10.0)], axis=1)
    target = np.zeros((20, 50), np.float32)
    fill(target, stroke(line, 3.0), 1.0)
    assert target[:, 25].sum() == pytest.approx(3.0, abs=0.02)
    circle = np.zeros((60, 60), np.float32)
    fill(circle, ring(oval((30, 30), (20, 20), step=600), 2.0), 1.0)
    assert circle[30, :30].sum() == pytest.approx(2.0, abs=0.05)


def test_spline_basis_adds_up_to_one():
    axis = np.linspace(0, 50, 101)
    np.testing.assert_allclose(spline_basis(axis, 7.0, 11).sum(axis=1), 1.0, atol=1e-6)


def test_a_field_is_the_same_at_every_resolution():
    coarse, fine = (
        smooth_field(
            np.random.default_rng(1), [np.arange(0, 40, s), np.arange(0, 60, s)], knot_mm=5, extent_mm=(40, 60)
        )
        for s in (2.0, 1.0)
    )
    np.testing.assert_allclose(fine[::2, ::2], coarse, atol=1e-5)
    large = smooth_field(np.random.default_rng(2), [np.arange(0.0, 300)] * 2, knot_mm=4, extent_mm=(300, 300))
    assert large.std() == pytest.approx(1.0, abs=0.1)


def test_blur_is_gaussian_and_keeps_the_mean():
    spot = np.zeros((41, 51), np.float32)
    spot[20, 25] = 1
    result = blur(spot, (2.0, 3.0))
    assert result.sum() == pytest.approx(1.0, abs=1e-4)
    rows, columns = np.indices(spot.shape)
    assert (result * (rows - 20) ** 2).sum() == pytest.approx(4.0, rel=0.05)
    assert (result * (columns - 25) ** 2).sum() == pytest.approx(9.0, rel=0.05)
    np.testing.assert_allclose(blur(np.full((9, 9), 3, np.float32), 2.0), 3.0, rtol=1e-5)
