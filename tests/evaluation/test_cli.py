import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from landmark_challenge.cli import cli, main
from landmark_challenge.errors import ChallengeError
from landmark_challenge.reference import write_reference
from landmark_evaluation import container


@pytest.fixture
def case(kit, points, tmp_path):
    task = kit.task()
    data = kit.dataset(tmp_path / "data", task, {"one": points}, splits={"case5": "train"})
    kit.platform(tmp_path / "p", task, (points + [1.0, 2.0, 2.0])[:5], invoke_duration="PT0.5S")
    return data


def test_evaluate_writes_the_result_and_prints_the_protocol(case, tmp_path):
    outcome = CliRunner().invoke(
        cli, ["evaluate", str(tmp_path / "p"), str(case.folder), "--out", str(tmp_path / "r"), "--no-report"]
    )
    assert outcome.exit_code == 0, outcome.output
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    assert metrics["aggregates"]["mre_mm"]["mean"] == pytest.approx(3.0)
    assert metrics["aggregates"]["runtime_s"] == {"mean": 0.5, "median": 0.5, "p95": 0.5, "max": 0.5}
    details = json.loads((tmp_path / "r/details.json").read_text())
    assert [c["case"] for c in details["cases"]] == [f"case{k}" for k in range(5)]
    assert details["cases"][0]["points"][0]["error_mm"] == pytest.approx(3.0)
    first = outcome.output.splitlines()[0]
    assert "reference: one" in first and "5 cases, 15 points" in first and "error < threshold" in first


def test_a_used_folder_keeps_nothing_of_the_earlier_result(case, tmp_path):
    out = tmp_path / "r"
    command = ["evaluate", str(tmp_path / "p"), str(case.folder), "--out", str(out)]
    assert CliRunner().invoke(cli, command).exit_code == 0
    parts = {path.name for path in out.iterdir()}
    assert parts == {"metrics.json", "details.json", "report.html", "tables", "figures"}
    (out / "tables/own.csv").write_text("kept")
    write_reference(case, tmp_path / "hidden", disclosure="protected")
    command[2] = str(tmp_path / "hidden")
    outcome = CliRunner().invoke(cli, [*command, "--no-report"])
    assert outcome.exit_code == 0, outcome.output
    assert sorted(path.name for path in out.rglob("*")) == ["metrics.json", "own.csv", "tables"]


def test_an_interrupted_evaluation_leaves_no_metrics(case, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    command = ["evaluate", str(tmp_path / "p"), str(case.folder), "--out", str(tmp_path / "r")]
    assert CliRunner().invoke(cli, [*command, "--no-report"]).exit_code == 0
    monkeypatch.setattr("landmark_evaluation.report.page.report_files", stop)
    assert CliRunner().invoke(cli, command).exit_code == 130
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"metrics.json", "details.json"}, "nothing is lost"
    monkeypatch.undo()
    monkeypatch.setattr("landmark_evaluation.cli.write_files", stop)
    assert CliRunner().invoke(cli, command).exit_code == 130
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["details.json"]


def test_images_that_are_not_there_are_refused_before_anything_is_written(case, tmp_path):
    command = ["evaluate", str(tmp_path / "p"), str(case.folder), "--out", str(tmp_path / "r")]
    outcome = CliRunner().invoke(cli, [*command, "--images", str(tmp_path / "nosuch")])
    assert isinstance(outcome.exception, ChallengeError) and "--images: wanted a dataset" in str(outcome.exception)
    assert not (tmp_path / "r").exists()


def test_scores_do_not_hang_on_an_image_for_the_report(case, tmp_path):
    (case.folder / "images").mkdir()
    (case.folder / "images/case0.mha").write_text("junk")
    command = ["evaluate", str(tmp_path / "p"), str(case.folder), "--out", str(tmp_path / "r")]
    outcome = CliRunner().invoke(cli, command)
    assert outcome.exit_code == 0 and "the report shows no images: " in outcome.stderr
    assert (tmp_path / "r/metrics.json").is_file() and (tmp_path / "r/report.html").is_file()
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.*")}
    asked = CliRunner().invoke(cli, [*command, "--images", str(case.folder)])
    assert isinstance(asked.exception, ChallengeError), "they were asked for"
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.*")} == before, "nothing is lost"


