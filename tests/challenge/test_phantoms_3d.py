"""Volumes: what is drawn lies where the landmarks say, at every resolution and in every stored orientation."""

import subprocess
import sys

import numpy as np
import pytest

from landmark_challenge.images import canonical
from landmark_challenge.phantoms import make_case, plan_case
from landmark_challenge.phantoms.aortic_root import CUSPS, random_root
from landmark_challenge.phantoms.brainstem_mr_1 import _brainstem, groove_mm
from landmark_challenge.phantoms.carotid_cta_2 import _random_fork, crotch_mm
from landmark_challenge.phantoms.deformation import rotation
from landmark_challenge.phantoms.fields import rician
from landmark_challenge.phantoms.grids import random_grid
from landmark_challenge.phantoms.solids import Capsule, Cut, Ellipsoid, Part, Shell, paint, tube


def _grid(seed=0, spacing=2.0, strain=0.25):
    return random_grid(
        np.random.default_rng(seed),
        extent_mm=[80.0, 70.0, 60.0],
        spacing_mm=[spacing] * 3,
        anatomy_from_lps=rotation([0.1, -0.2, 0.3]),
        anatomy_centre_mm=[0.0, 0.0, 0.0],
        shift_mm=[5.0, 5.0, 5.0],
        slice_axis=None,
        oblique_deg=8.0,
        wavelength_mm=(60.0, 120.0),
        strain=strain,
    )


def _painted(grid, parts, background=0.0):
    array = np.zeros(grid.size[::-1], np.float32)
    for slab, values in paint(grid, parts, background=background):
        array[slab] = values
    return array


@pytest.mark.parametrize("seed", range(6))
def test_a_ball_is_painted_where_the_map_puts_it(seed):
    grid = _grid(seed, spacing=1.0, strain=0.0)
    array = _painted(grid, [Part([Ellipsoid((4.0, -3.0, 2.0), (9.0, 9.0, 9.0))], 1.0)])
    plan = grid.plan(["a"], [[4.0, -3.0, 2.0]], lambda: array)
    index = np.argwhere(array > 0)[:, ::-1]
    weights = array[array > 0]
    centre = (index * weights[:, None]).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(plan.frame.index_to_mm(centre), plan.landmarks.points_mm, rtol=0, atol=0.02)
    assert weights.sum() == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.01)


def test_slabs_do_not_show(monkeypatch):
    grid = _grid(2)
    parts = [
        Part([Ellipsoid((0, 0, 0), (30, 22, 25))], 1.0),
        Part(tube([(-30, 0, 0), (0, 10, 5), (30, 0, -10)], [3, 5, 2]), 2.0),
        Part([Shell(Ellipsoid((0, 0, 0), (15, 15, 15)), 2.0)], 0.5, add=True),
    ]
    whole = _painted(grid, parts, background=-1.0)
    monkeypatch.setattr("landmark_challenge.phantoms.grids.MAX_SLAB_VOXELS", 4 * grid.size[0] * grid.size[1])
    assert len(grid.slabs()) > 5
    np.testing.assert_allclose(_painted(grid, parts, background=-1.0), whole, atol=1e-4)
    assert [i for slab in grid.slabs() for i in range(slab.start, slab.stop)] == list(range(grid.size[2]))


def test_boxes_leave_nothing_out(monkeypatch):
    grid = _grid(4, strain=0.3)
    parts = [Part([Ellipsoid((6, 2, -3), (18, 9, 14), rotation([0.4, 0.2, 0.1]))], 1.0)]
    boxed = _painted(grid, parts)
    everywhere = [slice(0, count) for count in grid.size]
    monkeypatch.setattr(type(grid), "box_indices", lambda self, boxes, margin_mm: [everywhere for _ in boxes])
    np.testing.assert_allclose(boxed, _painted(grid, parts), atol=1e-6)


def _distance(solid, points):
    x, y, z = np.asarray(points, np.float64).reshape(-1, 3).T
    return solid.distance(x, y, z)


