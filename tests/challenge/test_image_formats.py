"""DICOM series and multi-frame files, NIfTI whose two orientations disagree: read rightly, or refused, or said."""

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.formats import import_dataset
from landmark_challenge.images import read_geometry, read_image
from landmark_challenge.landmarks import Landmarks, write_landmarks
from landmark_challenge.task import load_task

LONG = {"OB", "OW", "SQ", "UT", "UN"}
CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"
VOLUME = np.random.default_rng(0).integers(0, 1000, (4, 6, 5)).astype(np.uint16)


def element(tag: tuple[int, int], kind: str, value) -> bytes:
    """One element in explicit VR little endian (DICOM PS3.5, 7.1.2); a sequence is a list of lists of elements."""
    if kind == "SQ":
        data = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in value)
    elif kind in ("US", "UL"):
        data = struct.pack("<H" if kind == "US" else "<I", value)
    elif isinstance(value, bytes):
        data = value
    else:
        data = str(value).encode()
    if len(data) % 2:
        data += b"\0" if kind == "UI" else b" "
    length = struct.pack("<HI", 0, len(data)) if kind in LONG else struct.pack("<H", len(data))
    return struct.pack("<HH", *tag) + kind.encode() + length + data


def values(numbers) -> str:
    return "\\".join(f"{number:g}" for number in numbers)


def dicom(path: Path, array: np.ndarray, *, instance: int = 1, sop: str = CT, series: str = "1.2.3", tags=()) -> None:
    """A DICOM file of a slice, or of several frames."""
    meta = element((2, 1), "OB", b"\0\1") + element((2, 2), "UI", sop) + element((2, 3), "UI", f"1.9.{instance}")
    meta += element((2, 0x10), "UI", "1.2.840.10008.1.2.1") + element((2, 0x12), "UI", "1.2.3.4")
    rows, columns = array.shape[-2:]
    body = [
        ((8, 0x16), "UI", sop), ((8, 0x18), "UI", f"1.9.{instance}"), ((8, 0x60), "CS", "CT" if sop == CT else "MR"),
        ((0x10, 0x10), "PN", "Doe^Jane"), ((0x10, 0x20), "LO", "PATIENT-4711"), ((0x20, 0xD), "UI", "1.2"),
        ((0x20, 0xE), "UI", series), ((0x20, 0x13), "IS", instance), ((0x28, 2), "US", 1),
        ((0x28, 4), "CS", "MONOCHROME2"), ((0x28, 0x10), "US", rows), ((0x28, 0x11), "US", columns),
        ((0x28, 0x100), "US", 16), ((0x28, 0x101), "US", 16), ((0x28, 0x102), "US", 15), ((0x28, 0x103), "US", 0),
        ((0x7FE0, 0x10), "OW", array.astype("<u2").tobytes()),
    ]  # fmt: skip
    merged = {tag: (kind, value) for tag, kind, value in [*body, *tags]}
    content = b"".join(element(tag, *merged[tag]) for tag in sorted(merged))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0" * 128 + b"DICM" + element((2, 0), "UL", len(meta)) + meta + content)


def series(folder: Path, *, skip=(), shear: float = 0.0, reverse: bool = False, **options) -> Path:
    """A series of the slices of VOLUME, oblique, 0.7 x 0.6 mm in plane, 1.5 mm apart, named in a shuffled order."""
    normal = np.cross((0.8, 0.6, 0), (-0.6, 0.8, 0))
    for number, plane in enumerate(VOLUME):
        if number in skip:
            continue
        place = np.array([10, -20, 5]) + number * (1.5 * normal + [shear, 0, 0])
        tags = [
            ((0x20, 0x32), "DS", values(place)), ((0x20, 0x37), "DS", values((0.8, 0.6, 0, -0.6, 0.8, 0))),
            ((0x28, 0x30), "DS", values((0.6, 0.7))), ((0x18, 0x50), "DS", "1.5"),
        ]  # fmt: skip
        instance = 10 - number if reverse else number + 1
        dicom(folder / f"{(number * 7) % 4}.dcm", plane, instance=instance, tags=tags, **options)
    return folder


@pytest.mark.parametrize("reverse", [False, True])
def test_a_dicom_series_is_one_volume_with_its_geometry(tmp_path, reverse) -> None:
    image = read_image(series(tmp_path / "scan", reverse=reverse), dimension=3)
    assert np.array_equal(image.array, VOLUME)
    np.testing.assert_allclose(image.spacing_mm, (0.7, 0.6, 1.5), atol=1e-6)
    wanted = [[10, -20, 5], [10 + 4 * 0.7 * 0.8, -20 + 4 * 0.7 * 0.6, 5], [10, -20, 5 + 3 * 1.5]]
    np.testing.assert_allclose(image.index_to_mm([[0, 0, 0], [4, 0, 0], [0, 0, 3]]), wanted, atol=1e-5)
    assert read_geometry(tmp_path / "scan", dimension=3).size == image.size


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: series(f, skip=(2,)), "one distance, got 1.500 to 3.000"),
        (lambda f: series(f, shear=0.4), "tilted gantry"),
        (lambda f: dicom(series(f) / "0.dcm", VOLUME[0], instance=1), "one size and orientation|one distance"),
        (lambda f: [series(f), dicom(f / "z.dcm", VOLUME[0], series="1.7")], "one DICOM series, got 2"),
    ],
)
def test_slices_that_make_no_volume_are_refused(tmp_path, damage, match) -> None:
    folder = tmp_path / "a" / "scan"
    folder.mkdir(parents=True)
    damage(folder)
    with pytest.raises(ChallengeError, match=match):
        read_image(folder, dimension=3)


