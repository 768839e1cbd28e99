"""How long the largest evaluations take and what memory they need; prints its figures.

    pytest -s -m slow tests/evaluation/test_speed.py

The bounds are for two cores: what counts is processor time, twice the bound, which other work on the machine does not
stretch. The wall time is printed beside it.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from landmark_challenge.task import load_task

pytestmark = pytest.mark.slow
MEASURE = """
import json, resource, sys, time
begun = time.perf_counter()
{body}
used = resource.getrusage(resource.RUSAGE_SELF)
# VmHWM begins with this program; ru_maxrss would go on from the process that started it.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({{"wall_s": time.perf_counter() - begun, "processor_s": used.ru_utime + used.ru_stime,
                  "peak_gb": int(peak.split()[1]) / 1e6}}))
"""
BOOTSTRAP = """
import numpy as np
from landmark_challenge.task import load_task
from landmark_evaluation import statistics
task = load_task("ceph-19")
errors = np.random.default_rng(0).gamma(2.0, 1.0, (100_000, 19))
found = statistics.bootstrap(errors, task.success_thresholds_mm, tie=task.success_tie, resamples=2000)
assert set(found.mre_mm) == {"mean", "sd", "median", "q25", "q75", "p95", "iqr", "rms"} and len(found.sdr) == 10
assert all(len(spans) == 8 for spans in found.landmark_mre_mm)
"""
COMPARE = """
from click.testing import CliRunner
from landmark_challenge.cli import cli
from pathlib import Path
folders = sorted(str(path) for path in Path(sys.argv[1]).iterdir())
outcome = CliRunner().invoke(cli, ["compare", *folders, "--out", sys.argv[2]], catch_exceptions=False)
assert outcome.exit_code == 0, outcome.output
"""


def measured(body, *arguments):
    program = MEASURE.format(body=body)
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_hundred_thousand_cases_with_two_thousand_resamples():
    found = measured(BOOTSTRAP)
    print(f"\n100,000 cases x 19 landmarks, 2,000 resamples: {found}")
    assert found["processor_s"] < 2 * 90 and found["peak_gb"] < 2


def test_twenty_submissions_of_250_cases_compared(kit, tmp_path):
    task = load_task("ceph-19")
    generator = np.random.default_rng(0)
    points = generator.uniform(20, 180, (250, 19, 3)) * [1, 1, 0]
    dataset = kit.dataset(tmp_path / "data", task, {"reference": points})
    for number in range(20):
        moved = points + generator.normal(0, 0.8 + 0.02 * number, points.shape) * [1, 1, 0]
        kit.plain(tmp_path / "p" / f"method-{number:02d}", task, moved)
        folder = tmp_path / "p" / f"method-{number:02d}"
        evaluate_quietly(folder, dataset.folder, tmp_path / "r" / folder.name)
    found = measured(COMPARE, tmp_path / "r", tmp_path / "board")
    print(f"\n20 submissions of 250 cases x 19 landmarks, statistics and page: {found}")
    assert (tmp_path / "board/leaderboard.html").is_file()
    assert found["processor_s"] < 2 * 20


def evaluate_quietly(predictions, reference, out):
    from click.testing import CliRunner

    from landmark_challenge.cli import cli

    arguments = ["evaluate", predictions, reference, "--out", out, "--no-report"]
    assert CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False).exit_code == 0
