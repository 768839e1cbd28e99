"""The program of the evaluation container: `python -m landmark_evaluation.container` once, or `... invoke` as a server.

What may be read by participants goes to stderr as one line; everything else could carry a hidden reference and is
named by its type alone.
"""

import sys
from pathlib import Path

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError

from .details import details
from .pairing import read_submission
from .references import open_reference
from .results import DETAILS, METRICS
from .scoring import evaluate_submission

INPUT = Path("/input")
GROUND_TRUTH = Path("/opt/ml/input/data/ground_truth")
OUTPUT = Path("/output")


def evaluate_once(predictions: Path, reference: Path, *, output: Path) -> None:
    """Score one submission and write metrics.json. Raises ChallengeError with text that a participant may read."""
    try:
        truth = open_reference(reference)
    except ChallengeError:
        # The text would quote the reference folder.
        raise ChallengeError("the reference of this challenge cannot be read; please tell the organisers") from None
    evaluation = evaluate_submission(read_submission(predictions, truth), truth)
    if truth.details:
        files.write_json(output / DETAILS, details(evaluation), indent=None)
    files.write_json(output / METRICS, evaluation.metrics.to_json())


def run_once() -> int:
    """The exit code of one evaluation; failures are told on stderr without anything that is hidden."""
    try:
        evaluate_once(INPUT, GROUND_TRUTH, output=OUTPUT)
    except ChallengeError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    except Exception as error:
        print(
            f"The evaluation failed unexpectedly ({type(error).__name__}); please tell the organisers", file=sys.stderr
        )
        return 1
    return 0


def invoke_once() -> None:
    """One call of the server: fails with an exception, whose text the server does not show."""
    if run_once() != 0:
        raise RuntimeError("the evaluation failed")


def main(arguments: list[str]) -> int:
    """`invoke` serves calls until it is stopped; without an argument one evaluation is made."""
    if arguments == ["invoke"]:
        from landmark_challenge.platform import serve_http

        serve_http(invoke_once)
        return 0
    if arguments:
        print("usage: python -m landmark_evaluation.container [invoke]", file=sys.stderr)
        return 2
    return run_once()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
