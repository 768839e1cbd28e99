"""Image files made to mislead: each is refused in one line that names it, quickly and without eating memory."""

import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from landmark_challenge.errors import ChallengeError
from landmark_challenge.headers import read_nifti_header
from landmark_challenge.images import EXTENSIONS, read_geometry, read_image

VOLUME = np.random.default_rng(0).random((4, 50, 60)).astype(np.float32)
PICTURE = np.random.default_rng(1).integers(0, 255, (40, 50)).astype(np.uint8)


def refused(path: Path, match: str, **options) -> None:
    with pytest.raises(ChallengeError, match=match) as error:
        read_image(path, **options)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def stored(tmp_path):
    """Writes an image with ITK, then the bytes as changed by a function; gives the path."""

    def store(name: str, change=None, *, array: np.ndarray = VOLUME, compress: bool = False) -> Path:
        path = tmp_path / name
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path), compress)
        if change is not None:
            path.write_bytes(change(path.read_bytes()))
        return path

    return store


def without_end(content: bytes) -> bytes:
    return content[: len(content) // 2]


def overwritten(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + b"x" * 5000 + content[middle + 5000 :]


def header(old: bytes, new: bytes):
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return change


def packed(kind: str, offset: int, value: float):
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        struct.pack_into(kind, changed, offset, value)
        return bytes(changed)

    return change


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz", "a.nrrd"])
@pytest.mark.parametrize("compress", [False, True])
def test_half_a_volume_is_refused(stored, name, compress) -> None:
    refused(stored(name, without_end, compress=compress), "wanted")


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz", "a.nrrd"])
def test_a_corrupt_compressed_volume_is_refused(stored, name) -> None:
    refused(stored(name, overwritten, compress=True), "wanted")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_half_a_picture_is_refused(stored, name) -> None:
    refused(stored(name, without_end, array=PICTURE), "wanted", spacing_mm=(1, 1))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"DimSize = 60 50 4", b"DimSize = 0 50 4", "at least 1"),
        (b"DimSize = 60 50 4", b"DimSize = -6 50 4", "at least 1"),
        (b"DimSize = 60 50 4", b"DimSize = nan 50 4", "whole numbers"),
        (b"DimSize = 60 50 4", b"DimSize = 60.5 50 4", "whole numbers"),
        (b"DimSize = 60 50 4", b"DimSize = 100000 100000 4", "truncated"),
        (b"DimSize = 60 50 4", b"DimSize = 99999999999 99999999999 4", "truncated"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 0 1 1", "spacing above 0"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = -1 1 1", "spacing above 0"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = nan 1 1", "spacing above 0"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1e-9 1 1", "spacing of 0.0001"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1e9 1 1", "spacing of 0.0001"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = one 1 1", "wanted numbers"),
        (b"Offset = 0 0 0", b"Offset = nan 0 0", "finite"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 0 0 0 0 1 0 0 0 1", "determinant is 0"),
        (b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = 1 0.3 0 0 1 0 0 0 1", "orthonormal"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd", "another place"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = ../a.mha", "another place"),
        (b"ElementDataFile = LOCAL", b"ElementDataFile = LIST\n/etc/passwd", "there is no LIST"),
        (b"ElementType = MET_FLOAT", b"ElementType = MET_NONSENSE", "known ElementType"),
    ],
)
def test_a_meta_image_header_that_lies_is_refused(stored, old, new, match) -> None:
    refused(stored("a.mha", header(old, new)), match)


@pytest.mark.parametrize("size", [b"100", b"0", b"-5", b"99999999", b"nan", b"", b"1.5", b"1 2", None])
def test_a_meta_image_that_lies_of_its_compressed_size_is_refused_in_one_line(stored, capfd, size) -> None:
    def change(content: bytes) -> bytes:
        line = b"" if size is None else b"CompressedDataSize = " + size + b"\n"
        return re.sub(rb"CompressedDataSize = \d+\n", line, content)

    path = stored("a.mha", change, compress=True)
    refused(path, "CompressedDataSize" if size != b"100" else "whole compressed data")
    if size != b"100":  # known only once it is inflated
        with pytest.raises(ChallengeError, match="CompressedDataSize"):
            read_geometry(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "compress"), [("a.mha", True), *((name, False) for name in ("a.mha", "a.nii", "a.nrrd", "a.bmp", "a.jpg"))]
)
def test_the_geometry_of_half_an_image_is_refused_without_a_line_of_itk(stored, capfd, name, compress) -> None:
    array = VOLUME if name in ("a.mha", "a.nii", "a.nrrd") else PICTURE
    path = stored(name, without_end, array=array, compress=compress)
    for read in (read_geometry, read_image):
        with pytest.raises(ChallengeError, match="wanted"):
            read(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_an_empty_file_is_refused_in_one_line(tmp_path, capfd, extension) -> None:
    path = tmp_path / f"a{extension}"
    path.touch()
    for read in (read_geometry, read_image):
        with pytest.raises(ChallengeError, match="wanted") as error:
            read(path)
        assert "Success" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "offset", "value", "match"),
    [
        ("<h", 42, 0, "at least 1"),
        ("<h", 42, -5, "at least 1"),
        ("<f", 80, 0.0, "spacing above 0"),
        ("<f", 80, -1.0, "spacing above 0"),
        ("<f", 80, float("nan"), "spacing above 0"),
        ("<f", 108, float("nan"), "data offset"),
        ("<i", 0, 347, "NIfTI-1 header"),
        ("<h", 46, 30_000, "truncated"),
    ],
)
def test_a_nifti_header_that_lies_is_refused(stored, kind, offset, value, match) -> None:
    refused(stored("a.nii", packed(kind, offset, value)), match)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"sizes: 60 50 4", b"sizes: 10000 10000 10", "truncated"),
        (b"sizes: 60 50 4", b"sizes: 0 50 4", "at least 1"),
        (b"(1,0,0)", b"(nan,0,0)", "wanted a readable image"),
        (b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd", "names another file"),
    ],
)
def test_an_nrrd_header_that_lies_is_refused(stored, old, new, match) -> None:
    refused(stored("a.nrrd", header(old, new)), match)


