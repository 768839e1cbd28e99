import csv
import json
import os
import shutil

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from scipy import stats

from landmark_challenge.cli import cli
from landmark_challenge.errors import ChallengeError
from landmark_challenge.reference import write_reference
from landmark_challenge.task import Ranking, RankingColumn, load_task, parse_task, task_names, threshold_key
from landmark_evaluation.entries import load_entries, rescore, submission_from_details
from landmark_evaluation.leaderboard import make_leaderboard
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.tables import leaderboard_text, ranked_thresholds, shown_thresholds


def land(*arguments):
    outcome = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.fixture
def data(kit, tmp_path):
    generator = np.random.default_rng(0)
    points = generator.uniform(-80, 80, size=(30, 3, 3)).round(1)
    return points, kit.dataset(tmp_path / "data", kit.task(), {"one": points})


@pytest.fixture
def results(kit, data, tmp_path):
    points, dataset = data
    generator = np.random.default_rng(1)
    for name, sd in (("worst", 2.0), ("best", 0.5), ("middle", 1.0)):
        kit.plain(tmp_path / "p" / name, dataset.task, points + generator.normal(0, sd, points.shape))
        land("evaluate", tmp_path / "p" / name, dataset.folder, "--out", tmp_path / "r" / name, "--no-report")
    return tmp_path / "r"


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_submissions_are_ranked_and_tested(results, tmp_path):
    output = land("compare", *sorted(results.iterdir()), "--out", tmp_path / "board", "--no-report")
    rows = read(tmp_path / "board/leaderboard.csv")
    assert [(row["rank"], row["submission"]) for row in rows] == [("1", "best"), ("2", "middle"), ("3", "worst")]
    metrics = json.loads((results / "best/metrics.json").read_text())
    assert float(rows[0]["Mean radial error (mm)"]) == pytest.approx(metrics["aggregates"]["mre_mm"]["mean"], rel=1e-5)
    low, high = metrics["aggregates"]["confidence"]["mre_mm"]["mean"]
    assert float(rows[0]["Mean radial error (mm): 95 % low"]) == pytest.approx(low, rel=1e-5)
    assert float(rows[0]["Mean radial error (mm): 95 % high"]) == pytest.approx(high, rel=1e-5)
    errors, rates = metrics["aggregates"]["mre_mm"], metrics["aggregates"]["sdr"]
    head, best, *_ = output.split("\n\n")[1].splitlines()
    assert head.split()[:4] == ["mean", "SD", "median", "IQR"] and best.split()[0] == "best"
    figures = [float(cell) for cell in best.split()[1:] if cell != "%"]
    expected = [errors[key] for key in ("mean", "sd", "median", "iqr")]
    expected += [100 * rates[key] for key in ("1_0mm", "2_0mm", "4_0mm")]  # all that the task has
    assert figures[: len(expected)] == pytest.approx(expected, abs=0.006)
    pairs = read(tmp_path / "board/pairs.csv")
    assert {(pair["first"], pair["second"]) for pair in pairs} == {
        ("best", "middle"),
        ("best", "worst"),
        ("middle", "worst"),
    }
    assert all(float(pair["difference of means (mm)"]) < 0 for pair in pairs)
    assert "reference: one" in output and "rank 1 in 100 % of resamples" in output


def test_every_rule_of_a_task_ranks(results):
    entries = load_entries(sorted(results.iterdir()))
    task = entries[0].task
    for rule in ("score", "mean-rank", "significance"):
        chosen = task.model_copy(update={"ranking": task.ranking.model_copy(update={"rule": rule})})
        board = make_leaderboard(entries, chosen, resamples=200)
        assert [row.entry.name for row in board.rows] == ["best", "middle", "worst"], rule
        assert board.stability.share[0, 0] == 1.0


