"""Geometry against SimpleITK, canonical grids under every stored orientation."""

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from landmark_challenge import images
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import (
    MAX_GRID_VOXELS,
    Image,
    bounding_box_mm,
    canonical,
    canonical_geometry,
    image_stem,
    normalise,
    oriented,
    read_image,
    write_image,
)
from landmark_challenge.task import Intensity

spacings = st.floats(0.01, 10)
origins = st.floats(-1000, 1000)
angles = st.floats(-np.pi, np.pi)
indices = st.floats(-100, 600)


def rotation(ndim: int, rotation_angles: tuple[float, float, float], mirrored: bool) -> np.ndarray:
    """A direction matrix, left-handed where mirrored."""
    matrix = Rotation.from_euler("xyz", rotation_angles).as_matrix()
    if ndim == 2:
        matrix = Rotation.from_euler("z", rotation_angles[2]).as_matrix()[:2, :2]
    return matrix * np.where(np.arange(ndim) == 0, -1.0 if mirrored else 1.0, 1.0)


@given(st.data(), st.sampled_from([2, 3]), st.tuples(angles, angles, angles), st.booleans())
@settings(max_examples=150)
def test_index_and_millimetres_agree_with_simpleitk(data, ndim, rotation_angles, mirrored) -> None:
    spacing = data.draw(st.lists(spacings, min_size=ndim, max_size=ndim))
    origin = data.draw(st.lists(origins, min_size=ndim, max_size=ndim))
    index = data.draw(st.lists(indices, min_size=ndim, max_size=ndim))
    direction = rotation(ndim, rotation_angles, mirrored)
    itk = sitk.Image([4] * ndim, sitk.sitkUInt8)
    itk.SetSpacing(spacing)
    itk.SetOrigin(origin)
    itk.SetDirection(direction.flatten().tolist())
    image = Image.of(np.zeros([4] * ndim, np.uint8), spacing, origin, direction)
    wanted_mm = itk.TransformContinuousIndexToPhysicalPoint(index)
    points_mm = image.index_to_mm(index)
    np.testing.assert_allclose(points_mm[0, :ndim], wanted_mm, rtol=0, atol=1e-9)
    assert points_mm.shape == (1, 3) and (ndim == 3 or points_mm[0, 2] == 0)
    # SimpleITK's own way back divides by the spacing, so the tolerance is one in millimetres.
    np.testing.assert_allclose((image.mm_to_index(points_mm) - index) * spacing, 0, atol=1e-9)


def small_image(ndim: int = 3, seed: int = 0) -> Image:
    random = np.random.default_rng(seed)
    shape = (5, 6, 7)[:ndim]
    return Image.of(random.integers(0, 1000, shape).astype(np.int16), (0.5, 0.7, 1.3)[:ndim], (-11.0, 7.0, 3.0)[:ndim])


