"""Whatever comes as a submission: a valid score or one clear refusal, never anything else."""

import json
import math
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from landmark_challenge.errors import ChallengeError
from landmark_evaluation.container import evaluate_once
from landmark_evaluation.entries import load_entries
from landmark_evaluation.pairing import read_submission
from landmark_evaluation.references import open_reference
from landmark_evaluation.scoring import evaluate_submission

QUIET = settings(
    max_examples=int(os.environ.get("LANDMARKS_FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
POINTS_FILE = "pk-1/output/anatomical-landmarks.json"
UNCERTAINTY_FILE = "pk-1/output/landmark-uncertainty.json"

NUMBERS = st.one_of(
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False),
    st.sampled_from([0, -0.0, 1e308, -1e308, 5e-324, 10**400, 1.0, 0.5, 2**63, True, False]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["a", "b", "case1", "case1.mha", "..", "../x", "/etc/passwd", "\ud800", "a\x00b", "x" * 300, "a\nb"]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A reference of three cases and a good submission, whose files each example replaces."""
    return {"root": tmp_path_factory.mktemp("fuzz")}


@pytest.fixture
def arena(kit, stage):
    if "truth" not in stage:
        points = np.random.default_rng(0).uniform(-50, 50, (3, 3, 3))
        kit.dataset(stage["root"] / "data", kit.task(), {"one": points})
        stage["truth"] = open_reference(stage["root"] / "data")
        kit.platform(stage["root"] / "p", stage["truth"].task, points)
        stage["good"] = {
            name: (stage["root"] / "p" / name).read_bytes()
            for name in ("predictions.json", POINTS_FILE, UNCERTAINTY_FILE)
        }
    for name, content in stage["good"].items():
        (stage["root"] / "p" / name).write_bytes(content)
    return stage


def scored_or_refused(arena):
    """Score the arena's submission; anything but a finite score or a ChallengeError fails the test."""
    try:
        submission = read_submission(arena["root"] / "p", arena["truth"])
        value = evaluate_submission(submission, arena["truth"], resamples=5).metrics.to_json()
    except ChallengeError as error:
        text = str(error)
        assert len(text) < 1000
        text.encode()  # it can be printed
        return text
    json.dumps(value, allow_nan=False)
    assert math.isfinite(value["aggregates"]["mre_mm"]["mean"])
    return None


@pytest.mark.parametrize("name", ["predictions.json", POINTS_FILE, UNCERTAINTY_FILE])
@given(content=st.binary(max_size=300))
@example(content=b"")
@example(content=b"\xff\xfe")
@example(content=b"null")
@example(content=b"[" * 50_000)
@example(content=b'{"a":' * 50_000)
@example(content=b'{"a": 1, "a": 2}')
@example(content=b'{"\\ud800": 1, "\\ud800": 2}')
@example(content=b"[1e400]")
@example(content=b"9" * 10_000)
@example(content=b"\xef\xbb\xbf{}")
@QUIET
def test_any_bytes(arena, name, content):
    (arena["root"] / "p" / name).write_bytes(content)
    outcome = scored_or_refused(arena)
    assert outcome is not None or content.strip() in (b"{}", b'{"a":{}}'), "random bytes are no submission"


@pytest.mark.parametrize("name", ["predictions.json", POINTS_FILE, UNCERTAINTY_FILE])
@given(value=VALUES)
@QUIET
def test_any_json(arena, name, value):
    (arena["root"] / "p" / name).write_text(json.dumps(value))
    scored_or_refused(arena)


def replaced(value, path, new):
    """A copy of a JSON value with the part at `path` replaced, removed (new is Ellipsis) or doubled (new is list)."""
    if not path:
        return new
    copy = value.copy()
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    elif len(path) == 1 and new is list and isinstance(copy, list):
        copy.append(copy[path[0]])
    else:
        copy[path[0]] = replaced(copy[path[0]], path[1:], None if new is list else new)
    return copy


def paths(value, prefix=()):
    """Every place in a JSON value."""
    yield prefix
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*prefix, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from paths(inner, (*prefix, index))


@pytest.mark.parametrize("name", ["predictions.json", POINTS_FILE])
@given(data=st.data())
@QUIET
def test_a_good_file_with_one_part_changed(arena, name, data):
    good = json.loads(arena["good"][name])
    place = data.draw(st.sampled_from([path for path in paths(good) if path]))
    new = data.draw(st.one_of(VALUES, st.just(...), st.just(list)))
    (arena["root"] / "p" / name).write_text(json.dumps(replaced(good, place, new)))
    scored_or_refused(arena)


@given(data=st.data())
@QUIET
def test_any_metrics_of_another_task(arena, data):
    folder = arena["root"] / "result"
    folder.mkdir(exist_ok=True)
    submission = read_submission(arena["root"] / "p", arena["truth"])
    good = evaluate_submission(submission, arena["truth"], resamples=5).metrics.to_json()
    place = data.draw(st.sampled_from(list(paths(good))))
    (folder / "metrics.json").write_text(json.dumps(replaced(good, place, data.draw(VALUES))))
    try:
        json.dumps(load_entries([folder])[0].metrics.to_json(), allow_nan=False)
    except ChallengeError as error:
        str(error).encode()


def a_million_points():
    point = '{"name": "a", "point": [0, 0, 0]}'
    return '{"type": "Multiple points", "points": [' + ",".join([point] * 1_000_000) + "]}"


BOMBS = {
    "a million points": (POINTS_FILE, a_million_points),
    "a name of ten million letters": (POINTS_FILE, lambda: json.dumps({"name": "x" * 10_000_000})),
    "a landmark of three million letters": (
        POINTS_FILE,
        lambda: json.dumps({"type": "Multiple points", "version": {"major": 1, "minor": 0},
                            "points": [{"name": "x" * 3_000_000, "point": [0, 0, 0]}]}),
    ),
    "empty objects": ("predictions.json", lambda: "[" + ",".join(["{}"] * 20_000_000) + "]"),
    "small objects": ("predictions.json", lambda: "[" + ",".join(['{"a":0}'] * 7_000_000) + "]"),
    "just under the limit": ("predictions.json", lambda: "[" + ",".join(['{"a":0}'] * 1_990_000) + "]"),
    "numbers": ("predictions.json", lambda: "[" + ",".join(["1.5"] * 15_000_000) + "]"),
    "deep nesting": ("predictions.json", lambda: "[" * 3_000_000),
    "a long number": (POINTS_FILE, lambda: "1" * 3_000_000),
    "more than fits": ("predictions.json", lambda: " " * (65 * 1024**2)),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_within_a_gigabyte_and_seconds(arena, bomb, tmp_path):
    name, make = BOMBS[bomb]
    (arena["root"] / "p" / name).write_text(make())
    program = textwrap.dedent("""
        import resource, sys
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
        from landmark_challenge.errors import ChallengeError
        from landmark_evaluation.container import evaluate_once
        try:
            evaluate_once(Path(sys.argv[1]), Path(sys.argv[2]), output=Path(sys.argv[3]))
        except ChallengeError as error:
            # VmHWM begins with this program; ru_maxrss would go on from the process that started it.
            peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
            print(len(str(error)), int(peak.split()[1]) // 1024)
        """)
    arguments = [arena["root"] / "p", arena["root"] / "data", tmp_path / "out"]
    outcome = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr[-500:]
    length, peak_mib = map(int, outcome.stdout.split())
    assert length < 1000 and peak_mib < 1024
    assert not (tmp_path / "out").exists()


def test_nothing_is_read_or_written_outside_the_folders(kit, arena, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_bytes(arena["good"][POINTS_FILE])
    inside = arena["root"] / "p"
    for way in ("../../../secret.json", str(secret), "a/../../../../secret.json", "./../../p/../secret.json"):
        jobs = json.loads(arena["good"]["predictions.json"])
        jobs[0]["outputs"][0]["socket"]["relative_path"] = way
        (inside / "predictions.json").write_text(json.dumps(jobs))
        assert "wanted a path inside the folder" in scored_or_refused(arena)
    (inside / "predictions.json").write_bytes(arena["good"]["predictions.json"])
    for link in (inside / "pk-1", inside / "pk-1/output", inside / "pk-1/output/anatomical-landmarks.json"):
        moved = tmp_path / "moved" / link.name
        moved.parent.mkdir(exist_ok=True)
        link.rename(moved)
        link.symlink_to(moved)
        assert "leads out of it" in scored_or_refused(arena)
        link.unlink()
        moved.rename(link)
    before = {path: path.stat().st_mtime_ns for path in arena["root"].rglob("*")}
    evaluate_once(inside, arena["root"] / "data", output=tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in arena["root"].rglob("*")} == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) in (
        ["details.json", "metrics.json"],
        ["metrics.json"],
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_make_it_hang(arena):
    target = arena["root"] / "p" / POINTS_FILE
    target.unlink()
    os.mkfifo(target)
    try:
        assert "there is none" in scored_or_refused(arena)
    finally:
        Path(target).unlink()


@pytest.mark.slow
def test_coverage_guided_fuzzing_finds_nothing(tmp_path):
    pytest.importorskip("atheris", reason="pip install 'landmark-challenge-kit[fuzz]'")
    program = Path(__file__).with_name("fuzz_parsers.py")
    seconds = os.environ.get("LANDMARKS_FUZZ_SECONDS", "60")
    limits = [f"-max_total_time={seconds}", "-rss_limit_mb=1024", "-timeout=10", f"-artifact_prefix={tmp_path}/"]
    outcome = subprocess.run([sys.executable, program, *limits], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    runs = re.search(r"Done (\d+) runs", outcome.stderr)
    assert runs and int(runs[1]) > 1000, outcome.stderr[-500:]
