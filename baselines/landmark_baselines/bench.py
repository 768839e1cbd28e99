"""Where the time of a model goes, and how much of what this machine can do its network part uses."""

import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from landmark_challenge.dataset import Case, Dataset
from landmark_challenge.landmarks import write_landmarks
from landmark_challenge.platform import Localizer

from .blocks import CHANNELS_LAST, CONV, compute_type
from .checkpoints import Model
from .cold_start import cold_start, peak_ram_mb, restart_peak
from .method import load_model, resolve_device
from .stopwatch import PARTS, measured, span
from .training import report

PEAK_CHANNELS = 128
# Sides of the inputs that the peak is looked for at; the fastest is taken.
PEAK_SIDES = {("cpu", 2): (64, 96, 128), ("cpu", 3): (16, 20, 24), ("cuda", 2): (512, 1024), ("cuda", 3): (64, 96)}
# How long one look at the peak takes: as long as the network part beside it, so that both are interrupted alike.
PEAK_SECONDS = (0.05, 1.0)


@dataclass(frozen=True)
class CaseTime:
    """One warm case: its parts in seconds, its memory, its arithmetic, and the machine's peak around it."""

    case: str
    seconds: float
    parts_s: dict[str, float]
    peak_ram_mb: float
    peak_vram_mb: float | None
    gflop: float
    peak_gflop_per_s: float

    @property
    def share_of_peak(self) -> float | None:
        """GFLOP/s of the network part as a share of the peak; None for a method without a network."""
        network = self.parts_s.get("network", 0.0)
        return self.gflop / network / self.peak_gflop_per_s if network and self.gflop else None


def measure(
    model: Path, dataset: Dataset, saved: Model, *, split: str = "test", cases: int | None = None, device: str = "auto"
) -> dict[str, Any]:
    """All figures of `landmarks bench`, ready for JSON: times in seconds, memory in 10^6 bytes."""
    chosen = dataset.wanted_cases(split)[:cases]
    where = resolve_device(device)
    report(f"cold start with {chosen[0].name}")
    cold = cold_start(model, dataset.image_path(chosen[0].name), device=where)
    localizer = load_model(model, device=where)
    times = warm_times(localizer, dataset, chosen, device=torch.device(where))
    shares = [time.share_of_peak for time in times if time.share_of_peak is not None]
    network = [time.gflop / time.parts_s["network"] for time in times if time.share_of_peak is not None]
    return {
        "method": saved.method,
        "preset": saved.preset,
        "task": dataset.task.name,
        "split": split,
        "n_cases": len(chosen),
        "device": device_name(torch.device(where)),
        "threads": torch.get_num_threads(),
        # Programs that wanted to run, this one included: far above `threads`, every time here is too long.
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "cold": {key: round(value, 3) for key, value in cold.items()},
        "warm": {
            "total_s": _summary([time.seconds for time in times]),
            **{f"{part}_s": _summary([time.parts_s.get(part, 0.0) for time in times]) for part in (*PARTS, "other")},
        },
        "peak_ram_mb": round(max(time.peak_ram_mb for time in times), 1),
        "peak_vram_mb": _largest([time.peak_vram_mb for time in times]),
        "gflop_per_case": _summary([time.gflop for time in times]),
        "network_gflop_per_s": _summary(network) if network else None,
        "peak_gflop_per_s": _summary([time.peak_gflop_per_s for time in times]),
        "share_of_peak": _summary(shares) if shares else None,
        "cases": [asdict(time) for time in times],
    }


def warm_times(
    localizer: Localizer, dataset: Dataset, cases: Sequence[Case], *, device: torch.device
) -> list[CaseTime]:
    """Every case once to count its arithmetic and to warm up, then once measured, the peak taken before and after."""
    gflop = []
    for number, case in enumerate(cases, 1):
        gflop.append(count_gflop(lambda case=case: localizer.localize(dataset.image(case.name))))  # type: ignore[misc]
        if number == len(cases) or number % 10 == 0:
            report(f"counted {number} of {len(cases)} cases")
    peak = peak_meter(dataset.task.dimension, device)
    times: list[CaseTime] = []
    before = peak(PEAK_SECONDS[0])
    with tempfile.TemporaryDirectory() as folder:
        for case, arithmetic in zip(cases, gflop, strict=True):
            one = _one_case(localizer, dataset, case, Path(folder), device=device)
            after = peak(one[1].get("network", 0.0))
            times.append(CaseTime(case.name, *one, gflop=arithmetic, peak_gflop_per_s=(before + after) / 2))
            before = after
    return times


def _one_case(
    localizer: Localizer, dataset: Dataset, case: Case, folder: Path, *, device: torch.device
) -> tuple[float, dict[str, float], float, float | None]:
    """Seconds, seconds by part, and the peaks of RAM and VRAM of one case from its file to its answer."""
    restart_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    with measured() as watch:
        with span("read"):
            image = dataset.image(case.name)
        found = localizer.localize(image)
        with span("write"):
            write_landmarks(folder / f"{case.name}.json", found.landmarks)
    _wait(device)
    seconds = time.perf_counter() - begun
    parts = {**watch.seconds, "other": max(0.0, seconds - sum(watch.seconds.values()))}
    vram = torch.cuda.max_memory_reserved(device) / 1e6 if device.type == "cuda" else None
    return seconds, parts, peak_ram_mb(), vram