def test_a_corrected_reference_is_one_command(kit, results, data, tmp_path):
    points, dataset = data
    corrected = kit.dataset(tmp_path / "corrected", dataset.task, {"one": points + [1.0, 0, 0]})
    land("compare", *sorted(results.iterdir()), "--reference", corrected.folder, "--out", tmp_path / "b", "--no-report")
    again = {row["submission"]: float(row["Mean radial error (mm)"]) for row in read(tmp_path / "b/leaderboard.csv")}
    land("evaluate", tmp_path / "p/best", corrected.folder, "--out", tmp_path / "r2", "--no-report")
    direct = json.loads((tmp_path / "r2/metrics.json").read_text())["aggregates"]["mre_mm"]["mean"]
    assert again["best"] == pytest.approx(direct, rel=1e-5)
    old = json.loads((results / "best/metrics.json").read_text())["aggregates"]["mre_mm"]["mean"]
    assert again["best"] > old + 0.2


def test_scoring_again_loses_nothing_that_was_submitted(kit, data, tmp_path):
    points, dataset = data
    matrix = np.diag([0.5, 1.0, 2.0]).tolist()
    given = points + np.random.default_rng(3).normal(0, 1, points.shape)
    given[0, 1] = np.nan
    folder = kit.platform(tmp_path / "p/one", dataset.task, given, covariance={"a": matrix}, exec_duration="PT3S")
    jobs = json.loads((folder / "predictions.json").read_text())
    jobs[0] |= {"exec_duration": None, "invoke_duration": "PT0.5S"}
    (folder / "predictions.json").write_text(json.dumps(jobs))
    land("evaluate", folder, dataset.folder, "--out", tmp_path / "r/one", "--no-report")
    truth = open_reference(dataset.folder)
    first, again = read_submission(folder, truth), submission_from_details(tmp_path / "r/one/details.json", truth)
    for name in ("points_mm", "probability", "covariance_mm2", "cold_s", "warm_s"):
        assert np.array_equal(getattr(first, name), getattr(again, name), equal_nan=True), name
    rescored = rescore([tmp_path / "r/one"], truth)[0].metrics
    assert rescored.to_json() == json.loads((tmp_path / "r/one/metrics.json").read_text())


def test_damaged_details_are_refused_in_one_line(kit, data, tmp_path):
    points, dataset = data
    kit.plain(tmp_path / "p", dataset.task, points)
    land("evaluate", tmp_path / "p", dataset.folder, "--out", tmp_path / "r", "--no-report")
    truth, path = open_reference(dataset.folder), tmp_path / "r/details.json"
    good = path.read_text()
    reads = {"error_mm": load_entries, "name": load_entries}
    for key in ("predicted_mm", "covariance_mm2", "probability", "error_mm", "name"):
        for value in ("x", [1, 2], {"a": 1}, [[1, 2, 3]] * 2, 10**400):
            details = json.loads(good)
            details["cases"][0]["points"][1][key] = value
            path.write_text(json.dumps(details))
            with pytest.raises(ChallengeError, match=r"details\.json: "):
                reads.get(key, lambda folders: rescore(folders, truth))([path.parent])


def test_predictions_can_be_compared_straight_away(results, data, tmp_path):
    folders = [tmp_path / "p" / name for name in ("best", "worst")]
    land("compare", *folders, "--reference", data[1].folder, "--out", tmp_path / "b", "--no-report")
    assert [row["submission"] for row in read(tmp_path / "b/leaderboard.csv")] == ["best", "worst"]


def test_protected_results_are_ranked_by_their_headlines(kit, data, tmp_path):
    points, dataset = data
    write_reference(dataset, tmp_path / "hidden")
    for name, shift in (("far", 30.0), ("near", 1.0)):
        kit.plain(tmp_path / "p" / name, dataset.task, points + [shift, 0, 0])
        land("evaluate", tmp_path / "p" / name, tmp_path / "hidden", "--out", tmp_path / "r" / name, "--no-report")
        assert [path.name for path in (tmp_path / "r" / name).iterdir()] == ["metrics.json"]
    entries = load_entries([tmp_path / "r/far", tmp_path / "r/near"])
    board = make_leaderboard(entries, kit.task())
    assert [row.entry.name for row in board.rows] == ["near", "far"]
    assert board.pairs is None and board.stability is None


def test_results_of_one_name_are_called_after_the_folders_around_them(results, tmp_path):
    for row in ("64 classes", "256 classes"):
        shutil.copytree(results / "best", tmp_path / "rows" / row / "result")
    folders = [tmp_path / "rows" / row / "result" for row in ("64 classes", "256 classes")]
    assert [entry.name for entry in load_entries(folders)] == ["64 classes", "256 classes"]
    assert [entry.name for entry in load_entries(folders[:1])] == ["result"]


