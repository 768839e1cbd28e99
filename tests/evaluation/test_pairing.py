import json

import numpy as np
import pytest

from landmark_challenge.errors import ChallengeError
from landmark_evaluation.pairing import parse_duration_s, read_submission
from landmark_evaluation.references import open_reference


@pytest.fixture
def truth(kit, points, tmp_path):
    kit.dataset(tmp_path / "data", kit.task(), {"one": points}, splits={"case5": "train"})
    return open_reference(tmp_path / "data")


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize("key", ["socket", "interface"])
@pytest.mark.parametrize("extension", [".mha", ".nii.gz", ".JPG", ""])
def test_a_platform_folder_is_paired_by_image_name_in_any_order(kit, points, truth, tmp_path, key, extension):
    folder = kit.platform(tmp_path / "p", truth.task, points[:5], key=key, extension=extension)
    assert np.array_equal(read_submission(folder, truth).points_mm, points[:5])


def test_a_plain_folder_may_hold_cases_of_other_splits(kit, points, truth, tmp_path):
    submission = read_submission(kit.plain(tmp_path / "p", truth.task, points), truth)
    assert np.array_equal(submission.points_mm, points[:5])
    assert submission.beyond == 1


def test_points_are_matched_by_name_and_absent_ones_are_nan(kit, points, truth, tmp_path):
    folder = kit.plain(tmp_path / "p", truth.task, points)
    value = json.loads((folder / "case0.json").read_text())
    value["points"] = [{**value["points"][2], "probability": 0.5}, {**value["points"][0], "probability": 0.49}]
    write(folder / "case0.json", value)
    submission = read_submission(folder, truth)
    assert np.isnan(submission.points_mm[0, :2]).all()
    assert np.array_equal(submission.points_mm[0, 2], points[0, 2])
    assert submission.probability[0].tolist() == [0.49, 0.0, 0.5]


def test_run_times_are_read_per_case_and_kept_apart(kit, points, truth, tmp_path):
    folder = kit.platform(tmp_path / "p", truth.task, points[:5], exec_duration="P0DT00H01M03.250000S")
    jobs = json.loads((folder / "predictions.json").read_text())
    jobs[0] |= {"exec_duration": None, "invoke_duration": "PT0.5S"}
    write(folder / "predictions.json", jobs)
    submission = read_submission(folder, truth)
    assert submission.cold_s[:4].tolist() == [63.25] * 4 and np.isnan(submission.cold_s[4])
    assert submission.warm_s[4] == 0.5
    assert submission.runtime_s.tolist() == [63.25] * 4 + [0.5]


def test_covariances_are_read_beside_the_points(kit, points, truth, tmp_path):
    matrix = np.diag([1.0, 4.0, 9.0]).tolist()
    folder = kit.platform(tmp_path / "p", truth.task, points[:5], covariance={"b": matrix})
    covariance = read_submission(folder, truth).covariance_mm2
    assert covariance[3, 1].tolist() == matrix and np.isnan(covariance[:, 0]).all()


@pytest.mark.parametrize(
    "covariance",
    [
        {"toe": np.eye(3).tolist()},
        {"a": [[1, 0], [0, 1]]},
        {"a": [[1, 2, 0], [0, 1, 0], [0, 0, 1]]},
        {"a": np.diag([1.0, 1.0, -1.0]).tolist()},
        {"a": np.diag([1.0, 1.0, 1e300]).tolist()},
        {"a": "much"},
        [],
    ],
)
def test_a_covariance_that_is_none_is_refused(kit, points, truth, tmp_path, covariance):
    folder = kit.platform(tmp_path / "p", truth.task, points[:5], covariance={"b": np.eye(3).tolist()})
    write(folder / "pk-2/output/landmark-uncertainty.json", covariance)
    with pytest.raises(ChallengeError, match=r"pk-2/output/landmark-uncertainty\.json: "):
        read_submission(folder, truth)


