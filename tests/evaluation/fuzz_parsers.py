"""Coverage-guided fuzzing of the parsers with atheris, for as long as one likes; `test_fuzz.py` runs it for a while.

    pip install 'landmark-challenge-kit[fuzz]'
    python tests/evaluation/fuzz_parsers.py -max_total_time=120

Anything but a ChallengeError is a finding; the input that caused it is written beside.
"""

import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["landmark_challenge", "landmark_evaluation"]):
    import numpy as np

    from landmark_challenge.dataset import Case, DatasetWriter
    from landmark_challenge.errors import ChallengeError
    from landmark_challenge.files import parse_json
    from landmark_challenge.landmarks import Landmarks, from_platform_json, to_platform_json
    from landmark_challenge.task import load_task
    from landmark_evaluation.answers import read_covariance
    from landmark_evaluation.entries import submission_from_details
    from landmark_evaluation.pairing import parse_duration_s, read_submission
    from landmark_evaluation.references import open_reference
    from landmark_evaluation.results import read_metrics

TASK = load_task("hippocampus-5")
ROOT = Path(tempfile.mkdtemp(prefix="fuzz-"))


def make_arena() -> None:
    """A dataset of one case and a good submission in the platform's layout."""
    points = Landmarks(TASK.names, np.arange(3 * len(TASK.names), dtype=float).reshape(-1, 3))
    with DatasetWriter(ROOT / "data", TASK, source="fuzz", licence="none") as writer:
        writer.add(Case("one", "test", "one"), None, {"reference": points})
    (ROOT / "result").mkdir()
    output = ROOT / "p" / "pk" / "output"
    output.mkdir(parents=True)
    (output / "anatomical-landmarks.json").write_text(json.dumps(to_platform_json(points)))


make_arena()
TRUTH = open_reference(ROOT / "data")


def one_input(data: bytes) -> None:
    """The first byte chooses the parser, the rest is its input."""
    kind, content = data[:1], data[1:]
    try:
        if kind < b"\x40":
            from_platform_json(parse_json(content, source="fuzz"), source="fuzz", names=TASK.names)
        elif kind < b"\x80":
            path = ROOT / "uncertainty.json"
            path.write_bytes(content)
            read_covariance(path, names=TASK.names)
        elif kind < b"\x90":
            parse_duration_s(content.decode(errors="replace"), source="fuzz")
        elif kind < b"\xb0":
            (ROOT / "result" / "metrics.json").write_bytes(content)
            read_metrics(ROOT / "result")
        elif kind < b"\xd0":
            (ROOT / "result" / "details.json").write_bytes(content)
            submission_from_details(ROOT / "result" / "details.json", TRUTH)
        else:
            (ROOT / "p" / "predictions.json").write_bytes(content)
            read_submission(ROOT / "p", TRUTH)
    except ChallengeError as error:
        str(error).encode()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