def test_results_that_do_not_belong_together_are_refused(kit, results, data, tmp_path):
    for read_again in (load_entries, lambda folders: rescore(folders, open_reference(data[1].folder))):
        with pytest.raises(ChallengeError, match="'best' twice"):
            read_again([results / "best", results / "best"])
    shifted = kit.dataset(tmp_path / "other", kit.task(tie="inclusive"), {"one": data[0]})
    land("evaluate", tmp_path / "p/best", shifted.folder, "--out", tmp_path / "r3/inclusive", "--no-report")
    with pytest.raises(ChallengeError, match=r"wanted the protocol of best, tie: strict, got tie: inclusive$"):
        load_entries([results / "best", tmp_path / "r3/inclusive"])
    with pytest.raises(ChallengeError, match=r"metrics\.json: wanted a JSON file"):
        load_entries([tmp_path / "p/best"])


def test_details_of_another_evaluation_are_not_believed(results, data, tmp_path):
    write_reference(data[1], tmp_path / "hidden")
    land("evaluate", tmp_path / "p/best", tmp_path / "hidden", "--out", tmp_path / "r4/best", "--no-report")
    shutil.copy(results / "best/details.json", tmp_path / "r4/best/details.json")
    for reads in (load_entries, lambda folders: rescore(folders, open_reference(data[1].folder))):
        with pytest.raises(
            ChallengeError, match=r"details\.json: wanted the protocol of metrics\.json .*protected.*open"
        ):
            reads([tmp_path / "r4/best"])


def test_a_single_submission_makes_a_leaderboard(results, tmp_path):
    land("compare", results / "best", "--out", tmp_path / "b", "--no-report")
    assert len(read(tmp_path / "b/leaderboard.csv")) == 1


def test_results_carry_their_groups_and_rank_by_them(kit, data, tmp_path):
    points, dataset = data
    groups = {f"case{k}": f"patient{k // 3}" for k in range(30)}
    grouped = kit.dataset(tmp_path / "grouped", dataset.task, {"one": points}, groups=groups)
    generator = np.random.default_rng(1)
    for name, sd in (("best", 0.5), ("worst", 2.0)):
        kit.plain(tmp_path / "p" / name, dataset.task, points + generator.normal(0, sd, points.shape))
        output = land("evaluate", tmp_path / "p" / name, grouped.folder, "--out", tmp_path / "r" / name, "--no-report")
        assert "30 cases of 10 groups, 90 points" in output and "over groups of cases" in output
    entries = load_entries([tmp_path / "r/best", tmp_path / "r/worst"])
    assert entries[0].groups.tolist() == [k // 3 for k in range(30)]
    board = make_leaderboard(entries, dataset.task, resamples=200)
    # Ten patients that all agree: the rank sum is 55 of 55, half a step from continuous, with SD sqrt(385 / 4).
    assert board.pairs[0].p == pytest.approx(2 * stats.norm.sf((27.5 - 0.5) / (385 / 4) ** 0.5))
    assert (
        entries[0].metrics.aggregates.confidence.mre_mm["mean"]
        == make_leaderboard(entries, dataset.task).rows[0].intervals[0]
    )
    rescored = rescore([tmp_path / "r/best", tmp_path / "r/worst"], open_reference(grouped.folder))
    assert rescored[0].groups.tolist() == entries[0].groups.tolist()
    # The same cases, but nobody knows who is who: another number of independent patients.
    land("evaluate", tmp_path / "p/worst", dataset.folder, "--out", tmp_path / "r2/alone", "--no-report")
    with pytest.raises(ChallengeError, match="wanted the groups of cases of best"):
        load_entries([tmp_path / "r/best", tmp_path / "r2/alone"])


def other_task(task, **changes):
    """An own task of the same name and version that scores otherwise."""
    value = task.model_dump(mode="json") | changes
    return parse_task(value, source="other")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"landmarks": [{"name": name, "definition": name} for name in "ab"]}, "landmarks"),
        ({"success_thresholds_mm": [1.0, 2.0, 3.0]}, "thresholds"),
        ({"missing_error_mm": 60.0}, "protocol"),
        ({"dimension": 2, "working_spacing_mm": [1.0, 1.0]}, "dimension"),
        ({"ranking": {"rule": "mean-rank"}}, "ranking"),
    ],
)
def test_own_tasks_of_one_name_that_score_otherwise_are_refused(kit, results, data, tmp_path, changes, what):
    task = other_task(data[1].task, **changes)
    dataset = kit.dataset(tmp_path / "other", task, {"one": data[0][:, : len(task.names)]})
    kit.plain(tmp_path / "q/own", task, data[0][:, : len(task.names)])
    land("evaluate", tmp_path / "q/own", dataset.folder, "--out", tmp_path / "s/own", "--no-report")
    with pytest.raises(ChallengeError, match=f"wanted the {what} of best, .*, got"):
        load_entries([results / "best", tmp_path / "s/own"])


