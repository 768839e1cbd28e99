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
