"""Inputs made to mislead, the same over every baseline's container: one clear line and a failure, or a right answer.

Never a crash without a word, a hang, or a wrong answer in silence; and the server goes on with the next case.
"""

import json
import shutil
import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from landmark_challenge.containers import ExecRunner, InvokeRunner
from landmark_challenge.landmarks import read_landmarks
from landmark_challenge.running import CaseFailedError, Limits, empty_folder

from .conftest import BASELINES, ROOT

pytestmark = pytest.mark.docker
LIMITS = Limits(memory_mb=4096, time_s=60)
AGREEMENT_MM = 1.0  # resampling to a rotated grid moves a point by less
ROTATION = np.deg2rad(7)


def sample(name: str):
    """The first sample case of a baseline: its input folder and its image."""
    folder = sorted((ROOT / f"baselines/{name}/test").glob("*/input"))[0]
    [path] = (folder / "images/medical-image").iterdir()
    return folder, path


def lay_out(runner, source):
    empty_folder(runner.input_folder)
    empty_folder(runner.output_folder)
    shutil.copytree(source, runner.input_folder, dirs_exist_ok=True)
    [path] = (runner.input_folder / "images/medical-image").iterdir()
    return path


def answer(runner):
    runner.run()
    return read_landmarks(runner.output_folder / "anatomical-landmarks.json")


def like(image: sitk.Image, array: np.ndarray, *, vector: bool = False) -> sitk.Image:
    changed = sitk.GetImageFromArray(array, isVector=vector)
    changed.CopyInformation(image)
    return changed


def rewritten(change):
    """An image changed as an array or in its geometry."""

    def spoil(path):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(change(image), str(path))

    return spoil


def with_value(value):
    def change(image):
        array = sitk.GetArrayFromImage(image).astype(np.float32)
        array.flat[array.size // 2] = value
        return like(image, array)

    return rewritten(change)


def header(key: str, text: str):
    """A MetaImage whose header says something else."""

    def spoil(path):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path), False)
        head, _, data = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
        lines = [line for line in head.decode().splitlines() if not line.startswith(f"{key} =")]
        last = "ElementDataFile = LOCAL\n"
        if key == "ElementDataFile":
            last = f"{key} = {text}\n"
        else:
            lines.append(f"{key} = {text}")
        path.write_bytes("\n".join([*lines, last]).encode() + data)

    return spoil


def bomb(path):
    """A few kilobytes that claim to be, and unpack to, far more than they should."""
    ndim = sitk.ReadImage(str(path)).GetDimension()
    size = "20000 20000" if ndim == 2 else "1000 1000 1000"
    ones = " ".join(["1"] * ndim)
    data = zlib.compress(b"\0" * 2**22)
    path.write_bytes(
        f"ObjectType = Image\nNDims = {ndim}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = True\n"
        f"CompressedDataSize = {len(data)}\nElementSpacing = {ones}\nDimSize = {size}\nElementType = MET_UCHAR\n"
        f"ElementDataFile = LOCAL\n".encode()
        + data
    )


def colours(path):
    image = sitk.ReadImage(str(path))
    grey = sitk.GetArrayFromImage(image).astype(np.uint16)
    sitk.WriteImage(like(image, np.stack([grey, grey[::-1], grey * 3], axis=-1), vector=True), str(path))


def two_volumes(path):
    image = sitk.ReadImage(str(path))
    while image.GetDimension() < 4:
        image = sitk.JoinSeries([image, image])
    sitk.WriteImage(image, str(path))


def other_dimension(path):
    image = sitk.ReadImage(str(path))
    three = image.GetDimension() == 3
    sitk.WriteImage(image[:, :, 0] if three else sitk.JoinSeries([image, image]), str(path))


def wide(path):
    ndim = sitk.ReadImage(str(path)).GetDimension()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((1,) * (ndim - 1) + (100_000,), np.uint8)), str(path))


def renamed_tiff(path):
    path.write_bytes(b"II*\0" + struct.pack("<I", 2**31) + b"\0" * 64)
    path.rename(path.with_suffix(".tif"))


REFUSED = {
    "empty file": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is no image\n" * 100),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "header only": lambda path: path.write_bytes(path.read_bytes().partition(b"LOCAL\n")[0] + b"LOCAL\n"),
    "no voxels": header("DimSize", "0 0"),
    "negative size": header("DimSize", "-5 20"),
    "sides of 10^5": header("DimSize", "100000 100000"),
    "one real side of 10^5": wide,
    "NaN": with_value(np.nan),
    "infinity": with_value(-np.inf),
    "16-bit colour": colours,
    "four dimensions": two_volumes,
    "another dimension": other_dimension,
    "spacing 0": header("ElementSpacing", "0 1"),
    "spacing 1e-9": header("ElementSpacing", "1e-9 1e-9"),
    "negative spacing": header("ElementSpacing", "-1 1"),
    "spacing NaN": header("ElementSpacing", "nan 1"),
    "singular direction": header("TransformMatrix", "1 0 1 0"),
    "sheared direction": header("TransformMatrix", "1 0.5 0 1"),
    "offset NaN": header("Offset", "nan 0"),
    "data elsewhere": header("ElementDataFile", "/etc/passwd"),
    "compressed bomb": bomb,
    "broken tiff": renamed_tiff,
    "no image": lambda path: path.unlink(),
    "two images": lambda path: shutil.copy(path, path.with_name("second.mha")),
    "broken listing": lambda path: (path.parents[2] / "inputs.json").write_text("[{"),
    "listing of another task": lambda path: (path.parents[2] / "inputs.json").write_text(
        '[{"socket": {"slug": "ct"}}]'
    ),
    "listing that leaves the input": lambda path: (path.parents[2] / "inputs.json").write_text(
        json.dumps([{"socket": {"slug": "medical-image", "relative_path": "../etc"}}])
    ),
}  # fmt: skip