def test_an_enhanced_multi_frame_file_is_a_volume(tmp_path) -> None:
    def frame(number: int) -> bytes:
        place = element((0x20, 0x9113), "SQ", [element((0x20, 0x32), "DS", values((10, -20, 5 + 1.5 * number)))])
        return place

    shared = element((0x20, 0x9116), "SQ", [element((0x20, 0x37), "DS", values((1, 0, 0, 0, 1, 0)))])
    measures = element((0x18, 0x50), "DS", "1.5") + element((0x18, 0x88), "DS", "1.5")
    shared += element((0x28, 0x9110), "SQ", [measures + element((0x28, 0x30), "DS", values((0.6, 0.7)))])
    tags = [
        ((0x28, 8), "IS", len(VOLUME)),
        ((0x5200, 0x9229), "SQ", [shared]),
        ((0x5200, 0x9230), "SQ", [frame(number) for number in range(len(VOLUME))]),
    ]
    dicom(tmp_path / "scan" / "scan.dcm", VOLUME, sop=ENHANCED_MR, tags=tags)
    for path in (tmp_path / "scan" / "scan.dcm", tmp_path / "scan"):
        image = read_image(path, dimension=3)
        assert np.array_equal(image.array, VOLUME)
        np.testing.assert_allclose(image.spacing_mm, (0.7, 0.6, 1.5), atol=1e-6)
        np.testing.assert_allclose(image.origin_mm, (10, -20, 5), atol=1e-6)


def test_a_dicom_picture_needs_its_pixel_spacing_and_is_shown_as_meant(tmp_path) -> None:
    dicom(tmp_path / "a.dcm", VOLUME[0])
    with pytest.raises(ChallengeError, match="known pixel spacing"):
        read_image(tmp_path / "a.dcm", dimension=2)
    tags = [((0x18, 0x1164), "DS", values((0.1, 0.1))), ((0x28, 4), "CS", "MONOCHROME1")]
    dicom(tmp_path / "b.dcm", VOLUME[0], sop="1.2.840.10008.5.1.4.1.1.1.1", tags=tags)
    image = read_image(tmp_path / "b.dcm", dimension=2)
    np.testing.assert_allclose(image.spacing_mm, (0.1, 0.1))
    assert np.array_equal(image.array, 65535 - VOLUME[0])  # its least value is meant to be white


def test_nothing_that_identifies_a_patient_reaches_a_dataset(tmp_path) -> None:
    names = load_task("olfactory-mr-2").names
    series(tmp_path / "in" / "scan1")
    write_landmarks(tmp_path / "in" / "scan1.json", Landmarks(names, [[11, -18, 6], [11, -17, 7]]))
    dataset: Dataset = import_dataset(
        "points-json", tmp_path / "in", output=tmp_path / "set", task=load_task("olfactory-mr-2")
    )
    assert [case.name for case in dataset.cases()] == ["scan1"]
    assert dataset.image("scan1").contains(dataset.landmarks("scan1", observer=dataset.observers[0]).points_mm).all()
    for path in (tmp_path / "set").rglob("*"):
        if path.is_file():
            assert b"Doe" not in path.read_bytes() and b"4711" not in path.read_bytes(), path


def nifti(path: Path, *, sform_shift: float = 0.0, sform_code: int = 1, qform_code: int = 1) -> Path:
    itk = sitk.GetImageFromArray(VOLUME.astype(np.float32))
    itk.SetSpacing((0.7, 0.6, 1.5))
    itk.SetOrigin((10, -20, 5))
    itk.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    sitk.WriteImage(itk, str(path))
    content = bytearray(path.read_bytes())
    struct.pack_into("<hh", content, 252, qform_code, sform_code)
    struct.pack_into("<f", content, 280 + 12, struct.unpack_from("<f", content, 280 + 12)[0] + sform_shift)
    path.write_bytes(content)
    return path


def test_a_nifti_whose_forms_agree_is_read_silently(tmp_path, capsys) -> None:
    image = read_image(nifti(tmp_path / "a.nii"), dimension=3)
    np.testing.assert_allclose(image.origin_mm, (10, -20, 5), atol=1e-5)
    assert capsys.readouterr().err == ""


def test_a_nifti_whose_forms_disagree_says_which_is_taken(tmp_path, capsys) -> None:
    image = read_image(nifti(tmp_path / "a.nii", sform_shift=12.0), dimension=3)
    told = capsys.readouterr().err
    assert "sform and qform disagree by up to 12.0 mm" in told and told.count("\n") == 1
    # The sform lies 12 mm to the right, which in LPS is 12 mm less along x.
    taken = "sform" if abs(image.origin_mm[0] - (10 - 12)) < 1e-3 else "qform"
    assert f"the {taken} is taken" in told
    if taken == "qform":
        np.testing.assert_allclose(image.origin_mm, (10, -20, 5), atol=1e-4)


def test_a_nifti_without_any_orientation_says_so(tmp_path, capsys) -> None:
    read_image(nifti(tmp_path / "a.nii", sform_code=0, qform_code=0), dimension=3)
    assert "neither sform nor qform" in capsys.readouterr().err
