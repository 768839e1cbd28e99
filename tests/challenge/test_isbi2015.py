"""The ISBI 2015 archive: an archive of the same layout made here, every way it can be wrong, and the real one."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.formats import import_dataset
from landmark_challenge.task import load_task

PICTURE = np.random.default_rng(0).integers(0, 255, (24, 20), dtype=np.uint8)
NUMBERS = {"TrainingData": [1, 38, 140, 141, 144, 150], "Test1Data": [151, 173, 283], "Test2Data": [301]}
CLASSES = "\n".join("1" * 8)


def lines(shift: int) -> str:
    return "\n".join(f"{100 + i + shift},{200 + 2 * i}" for i in range(19))


@pytest.fixture
def archive(tmp_path) -> Path:
    source = tmp_path / "archive"
    for part, numbers in NUMBERS.items():
        (source / "RawImage" / part).mkdir(parents=True)
        for number in numbers:
            grey = np.repeat(np.roll(PICTURE, number)[..., None], 3, axis=2)
            path = source / "RawImage" / part / f"{number:03d}.{'bmp' if number % 2 else 'png'}"
            sitk.WriteImage(sitk.GetImageFromArray(grey, isVector=True), str(path))
    for observer, shift, classes in (("400_senior", 0, "\n" + CLASSES + "\n"), ("400_junior", 4, "")):
        folder = source / "AnnotationsByMD" / observer
        folder.mkdir(parents=True)
        for number in [number for numbers in NUMBERS.values() for number in numbers]:
            (folder / f"{number:03d}.txt").write_text(lines(shift) + classes)
    return source


def test_an_archive_becomes_a_dataset(archive, tmp_path) -> None:
    dataset = import_dataset("isbi2015", archive, output=tmp_path / "ceph")
    split = {case.name: (case.split, case.subset) for case in dataset.cases()}
    assert split == {
        "001": ("train", ""), "038": ("excluded", ""), "140": ("train", ""), "141": ("validation", ""),
        "144": ("excluded", ""), "150": ("validation", ""), "151": ("test", "test1"), "173": ("test", "test1"),
        "283": ("test", "test1"), "301": ("test", "test2"),
    }  # fmt: skip
    assert all(case.group == case.name for case in dataset.cases())
    image = dataset.image("001")
    assert np.array_equal(image.array, np.roll(PICTURE, 1)) and image.array.dtype == np.uint8
    np.testing.assert_array_equal(image.spacing_mm, (0.1, 0.1))
    names = load_task("ceph-19").names
    for observer, shift in (("senior", 0), ("junior", 4), ("reference", 2)):
        wanted = [[(100 + i + shift) / 10, (200 + 2 * i) / 10, 0] for i in range(19)]
        np.testing.assert_allclose(dataset.landmarks("001", observer=observer).aligned_mm(names), wanted, atol=1e-9)


def test_a_spacing_of_the_user_wins(archive, tmp_path) -> None:
    dataset = import_dataset("isbi2015", archive, output=tmp_path / "ceph", spacing_mm=(0.2, 0.4))
    np.testing.assert_allclose(dataset.landmarks("001", observer="senior").points_mm[0], (20, 80, 0))


def test_a_part_that_is_not_there_is_left_out(archive, tmp_path) -> None:
    for path in (archive / "RawImage" / "Test2Data").iterdir():
        path.unlink()
    (archive / "RawImage" / "Test2Data").rmdir()
    assert len(import_dataset("isbi2015", archive, output=tmp_path / "ceph").cases()) == 9


def rewrite(archive: Path, text: str) -> None:
    (archive / "AnnotationsByMD" / "400_junior" / "140.txt").write_text(text)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda a: (a / "AnnotationsByMD/400_senior/001.txt").unlink(), r"400_senior/001\.txt: wanted an annotation"),
        (lambda a: (a / "RawImage/Test1Data/151.bmp").unlink(), r"400_senior/151\.txt: wanted an image"),
        (lambda a: (a / "RawImage/Test1Data/999.bmp").write_bytes(b"x"), r"999\.bmp: wanted images 151 to 300"),
        (lambda a: (a / "RawImage/Test1Data/scan.bmp").write_bytes(b"x"), r"scan\.bmp: wanted images 151 to 300"),
        (lambda a: (a / "RawImage/Test1Data/151.png").write_bytes(b"x"), r"151\.png: wanted one image per number"),
        (lambda a: (a / "RawImage/Test1Data/151.bmp").write_bytes(b"x"), r"151\.bmp: wanted a BMP"),
        (lambda a: (a / "RawImage").rename(a / "Raw"), "RawImage: wanted a folder"),
        (lambda a: (a / "AnnotationsByMD/400_junior").rename(a / "x"), "400_junior: wanted a folder"),
        (lambda a: rewrite(a, ""), r"140\.txt: wanted 19 lines .*, got 0 lines"),
        (lambda a: rewrite(a, lines(0) + "\n1,2"), r"140\.txt: wanted 19 lines .*, got 20 lines"),
        (lambda a: rewrite(a, lines(0)[:-5]), r"140\.txt: line 19: wanted 'x,y'"),
        (lambda a: rewrite(a, lines(0).replace("103,206", "103;206")), "line 4: wanted 'x,y' in pixels, got '103;206'"),
        (lambda a: rewrite(a, lines(0).replace("103,206", "nan,206")), "line 4: wanted finite pixels"),
        (lambda a: rewrite(a, lines(0).replace("103,206", "103,206,7")), "line 4: wanted 'x,y'"),
        (lambda a: rewrite(a, lines(0) + "\n" + CLASSES.replace("1", "one")), "line 20: wanted the number of a class"),
        (lambda a: (a / "AnnotationsByMD/400_junior/140.txt").write_bytes(b"\xff\xfe"), "cannot be read as text"),
    ],
)
def test_a_damaged_archive_is_refused_and_leaves_nothing(archive, tmp_path, damage, match) -> None:
    damage(archive)
    with pytest.raises(ChallengeError, match=match):
        import_dataset("isbi2015", archive, output=tmp_path / "ceph")
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_a_format_that_is_not_known_is_refused(archive, tmp_path) -> None:
    with pytest.raises(ChallengeError, match="wanted one of"):
        import_dataset("isbi2016", archive, output=tmp_path / "ceph")


@pytest.mark.real_data
def test_the_real_archive_gives_the_known_numbers(tmp_path) -> None:
    root = os.environ.get("LANDMARKS_REAL_DATA")
    if not root or not (Path(root) / "isbi2015-ceph").is_dir():
        pytest.skip("LANDMARKS_REAL_DATA does not name a folder with isbi2015-ceph")
    dataset: Dataset = import_dataset("isbi2015", Path(root) / "isbi2015-ceph", output=tmp_path / "ceph")
    assert [len(dataset.cases(split=split)) for split in ("train", "validation", "test", "excluded")] == [
        139,
        9,
        150,
        2,
    ]
    names = dataset.task.names
    for first, error_mm, success in ((1, 2.35, 0.604), (151, 2.36, 0.552)):
        gap = [
            dataset.landmarks(f"{number:03d}", observer="senior").aligned_mm(names)
            - dataset.landmarks(f"{number:03d}", observer="junior").aligned_mm(names)
            for number in range(first, first + 150)
        ]
        distance = np.linalg.norm(gap, axis=2)
        assert abs(distance.mean() - error_mm) < 0.005 and abs((distance < 2).mean() - success) < 0.001
    digests = dataset.header["digests"]
    assert digests["038"] == digests["283"] and digests["144"] == digests["173"]
    assert len(set(digests.values())) == 298
