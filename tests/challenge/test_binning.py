"""Means of boxes against ITK's filter."""

import numpy as np
import pytest
import SimpleITK as sitk

from landmark_challenge import binning
from landmark_challenge.binning import box_means


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize(("shape", "factors"), [((23, 31), (4, 3)), ((9, 14, 17), (2, 1, 5)), ((6, 5, 4), (1, 1, 4))])
def test_means_are_those_of_itk(
    shape: tuple[int, ...], factors: tuple[int, ...], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = (np.random.default_rng(1).normal(size=shape) * 60 + 120).astype(kind)
    itk = sitk.Cast(sitk.GetImageFromArray(array), sitk.sitkFloat32)
    wanted = sitk.GetArrayFromImage(sitk.BinShrink(itk, factors[::-1]))
    for block in (1, 200, 2**20):
        monkeypatch.setattr(binning, "BLOCK_VALUES", block)
        found = box_means(array, factors, threads=2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_flipped_and_turned_views_need_no_copy_to_be_right() -> None:
    array = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    view = array.transpose(2, 0, 1)[::-1, :, ::-1]
    np.testing.assert_array_equal(box_means(view, (2, 2, 3)), box_means(np.ascontiguousarray(view), (2, 2, 3)))


def test_sums_of_the_largest_values_do_not_overflow() -> None:
    full = np.full((64, 64, 16), 65535, np.uint16)
    assert np.all(box_means(full, (32, 32, 16)) == 65535)
    assert np.all(box_means(np.full((30, 30, 30), -32768, np.int16), (30, 30, 30)) == -32768)