def test_compressed_bombs_are_refused_before_memory_is_taken(stored, tmp_path) -> None:
    start = bytearray(stored("a.nii").read_bytes()[:352])
    struct.pack_into("<8h", start, 40, 3, 20_000, 20_000, 2, 1, 1, 1, 1)
    nifti = tmp_path / "bomb.nii.gz"
    nifti.write_bytes(gzip.compress(bytes(start) + b"\0" * 1000))
    refused(nifti, "cannot hold them")
    noise = tmp_path / "zeros.nii.gz"
    noise.write_bytes(gzip.compress(b"\0" * 50_000_000))
    refused(noise, "NIfTI-1 header")
    meta = stored("a.mha", compress=True).read_bytes().replace(b"DimSize = 60 50 4", b"DimSize = 2000 2000 250")
    bomb = tmp_path / "bomb.mha"
    bomb.write_bytes(meta[: meta.index(b"LOCAL\n") + 6] + zlib.compress(b"\0" * 1000))
    refused(bomb, "cannot hold them")


def test_sides_beyond_the_limit_are_refused(stored) -> None:
    wide = stored("a.mha", array=np.zeros((1, 100_000), np.uint8))
    refused(wide, "sides of 1 to 20000")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(stored, value) -> None:
    array = VOLUME.copy()
    array[1, 2, 3] = value
    refused(stored("a.mha", array=array), "finite grey values")