def stored_otherwise(image: Image, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Image:
    """The same picture in space, its voxels stored along other axes by ITK, so independent of `oriented`."""
    itk = sitk.GetImageFromArray(image.array)
    itk.SetSpacing(image.spacing_mm.tolist())
    itk.SetOrigin(image.origin_mm.tolist())
    itk.SetDirection(image.direction.flatten().tolist())
    itk = sitk.Flip(sitk.PermuteAxes(itk, list(axes)), list(flips), False)
    ndim = image.ndim
    return Image.of(
        sitk.GetArrayFromImage(itk), itk.GetSpacing(), itk.GetOrigin(), np.reshape(itk.GetDirection(), (ndim, ndim))
    )


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("working_mm", [0.6, 1.0, 1.5, 2.6])
def test_every_stored_orientation_gives_the_same_canonical_grid(ndim: int, working_mm: float) -> None:
    image = small_image(ndim)
    wanted = canonical(image, [working_mm] * ndim)
    for axes in itertools.permutations(range(ndim)):
        for flips in itertools.product([False, True], repeat=ndim):
            got = canonical(stored_otherwise(image, axes, flips), [working_mm] * ndim)
            assert got.size == wanted.size
            np.testing.assert_allclose(got.array, wanted.array, rtol=0, atol=1e-3)
            np.testing.assert_allclose(got.origin_mm, wanted.origin_mm, rtol=0, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_oriented_keeps_every_voxel_where_it_is(ndim: int) -> None:
    tilted = small_image(ndim)
    tilted = Image.of(tilted.array, tilted.spacing_mm, tilted.origin_mm, rotation(ndim, (0.2, -0.3, 2.5), True))
    result = oriented(tilted)
    index = np.array(list(itertools.product(*[range(count) for count in tilted.size])))
    back = np.rint(result.mm_to_index(tilted.index_to_mm(index))).astype(int)
    np.testing.assert_allclose(result.index_to_mm(back), tilted.index_to_mm(index), rtol=0, atol=1e-9)
    assert np.array_equal(result.array[tuple(back[:, ::-1].T)], tilted.array[tuple(index[:, ::-1].T)])
    assert (np.diag(result.direction) > 0.5).all()


def test_shrinking_by_two_follows_the_half_pixel_convention() -> None:
    array = np.arange(16, dtype=np.float32).reshape(1, 16).repeat(4, axis=0)
    result = canonical(Image.of(array, (1.0, 1.0), (10.0, 20.0)), (2.0, 2.0))
    # Cell k of size 2 has its centre at 2 * (k + 0.5) - 0.5 and holds the mean of pixels 2k and 2k + 1.
    np.testing.assert_array_equal(result.array[0], np.arange(8) * 2 + 0.5)
    np.testing.assert_array_equal(result.origin_mm, (10.5, 20.5))


def test_a_ramp_keeps_its_millimetres_on_any_grid() -> None:
    ramp = np.fromfunction(lambda z, y, x: 3 * x + 5 * y - 2 * z, (20, 24, 28)).astype(np.float32)
    image = Image.of(ramp, (0.8, 0.9, 1.1), (5, -3, 2), rotation(3, (0.1, 0.2, -0.15), False))
    result = canonical(image, (1.0, 1.0, 1.0))
    index = np.array(list(itertools.product(range(8, 14), repeat=3)))
    there = image.mm_to_index(result.index_to_mm(index))
    got = result.array[tuple(index[:, ::-1].T)]
    np.testing.assert_allclose(got, there @ (3, 5, -2), rtol=0, atol=2e-3)


def test_the_same_grid_is_not_resampled() -> None:
    image = Image.of(np.arange(30, dtype=np.uint8).reshape(5, 6), (0.1, 0.1))
    assert np.array_equal(canonical(image, (0.1, 0.1)).array, image.array)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("working_mm", [0.4, 1.0, 2.6])
def test_a_region_is_that_part_of_the_grid(ndim: int, working_mm: float, average: bool) -> None:
    generator = np.random.default_rng(7)
    array = generator.integers(-50, 200, size=(26, 31, 23)[:ndim]).astype(np.int16)
    for angles in ((0, 0, 0), (0.2, -0.3, 2.5)):
        direction = rotation(ndim, angles, mirrored=True)
        image = Image.of(array, (0.7, 0.5, 0.9)[:ndim], (3, -8, 20)[:ndim], direction)
        spacing = [working_mm] * ndim
        whole = canonical(image, spacing, average=average)
        geometry = canonical_geometry(image, spacing)
        assert geometry.size == whole.size and np.array_equal(geometry.origin_mm, whole.origin_mm)
        for _ in range(8):
            first = np.array([generator.integers(0, count) for count in whole.size])
            size = [generator.integers(1, count - start + 1) for start, count in zip(first, whole.size, strict=True)]
            part = canonical(image, spacing, region=(first, size), average=average)
            cut = tuple(slice(a, a + n) for a, n in zip(first[::-1], size[::-1], strict=True))
            np.testing.assert_allclose(part.array, whole.array[cut], rtol=0, atol=1e-2)
            np.testing.assert_allclose(part.origin_mm, whole.index_to_mm(first)[0, :ndim], rtol=0, atol=1e-9)


def test_a_grid_beyond_all_memory_is_refused_and_a_part_of_it_is_not(monkeypatch) -> None:
    # Nothing near the true bound is ever made here: it is lowered to that of a small grid.
    monkeypatch.setattr(images, "MAX_GRID_VOXELS", 1000)
    image = Image.of(np.zeros((6, 5), np.uint8), (90, 90))
    with pytest.raises(ChallengeError, match=r"size \(5, 6\) and spacing \(90\.0, 90\.0\) mm: .* got \(150, 180\)"):
        canonical(image, (3, 3))
    assert canonical(image, (3, 3), region=((10, 20), (40, 25))).size == (40, 25)
    assert canonical(image, (18, 18)).size == (25, 30)
    wrong = canonical_geometry(Image.of(np.broadcast_to(np.uint8(0), (609, 480)), (90, 90)), (1.6, 1.6))
    assert math.prod(wrong.size) > MAX_GRID_VOXELS


def test_without_averaging_only_neighbours_count() -> None:
    array = np.arange(16, dtype=np.float32).repeat(2).reshape(1, 32).repeat(8, axis=0) ** 2
    result = canonical(Image.of(array, (1.0, 1.0)), (8.0, 8.0), average=False)
    np.testing.assert_allclose(result.array[0], (array[0, 3::8] + array[0, 4::8]) / 2)


def test_contains_reaches_to_the_outer_faces() -> None:
    image = Image.of(np.zeros((4, 5), np.uint8), (2.0, 1.0), (10.0, 0.0))
    inside = image.contains([[9.0, -0.5, 0], [19.0, 3.5, 0], [8.99, 0, 0], [10, 3.51, 0]])
    assert inside.tolist() == [True, True, False, False]
    lower, upper = bounding_box_mm(image)
    assert lower.tolist() == [9.0, -0.5] and upper.tolist() == [19.0, 3.5]


def test_digest_is_of_the_picture_alone() -> None:
    image = small_image(2)
    moved = Image.of(image.array.copy(), (9, 9), (1, 1))
    assert image.content_digest() == moved.content_digest()
    turned = Image.of(image.array.reshape(image.array.shape[::-1]), (9, 9))
    assert image.content_digest() != turned.content_digest()


@given(
    rotation_angles=st.tuples(angles, angles, angles),
    mirrored=st.booleans(),
    extension=st.sampled_from([".mha", ".nrrd"]),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_written_image_reads_back_with_its_geometry(tmp_path, rotation_angles, mirrored, extension) -> None:
    image = small_image(3)
    image = Image.of(image.array, image.spacing_mm, image.origin_mm, rotation(3, rotation_angles, mirrored))
    write_image(tmp_path / f"a{extension}", image, compress=True)
    back = read_image(tmp_path / f"a{extension}", dimension=3)
    assert np.array_equal(back.array, image.array) and back.array.dtype == image.array.dtype
    corners = np.array(list(itertools.product((0, 6), (0, 5), (0, 4))))
    np.testing.assert_allclose(back.index_to_mm(corners), image.index_to_mm(corners), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.mha", "a"), ("scan.01.nii.gz", "scan.01"), ("A.PNG", "A"), ("folder", "folder"), ("x.gz", "x.gz")],
)
def test_image_stem(name: str, stem: str) -> None:
    assert image_stem(name) == stem


def test_equalise_gives_each_grey_value_its_rank() -> None:
    values = np.array([[0, 0, 10, 255]], np.uint8)
    np.testing.assert_allclose(normalise(values, Intensity(rule="equalise")), [[0.25, 0.25, 0.625, 0.875]])
    assert normalise(np.full((3, 3), 7), Intensity(rule="equalise")).max() == 0


def test_window_and_percentile_clip_to_the_unit_range() -> None:
    values = np.array([-1000.0, 0.0, 50.0, 100.0, 3000.0])
    windowed = normalise(values, Intensity(rule="window", low=0, high=100))
    np.testing.assert_allclose(windowed, [0, 0, 0.5, 1, 1])
    ranked = normalise(np.arange(101.0), Intensity(rule="percentile", low=10, high=90))
    np.testing.assert_allclose(ranked[[0, 10, 50, 90, 100]], [0, 0, 0.5, 1, 1])
    assert normalise(np.full(5, 3.0), Intensity(rule="percentile", low=1, high=99)).max() == 0


def test_writing_fails_without_a_trace(tmp_path) -> None:
    with pytest.raises(ChallengeError, match="wanted a readable image"):
        write_image(tmp_path / "a.png", Image.of(np.zeros((2, 3, 4), np.float64), (1, 1, 1)))
    assert list(tmp_path.iterdir()) == []
