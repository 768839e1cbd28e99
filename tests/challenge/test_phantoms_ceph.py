"""The landmarks of synthetic cephalograms sit on what one sees, at every resolution."""

import numpy as np
import pytest

from landmark_challenge.phantoms import make_case

# Landmarks on an edge: where across the edge lies (x anterior, y down) and whether it gets brighter that way.
EDGES = {
    "upper-lip": (1.0, 0.0, False),
    "lower-lip": (1.0, 0.0, False),
    "soft-tissue-pogonion": (1.0, 0.0, False),
    "orbitale": (0.0, 1.0, True),
    "supramentale": (1.0, 0.0, False),
    "pogonion": (1.0, 0.0, False),
    "menton": (0.0, 1.0, False),
    "gonion": (-(0.5**0.5), 0.5**0.5, False),
}


@pytest.fixture(scope="module")
def cases():
    return [make_case("ceph-19", 5, index=index) for index in range(12)]


@pytest.mark.parametrize("name", EDGES)
def test_points_sit_on_the_edges_seen_in_the_picture(cases, name):
    x, y, brighter = EDGES[name]
    offsets = []
    for case in cases:
        centre = case.image.mm_to_index([case.landmarks.point_mm(name)])[0]
        along = np.arange(-5, 5.01, 0.1)
        rows = [
            _bilinear(case.image.array, centre[0] + along * x - y * aside, centre[1] + along * y + x * aside)
            for aside in np.arange(-2, 2.1, 0.5)
        ]
        slope = np.gradient(np.mean(rows, axis=0)) * (1 if brighter else -1)
        smooth = np.convolve(slope, np.exp(-0.5 * (np.arange(-12, 13) / 6) ** 2), "same")[20:-20]
        offsets.append(along[20:-20][np.argmax(smooth)])
    # The median over cases, in pixels of 0.4 mm: noise and crossing structures fool single profiles.
    assert abs(np.median(offsets)) < 0.65


def test_the_upper_incisal_edge_is_the_end_of_the_tooth(cases):
    contrasts = []
    for case in cases:
        tip = case.image.mm_to_index([case.landmarks.point_mm("incision-superius")])[0]
        inside = _bilinear(case.image.array, tip[0] - 1.2, tip[1] - 5.0)
        below = _bilinear(case.image.array, tip[0] + 0.5, tip[1] + 3.5)
        contrasts.append(float(inside - below))
    assert np.median(contrasts) > 25


def test_the_sella_is_darker_than_its_wall(cases):
    angle = np.deg2rad(np.arange(20, 161, 10))
    for case in cases:
        centre = case.image.mm_to_index([case.landmarks.point_mm("sella")])[0]
        values = [
            np.mean(_bilinear(case.image.array, centre[0] + r * np.cos(angle), centre[1] + r * np.sin(angle)))
            for r in np.arange(1, 22)
        ]
        wall = int(np.argmax(values)) + 1
        assert values[wall - 1] > np.mean(values[:8]) + 8
        assert 9 <= wall <= 19  # 4.4 to 6 mm and the wall's half width, in pixels of about 0.4 mm


def test_full_size_shows_the_same_anatomy_in_the_same_place():
    coarse, fine = (make_case("ceph-19", 6, index=0, full_size=size) for size in (False, True))
    assert fine.image.size[0] in range(1890, 1980)
    assert fine.image.spacing_mm[0] == pytest.approx(coarse.image.spacing_mm[0] / 4)
    # Points are given from the centre of the first pixel; seen from the image's corner they must agree.
    corner = [case.landmarks.points_mm[:, :2] + case.image.spacing_mm / 2 for case in (coarse, fine)]
    np.testing.assert_allclose(corner[0], corner[1], rtol=0, atol=1e-9)
    rows, columns = (min(a, b // 4) for a, b in zip(coarse.image.array.shape, fine.image.array.shape, strict=True))
    small = fine.image.array[: rows * 4, : columns * 4].reshape(rows, 4, columns, 4).mean(axis=(1, 3))
    large = coarse.image.array[:rows, :columns].astype(float)
    for point in coarse.image.mm_to_index(coarse.landmarks.points_mm):
        x, y = np.round(point).astype(int)
        window = slice(y - 12, y + 13), slice(x - 12, x + 13)
        shift = _shift(large[window], small[window])
        assert np.abs(shift).max() < 0.15


def _bilinear(array, x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    i, j = np.floor(y).astype(int), np.floor(x).astype(int)
    u, v = y - i, x - j
    values = array.astype(float)
    top = values[i, j] * (1 - v) + values[i, j + 1] * v
    return top * (1 - u) + (values[i + 1, j] * (1 - v) + values[i + 1, j + 1] * v) * u


def _shift(first, second):
    """(2,) the shift in pixels between two windows by least squares on the gradient (Lucas and Kanade)."""
    gradient = np.stack([g.ravel() for g in np.gradient((first + second) / 2)], axis=1)
    difference = (first - second - np.mean(first - second)).ravel()
    return np.linalg.lstsq(gradient, difference, rcond=None)[0]
