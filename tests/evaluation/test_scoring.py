import json

import jsonschema
import numpy as np
import pytest

from landmark_challenge.errors import ChallengeError
from landmark_challenge.reference import write_reference
from landmark_challenge.schemas import json_schemas
from landmark_evaluation.details import details
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.results import Metrics
from landmark_evaluation.scoring import evaluate_submission
from landmark_evaluation.tables import protocol_line


@pytest.fixture
def offsets():
    """(6, 3, 3): the submission's error vectors; radial errors 1, 3 and 5 mm for landmarks a, b and c."""
    return np.broadcast_to(np.array([[1.0, 0, 0], [0, 3.0, 0], [0, 3.0, 4.0]]), (6, 3, 3))


def run(kit, tmp_path, reference, predicted, *, task=None, **dataset):
    task = task or kit.task()
    data = kit.dataset(tmp_path / "data", task, {"one": reference}, **dataset)
    truth = open_reference(data.folder)
    return evaluate_submission(read_submission(kit.platform(tmp_path / "p", task, predicted), truth), truth)


def test_every_aggregate_of_a_small_example(kit, tmp_path, points, offsets):
    predicted = points + offsets
    predicted[0, 1] = np.nan
    reference = points.copy()
    reference[1, 2] = np.nan
    evaluation = run(kit, tmp_path, reference, predicted, not_assessed={"case2": ["a"]})
    found = evaluation.metrics
    # 5 errors of 1 mm, 5 of 3 mm and one missing at 50 mm, 5 of 5 mm.
    errors = np.array([1.0] * 5 + [3.0] * 5 + [50.0] + [5.0] * 5)
    assert found.protocol.n_points == 16 and found.protocol.n_cases == 6
    assert found.aggregates.mre_mm.mean == pytest.approx(errors.mean())
    assert found.aggregates.mre_mm.sd == pytest.approx(errors.std(ddof=1))
    assert found.aggregates.sdr == {"1_0mm": 0.0, "2_0mm": 5 / 16, "4_0mm": 10 / 16}
    assert (found.aggregates.n_missing, found.aggregates.n_false_alarms) == (1, 1)
    assert found.aggregates.landmarks["b"].n_missing == 1
    assert found.aggregates.landmarks["c"].n_false_alarms == 1
    assert found.aggregates.landmarks["a"].mre_mm.mean == pytest.approx(1.0)
    states = {case["case"]: [p["state"] for p in case["points"]] for case in details(evaluation)["cases"]}
    assert states["case0"] == ["found", "missing", "found"]
    assert states["case1"] == ["found", "found", "false-alarm"]
    assert states["case2"] == ["not-assessed", "found", "found"]


def test_the_result_is_json_without_dots_in_keys_and_reads_back(kit, tmp_path, points, offsets):
    value = run(kit, tmp_path, points, points + offsets).metrics.to_json()
    assert Metrics.model_validate(json.loads(json.dumps(value, allow_nan=False))).to_json() == value

    def keys(part):
        if isinstance(part, dict):
            yield from part
            for inner in part.values():
                yield from keys(inner)

    assert not [key for key in keys(value) if "." in key]
    low, high = value["aggregates"]["confidence"]["mre_mm"]["mean"]
    assert low <= value["aggregates"]["mre_mm"]["mean"] <= high


def test_a_two_dimensional_task_leaves_z_out(kit, tmp_path, points, offsets):
    points = points * [1, 1, 0]
    found = run(kit, tmp_path, points, points + offsets, task=kit.task(dimension=2)).metrics
    assert found.aggregates.landmarks["c"].mre_mm.mean == pytest.approx(3.0)


def test_a_landmark_that_is_nowhere_has_no_row(kit, tmp_path, points, offsets):
    reference = points.copy()
    reference[:, 1] = np.nan
    found = run(kit, tmp_path, reference, points + offsets).metrics
    assert set(found.aggregates.landmarks) == {"a", "c"}
    assert found.aggregates.n_false_alarms == 6