def count_gflop(work: Callable[[], object]) -> float:
    """10^9 floating-point operations of `work`, a multiplication and an addition counted apart.

    Convolutions and matrix products only, which is where networks spend them.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_fused_operators())
    with counter:
        work()
    return counter.get_total_flops() / 1e9


def _fused_operators() -> dict[Any, Callable[..., int]]:
    """How to count oneDNN's convolutions with what follows in one operator, which PyTorch's counter passes over."""

    def convolution(x: Any, second: Any, third: Any = None, *_: Any, out_shape: Any = None, **__: Any) -> int:
        weight = third if third is not None and len(third) > 2 else second  # the binary form has its operand first
        return 2 * math.prod(out_shape) * math.prod(weight[1:])

    names = ("_convolution_pointwise", "_convolution_pointwise_")
    return {getattr(torch.ops.mkldnn, name): convolution for name in names if hasattr(torch.ops.mkldnn, name)}


def peak_meter(ndim: int, device: torch.device) -> Callable[[float], float]:
    """A function of the seconds to look: what this machine does right now, in GFLOP/s, at the convolutions of networks.

    3x3(x3) convolutions of 128 channels, channels-last, in bfloat16 where the device is fast at it, at the size of
    input that is fastest here.
    """
    dtype = compute_type(device)
    layer = CONV[ndim](PEAK_CHANNELS, PEAK_CHANNELS, 3, padding=1, bias=False)
    layer = layer.to(device, dtype).to(memory_format=CHANNELS_LAST[ndim])  # type: ignore[call-overload]
    sides = PEAK_SIDES[(device.type, ndim)]
    rates = {side: max(_rate(layer, side, ndim, device, dtype, seconds=0.02) for _ in range(3)) for side in sides}
    best = max(rates, key=lambda side: rates[side])
    low, high = PEAK_SECONDS
    return lambda seconds: _rate(layer, best, ndim, device, dtype, seconds=min(max(seconds, low), high))


@torch.inference_mode()
def _rate(layer: nn.Module, side: int, ndim: int, device: torch.device, dtype: torch.dtype, *, seconds: float) -> float:
    """GFLOP/s of `layer` on an input of `side`, over at least so many seconds, interruptions included."""
    x = torch.randn(1, PEAK_CHANNELS, *[side] * ndim).to(device, dtype).contiguous(memory_format=CHANNELS_LAST[ndim])
    gflop = 2 * PEAK_CHANNELS**2 * 3**ndim * side**ndim / 1e9
    layer(x)
    _wait(device)
    done, begun = 0, time.perf_counter()
    while done < 3 or time.perf_counter() - begun < seconds:
        layer(x)
        _wait(device)
        done += 1
    return done * gflop / (time.perf_counter() - begun)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """The name of the processor or the graphics card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return f"{names[0]} ({os.cpu_count()} cores)"
    return platform.processor() or platform.machine()


def as_table(result: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    warm, cold = result["warm"], result["cold"]
    lines = [
        f"{result['method']} ({result['preset']}) for {result['task']}: {result['n_cases']} cases of {result['split']}",
        f"  on {result['device']}, {result['threads']} threads, torch {result['versions']['torch']}, "
        f"load average {result['load_average']}",
        f"  cold start   {cold['seconds']:.2f} s (import {cold['import_s']:.2f}, load {cold['load_s']:.2f}, "
        f"first case {cold['first_case_s']:.2f}), {cold['peak_ram_mb']:.0f} MB",
        f"  {'warm case':<12} {'median':>9} {'p95':>9}",
    ]
    for part in ("total", *PARTS, "other"):
        row = warm[f"{part}_s"]
        lines.append(f"    {part:<10} {row['median'] * 1000:>6.1f} ms {row['p95'] * 1000:>6.1f} ms")
    lines.append(f"  peak memory  {result['peak_ram_mb']:.0f} MB" + (
        f", on the device {result['peak_vram_mb']:.0f} MB" if result["peak_vram_mb"] is not None else ""
    ))  # fmt: skip
    lines.append(f"  arithmetic   {result['gflop_per_case']['median']:.2f} GFLOP per case")
    if result["share_of_peak"]:
        lines.append(
            f"  network      {result['network_gflop_per_s']['median']:.0f} GFLOP/s, "
            f"{100 * result['share_of_peak']['median']:.0f} % of this machine's "
            f"{result['peak_gflop_per_s']['median']:.0f} GFLOP/s (median of both, in the same run)"
        )
    return "\n".join(lines)


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(float(np.median(values)), 5), "p95": round(float(np.percentile(values, 95)), 5)}


def _largest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(max(known), 1) if known else None
