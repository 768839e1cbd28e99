"""How fast the MD-GRU layer is: against the plain float32 loop over time, and against this machine's convolution peak.

    python baselines/md_gru/benchmark.py [--side 64 --channels 32 --repeats 3 --device cpu --clock wall]
    python baselines/md_gru/benchmark.py --volume [--device cpu]

Both ways run the same weights on the same input, in turn, forward and backward; the best of the repeats counts. With
--volume the paper's two networks, their weights random, localize one landmark in a volume of 256^3 voxels instead.
"""

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landmark_baselines import md_gru
from landmark_baselines.bench import count_gflop, device_name, peak_meter
from landmark_baselines.blocks import autocast, for_inference
from landmark_baselines.checkpoints import Model
from landmark_baselines.cold_start import peak_ram_mb, restart_peak
from landmark_baselines.md_gru_layer import MDGRU
from landmark_baselines.stopwatch import measured
from landmark_baselines.training import set_threads
from landmark_challenge.images import Image
from landmark_challenge.task import load_task

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def plain_loop(layer: MDGRU, x: Tensor) -> Tensor:
    """The equations one after the other: every direction and every step by itself, gradients by autograd."""
    total = x.new_zeros(())
    for axis in range(3):
        for backwards in (False, True):
            direction = 2 * axis + backwards
            w, u, b = layer.input_weight[direction], layer.state_weight[direction], layer.bias[direction]
            steps = x.movedim(axis + 2, 0)
            states = []
            h: Tensor | None = None
            for step in steps.flip(0) if backwards else steps:
                padding = w.shape[-1] // 2
                x_r, x_z, x_c = F.conv2d(step, w, b, stride=layer.stride, padding=padding).chunk(3, dim=1)
                h = torch.zeros_like(x_c) if h is None else h
                h_r, h_z, h_c = F.conv2d(h, u, padding=padding).chunk(3, dim=1)
                r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
                h = z * h + (1 - z) * torch.tanh(x_c + r * h_c)
                states.append(h)
            found = torch.stack(states[::-1] if backwards else states)
            found = found.unflatten(0, (-1, layer.stride)).mean(dim=1)
            total = total + found.movedim(0, axis + 2)
    return total


def seconds(work: Callable[[], Tensor], layer: nn.Module, device: torch.device, clock: Callable[[], float]) -> float:
    """Of one forward and backward pass."""
    layer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = clock()
    work().float().square().mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def arithmetic(layer: MDGRU, side: int, inputs: int) -> float:
    """GFLOP of a forward and backward pass: each convolution, and its gradients for the weights and for the state."""
    small, kernel = math.ceil(side / layer.stride), layer.state_weight.shape[-1]
    once = 2 * 6 * side * small**2 * 3 * layer.channels * kernel**2
    return once * (2 * inputs + 3 * layer.channels) / 1e9


def localize_volume(device: torch.device, *, repeats: int) -> None:
    """Print the seconds and the memory of both stages of the preset `paper`, from the decoded image to its point."""
    task = load_task("brainstem-mr-1")
    settings = md_gru.preset_settings("paper", task)
    stages = (settings.coarse, settings.fine)
    networks = [for_inference(md_gru.make_network(3, 1, stage).to(device)) for stage in stages]
    model = Model("md_gru", "paper", {}, task, {}, {}, {})
    localizer = md_gru.MDGRULocalizer(model, settings, *networks, device)
    image = Image.of(np.random.default_rng(0).integers(0, 1000, (256,) * 3, dtype=np.int16), (1.0, 1.0, 1.0))
    if device.type == "cpu":
        restart_peak()
    for number in range(repeats):
        begun, processor = time.perf_counter(), time.process_time()
        with measured() as watch:
            localizer.localize(image)
        spans = ", ".join(f"{name} {spent:.2f}" for name, spent in watch.seconds.items())
        print(
            f"256^3 voxels, one landmark, both stages, {number + 1}: {time.perf_counter() - begun:.2f} s ({spans}), "
            f"{time.process_time() - processor:.2f} s of processor time"
        )
    memory = torch.cuda.max_memory_reserved(device) / 1e6 if device.type == "cuda" else peak_ram_mb()
    print(f"{device_name(device)}, {torch.get_num_threads()} threads: peak memory {memory:.0f} MB, weights included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="voxels along each axis (64, the paper's)")
    parser.add_argument("--inputs", type=int, default=2, help="channels of the input (2, the paper's)")
    parser.add_argument("--channels", type=int, default=32, help="of the states (32, the paper's first layer)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: its time in all threads, for a busy machine"
    )
    parser.add_argument("--volume", action="store_true", help="time both stages on a whole volume instead")
    options = parser.parse_args()
    set_threads()
    device = torch.device(options.device)
    torch.manual_seed(0)
    if options.volume:
        localize_volume(device, repeats=options.repeats)
        return
    layer = MDGRU(3, options.inputs, options.channels).to(device)
    x = torch.randn(1, options.inputs, *[options.side] * 3, device=device)

    def ours(module: MDGRU = layer) -> Tensor:
        with autocast(device):
            return module(x)

    bounded = MDGRU(3, options.inputs, options.channels, checkpoint=16).to(device)
    bounded.load_state_dict(layer.state_dict())
    ways: dict[str, Callable[[], Tensor]] = {
        "plain float32 loop": lambda: plain_loop(layer, x),
        "this layer, float32": lambda: layer(x),
        "this layer": ours,
        "this layer, memory bounded": lambda: ours(bounded),
    }
    clock = CLOCKS[options.clock]
    # The peak is measured by the wall clock.
    peak = peak_meter(3, device) if options.clock == "wall" else lambda seconds: math.nan
    times: dict[str, list[float]] = {name: [] for name in ways}
    peaks = [peak(1.0)]
    for _ in range(options.repeats):
        for name, work in ways.items():
            times[name].append(seconds(work, bounded if "bounded" in name else layer, device, clock))
        peaks.append(peak(1.0))
    with torch.no_grad():
        difference = (ours().float() - plain_loop(layer, x)).abs().max()
        counted = count_gflop(lambda: plain_loop(layer, x))
    gflop = arithmetic(layer, options.side, options.inputs)
    print(
        f"{device_name(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}: "
        f"{options.side}^3 x {options.inputs} -> {options.channels} channels, forward and backward, {gflop:.0f} GFLOP "
        f"({counted:.0f} forward)"
    )
    loop = min(times["plain float32 loop"])
    for name, found in times.items():
        best = min(found)
        share = f"  {100 * gflop / best / max(peaks):3.0f} % of the peak" if options.clock == "wall" else ""
        print(
            f"  {name:<28} {best:7.3f} s  {loop / best:5.2f} x the loop  {gflop / best:6.0f} GFLOP/s{share}"
            + f" ({options.clock} time)" * (options.clock != "wall")
        )
    if options.clock == "wall":
        print(f"  convolution peak {max(peaks):.0f} GFLOP/s")
    print(f"  largest difference from the loop {difference:.1e}")


if __name__ == "__main__":
    main()
