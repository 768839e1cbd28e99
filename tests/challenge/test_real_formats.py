"""The public sets import in one command each, and their points lie where the anatomy is."""

import os
from pathlib import Path

import numpy as np
import pytest

from landmark_challenge.check import check
from landmark_challenge.dataset import Dataset
from landmark_challenge.formats import import_dataset
from landmark_challenge.formats.pairing import Layout
from landmark_challenge.task import load_task

pytestmark = pytest.mark.real_data
AFIDS = load_task("brain-afids-32")


@pytest.fixture
def real() -> Path:
    root = os.environ.get("LANDMARKS_REAL_DATA")
    if not root:
        pytest.skip("LANDMARKS_REAL_DATA is not set")
    return Path(root)


def kinds(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for finding in check(folder)[0]:
        found.setdefault(finding.kind, set()).add(finding.landmark or finding.case)
    return found


def test_hippocampus_crops_are_put_at_random_places(real, tmp_path) -> None:
    task = load_task("hippocampus-5")
    dataset = import_dataset(
        "csv", real / "msd-hippocampus", output=tmp_path / "set", task=task, layout=Layout(split="0.8,0.1,0.1")
    )
    assert [len(dataset.cases(split=split)) for split in ("train", "validation", "test")] == [160, 20, 20]
    tips = []
    for case in dataset.cases():
        assert dataset.geometry(case.name).size == (64, 64, 64)
        tips.append(dataset.landmarks(case.name).point_mm("head-anterior-tip"))
        # Anterior is towards smaller y in LPS.
        assert tips[-1][1] < dataset.landmarks(case.name).point_mm("tail-posterior-tip")[1]
    assert np.ptp(tips, axis=0).min() > 15
    assert kinds(tmp_path / "set") == {}


def test_afids_templates_of_three_orientations(real, tmp_path) -> None:
    dataset: Dataset = import_dataset(
        "slicer", real / "afids-templates", output=tmp_path / "set", task=AFIDS, layout=Layout(split="test")
    )
    assert len(dataset.cases()) == 3
    for case in dataset.cases():
        points, image = dataset.landmarks(case.name), dataset.image(case.name)
        assert image.contains(points.points_mm).all()
        ac, pc = points.point_mm("ac"), points.point_mm("pc")
        assert 26 < np.linalg.norm(ac - pc) < 30 and ac[1] < pc[1] and abs(ac[0] - pc[0]) < 1
        # Right is towards smaller x in LPS, and both commissures are white matter beside dark ventricle.
        assert points.point_mm("r-mb")[0] < points.point_mm("l-mb")[0]
        x, y, z = np.rint(image.mm_to_index([ac])[0]).astype(int)
        assert image.array[z, y, x] > 1.1 * image.array[z - 3 : z + 4, y - 6 : y + 7, x].min()


def test_afids_raters_without_images_agree_on_a_consensus(real, tmp_path) -> None:
    dataset = import_dataset("slicer", real / "afids-oasis1-raters", output=tmp_path / "set", task=AFIDS)
    assert len(dataset.cases()) == 36 and not dataset.has_images
    spread = [
        np.linalg.norm(dataset.landmarks(case.name, observer=who).aligned_mm(AFIDS.names) - consensus, axis=1).mean()
        for case in dataset.cases()
        for consensus in [dataset.landmarks(case.name).aligned_mm(AFIDS.names)]
        for who in dataset.observers
        if who.startswith("rater") and dataset.landmarks_path(case.name, observer=who).is_file()
    ]
    assert len(spread) == 108 and np.mean(spread) < 2


def test_aasce_has_one_image_with_points_outside(real, tmp_path) -> None:
    dataset = import_dataset("aasce2019", real / "aasce2019-spine", output=tmp_path / "set", spacing_mm=(0.3, 0.3))
    assert len(dataset.cases()) == 481
    outside = [finding.case for finding in check(tmp_path / "set")[0] if finding.kind == "outside"]
    assert set(outside) == {"sunhl-1th-25-Jul-2016-49 A AP"}


def test_the_cephalograms_known_faults_are_found(real, tmp_path) -> None:
    import_dataset("isbi2015", real / "isbi2015-ceph", output=tmp_path / "set")
    findings = check(tmp_path / "set")[0]
    assert {finding.landmark for finding in findings if finding.kind == "raters" and not finding.case} == {
        "soft-tissue-pogonion"
    }
    twins = {finding.text for finding in findings if finding.kind == "identical"}
    assert len(twins) == 2 and any("038 (excluded) = 283 (test)" in text for text in twins)
    assert not [finding for finding in findings if finding.severity == "error"]