def test_covariances_are_read_in_a_plain_folder_too_and_hostile_ones_refused(kit, points, truth, tmp_path):
    folder = kit.plain(tmp_path / "p", truth.task, points[:5])
    matrix = np.diag([1.0, 4.0, 9.0]).tolist()
    beside = folder / "case3.landmark-uncertainty.json"
    write(beside, {"b": matrix})
    covariance = read_submission(folder, truth).covariance_mm2
    assert covariance[3, 1].tolist() == matrix and np.isfinite(covariance).all(axis=(2, 3)).sum() == 1
    for hostile in ("[", "{}{}", '{"b": 1e400}', '{"b": [[1]]}', '{"b": null}', '{"a": 1, "a": 2}', "[" * 10_000, "[]"):
        write(beside, hostile)
        with pytest.raises(ChallengeError, match=r"case3\.landmark-uncertainty\.json: ") as refused:
            read_submission(folder, truth)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 500
    beside.unlink()
    beside.symlink_to(tmp_path / "data/dataset.json")
    with pytest.raises(ChallengeError, match="leads out of it"):
        read_submission(folder, truth)
    beside.rename(folder / "case9.landmark-uncertainty.json")
    with pytest.raises(ChallengeError, match="unknown case 'case9'"):
        read_submission(folder, truth)


def change_job(**change):
    def apply(jobs):
        jobs[1] |= change

    return apply


def drop_job(jobs):
    del jobs[1]


def double_job(jobs):
    jobs.append(jobs[0])


def no_landmarks_output(jobs):
    jobs[1]["outputs"] = jobs[1]["outputs"][1:]


def two_landmarks_outputs(jobs):
    jobs[1]["outputs"].append(jobs[1]["outputs"][0])


def set_relative_path(text):
    def apply(jobs):
        jobs[1]["outputs"][0]["socket"]["relative_path"] = text

    return apply


def set_image(image):
    def apply(jobs):
        jobs[1]["inputs"][0]["image"] = image

    return apply


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (drop_job, "wanted all 5 cases, got 4; the first missing is 'case3'"),
        (double_job, "wanted each case once, got 'case4' twice"),
        (set_image({"name": "case77.mha"}), "job 1: wanted a case of the reference, got the unknown case 'case77'"),
        (set_image({"name": 5}), "wanted image.name of 'medical-image', got 5"),
        (set_image(None), "wanted image.name of 'medical-image', got nothing"),
        (change_job(inputs=[]), "inputs: wanted the image 'medical-image', it is not there"),
        (change_job(inputs="x"), "wanted a list of inputs, got 'x'"),
        (change_job(outputs=[5]), "outputs: wanted an object, got 5"),
        (change_job(status="Failed"), "wanted status Succeeded, got 'Failed'"),
        (change_job(pk="../pk-3"), "wanted pk to be letters"),
        (change_job(pk=None), "wanted pk to be letters"),
        (change_job(exec_duration="soon"), "exec_duration: wanted a duration such as PT3.25S or null, got 'soon'"),
        (change_job(invoke_duration=3), "invoke_duration: wanted a duration"),
        (no_landmarks_output, "wanted the output anatomical-landmarks, it is not there"),
        (two_landmarks_outputs, "wanted 'anatomical-landmarks' once, got it 2 times"),
        (set_relative_path("../../pk-0/output/anatomical-landmarks.json"), "wanted a path inside the folder"),
        (set_relative_path("/etc/passwd"), "wanted a path inside the folder"),
        (set_relative_path("other.json"), "wanted the file 'other.json', there is none"),
        (set_relative_path("x" * 500), "there is none"),
        (set_relative_path("a\0b"), "wanted a path inside the folder"),
        (set_relative_path("\ud800"), "there is none"),
        (set_relative_path(3), "wanted relative_path of 'anatomical-landmarks', got 3"),
    ],
)
def test_a_broken_list_of_jobs_is_refused(kit, points, truth, tmp_path, break_it, message):
    folder = kit.platform(tmp_path / "p", truth.task, points[:5])
    jobs = json.loads((folder / "predictions.json").read_text())
    break_it(jobs)
    write(folder / "predictions.json", jobs)
    with pytest.raises(ChallengeError) as caught:
        read_submission(folder, truth)
    assert message in str(caught.value)


