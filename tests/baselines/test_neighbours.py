"""Jumps and vertebral heights against hand-made spines."""

import csv

import numpy as np
import pytest

from landmark_baselines.ablation import Row
from landmark_baselines.neighbours import jumps, spine_measures, vertebral_heights_mm
from landmark_baselines.study import Result
from landmark_baselines.study_tables import as_csv, measure_table
from landmark_challenge.task import load_task, threshold_key

NAN = (np.nan,) * 3


def test_a_point_jumps_where_another_reference_is_nearer() -> None:
    reference = np.array([(0.0, 0.0, 0.0), (0.0, 10.0, 0.0), (0.0, 20.0, 0.0)])
    found = np.array([(0.0, 4.9, 0.0), (0.0, 15.1, 0.0), (50.0, 20.0, 0.0)])
    assert jumps(found, reference).tolist() == [False, True, False]  # far, but nothing else is nearer
    assert jumps(reference, reference).tolist() == [False] * 3
    assert jumps(found[:1], reference[:1]).tolist() == [False]


def test_what_is_not_there_neither_jumps_nor_is_jumped_to() -> None:
    reference = np.array([(0.0, 0.0, 0.0), NAN, (0.0, 20.0, 0.0)])
    found = np.array([(0.0, 19.0, 0.0), (0.0, 0.0, 0.0), NAN])
    assert jumps(found, reference).tolist() == [True, False, False]


def test_the_order_of_landmarks_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    reference, order = generator.uniform(0, 50, (30, 3)), generator.permutation(30)
    found = reference + generator.normal(0, 6, (30, 3))
    expected = [np.linalg.norm(reference - point, axis=1).argmin() != i for i, point in enumerate(found)]
    assert jumps(found, reference).tolist() == expected and any(expected) and not all(expected)
    assert (jumps(found[order], reference[order]) == jumps(found, reference)[order]).all()


def test_heights_are_of_the_own_vertebra() -> None:
    names = ["t1-upper-left", "t1-upper-right", "t1-lower-left", "t1-lower-right", "disc-t12-l1"]
    points = np.array([(0.0, 0, 0), (9.0, 0, 0), (0.0, 3, 0), (9.0, 4, 3), (0.0, 0, 0)])
    heights = vertebral_heights_mm(names, points)
    assert heights[:4].tolist() == [4.0] * 4 and np.isnan(heights[4])  # sides of 3 and 5 mm


def _case(names: tuple[str, ...], reference: np.ndarray, found: np.ndarray) -> dict[str, object]:
    rows = zip(names, reference.tolist(), found.tolist(), strict=True)
    return {"points": [{"name": name, "reference_mm": own, "predicted_mm": point} for name, own, point in rows]}


def test_measures_of_a_spine_whose_points_all_fall_one_vertebra() -> None:
    names = load_task("spine-xray-68").names
    level, corner = np.divmod(np.arange(68), 4)
    reference = np.stack([30.0 * (corner % 2), 25.0 * level + 20.0 * (corner // 2), 0.0 * level], axis=1)
    fallen = reference + [0.0, 25.0, 0.0]
    measures = spine_measures(names, [_case(names, reference, fallen), _case(names, reference, reference)])
    # the lowest vertebra's upper corners lie 5 mm below its own lower ones, so these four are nearest of all
    assert measures["jumps to its like"] == 64
    assert measures["neighbour jumps"] == 66 and measures["neighbour jumps (% of points)"] == pytest.approx(66 / 1.36)
    assert measures["mean error (vertebral heights)"] == pytest.approx(25 / 20 / 2)
    assert measures["within half a vertebral height (%)"] == pytest.approx(50)


def test_a_step_over_the_disc_is_no_jump_to_its_like() -> None:
    names = load_task("spine-xray-68").names
    level, corner = np.divmod(np.arange(68), 4)
    reference = np.stack([30.0 * (corner % 2), 25.0 * level + 20.0 * (corner // 2), 0.0 * level], axis=1)
    measures = spine_measures(names, [_case(names, reference, reference + [0.0, 3.0, 0.0])])
    assert measures["jumps to its like"] == 0
    assert measures["neighbour jumps"] == 2 * 16  # the lower corners, from which the next vertebra is 2 mm away


def test_other_tasks_have_no_heights() -> None:
    names = load_task("ceph-19").names
    reference = np.arange(57, dtype=float).reshape(19, 3)
    measures = spine_measures(names, [_case(names, reference, reference)])
    assert measures == {"neighbour jumps": 0, "neighbour jumps (% of points)": 0.0}


def test_a_study_shows_the_measures_of_its_method() -> None:
    task = load_task("spine-mr-11")
    figures = {"median": 1.0, "iqr": 1.0, "mean": 2.0, "sd": 1.0, "p95": 4.0}
    sdr = {threshold_key(threshold): 0.5 for threshold in task.success_thresholds_mm}
    metrics = {"aggregates": {"mre_mm": figures, "sdr": sdr, "n_missing": 0, "landmarks": {}}}
    results = [
        Result(Row(name), metrics, np.zeros(3), 1.0, {"neighbour jumps": count, "mean error (heights)": count / 7})
        for name, count in (("heatmaps", 12), ("product", 3))
    ]
    rows = list(csv.DictReader(as_csv(results, task).splitlines()))
    assert [row["neighbour_jumps"] for row in rows] == ["12", "3"]
    assert float(rows[1]["mean_error_heights"]) == pytest.approx(3 / 7, rel=1e-5)
    assert measure_table(results).splitlines()[2:] == ["| heatmaps | 12 | 1.71 |", "| product | 3 | 0.43 |"]