def test_results_against_other_points_are_refused(kit, results, data, tmp_path):
    moved = kit.dataset(tmp_path / "moved", data[1].task, {"one": data[0] + [1.0, 0, 0]})
    land("evaluate", tmp_path / "p/worst", moved.folder, "--out", tmp_path / "s/worst", "--no-report")
    with pytest.raises(ChallengeError, match=r"wanted the reference points .* of best, [0-9a-f]{16}, got"):
        load_entries([results / "best", tmp_path / "s/worst"])
    # Results of earlier versions do not tell: they are compared as before.
    for part in ("metrics.json", "details.json"):
        path = tmp_path / "s/worst" / part
        value = json.loads(path.read_text())
        del value["protocol"]["reference_digest"]
        path.write_text(json.dumps(value))
    assert len(load_entries([results / "best", tmp_path / "s/worst"])) == 2


def test_a_rater_scored_against_the_others_is_compared_with_everybody(kit, tmp_path):
    points = np.random.default_rng(0).uniform(-80, 80, size=(12, 3, 3)).round(1)
    task = kit.task(observers=("one", "two"))
    dataset = kit.dataset(tmp_path / "data", task, {"one": points, "two": points + [1.0, 0, 0]})
    kit.plain(tmp_path / "p", task, points + [0, 2.0, 0])
    land("evaluate", tmp_path / "p", dataset.folder, "--out", tmp_path / "r/method", "--no-report")
    land("evaluate", dataset.folder / "landmarks/one", dataset.folder, "--out", tmp_path / "r/one", "--no-report")
    entries = load_entries([tmp_path / "r/method", tmp_path / "r/one"])
    assert entries[1].metrics.protocol.left_out == "one"


def test_protected_results_of_another_reference_are_refused(kit, data, tmp_path):
    points, dataset = data
    kit.plain(tmp_path / "q", dataset.task, points + [2.0, 0, 0])
    for name in ("spring", "autumn"):
        write_reference(dataset, tmp_path / name)
        land("evaluate", tmp_path / "q", tmp_path / name, "--out", tmp_path / "s" / name, "--no-report")
    with pytest.raises(ChallengeError, match="reference points"):
        load_entries([tmp_path / "s/spring", tmp_path / "s/autumn"])


def ranked_by(entries, *paths, rule="score"):
    """A leaderboard by these columns, low is best."""
    columns = tuple(RankingColumn(title=path, path=f"aggregates.{path}", order="asc") for path in paths)
    task = entries[0].task
    return make_leaderboard(
        entries, task.model_copy(update={"ranking": Ranking(rule=rule, columns=columns)}), resamples=200
    )


@pytest.fixture
def close(kit, data, tmp_path):
    """Two submissions of the same quality."""
    points, dataset = data
    generator = np.random.default_rng(4)
    for name in ("one", "two"):
        moved = points + generator.normal(0, 1, points.shape)
        kit.platform(tmp_path / "c" / name, dataset.task, moved, invoke_duration="PT2S")
        land("evaluate", tmp_path / "c" / name, dataset.folder, "--out", tmp_path / "s" / name, "--no-report")
    return load_entries([tmp_path / "s/one", tmp_path / "s/two"])


