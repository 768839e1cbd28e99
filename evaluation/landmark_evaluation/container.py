"""The program of the evaluation container: `python -m landmark_evaluation.container` once, or `... invoke` as a server.

What may be read by participants goes to stderr as one line; everything else could carry a hidden reference and is
named by its type alone.
"""

import os
import sys
from pathlib import Path

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.platform import run_guarded, serve_http

from .details import details
from .pairing import read_submission
from .references import open_reference
from .results import DETAILS, METRICS
from .scoring import evaluate_submission

INPUT = Path("/input")
GROUND_TRUTH = Path("/opt/ml/input/data/ground_truth")
OUTPUT = Path("/output")
MODE_VARIABLE = "LANDMARKS_API_METHOD"  # set by the image; the platform strips GRAND_CHALLENGE_*


def evaluate_once(predictions: Path, reference: Path, *, output: Path) -> None:
    """Score one submission and write metrics.json. Raises ChallengeError with text that a participant may read."""
    try:
        truth = open_reference(reference)
        for observer in truth.observers:
            truth.observer_mm(observer)
    except ChallengeError:
        # The text would quote the reference folder.
        raise ChallengeError("the reference of this challenge cannot be read; please tell the organisers") from None
    evaluation = evaluate_submission(read_submission(predictions, truth), truth)
    if truth.details:
        files.write_json(output / DETAILS, details(evaluation), indent=None)
    files.write_json(output / METRICS, evaluation.metrics.to_json())


def run_once() -> None:
    """One evaluation on the platform's paths."""
    evaluate_once(INPUT, GROUND_TRUTH, output=OUTPUT)


def main(arguments: list[str]) -> int:
    """`invoke` serves calls until it is stopped; `exec`, or nothing in an exec image, makes one evaluation."""
    mode = arguments[0] if arguments else os.environ.get(MODE_VARIABLE, "exec")
    if mode not in {"exec", "invoke"} or len(arguments) > 1:
        print("usage: python -m landmark_evaluation.container [exec|invoke]", file=sys.stderr)
        return 2
    return run_guarded(run_once if mode == "exec" else lambda: serve_http(run_once))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