def test_solids_know_inside_from_outside():
    ball = Ellipsoid((1, 2, 3), (5, 5, 5), rotation([0.3, 0.2, 0.1]))
    np.testing.assert_allclose(_distance(ball, [[1, 2, 9], [1, 2, 8], [1, 2, 5]]), [1, 0, -3], atol=1e-5)
    rod = Capsule(np.zeros(3), np.array([10.0, 0, 0]), 2.0, 4.0)
    np.testing.assert_allclose(_distance(rod, [[5, 5, 0], [-3, 0, 0], [10, 4, 0]]), [2, 1, 0], atol=1e-5)
    np.testing.assert_allclose(
        _distance(Shell(ball, 1.0), [[1, 2, 8], [1, 2, 8.5], [1, 2, 3.01]])[:2], [-0.5, 0], atol=1e-5
    )
    half = Cut(ball, [((1, 0, 0), (1, 0, 0))])
    np.testing.assert_allclose(_distance(half, [[3, 2, 3], [-1, 2, 3]]), [2, -2], atol=1e-5)
    assert half.bounds()[1][0] == 1.0


def test_tube_radii_follow_their_control_points():
    rods = tube([(0, 0, 0), (0, 0, 30), (0, 0, 60)], [1.0, 4.0, 2.0], step_mm=5.0)
    assert (rods[0].radius_first, rods[-1].radius_last) == (1.0, 2.0)
    middle = min(rods, key=lambda rod: abs(rod.last[2] - 30))
    assert middle.radius_last == pytest.approx(4.0, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_aortic_landmarks_are_points_of_the_wall_and_the_crown(seed):
    root = random_root(np.random.default_rng(seed))
    assert set(root.landmarks_mm) == set(plan_case("ccta-8", 0, index=0).landmarks.names)
    for name, point in root.landmarks_mm.items():
        azimuth, radius = np.arctan2(point[1], point[0]), np.hypot(point[0], point[1])
        assert radius == pytest.approx(float(root.radius(azimuth, point[2])), abs=1e-9), name
        crown = float(root.attachment(np.array(azimuth)))
        aside = [float(root.attachment(np.array(azimuth + step))) for step in (-0.05, 0.05)]
        if name.startswith("hinge"):
            assert crown == pytest.approx(point[2], abs=1e-6)
            assert min(aside) > crown  # the leaflet's lowest attachment
        elif name.startswith("commissure"):
            assert crown == pytest.approx(point[2], abs=1e-6)
            assert max(aside) < crown  # where two leaflets meet, highest
        else:
            assert point[2] > crown  # ostia open above the leaflet, in the sinus
    assert len(CUSPS) == 3


@pytest.mark.parametrize("seed", range(8))
def test_the_groove_lies_on_pons_and_medulla_in_the_midline(seed):
    stem = _brainstem(np.random.default_rng(seed))
    point = groove_mm(stem[0], stem[1])
    assert point[0] == 0
    assert abs(_distance(stem[0], point)[0]) < 1e-6
    assert abs(_distance(stem[1], point)[0]) < 1e-5
    # A step forward leaves both: fluid lies in front of the groove.
    ahead = point + [0.0, -1.0, -0.2]
    assert _distance(stem[0], ahead)[0] > 0 and _distance(stem[1], ahead)[0] > 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_crotch_is_the_lowest_wall_between_the_branches(seed, side):
    fork = _random_fork(np.random.default_rng(seed), side)
    branches = [
        Capsule(fork.apex, fork.apex + 40 * fork.internal, fork.internal_mm, fork.internal_mm),
        Capsule(fork.apex, fork.apex + 40 * fork.external, fork.external_mm, fork.external_mm),
    ]
    point = crotch_mm(fork)
    np.testing.assert_allclose([_distance(rod, point)[0] for rod in branches], [0, 0], atol=1e-4)
    up = (fork.internal + fork.external) / np.linalg.norm(fork.internal + fork.external)
    outside = [min(_distance(rod, point + step * up)[0] for rod in branches) for step in (-0.5, 0.5)]
    assert outside[0] < 0 < outside[1]


@pytest.mark.parametrize("task", ["olfactory-mr-2", "spine-mr-11"])
def test_full_size_shows_the_same_anatomy_in_the_same_place(task):
    coarse, fine = (plan_case(task, 8, index=2, full_size=size) for size in (False, True))
    corner = [plan.frame.spacing_mm / 2 if task == "spine-mr-11" else 0.0 for plan in (coarse, fine)]
    points = [plan.landmarks.points_mm.copy() for plan in (coarse, fine)]
    for values, half in zip(points, corner, strict=True):
        values[:, :2] += np.broadcast_to(half, 2)  # a plane's origin is the centre of its first pixel
    np.testing.assert_allclose(points[0], points[1], rtol=0, atol=1e-8)
    # Each drawn with its own noise; around every landmark they must agree, and moved by 3 mm they must not.
    pictures = [canonical(plan.draw().image, [1.0] * coarse.frame.ndim) for plan in (coarse, fine)]
    for first, second in zip(coarse.landmarks.points_mm, fine.landmarks.points_mm, strict=True):
        same, moved = (
            np.corrcoef(_window(pictures[0], first), _window(pictures[1], second + [step, 0, 0]))[0, 1]
            for step in (0.0, 3.0)
        )
        assert same > 0.9
        assert same > moved + 0.02


def _window(picture, point_mm):
    """Grey values at offsets of -10 to 10 mm around a point (in three dimensions -5 to 5 along y), linear."""
    offsets = [np.arange(-10.0, 10.5, 2), np.arange(-5.0, 5.5, 2) if picture.ndim == 3 else np.arange(-10.0, 10.5, 2)]
    offsets.append(np.arange(-10.0, 10.5, 2) if picture.ndim == 3 else np.zeros(1))
    places = np.stack([g.ravel() for g in np.meshgrid(*offsets)], axis=1) + point_mm
    index = np.clip(picture.mm_to_index(places), 0, np.array(picture.size) - 1.001)[:, ::-1]
    low = np.floor(index).astype(int)
    share = index - low
    result = np.zeros(len(index))
    for corner in np.ndindex(*[2] * picture.ndim):
        weight = np.prod(np.where(corner, share, 1 - share), axis=1)
        result += weight * picture.array[tuple((low + corner).T)]
    return result


def test_bulbs_are_dark_spots_in_bright_fluid_centred_on_their_landmarks():
    offsets = []
    for index in range(4):
        case = make_case("olfactory-mr-2", 12, index=index)
        picture = canonical(case.image, [0.5, 0.5, 0.5])
        for point in case.landmarks.points_mm:
            centre = picture.mm_to_index(point)[0]
            z, y, x = np.meshgrid(*[np.arange(-3, 4) + round(c) for c in centre[::-1]], indexing="ij")
            values = picture.array[z, y, x]
            dark = np.clip(np.percentile(values, 90) - values, 0, None)
            found = np.array([(dark * axis).sum() for axis in (x, y, z)]) / dark.sum()
            offsets.append(np.abs(found - centre)[[0, 2]] * 0.5)
    assert np.median(offsets) < 0.35  # mm, in the coronal plane


def test_ostia_are_filled_and_open_into_a_vessel():
    inside = []
    for index in range(3):
        case = make_case("ccta-8", 5, index=index)
        for name in ("ostium-left", "ostium-right"):
            i, j, k = np.round(case.image.mm_to_index([case.landmarks.point_mm(name)])[0]).astype(int)
            inside.append(case.image.array[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2].mean())
    assert np.median(inside) > 150


def test_rician_noise_has_the_mean_of_theory():
    generator = np.random.default_rng(0)
    nothing = rician(generator, np.zeros(200_000, np.float32), 10.0)
    assert nothing.mean() == pytest.approx(10 * np.sqrt(np.pi / 2), rel=0.01)
    strong = rician(generator, np.full(200_000, 500, np.float32), 10.0)
    assert strong.mean() == pytest.approx(500.1, abs=0.2)
    assert strong.std() == pytest.approx(10.0, rel=0.02)


def test_half_opacity_paints_half():
    grid = _grid(1)
    half = _painted(grid, [Part([Ellipsoid((0, 0, 0), (20, 20, 20))], 8.0, opacity=0.5)])
    assert half.max() == pytest.approx(4.0)


@pytest.mark.slow
def test_clinical_cardiac_ct_takes_under_a_minute_and_four_gigabytes():
    program = (
        "import time, resource\n"
        "from landmark_challenge.phantoms import make_case\n"
        "begun = time.process_time()\n"
        "case = make_case('ccta-8', 1, index=0, full_size=True)\n"
        "print(*case.image.size, time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": ""}
    words = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=threads)
    *size, seconds, kilobytes = words.stdout.split()
    assert sorted(int(count) for count in size) == [320, 512, 512]
    assert float(seconds) < 60
    assert float(kilobytes) < 4 * 1024**2
