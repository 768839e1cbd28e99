"""The process that runs a model folder: `python -m landmark_challenge.local_worker MODEL INPUT OUTPUT [DEVICE]`.

One JSON line on stdout when the model is loaded, then one per line on stdin: {"status": 201, "seconds": s, ...}. The
method comes from the entry-point group `landmarks.localizers`; that of an algorithm's folder, as its container has it,
from the `loader` in its algorithm.yaml.
"""

import json
import os
import resource
import sys
import time
import traceback
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from .errors import ChallengeError
from .platform import Localizer, process_case, warm_up

ALGORITHM_FILE = "algorithm.yaml"
GROUP = "landmarks.localizers"
LOADER = "model"


def load_localizer(model: Path, *, device: str = "auto") -> Localizer:
    """The localizer in a model folder, by the installed package that registered the loader, or in that of an algorithm.

    Raises ChallengeError.
    """
    if (model / ALGORITHM_FILE).is_file():
        return _load_algorithm(model, device=device)
    points = entry_points(group=GROUP, name=LOADER)
    if not points:
        raise ChallengeError(f"{model}: needs the baselines: pip install 'landmark-challenge-kit[baselines]'")
    try:
        loader = next(iter(points)).load()
    except ModuleNotFoundError as error:
        raise ChallengeError(
            f"{model}: needs the package '{error.name}': pip install 'landmark-challenge-kit[baselines]'"
        ) from None
    localizer: Localizer = loader(model, device=device)
    return localizer


def _load_algorithm(folder: Path, *, device: str) -> Localizer:
    """What `loader: module:function` of algorithm.yaml makes of the folder's model; the folder is on the path."""
    path = folder / ALGORITHM_FILE
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        value = None
    named = value.get("loader") if isinstance(value, dict) else None
    module, colon, attribute = str(named).partition(":")
    if not colon:
        raise ChallengeError(f"{path}: wanted loader: module:function, got {named!r}")
    try:
        loader = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ChallengeError(f"{path}: loader {named} needs the module '{error.name}', which is not there") from None
    except AttributeError:
        raise ChallengeError(f"{path}: wanted loader: module:function, {module} has no {attribute}") from None
    localizer: Localizer = loader(folder / "model", device=device)
    return localizer


def peak_memory_mb() -> float:
    """The most memory this program held, MB; where /proc is, without what the process held before it was this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if peak is not None:
            return int(peak.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main(arguments: list[str]) -> int:
    """Load the model and answer until stdin ends."""
    model, input_folder, output_folder = (Path(text) for text in arguments[:3])
    # A method may print; stdout carries only the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def answer(**value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        localizer = load_localizer(model, device=arguments[3] if len(arguments) > 3 else "auto")
        warm_up(localizer)
    except ChallengeError as error:
        answer(status=400, error=str(error))
        return 2
    answer(status=200)
    for _ in sys.stdin:
        started = time.perf_counter()
        try:
            process_case(localizer, input_folder=input_folder, output_folder=output_folder, strict=True)
        except ChallengeError as error:
            answer(status=500, error=" ".join(str(error).split()))
        except Exception as error:
            traceback.print_exc()
            answer(status=500, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        else:
            answer(status=201, seconds=time.perf_counter() - started, peak_memory_mb=peak_memory_mb())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