GOOD = {"name": "x", "type": "Multiple points", "version": {"major": 1, "minor": 0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**GOOD, "points": [{"name": "toe", "point": [0, 0, 0]}]}, "got the unknown name 'toe'"),
        ({**GOOD, "points": [{"name": "a", "point": [0, 0, 0]}] * 2}, "wanted each landmark once, got 'a' twice"),
        ({**GOOD, "points": [{"name": "a", "point": [0, 0]}]}, "wanted point [x, y, z] in mm, got a list of 2"),
        ({**GOOD, "points": [{"name": "a", "point": [0, 0, None]}]}, "wanted a number, got nothing"),
        ({**GOOD, "points": [{"point": [0, 0, 0]}]}, "wanted a name, got nothing"),
        ({**GOOD, "type": "Point", "points": []}, "wanted type 'Multiple points', got 'Point'"),
        ('{"points": [{"name": "a", "point": [NaN, 0, 0]}]}', "NaN"),
        ('{"points": [{"name": "a", "point": [0, 0, 0]', "wanted JSON, got an error at line 1"),
        (json.dumps({**GOOD, "points": [{"name": "a", "point": [0, 0, 1]}]}).replace("1]", "1e400]"), "finite"),
        ("", "wanted JSON"),
        (" " * (4 * 1024**2 + 1), "wanted at most"),
    ],
)
def test_a_broken_points_file_is_refused_by_name(kit, points, truth, tmp_path, content, message):
    folder = kit.platform(tmp_path / "p", truth.task, points[:5])
    write(folder / "pk-2/output/anatomical-landmarks.json", content)
    with pytest.raises(ChallengeError) as caught:
        read_submission(folder, truth)
    assert "pk-2/output/anatomical-landmarks.json" in str(caught.value) and message in str(caught.value)


def test_links_that_leave_the_folder_are_not_followed(kit, points, truth, tmp_path):
    folder = kit.platform(tmp_path / "p", truth.task, points[:5])
    target = folder / "pk-2/output/anatomical-landmarks.json"
    (tmp_path / "outside.json").write_text(target.read_text())
    target.unlink()
    target.symlink_to(tmp_path / "outside.json")
    with pytest.raises(ChallengeError, match="leads out of it"):
        read_submission(folder, truth)
    target.unlink()
    target.symlink_to(target)
    with pytest.raises(ChallengeError, match="there is none"):
        read_submission(folder, truth)
    plain = kit.plain(tmp_path / "plain", truth.task, points)
    (plain / "case1.json").unlink()
    (plain / "case1.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ChallengeError, match="leads out of it"):
        read_submission(plain, truth)


def test_the_folder_itself_may_be_a_link(kit, points, truth, tmp_path):
    kit.platform(tmp_path / "p", truth.task, points[:5])
    (tmp_path / "input").symlink_to(tmp_path / "p")
    assert np.array_equal(read_submission(tmp_path / "input", truth).points_mm, points[:5])


def test_plain_folders_are_complete_and_hold_nothing_unknown(kit, points, truth, tmp_path):
    folder = kit.plain(tmp_path / "p", truth.task, points[:4])
    with pytest.raises(ChallengeError, match="wanted all 5 cases, got 4; the first missing is 'case4'"):
        read_submission(folder, truth)
    (folder / "case99.json").write_text("{}")
    with pytest.raises(ChallengeError, match="unknown case 'case99'"):
        read_submission(folder, truth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ChallengeError, match="got neither"):
        read_submission(tmp_path / "empty", truth)
    with pytest.raises(ChallengeError, match="wanted a folder of predictions, there is none"):
        read_submission(tmp_path / "nowhere", truth)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT22M17S", 1337.0), ("P0DT00H00M03.250000S", 3.25), ("P1DT00H00M01S", 86401.0), ("PT0S", 0.0)],
)
def test_durations_come_as_the_platform_writes_them(text, seconds):
    assert parse_duration_s(text, source="t") == seconds


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "PT-1S", "3", "PT1e3S", "P1Y", "PT3S\n", "PT\u0663S", "x" * 10_000_000, True, []]
)
def test_other_durations_are_refused(text):
    with pytest.raises(ChallengeError, match="wanted a duration"):
        parse_duration_s(text, source="t")


def test_a_plain_folder_may_carry_covariances(kit, points, tmp_path):
    task = kit.task()
    data = kit.dataset(tmp_path / "data", task, {"one": points})
    folder = kit.plain(tmp_path / "plain", task, points)
    (folder / "case2.landmark-uncertainty.json").write_text(json.dumps({"b": np.diag([1.0, 4.0, 9.0]).tolist()}))
    given = read_submission(folder, open_reference(data.folder))
    assert given.covariance_mm2[2, 1].tolist() == np.diag([1.0, 4.0, 9.0]).tolist()
    assert np.isfinite(given.covariance_mm2).all(axis=(2, 3)).sum() == 1
    (folder / "case2.json").unlink()
    with pytest.raises(ChallengeError, match=r"wanted the points of this case beside it, case2\.json is not there"):
        read_submission(folder, open_reference(data.folder))