@pytest.mark.parametrize(
    "path", ["mre_mm.mean", "sdr.2_0mm", "success_curve_area", "landmarks.b.mre_mm.median", "landmarks.b.sdr.1_0mm"]
)
def test_what_errors_make_is_drawn_again_for_the_stability(close, path):
    board = ranked_by(close, path)
    assert board.not_redrawn == () and 0 < board.stability.share[0, 0] < 1
    stated = close[0].metrics.aggregates.confidence.model_dump()
    for key in path.split("."):
        stated = stated[key]
    row = next(row for row in board.rows if row.entry is close[0])
    again = make_leaderboard(close, close[0].task.model_copy(update={"ranking": board.rule}))
    assert next(r for r in again.rows if r.entry is row.entry).intervals[0] == pytest.approx(stated)


@pytest.mark.parametrize("path", ["runtime_s.mean", "mre_mm.max", "presence.sensitivity", "n_missing"])
def test_what_errors_do_not_make_leaves_the_stability_unknown(close, path):
    board = ranked_by(close, path)
    assert board.stability is None and board.not_redrawn == (path,) and board.pairs
    assert leaderboard_text(board).endswith(path) and "resamples" not in leaderboard_text(board)
    assert ranked_by(close, "mre_mm.mean", path).stability is not None, "the rule takes the first column alone"
    assert ranked_by(close, "mre_mm.mean", path, rule="mean-rank").not_redrawn == (path,)
    assert ranked_by(close, path, rule="significance").stability is not None, "the rule takes no column"


def test_a_resample_without_the_landmark_takes_no_part_in_the_stability(close):
    for entry in close:
        entry.error_mm[2:, 1] = np.nan
    board = ranked_by(close, "landmarks.b.mre_mm.mean")
    assert board.stability.share.sum(axis=1) == pytest.approx(1.0)


def test_a_page_says_why_firmness_is_left_out(close):
    from landmark_evaluation.report.page import leaderboard_files

    html = leaderboard_files(ranked_by(close, "runtime_s.mean"), curve_limit_mm=8)["leaderboard.html"].decode()
    assert "How firm the ranks are is not known" in html
    assert 'id="plot-significance"' in html and 'id="plot-stability"' not in html


@pytest.mark.parametrize("name", task_names())
def test_tables_show_the_threshold_that_a_task_ranks_by(name):
    task = load_task(name)
    keys = [threshold_key(threshold) for threshold in task.success_thresholds_mm]
    shown = shown_thresholds(keys, task.ranking)
    assert set(ranked_thresholds(task.ranking)) <= set(shown) and shown == sorted(shown, key=keys.index)


def test_a_printed_table_shows_the_threshold_that_it_ranks_by(kit, results, data, tmp_path):
    ranking = {"rule": "score", "columns": [{"title": "s", "path": "aggregates.sdr.1_0mm", "order": "desc"}]}
    dataset = kit.dataset(tmp_path / "other", other_task(data[1].task, ranking=ranking), {"one": data[0]})
    printed = land("evaluate", tmp_path / "p/best", dataset.folder, "--out", tmp_path / "s/best", "--no-report")
    assert "< 1 mm" in printed and "< 2 mm" in printed
    board = land("compare", tmp_path / "s/best", "--out", tmp_path / "b", "--no-report")
    assert "< 1 mm" in board.split("\n\n")[1]


def refused(*arguments):
    """What the command line says of bad input, in one line."""
    outcome = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert isinstance(outcome.exception, ChallengeError), outcome.output
    return str(outcome.exception)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"landmarks": list("cba")}, "landmarks"),
        ({"success_tie": "inclusive"}, "ties"),
        ({"success_thresholds_mm": [1.0, 2.0, 3.0]}, "thresholds"),
        ({"version": 2}, "task"),
    ],
)
def test_a_task_that_did_not_score_the_results_does_not_rank_them(data, results, tmp_path, changes, what):
    value = data[1].task.model_dump(mode="json", exclude_none=True) | changes
    if "landmarks" in changes:
        value["landmarks"] = [{"name": name, "definition": name} for name in changes["landmarks"]]
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(value))
    board = tmp_path / "board"
    text = refused("compare", results / "best", results / "worst", "--task", tmp_path / "task.yaml", "--out", board)
    assert f"task.yaml: wanted the {what} of best" in text
    assert not board.exists()
    assert "hippocampus-5: wanted the task of best" in refused(
        "compare", results / "best", results / "worst", "--task", "hippocampus-5", "--out", board
    )