def test_a_reference_without_any_point_is_refused(kit, tmp_path, points):
    with pytest.raises(ChallengeError, match="wanted at least one landmark to score"):
        run(kit, tmp_path, np.full_like(points, np.nan), points)


def test_leaving_points_out_never_improves_the_mean(kit, tmp_path, points):
    far = points + [200.0, 0, 0]
    without = np.full_like(points, np.nan)
    given = run(kit, tmp_path / "given", points, far).metrics.aggregates
    left = run(kit, tmp_path / "left", points, without).metrics.aggregates
    assert given.mre_mm.mean == left.mre_mm.mean == 50.0
    assert (given.n_missing, left.n_missing) == (0, 18)


def test_a_rater_of_the_mean_is_scored_against_the_others(kit, tmp_path, points):
    raters = {"one": points, "two": points + [2.0, 0, 0], "three": points + [4.0, 0, 0]}
    task = kit.task(observers=("one", "two", "three"))
    data = kit.dataset(tmp_path / "data", task, raters)
    truth = open_reference(data.folder)
    found = evaluate_submission(read_submission(data.folder / "landmarks/one", truth), truth).metrics
    assert found.aggregates.mre_mm.mean == pytest.approx(3.0), "against (two + three) / 2, not against the mean of all"
    assert found.protocol.reference == "mean of two, three"
    assert (found.protocol.left_out, found.protocol.declared_reference) == ("one", "mean of one, two, three")
    assert "reference: mean of two, three (one is part of the mean of one, two, three" in protocol_line(found)
    senior = open_reference(data.folder, observer="two")
    found = evaluate_submission(read_submission(data.folder / "landmarks/one", senior), senior).metrics
    assert found.aggregates.mre_mm.mean == pytest.approx(2.0)
    assert found.protocol.reference == "two"


def test_protected_results_hold_headlines_alone(kit, tmp_path, points, offsets):
    task = kit.task()
    data = kit.dataset(tmp_path / "data", task, {"one": points})
    write_reference(data, tmp_path / "hidden")
    truth = open_reference(tmp_path / "hidden")
    submission = read_submission(kit.platform(tmp_path / "p", task, points + offsets), truth)
    value = evaluate_submission(submission, truth).metrics.to_json()["aggregates"]
    assert set(value["mre_mm"]) == {"mean", "median", "iqr"}
    assert set(value) == {"mre_mm", "sdr", "n_missing", "n_false_alarms", "noise"}


@pytest.mark.parametrize("disclosure", ["open", "protected"])
def test_results_hold_to_the_published_schema(kit, tmp_path, points, offsets, disclosure):
    data = kit.dataset(tmp_path / "data", kit.task(), {"one": points})
    write_reference(data, tmp_path / "hidden", disclosure=disclosure)
    truth = open_reference(tmp_path / "hidden")
    submission = read_submission(kit.platform(tmp_path / "p", truth.task, points + offsets), truth)
    value = json.loads(json.dumps(evaluate_submission(submission, truth).metrics.to_json()))
    jsonschema.validate(value, json_schemas()["metrics"], cls=jsonschema.Draft202012Validator)


def test_nobody_is_taken_for_a_rater_who_marked_nothing(kit, points, tmp_path):
    raters = {"one": points, "two": points + 1.0, "three": np.full_like(points, np.nan)}
    consensus = {**raters, "consensus": points + 0.5}
    data = kit.dataset(tmp_path / "data", kit.task(observers=("consensus",)), consensus)
    truth = open_reference(data.folder)
    assert "three" in truth.members
    found = evaluate_submission(read_submission(kit.plain(tmp_path / "p", data.task, raters["three"]), truth), truth)
    assert found.metrics.protocol.left_out is None and found.metrics.aggregates.n_missing == points[..., 0].size
