"""Known numbers on the two raters of the ISBI 2015 cephalograms."""

import os
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.formats import import_dataset
from landmark_challenge.landmarks import Landmarks
from landmark_challenge.task import load_task
from landmark_evaluation.observers import distances_mm
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.scoring import evaluate_submission

pytestmark = pytest.mark.real_data


def pixels(rater):
    """(300, 19, 2) integer pixels of a rater, straight from the archive's text files."""
    root = os.environ.get("LANDMARKS_REAL_DATA")
    if not root:
        pytest.skip("LANDMARKS_REAL_DATA is not set")
    folder = Path(root) / "isbi2015-ceph" / "AnnotationsByMD" / f"400_{rater}"
    lines = [(folder / f"{number:03d}.txt").read_text().split()[:19] for number in range(1, 301)]
    return np.array([[line.split(",") for line in case] for case in lines]).astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    task = load_task("ceph-19")
    raters = {rater: pixels(rater) for rater in ("senior", "junior")}
    folder = tmp_path_factory.mktemp("ceph") / "data"
    with DatasetWriter(folder, task, source="ISBI 2015", licence="research use") as writer:
        for row in range(300):
            points = {
                rater: Landmarks(task.names, np.pad(found[row] * 0.1, ((0, 0), (0, 1))))
                for rater, found in raters.items()
            }
            part = "part1" if row < 150 else "part2"
            writer.add(Case(f"{row + 1:03d}", "test", f"{row + 1:03d}", part), None, points)
    return folder


def evaluate(folder, rater, **choice):
    truth = open_reference(folder, **choice)
    return evaluate_submission(read_submission(folder / "landmarks" / rater, truth), truth)


@pytest.mark.parametrize(
    ("part", "mean", "sd", "success"),
    [
        ("part1", 2.3534, 2.5964, [60.386, 67.895, 73.509, 82.035]),
        ("part2", 2.3631, 2.1637, [55.193, 63.684, 70.947, 81.439]),
    ],
)
def test_junior_against_senior(folder, part, mean, sd, success):
    found = evaluate(folder, "junior", subset=part, observer="senior").metrics.aggregates
    assert found.mre_mm.mean == pytest.approx(mean, abs=5e-5)
    assert found.mre_mm.sd == pytest.approx(sd, abs=5e-5)
    shown = [100 * found.sdr[key] for key in ("2_0mm", "2_5mm", "3_0mm", "4_0mm")]
    assert shown == pytest.approx(success, abs=5e-4)


def test_ties_are_exact_where_floating_point_is_not(folder):
    evaluation = evaluate(folder, "junior", subset="part2", observer="senior")
    squared = ((pixels("junior") - pixels("senior"))[150:] ** 2).sum(axis=2)  # in (0.1 mm)^2: integers, so exact
    assert ((squared < 400).sum(), (squared <= 400).sum(), squared.size) == (1573, 1583, 2850)
    assert round(evaluation.metrics.aggregates.sdr["2_0mm"] * 2850) == 1573
    for threshold in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0):
        key = f"{threshold:.1f}mm".replace(".", "_")
        exact = (squared < round(100 * threshold**2)).mean()
        assert evaluation.metrics.aggregates.sdr[key] == pytest.approx(exact, abs=1e-12), key
    assert (evaluation.scores.error_mm < 2.0).sum() == 1576, "what naive float64 makes of it"


def test_the_senior_against_the_mean_is_scored_against_the_junior(folder):
    found = evaluate(folder, "senior", subset="part2").metrics
    assert found.aggregates.mre_mm.mean == pytest.approx(2.3631, abs=5e-5)
    assert (found.protocol.reference, found.protocol.left_out) == ("junior", "senior")


def lps_mm(path):
    """(32, 3) points of a Slicer file in LPS, in the order of the numbers 1 to 32: an independent few-line reader."""
    lines = [line.split(",") for line in path.read_text().splitlines() if not line.startswith("#")]
    by_number = {int(line[11]): [-float(line[1]), -float(line[2]), float(line[3])] for line in lines}
    return np.array([by_number[number] for number in range(1, 33)])


def test_inter_rater_distances_of_the_oasis_fiducials(tmp_path):
    root = os.environ.get("LANDMARKS_REAL_DATA")
    if not root:
        pytest.skip("LANDMARKS_REAL_DATA is not set")
    source = Path(root) / "afids-oasis1-raters"
    task = load_task("brain-afids-32")
    import_dataset("slicer", source, output=tmp_path / "data", task=task)
    dataset = Dataset(tmp_path / "data")
    assert len(dataset.cases()) == 36
    expected = {}
    for path in sorted(source.rglob("*.fcsv")):
        case, rater, session = re.match(r"(.+?)_(Rater\d+)_(\d)_", path.name).groups()
        expected.setdefault(case, {})[f"{rater.lower()}-{session}"] = path
    # Three each, but for one subject whose third file stands under another subject's name.
    assert sorted(len(raters) for raters in expected.values()) == [2, *[3] * 34, 4]
    found = {}
    for split in ("train", "validation", "test"):
        truth = open_reference(dataset.folder, split=split)
        for first, second in combinations([name for name in truth.observers if name != "consensus"], 2):
            distances = distances_mm(truth.observer_mm(first), truth.observer_mm(second), truth)
            for case, row in zip(truth.cases, distances, strict=True):
                if np.isfinite(row).any():
                    found[case.name, first, second] = row
    assert len(found) == 34 * 3 + 1 + 6
    skipped = 0
    for (case, first, second), row in found.items():
        try:
            a, b = lps_mm(expected[case][first]), lps_mm(expected[case][second])
        except (KeyError, ValueError):
            skipped += 1  # a rater mistyped a number; the importer reads the description beside it
            continue
        assert row == pytest.approx(np.linalg.norm(a - b, axis=1), abs=1e-9)
    assert skipped <= 6
    per_landmark = np.nanmean(list(found.values()), axis=0)
    assert set(np.argsort(per_landmark)[:2].tolist()) == {0, 1}, "the two commissures are the easiest"