def test_a_task_that_ranks_otherwise_is_taken(data, results, tmp_path):
    value = data[1].task.model_dump(mode="json", exclude_none=True)
    value["ranking"] = {
        "rule": "score",
        "columns": [{"title": "Largest", "path": "aggregates.mre_mm.max", "order": "asc"}],
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(value))
    output = land(
        "compare", *results.iterdir(), "--task", tmp_path / "task.yaml", "--out", tmp_path / "board", "--no-report"
    )
    assert "Largest" in output


def test_a_smaller_board_leaves_nothing_of_a_larger_one(results, tmp_path):
    board = tmp_path / "board"
    land("compare", *results.iterdir(), "--out", board)
    (board / "tables/own.csv").write_text("kept")
    assert (board / "pairs.csv").is_file() and (board / "figures/significance.png").is_file()
    land("compare", results / "best", "--out", board, "--no-report")
    assert sorted(path.name for path in board.rglob("*.*")) == ["leaderboard.csv", "own.csv", "pairs.csv"]
    assert (board / "pairs.csv").read_text().count("\n") == 1


def test_what_is_read_is_not_written_into(data, results, tmp_path):
    folder = data[1].folder
    before = sorted(path.name for path in (tmp_path / "p/best").iterdir())
    for out in (tmp_path / "p/best", folder, folder / "landmarks", folder / "landmarks/one"):
        text = refused("evaluate", tmp_path / "p/best", folder, "--out", out)
        assert "--out: wanted a folder of its own" in text
    assert "--out" in refused("compare", results / "best", results / "worst", "--out", results / "best")
    assert sorted(path.name for path in (tmp_path / "p/best").iterdir()) == before


def test_details_without_cases_or_with_no_numbers_are_refused(results, tmp_path):
    path = results / "best/details.json"
    whole = json.loads(path.read_text())
    for change in ("cases", "landmarks"):
        path.write_text(json.dumps(whole | {change: []}))
        assert "wanted the details of an evaluation" in refused("compare", results / "best", "--out", tmp_path / "b")
    for wrong in ("1.5", True):
        whole["cases"][0]["points"][0]["error_mm"] = wrong
        path.write_text(json.dumps(whole))
        assert "wanted the details of an evaluation" in refused("compare", results / "best", "--out", tmp_path / "b")


def test_a_folder_whose_name_is_no_text_is_compared(results, tmp_path):
    odd = results.parent / os.fsdecode(b"odd\xff")
    try:
        (results / "best").rename(odd)
    except OSError:
        pytest.skip("this file system wants names to be text")
    land("compare", odd, results / "worst", "--out", tmp_path / "board")
    assert "odd\ufffd" in (tmp_path / "board/leaderboard.csv").read_text()


def test_one_case_shows_no_firm_ranks(kit, tmp_path):
    points = np.random.default_rng(0).uniform(0, 50, (1, 3, 3))
    dataset = kit.dataset(tmp_path / "data", kit.task(), {"one": points})
    for name, shift in (("near", 1.0), ("far", 2.0)):
        kit.plain(tmp_path / "p" / name, dataset.task, points + shift)
        output = land("evaluate", tmp_path / "p" / name, dataset.folder, "--out", tmp_path / "r" / name, "--no-report")
        assert "95 %" not in output
    metrics = json.loads((tmp_path / "r/near/metrics.json").read_text())
    confidence = metrics["aggregates"]["confidence"]
    assert confidence["mre_mm"] == {} and confidence["sdr"] == {}
    assert all(each == {"mre_mm": {}, "sdr": {}} for each in confidence["landmarks"].values())
    output = land("compare", *sorted((tmp_path / "r").iterdir()), "--out", tmp_path / "board")
    assert "% of resamples" not in output and " to " not in output.splitlines()[2]
