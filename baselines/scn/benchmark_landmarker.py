"""Time the network of `scn` against the public PyTorch port in the package `landmarker`, as it ships, side by side.

    python baselines/scn/benchmark_landmarker.py [--threads N --repeats N --environment FOLDER]

Makes an environment of its own with the kit and landmarker 0.4.1 (kept where --environment says, else removed). In it
both networks run in turn in one process: 512x512 pixels, 19 landmarks, 128 channels, four resolutions, 11x11
convolutions on the grid of 1/16; random weights, since they do not change the time. Ours is prepared as `load` prepares
it. Prints the median seconds of either and the median of the ratios of neighbours.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

LANDMARKER = "landmarker==0.4.1"
# What landmarker's networks import; the package asks for more, some of which has no build without CUDA.
NEEDED = ("monai==1.6.1",)
SIDE, LANDMARKS = 512, 19
INSIDE = "--inside"


def make_environment(folder: Path) -> Path:
    """An environment with this checkout, its pinned packages and landmarker; its Python."""
    checkout = Path(__file__).resolve().parents[2]
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(checkout / "constraints.txt"), f"{checkout}[baselines]"], check=True)
    subprocess.run([*pip, "--no-deps", LANDMARKER, *NEEDED], check=True)
    return python


def compare(threads: int, repeats: int) -> None:
    """Time both networks in turn and print the table."""
    import torch
    from landmarker.models import OriginalSpatialConfigurationNet

    from landmark_baselines.blocks import autocast, compute_type, for_inference, parameter_count, placed
    from landmark_baselines.scn_network import Architecture, SpatialConfigurationNet

    torch.set_num_threads(threads)
    device = torch.device("cpu")
    theirs = OriginalSpatialConfigurationNet(in_channels=1, out_channels=LANDMARKS).eval()
    network = SpatialConfigurationNet(2, LANDMARKS, Architecture(), sigma_voxel=2.5, learned_sigma=True)
    weights = parameter_count(network), parameter_count(theirs)
    ours = for_inference(placed(network, "cpu", 2))
    images = torch.rand(1, 1, SIDE, SIDE)

    def run_ours() -> None:
        with autocast(device):
            ours(images)

    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for turn in range(repeats + 1):  # the first warms up
            for seconds, run in zip(times, (run_ours, lambda: theirs(images)), strict=True):
                spent = _seconds(run)
                if turn:
                    seconds.append(spent)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    kind = str(compute_type(device)).removeprefix("torch.")
    print(f"{SIDE}x{SIDE} pixels, {LANDMARKS} landmarks; torch {torch.__version__}, {threads} threads, {repeats} turns")
    for name, seconds, count in zip((f"scn ({kind})", f"{LANDMARKER} as it ships"), times, weights, strict=True):
        print(f"{name:32}{statistics.median(seconds):6.2f} s  {count / 1e6:.2f} M weights")
    print(f"times as fast: {ratio:.2f}")


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> int:
    """Make the environment and time in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=cores, help="default: the cores this process may use")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--environment", type=Path, help="keep the environment there, or use the one there")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.inside:
        compare(chosen.threads, chosen.repeats)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        python = make_environment((chosen.environment or Path(temporary) / "environment").absolute())
        words = [INSIDE, "--threads", str(chosen.threads), "--repeats", str(chosen.repeats)]
        return subprocess.run([str(python), __file__, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
