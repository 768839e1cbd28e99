"""The learning curve: which images a run sees, what it prints, and that it goes on where it stopped."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from filelock import FileLock

from landmark_baselines import study
from landmark_baselines.checkpoints import read_model
from landmark_baselines.cli_learning_curve import learning_curve as command
from landmark_baselines.learning_curve import FewerCases, case_errors, interval
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError


def _run(dataset: Path, folder: Path, *more: str) -> str:
    result = CliRunner().invoke(command, ["mean_shape", str(dataset), "--out", str(folder), *more])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve") / "curve"
    _run(tiny_dataset, folder, "--sizes", "5,2", "--seeds", "2")
    return folder


def test_smaller_sets_are_parts_of_larger_ones_and_differ_by_seed(tiny_dataset: Path) -> None:
    whole = Dataset(tiny_dataset)

    def names(count: int, seed: int) -> set[str]:
        return {case.name for case in FewerCases(tiny_dataset, count, seed=seed).cases(split="train")}

    for seed in range(4):
        assert len(names(2, seed)) == 2 and names(2, seed) < names(5, seed)
        assert names(7, seed) == {case.name for case in whole.cases(split="train")}
    assert len({frozenset(names(2, seed)) for seed in range(6)}) > 1
    few = FewerCases(tiny_dataset, 2, seed=0)
    for split in ("validation", "test"):
        assert few.cases(split=split) == whole.cases(split=split)
    assert len(few.cases()) == 2 + 2 + 3
    for wrong in (0, 8):
        with pytest.raises(ChallengeError, match=f"wanted {wrong} training cases, there are 7"):
            FewerCases(tiny_dataset, wrong, seed=0)


def test_every_run_is_a_training_on_so_many_images(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "curve.csv").read_text().splitlines()))
    assert [(row["training_images"], row["seed"]) for row in rows] == [("2", "0"), ("2", "1"), ("5", "0"), ("5", "1")]
    for row in rows:
        model = read_model(finished / "models" / f"{row['training_images']}-images-seed-{row['seed']}")
        assert model.provenance["training_cases"] == int(row["training_images"])
        assert 0 < float(row["mean_mm"]) < 40 and 0 <= float(row["success"]) <= 1
    assert len({row["mean_mm"] for row in rows}) == 4
    text = (finished / "curve.md").read_text()
    assert "| 2 |" in text and "| 5 |" in text and "`landmarks learning-curve mean_shape" in text
    mean = np.mean([float(row["mean_mm"]) for row in rows[:2]])
    assert f"| 2 | {mean:.3f} (" in text
    assert (finished / "curve.png").stat().st_size > 5000 and (finished / "curve.svg").is_file()


def test_a_curve_goes_on_and_grows_but_never_mixes(
    finished: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = study.train_method

    def count(name: str, dataset: Dataset, **options: object) -> None:
        trained.append(len(dataset.cases(split="train")))
        train(name, dataset, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "train_method", count)
    before = (finished / "curve.csv").read_text()
    _run(tiny_dataset, finished, "--sizes", "2,5", "--seeds", "2")
    assert trained == [] and (finished / "curve.csv").read_text() == before
    _run(tiny_dataset, finished, "--sizes", "2,5,7", "--seeds", "2")
    assert trained == [7, 7]
    with pytest.raises(ChallengeError, match="other settings or data"):
        _run(tiny_dataset, finished, "--sizes", "2", "--preset", "tiny")
    with pytest.raises(ChallengeError, match="--sizes"):
        _run(tiny_dataset, finished, "--sizes", "2,many")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--sizes", "2", "--subset", "nosuch"], "wanted cases of split 'test', subset 'nosuch', there are none"),
        (["--sizes", "2,8"], "wanted 8 training cases, there are 7"),
        (["--sizes", "0,2"], "wanted 0 training cases, there are 7"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_training(
    words: list[str], why: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ChallengeError, match=why):
        _run(tiny_dataset, tmp_path / "curve", *words)
    assert not (tmp_path / "curve").exists()


def test_the_interval_of_equal_runs_is_that_of_the_cases() -> None:
    errors = np.random.default_rng(3).gamma(2, 1, 400)
    low, high = interval(np.stack([errors, errors]))
    half = 1.96 * errors.std() / 20
    assert low == pytest.approx(errors.mean() - half, abs=0.03) and high == pytest.approx(
        errors.mean() + half, abs=0.03
    )
    apart = interval(np.stack([errors, errors + 1]))
    assert apart[1] - apart[0] > 0.9  # which of the two trainings is drawn matters most


def test_cases_without_a_scored_point_do_not_count() -> None:
    cases = [
        {"points": [{"error_mm": 1.0}, {"error_mm": 3.0}, {"name": "absent"}]},
        {"points": [{"name": "absent"}]},
        {"points": [{"error_mm": 5.0}]},
    ]
    assert case_errors(cases).tolist() == [2.0, 5.0]


def test_a_run_keeps_its_own_seed(finished: Path) -> None:
    seeds = [read_model(folder).provenance["seed"] for folder in sorted((finished / "models").iterdir())]
    assert sorted(set(seeds)) == [0, 1]


def test_several_processes_share_the_runs(tiny_dataset: Path, tmp_path: Path) -> None:
    """One of three runs is held by another process: the others are done first, it is waited for."""
    whole = tmp_path / "whole"
    _run(tiny_dataset, whole, "--sizes", "2,4", "--seeds", "2")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "study.json").write_bytes((whole / "study.json").read_bytes())
    (shared / "locks").mkdir()
    with FileLock(shared / "locks/2-images-seed-0.lock"):
        command = ["learning-curve", "mean_shape", str(tiny_dataset), "--out", str(shared), "--sizes", "2,4"]
        words = "from landmark_challenge.cli import main; import sys; main(sys.argv[1:])"
        process = subprocess.Popen([sys.executable, "-c", words, *command, "--seeds", "2"])
        last = shared / "rows/4-images-seed-1/result/metrics.json"
        while not last.is_file():
            assert process.poll() is None
            time.sleep(0.1)
        assert not (shared / "models/2-images-seed-0").exists()
    assert process.wait(timeout=120) == 0
    ours, theirs = ((folder / "curve.csv").read_text().splitlines() for folder in (shared, whole))
    assert [line.rsplit(",", 1)[0] for line in ours] == [line.rsplit(",", 1)[0] for line in theirs]