# Every server must still be right at the end; after these also at once (each answer of a large method takes seconds).
ANSWERED_AFTER = ("truncated", "NaN", "compressed bomb", "broken listing")


def flipped(image):
    """The same picture stored from the other side: a left-handed direction."""
    array = np.ascontiguousarray(np.flip(sitk.GetArrayFromImage(image), axis=-1))
    stored = sitk.GetImageFromArray(array)
    stored.SetSpacing(image.GetSpacing())
    stored.SetOrigin(image.TransformIndexToPhysicalPoint((image.GetSize()[0] - 1,) + (0,) * (image.GetDimension() - 1)))
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)
    direction[:, 0] *= -1
    stored.SetDirection(direction.flatten().tolist())
    return stored


def rotation(ndim):
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(ROTATION), -np.sin(ROTATION)], [np.sin(ROTATION), np.cos(ROTATION)]]
    return turn[:ndim, :ndim]


def oblique(image):
    """The same picture turned by some degrees about the physical origin."""
    turned = sitk.Image(image)
    turn = rotation(image.GetDimension())
    turned.SetOrigin((turn @ np.array(image.GetOrigin())).tolist())
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)
    turned.SetDirection((turn @ direction).flatten().tolist())
    return turned


def as_type(kind):
    return lambda image: like(image, sitk.GetArrayFromImage(image).astype(kind))


SAME_POINTS = {
    "left-handed direction": flipped,
    "16 bits": as_type(np.uint16),
    "double": as_type(np.float64),
}


@pytest.fixture(scope="module", params=BASELINES)
def server(request, built):
    tag = built(request.param)
    runner = InvokeRunner(f"{tag}:invoke", LIMITS)
    source, _ = sample(request.param)
    lay_out(runner, source)
    expected = answer(runner)
    yield runner, source, expected
    # After everything the server is the one that was started first, and still right.
    assert runner.start_s is not None
    lay_out(runner, source)
    assert answer(runner) == expected
    runner.close()


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_in_one_line_and_the_server_goes_on(server, what):
    runner, source, expected = server
    REFUSED[what](lay_out(runner, source))
    with pytest.raises(CaseFailedError) as failure:
        runner.run()
    reason = str(failure.value)
    assert reason.startswith("invoke endpoint returned status 500, expected 201: error: /input/"), reason
    assert "wanted" in reason and "\n" not in reason
    assert not (runner.output_folder / "anatomical-landmarks.json").exists()
    if what in ANSWERED_AFTER:
        lay_out(runner, source)
        assert answer(runner) == expected


@pytest.mark.parametrize("what", SAME_POINTS)
def test_another_way_to_store_the_image_gives_the_same_millimetres(server, what):
    runner, source, expected = server
    rewritten(SAME_POINTS[what])(lay_out(runner, source))
    found = answer(runner)
    distances = np.linalg.norm(found.aligned_mm(expected.names) - expected.points_mm, axis=1)
    assert distances.max() < AGREEMENT_MM, distances


def test_an_oblique_image_gives_a_full_answer_in_its_own_frame(server):
    runner, source, expected = server
    rewritten(oblique)(lay_out(runner, source))
    found = answer(runner)
    assert set(found.names) == set(expected.names) and found.probability.min() >= 0.5
    image = sitk.ReadImage(str(next((runner.input_folder / "images/medical-image").iterdir())))
    inside = [image.TransformPhysicalPointToContinuousIndex(point[: image.GetDimension()]) for point in found.points_mm]
    assert (np.array(inside) > -50).all() and (np.array(inside) < np.array(image.GetSize()) + 50).all()


def test_an_image_of_one_grey_value_is_answered(server):
    runner, source, expected = server
    rewritten(lambda image: like(image, np.zeros_like(sitk.GetArrayFromImage(image))))(lay_out(runner, source))
    assert set(answer(runner).names) == set(expected.names)


@pytest.mark.parametrize("name", BASELINES)
def test_an_exec_image_refuses_with_a_code_and_one_last_line(built, name):
    runner = ExecRunner(f"{built(name)}:exec", LIMITS)
    try:
        source, _ = sample(name)
        for what in ("truncated", "no image"):
            REFUSED[what](lay_out(runner, source))
            with pytest.raises(CaseFailedError, match="exit code 2: error: /input/"):
                runner.run()
    finally:
        runner.close()