def test_colours_are_refused_and_specks_of_colour_are_not(tmp_path) -> None:
    grey = np.repeat(PICTURE[..., None], 3, axis=2)
    path = tmp_path / "a.png"
    sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(path))
    assert np.array_equal(read_image(path, spacing_mm=(1, 1)).array, PICTURE)
    specked = grey.copy()
    specked[0, 0] = (255, 0, 0)
    sitk.WriteImage(sitk.GetImageFromArray(specked, isVector=True), str(path))
    read = read_image(path, spacing_mm=(1, 1)).array
    assert read[0, 0] == 76 and np.array_equal(read[1:], PICTURE[1:])  # 0.299 * 255, ITU-R BT.601
    coloured = grey.copy()
    coloured[:20, :, 0] = 255 - coloured[:20, :, 0]
    for name, kind, factor in (("a.png", np.uint8, 1), ("b.png", np.uint16, 257), ("c.png", np.uint16, 1)):
        sitk.WriteImage(
            sitk.GetImageFromArray(coloured.astype(kind) * kind(factor), isVector=True), str(tmp_path / name)
        )
        refused(tmp_path / name, "grey image", spacing_mm=(1, 1))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 2), np.float32), isVector=True), str(tmp_path / "v.mha"))
    refused(tmp_path / "v.mha", "2 channels")


def test_four_dimensions_are_read_only_as_one_volume(tmp_path) -> None:
    volume = sitk.GetImageFromArray(VOLUME)
    sitk.WriteImage(sitk.JoinSeries([volume]), str(tmp_path / "one.nii.gz"))
    assert np.array_equal(read_image(tmp_path / "one.nii.gz", dimension=3).array, VOLUME)
    sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(tmp_path / "two.nii.gz"))
    refused(tmp_path / "two.nii.gz", "4D", dimension=3)


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_wrong_dimension_is_refused(stored, dimension) -> None:
    array = VOLUME if dimension == 2 else PICTURE
    refused(stored("a.mha", array=array), f"wanted a {dimension}D image", dimension=dimension)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_pictures_without_a_spacing_need_one_from_the_user(stored, name) -> None:
    path = stored(name, array=PICTURE)
    refused(path, "give it with --spacing-mm")
    assert read_image(path, spacing_mm=(0.1, 0.2)).spacing_mm.tolist() == [0.1, 0.2]
    refused(path, "wanted 2 numbers", spacing_mm=(1, 1, 1))


def test_a_tiff_that_knows_its_spacing_is_trusted(tmp_path) -> None:
    itk = sitk.GetImageFromArray(PICTURE)
    itk.SetSpacing((0.1, 0.1))
    sitk.WriteImage(itk, str(tmp_path / "a.tif"))
    np.testing.assert_allclose(read_image(tmp_path / "a.tif").spacing_mm, (0.1, 0.1), rtol=1e-4)


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz", "a.nrrd", "a.png", "a.jpg", "a.bmp", "a.tif", "a.dcm"])
@pytest.mark.parametrize("content", [b"", b"junk", b"\0" * 400])
def test_junk_is_refused(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "wanted")


def test_what_is_not_there_is_refused(tmp_path) -> None:
    refused(tmp_path / "a.mha", "no such file")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "one DICOM series")


def test_left_handed_and_oblique_directions_are_read_as_they_are(stored) -> None:
    mirrored = stored("a.mha", header(b"TransformMatrix = 1 0 0", b"TransformMatrix = -1 0 0"))
    assert np.linalg.det(read_image(mirrored).direction) == pytest.approx(-1)
    oblique = stored("a.mha", header(b"= 1 0 0 0 1 0 0 0 1", b"= 0.8 0.6 0 -0.6 0.8 0 0 0 1"))
    np.testing.assert_allclose(read_image(oblique).direction[:, 0], (0.8, 0.6, 0))


def test_a_nifti_header_is_read_in_both_byte_orders(stored, tmp_path) -> None:
    little = read_nifti_header(stored("a.nii"))
    assert little.dim[:4] == (3, 60, 50, 4) and little.bitpix == 32 and little.pixdim[1:4] == (1, 1, 1)
    content = bytearray(b"\0" * 348)
    struct.pack_into(">i", content, 0, 348)
    struct.pack_into(">8h", content, 40, 3, 60, 50, 4, 1, 1, 1, 1)
    content[344:348] = b"n+1\0"
    (tmp_path / "big.nii").write_bytes(content)
    assert read_nifti_header(tmp_path / "big.nii").dim[:4] == (3, 60, 50, 4)
