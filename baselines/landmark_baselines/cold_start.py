"""What a container does for its first case, timed in a process of its own: import, load, read, localize, write.

Run as `python -m landmark_baselines.cold_start MODEL IMAGE DEVICE`; prints one line of JSON.
"""

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from landmark_challenge.errors import ChallengeError


def peak_ram_mb() -> float:
    """The largest resident memory of this process so far, or since `restart_peak`.

    /proc counts for the program alone; getrusage would include the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024 / 1e6


def restart_peak() -> None:
    """Let `peak_ram_mb` count from now on, where the system can (Linux); elsewhere it goes on counting."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def cold_start(model: Path, image: Path, *, device: str) -> dict[str, Any]:
    """Seconds and peak memory of the first case in a fresh process; files may lie in the system's cache."""
    command = [sys.executable, "-m", "landmark_baselines.cold_start", str(model), str(image), device]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ChallengeError(f"{model}: a fresh process failed on {image.name}: {last[0]}")
    return {"seconds": seconds, **json.loads(done.stdout.strip().splitlines()[-1])}


def main(arguments: list[str]) -> None:
    """Do the first case and print how long each step took."""
    marks = [time.perf_counter()]
    from landmark_challenge.images import read_image
    from landmark_challenge.landmarks import write_landmarks

    from .method import load_model

    marks.append(time.perf_counter())
    localizer = load_model(Path(arguments[0]), device=arguments[2])
    marks.append(time.perf_counter())
    found = localizer.localize(read_image(Path(arguments[1]), dimension=localizer.task.dimension))
    with tempfile.TemporaryDirectory() as folder:
        write_landmarks(Path(folder) / "points.json", found.landmarks)
    marks.append(time.perf_counter())
    steps = [round(after - before, 4) for before, after in pairwise(marks)]
    print(json.dumps({**dict(zip(("import_s", "load_s", "first_case_s"), steps, strict=True)),
                      "peak_ram_mb": round(peak_ram_mb(), 1)}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
