"""The rows of an ablation: what is trained once, what is shown, and that a study goes on where it stopped."""

import csv
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from landmark_baselines import ablation, global_to_local, mean_shape, study
from landmark_baselines.ablation import Row, rows_of
from landmark_baselines.checkpoints import read_model
from landmark_baselines.cli_study import study as command
from landmark_baselines.method import load_model, method_module
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.landmarks import read_landmarks
from landmark_challenge.task import load_task

NAMES = ("sella", "menton")
SHORT = [
    f"--set={stage}_stage.schedule.{field}"
    for stage in ("global", "local")
    for field in ("iterations=1", "batch=2", "validate_every=1")
]


@pytest.fixture(scope="module")
def two_landmarks(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cephalogram phantoms with a task of two landmarks."""
    folder = tmp_path_factory.mktemp("two") / "data"
    shutil.copytree(tiny_dataset, folder)
    spec = Dataset(folder).task.model_dump(mode="json")
    spec["landmarks"] = [landmark for landmark in spec["landmarks"] if landmark["name"] in NAMES]
    spec["name"] = "two-points"
    header = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**header, "task": spec["name"]}))
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    for path in folder.glob("landmarks/*/*.json"):
        value = json.loads(path.read_text())
        value["points"] = [point for point in value["points"] if point["name"] in NAMES]
        path.write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def finished(two_landmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "study"
    _run(two_landmarks, folder, "--single")
    return folder


def _run(dataset: Path, folder: Path, *more: str, method: str = "global_to_local") -> str:
    settings = SHORT if method == "global_to_local" else []
    arguments = [method, str(dataset), "--out", str(folder), "--preset", "tiny", "--device", "cpu", *settings, *more]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def _table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "study.csv").read_text().splitlines()))


def test_every_multi_landmark_row_of_the_paper_needs_five_trainings() -> None:
    rows = ablation.rows_of(global_to_local)
    assert [row.name for row in rows][:5] == [f"{name}, global" for name in ("R", "R_log", "C", "R+C", "R_log+C")]
    assert len(rows) == 7
    trainings = ablation.trainings_of(rows)
    assert [each.folder for each in trainings] == [
        "R-local=False", "R_log-local=False", "C-local=False", "R+C-local=False", "R_log+C",
    ]  # fmt: skip
    assert [len(each.rows) for each in trainings] == [1, 1, 1, 1, 3]
    everything = ablation.rows_of(global_to_local, options=ablation.OPTIONS)
    assert len(everything) == 12
    assert [each.folder for each in ablation.trainings_of(everything)] == [
        "R", "R_log", "C", "R+C", "R_log+C", "R_log+C-single",
    ]  # fmt: skip


@pytest.mark.parametrize(("task", "missing"), [("ceph-19", set()), ("ccta-8", {"scratch", "middle"})])
def test_a_row_that_repeats_another_is_left_out(task: str, missing: set[str]) -> None:
    """Volumes have no weights of ImageNet, and a middle stage always."""
    module = method_module("cascade")
    plan = SimpleNamespace(module=module, preset="cpu", dataset=SimpleNamespace(task=load_task(task)))
    rows = rows_of(module)
    kept = study._different(plan, rows)  # type: ignore[arg-type]
    assert {row.variant for row in rows if row not in kept} == missing and kept[0] is rows[0]


def test_other_methods_have_their_variants_or_themselves_as_rows() -> None:
    assert ablation.rows_of(mean_shape) == [Row("mean_shape")]
    other = ModuleType("other")
    other.VARIANTS = {"A": {}, "B": {}}  # type: ignore[attr-defined]
    assert ablation.rows_of(other, options=("single",)) == [
        Row("A", "A"), Row("B", "B"), Row("a network per landmark", option="single"),
    ]  # fmt: skip


def test_the_tables_hold_every_row_and_the_published_figures_apart(finished: Path) -> None:
    table = _table(finished)
    assert [line["row"] for line in table] == [
        row.name for row in ablation.rows_of(global_to_local, options=["single"])
    ]
    for line in table:
        result = json.loads((finished / "rows" / study.file_name(line["row"]) / "result" / "metrics.json").read_text())
        figures = result["aggregates"]
        assert float(line["median_mm"]) == pytest.approx(figures["mre_mm"]["median"], rel=1e-5)
        assert float(line["iqr_mm"]) == pytest.approx(figures["mre_mm"]["iqr"], rel=1e-5)
        assert float(line["sdr_4_0mm"]) == pytest.approx(figures["sdr"]["4_0mm"], rel=1e-5)
        own = figures["landmarks"]["menton"]["mre_mm"]
        assert float(line["menton_median_mm"]) == pytest.approx(own["median"], rel=1e-5)
        assert int(line["n_points"]) == 6 and int(line["n_missing"]) == 0
    page = (finished / "study.md").read_text()
    ours, published = page.split("## Published figures")
    assert "1.35 +- 1.19 mm" in published and "1.35" not in ours.split("## Median")[0].split("|")[0]
    assert "IEEE TMI" in published and "IEEE TMI" not in ours
    assert "`landmarks study global_to_local" in ours and "--set global_stage.schedule.iterations=1" in ours
    assert "mean of senior, junior" in ours and "error < threshold" in ours and "seed 0" in ours
    assert (finished / "success.png").is_file() and "(proposed ML)" in (finished / "success.svg").read_text()


def test_rows_of_one_training_show_it_in_different_ways(finished: Path, two_landmarks: Path) -> None:
    dataset = Dataset(two_landmarks)
    case = dataset.cases(split="test")[0].name
    localizer = load_model(finished / "models" / "R_log+C", device="cpu")
    assert isinstance(localizer, global_to_local.GlobalToLocal)
    image = dataset.image(case)
    whole, coarse = localizer.localize(image).landmarks, localizer.localize_global(image).landmarks
    shown = {}
    for row in ablation.rows_of(global_to_local):
        path = finished / "rows" / study.file_name(row.name) / "predictions" / f"{case}.json"
        shown[row.name] = read_landmarks(path).aligned_mm(NAMES)
    np.testing.assert_allclose(shown["R_log+C, global-to-local (proposed ML)"], whole.aligned_mm(NAMES), atol=1e-9)
    np.testing.assert_allclose(shown["R_log+C, global"], coarse.aligned_mm(NAMES), atol=1e-9)
    old = shown["R_log+C, global, 2018 vote"]
    assert not np.allclose(old, shown["R_log+C, global"]) and np.isfinite(old).all()


def test_single_landmark_networks_know_one_landmark_each(finished: Path) -> None:
    for name in NAMES:
        model = load_model(finished / "models" / "R_log+C-single" / name, device="cpu")
        assert model.task.names == (name,)
    row = next(row for row in ablation.rows_of(global_to_local, options=["single"]) if row.option == "single")
    for path in (finished / "rows" / study.file_name(row.name) / "predictions").iterdir():
        assert read_landmarks(path).names == NAMES


def test_what_is_finished_is_not_done_again(
    finished: Path, two_landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    again = study.file_name("C, global")
    shutil.rmtree(folder / "rows" / again)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/**/*") if again not in path.parts}
    before = _table(folder)
    assert all(float(line["case_s"]) > 0 for line in before)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr(study, "train_method", refuse)
    _run(two_landmarks, folder, "--single")
    timed = [{key: value for key, value in line.items() if key != "case_s"} for line in before]
    after = _table(folder)
    assert [{key: line[key] for key in timed[0]} for line in after] == timed
    # only what was localized again was timed again
    assert [a["row"] for a, b in zip(after, before, strict=True) if a["case_s"] != b["case_s"]] == ["C, global"]
    assert {path: path.stat().st_mtime_ns for path in stamps if path.is_file()} == {
        path: stamp for path, stamp in stamps.items() if path.is_file()
    }
    assert (folder / "rows" / again / "result" / "metrics.json").is_file()


def test_another_study_is_refused(finished: Path, two_landmarks: Path) -> None:
    plan = study.Plan("global_to_local", Dataset(two_landmarks), "tiny", 1, tuple(SHORT), (), None, "cpu")
    with pytest.raises(ChallengeError, match="study of other settings or data"):
        study.run_study(plan, finished)


def test_a_study_of_no_cases_leaves_no_folder_that_refuses_the_next(two_landmarks: Path, tmp_path: Path) -> None:
    with pytest.raises(ChallengeError, match="subset 'nosuch', there are none"):
        _run(two_landmarks, tmp_path / "study", "--subset", "nosuch")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_corrected_data_make_another_study(split: str, two_landmarks: Path, tmp_path: Path) -> None:
    shutil.copytree(two_landmarks, tmp_path / "data")

    def described() -> dict[str, object]:
        return study.Plan("mean_shape", Dataset(tmp_path / "data"), "tiny", 0, (), (), None, "cpu").described()

    seen = [described()]
    case = Dataset(tmp_path / "data").cases(split=split)[0].name
    for observer in ("reference", "senior"):
        path = tmp_path / "data" / "landmarks" / observer / f"{case}.json"
        value = json.loads(path.read_text())
        value["points"][0]["point"][0] += 0.25
        path.write_text(json.dumps(value))
        seen.append(described())
    header = json.loads((tmp_path / "data" / "dataset.json").read_text())
    header["digests"][case] = "another image"
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(header))
    seen.append(described())
    assert all(one != other for one, other in itertools.combinations(seen, 2))


def test_a_method_without_an_ablation_has_one_row(two_landmarks: Path, tmp_path: Path) -> None:
    page = _run(two_landmarks, tmp_path / "study", method="mean_shape")
    assert [line["row"] for line in _table(tmp_path / "study")] == ["mean_shape"]
    assert "| mean_shape |" in page
    with pytest.raises(ChallengeError, match="nothing to set"):
        _run(two_landmarks, tmp_path / "other", "--set", "a=1", method="mean_shape")


def test_the_vote_of_2018_counts_positive_patches_alike() -> None:
    settings = global_to_local.preset_settings("tiny", load_task("ceph-19"))
    settings = replace(settings, regression="none", decoding="positive")
    logits = torch.tensor([[[[3.0, 0.1, -0.1]], [[-1.0, -3.0, -0.5]]]])  # no patch of the second landmark is positive
    decoded = global_to_local.decode((logits, torch.zeros(1, 2, 2, 1, 3)), settings, stride=8)
    assert decoded[0].tolist() == [[7.5, 3.5], [19.5, 3.5]]


def test_a_global_network_alone_is_a_whole_model(finished: Path, two_landmarks: Path) -> None:
    folder = finished / "models" / "R-local=False"
    assert all(key.startswith("global.") for key in read_model(folder).weights)
    dataset = Dataset(two_landmarks)
    image = dataset.image(dataset.cases(split="test")[0].name)
    localizer = load_model(folder, device="cpu")
    assert isinstance(localizer, global_to_local.GlobalToLocal)
    assert localizer.localize(image).landmarks == localizer.localize_global(image).landmarks
