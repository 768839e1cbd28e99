"""Small data that several files use."""

from pathlib import Path

import pytest

from landmark_challenge.phantoms import write_phantoms


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cephalogram phantoms: 7 train, 2 validation, 3 test."""
    folder = tmp_path_factory.mktemp("phantoms") / "ceph-19"
    write_phantoms("ceph-19", folder, cases=12, seed=7)
    return folder


@pytest.fixture(scope="session")
def tiny_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four CT phantoms of the aortic root: 2 train, 1 validation, 1 test; some stored oblique or flipped."""
    folder = tmp_path_factory.mktemp("phantoms") / "ccta-8"
    write_phantoms("ccta-8", folder, cases=4, seed=7)
    return folder