def test_bad_input_ends_with_code_2_one_line_and_no_result(case, tmp_path, capsys):
    (tmp_path / "p/pk-0/output/anatomical-landmarks.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path / "p"), str(case.folder), "--out", str(tmp_path / "r")])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.count("\n") == 1 and "anatomical-landmarks.json: wanted JSON" in captured.err
    assert not (tmp_path / "r").exists()


@pytest.fixture
def mounts(case, tmp_path, monkeypatch):
    write_reference(case, tmp_path / "truth", disclosure="open")
    for name, folder in (("INPUT", "p"), ("GROUND_TRUTH", "truth"), ("OUTPUT", "output")):
        monkeypatch.setattr(container, name, tmp_path / folder)
    return tmp_path


def test_the_container_writes_metrics_alone(mounts):
    assert container.main([]) == 0
    assert [path.name for path in (mounts / "output").iterdir()] == ["metrics.json"]
    assert json.loads((mounts / "output/metrics.json").read_text())["aggregates"]["mre_mm"]["mean"] == pytest.approx(3)


def test_the_container_writes_details_where_the_organiser_asks_for_them(mounts):
    path = mounts / "truth/reference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "details": True}))
    assert container.main([]) == 0
    assert sorted(path.name for path in (mounts / "output").iterdir()) == ["details.json", "metrics.json"]


def test_the_container_tells_a_participant_what_is_wrong_with_the_submission(mounts, capsys):
    (mounts / "p/pk-1/output/anatomical-landmarks.json").write_text("[]")
    assert container.main([]) == 2
    assert "pk-1/output/anatomical-landmarks.json: wanted" in capsys.readouterr().err
    assert not (mounts / "output").exists()


def test_the_container_quotes_nothing_of_a_broken_reference(mounts, capsys):
    path = mounts / "truth/landmarks/reference/case1.json"
    path.write_text(path.read_text().replace('"version"', '"secret-31.4159"'))
    assert container.main([]) == 2
    err = capsys.readouterr().err
    assert "31.4159" not in err and "case1" not in err and "tell the organisers" in err


def test_the_container_quotes_nothing_of_a_broken_rater(mounts, capsys):
    path = mounts / "truth/landmarks/one/case1.json"
    value = json.loads(path.read_text())
    value["points"][0]["point"][0] = "31.4159"
    path.write_text(json.dumps(value))
    assert container.main([]) == 2
    err = capsys.readouterr().err
    assert "31.4159" not in err and "case1" not in err and "tell the organisers" in err


def test_the_container_names_an_unexpected_failure_by_type_alone(mounts, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("reference at 31.4159 mm")

    monkeypatch.setattr(container, "evaluate_submission", fail)
    assert container.main([]) == 1
    err = capsys.readouterr().err
    assert "31.4159" not in err and "RuntimeError" in err


def test_the_container_serves_calls(mounts, monkeypatch):
    calls = []
    monkeypatch.setattr(container, "serve_http", lambda handler: calls.append(handler()))
    assert container.main(["invoke"]) == 0 and calls == [None]
    assert (mounts / "output/metrics.json").is_file()
    assert container.main(["serve"]) == 2


def test_the_plain_path_imports_nothing_heavy():
    code = "import sys, landmark_evaluation.cli; print(sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("pandas", "scipy", "matplotlib", "sklearn", "torch", "jinja2"):
        assert f"'{name}'" not in loaded


def test_observers_are_submissions(kit, points, tmp_path):
    task = kit.task(observers=("one", "two"))
    kit.dataset(tmp_path / "data", task, {"one": points, "two": points + np.array([2.0, 0, 0])})
    arguments = ["evaluate", str(tmp_path / "data/landmarks/one"), str(tmp_path / "data"), "--no-report"]
    outcome = CliRunner().invoke(cli, [*arguments, "--observer", "two", "--out", str(tmp_path / "r")])
    assert outcome.exit_code == 0 and "reference: two" in outcome.output
    found = json.loads((tmp_path / "r/metrics.json").read_text())
    assert found["aggregates"]["mre_mm"]["mean"] == pytest.approx(2.0)
    assert found["aggregates"]["sdr"]["2_0mm"] == 0.0, "2 mm is exactly the threshold, and the tie is strict"


def test_a_rater_who_saw_some_cases_is_scored_on_those(kit, points, tmp_path):
    data = kit.dataset(tmp_path / "data", kit.task(observers=("one", "two")), {"one": points, "two": points + 1.0})
    rater = data.folder / "landmarks/two"
    for case in ("case1", "case4"):
        (rater / f"{case}.json").unlink()
    outcome = CliRunner().invoke(
        cli,
        ["evaluate", str(rater), str(data.folder), "--observer", "one", "--out", str(tmp_path / "r"), "--no-report"],
    )
    assert outcome.exit_code == 0, outcome.output
    metrics = json.loads((tmp_path / "r/metrics.json").read_text())
    assert metrics["protocol"]["n_cases"] == 4 and metrics["protocol"]["n_points"] == 12
    assert "two marked 4 of 6 cases" in outcome.output
    # Anybody else must answer every case.
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in rater.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    outcome = CliRunner().invoke(cli, ["evaluate", str(copied), str(data.folder), "--out", str(tmp_path / "s")])
    assert outcome.exit_code != 0 and not (tmp_path / "s").exists()
