"""Patches against SciPy's map_coordinates, plain slices, and the prepared image."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from landmark_baselines.planar_patches import PatchShape, sample_patches, sample_turned
from landmark_baselines.store import prepare
from landmark_baselines.volumes import Volumes, open_volume
from landmark_challenge.images import Image
from landmark_challenge.task import load_task

MODES = {"border": "nearest", "zero": "grid-constant"}
TASK = load_task("fetal-us-10")


def _oracle(images: np.ndarray, which: np.ndarray, positions: np.ndarray, outside: str) -> np.ndarray:
    """(P, ...) values at positions (P, ..., ndim) in voxels x, y[, z]."""
    return np.stack(
        [
            map_coordinates(images[case, 0], np.moveaxis(at, -1, 0)[::-1], order=1, mode=MODES[outside])
            for case, at in zip(which, positions, strict=True)
        ]
    )


@given(
    seed=st.integers(0, 2**31),
    ndim=st.sampled_from([2, 3]),
    size=st.integers(1, 6),
    pitch=st.sampled_from([0.5, 1.0, 2.0, 2.7]),
    outside=st.sampled_from(list(MODES)),
    box=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_agrees_with_scipy_in_and_outside_the_image(
    seed: int, ndim: int, size: int, pitch: float, outside: str, box: bool
) -> None:
    random = np.random.default_rng(seed)
    images = random.random((2, 1, *(9, 11, 13)[:ndim]))
    which = random.integers(0, 2, 5)
    centres = random.uniform(-4, 16, (5, ndim))  # mm, of voxels of 1 mm
    shape = PatchShape(size, pitch, outside, box)
    volumes = Volumes.of(torch.from_numpy(images).float(), 1.0)
    found = sample_patches(volumes, torch.from_numpy(which), torch.from_numpy(centres).float(), shape)
    offsets = shape.offsets_mm(ndim, torch.device("cpu")).numpy()
    positions = centres.reshape(5, *[1] * (offsets.ndim - 1), ndim) + offsets
    np.testing.assert_allclose(found, _oracle(images, which, positions, outside), atol=2e-5)


def test_the_channels_are_the_planes_yz_xz_and_xy() -> None:
    volume = torch.rand(1, 1, 9, 11, 13, generator=torch.Generator().manual_seed(0))
    found = sample_patches(
        Volumes.of(volume, 2.0), torch.tensor([0]), torch.tensor([[12.0, 10.0, 8.0]]), PatchShape(5, 2.0)
    )
    inside = volume[0, 0]
    for plane, wanted in zip(found[0], (inside[2:7, 3:8, 6], inside[2:7, 5, 4:9], inside[4, 3:8, 4:9]), strict=True):
        torch.testing.assert_close(plane, wanted)


@pytest.mark.parametrize("ndim", [2, 3])
def test_turned_patches_agree_with_scipy(ndim: int) -> None:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (3, 1, *(9, 11, 13)[:ndim])).astype(np.uint8)
    which, centres = np.array([2, 0, 0, 1]), random.uniform(0, 20, (4, ndim))
    matrices = np.eye(ndim) + random.normal(0, 0.3, (4, ndim, ndim))
    shape = PatchShape(4, 1.5, "zero")
    volumes = Volumes.of(torch.from_numpy(images), 2.0)
    found = sample_turned(
        volumes, torch.from_numpy(which), torch.from_numpy(centres).float(), shape,
        matrices=torch.from_numpy(matrices).float(),
    )  # fmt: skip
    offsets = shape.offsets_mm(ndim, torch.device("cpu")).numpy()
    positions = np.einsum("...j,pij->p...i", offsets, matrices) + centres.reshape(4, *[1] * (offsets.ndim - 1), ndim)
    np.testing.assert_allclose(found, _oracle(images / 255, which, positions / 2, "zero"), atol=2e-5)


def test_a_chunk_at_a_time_is_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = Volumes.of(torch.rand(1, 1, 20, 20, 20, generator=torch.Generator().manual_seed(0)), 1.0)
    centres = 20 * torch.rand(30, 3, generator=torch.Generator().manual_seed(1))
    which, shape = torch.zeros(30, dtype=torch.long), PatchShape(7, 1.0)
    whole = sample_patches(volumes, which, centres, shape)
    monkeypatch.setattr("landmark_baselines.planar_patches.CHUNK", {"cpu": 300})
    torch.testing.assert_close(sample_patches(volumes, which, centres, shape), whole, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.uint16])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[:4])
@pytest.mark.parametrize("flips", [(0, 0, 0), (1, 0, 1)])
def test_a_stored_volume_is_seen_as_the_prepared_one(
    kind: type, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    array = np.random.default_rng(3).integers(0, 200, (12, 10, 8)).astype(kind)
    direction = np.eye(3)[:, order] * np.where(flips, -1.0, 1.0)
    image = Image.of(array, [0.5] * 3, [3.0, -40.0, 7.0], direction)
    wanted = prepare(image, TASK, 0.5)
    volumes, first_mm = open_volume(image, TASK, 0.5, device=torch.device("cpu"))
    np.testing.assert_allclose(first_mm, wanted.origin_mm, atol=1e-9)
    assert volumes.shape == wanted.array.shape
    if kind is not np.uint16:
        assert volumes.values.numel() == array.size and volumes.values.dtype != torch.bool
        assert volumes.values.data_ptr() == array.ctypes.data  # nothing was copied
    middle = torch.tensor([[(count - 1) / 4 for count in wanted.size]])
    found = sample_patches(volumes, torch.tensor([0]), middle, PatchShape(7, 0.5))
    other = Volumes.of(torch.from_numpy(wanted.array)[None, None], 0.5)
    torch.testing.assert_close(
        found, sample_patches(other, torch.tensor([0]), middle, PatchShape(7, 0.5)), atol=1e-4, rtol=0
    )


def test_other_voxels_and_flat_images_are_prepared() -> None:
    coarse = Image.of(np.arange(1000, dtype=np.uint8).reshape(10, 10, 10), [0.8] * 3)
    volumes, _ = open_volume(coarse, TASK, 0.5, device=torch.device("cpu"))
    assert volumes.shape == (16, 16, 16)
    flat = Image.of(np.full((4, 4, 4), 7, np.uint8), [0.5] * 3)
    volumes, _ = open_volume(flat, TASK, 0.5, device=torch.device("cpu"))
    assert (sample_patches(volumes, torch.tensor([0]), torch.zeros(1, 3), PatchShape(3, 0.5)) == 0).all()
    sparse = np.zeros((40, 40, 40), np.uint8)
    sparse[20, 20, 20] = 200  # fewer voxels than a percentile sees
    image = Image.of(sparse, [0.5] * 3)
    volumes, _ = open_volume(image, TASK, 0.5, device=torch.device("cpu"))
    there = torch.tensor([[10.0, 10.0, 10.0]])
    found = sample_patches(volumes, torch.tensor([0]), there, PatchShape(3, 0.5))
    wanted = Volumes.of(torch.from_numpy(prepare(image, TASK, 0.5).array)[None, None], 0.5)
    assert torch.equal(found, sample_patches(wanted, torch.tensor([0]), there, PatchShape(3, 0.5)))


def test_the_percentiles_of_a_large_volume_are_close_to_those_of_all_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landmark_baselines.volumes.SAMPLED_VOXELS", 4000)
    array = np.random.default_rng(0).normal(100, 20, (40, 40, 40)).astype(np.float32)
    volumes, _ = open_volume(Image.of(array, [0.5] * 3), TASK, 0.5, device=torch.device("cpu"))
    low, high = np.percentile(array, (0.5, 99.5))
    assert abs(volumes.low - low) < 4 and abs(volumes.high - high) < 4
