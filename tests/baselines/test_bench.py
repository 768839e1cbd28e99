"""The figures of `landmarks bench` against counts by hand and against each other."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from landmark_baselines import bench, fused, global_to_local
from landmark_baselines.cli_bench import bench as command
from landmark_baselines.cold_start import cold_start, peak_ram_mb, restart_peak
from landmark_baselines.method import load_model, train_method
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError

COMMITTED = Path(__file__).parents[2] / "baselines" / "global_to_local" / "model"


def test_arithmetic_of_a_convolution_by_hand() -> None:
    flat = nn.Conv2d(4, 6, 3, padding=1, bias=False).eval()
    assert bench.count_gflop(lambda: flat(torch.zeros(2, 4, 10, 12))) == pytest.approx(2 * 2 * 6 * 4 * 9 * 120 / 1e9)
    grouped = nn.Conv3d(4, 6, 3, padding=1, stride=2, groups=2, bias=False).eval()
    volume = torch.zeros(1, 4, 8, 8, 8)
    with torch.inference_mode():
        assert bench.count_gflop(lambda: grouped(volume)) == pytest.approx(2 * 6 * 2 * 27 * 64 / 1e9)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_convolutions_fused_with_what_follows_count_too() -> None:
    x, weight, added = torch.zeros(1, 16, 10, 12), torch.zeros(32, 16, 3, 3), torch.zeros(1, 32, 10, 12)
    where = ([1, 1], [1, 1], [1, 1], 1)
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *where, list(x.shape))
    operators = torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise.binary
    wanted = 2 * 32 * 16 * 9 * 120 / 1e9
    with torch.inference_mode():
        assert bench.count_gflop(lambda: operators[0](x, packed, None, *where, "relu", [], "")) == pytest.approx(wanted)
        binary = bench.count_gflop(lambda: operators[1](x, added, packed, None, *where, "add", 1.0, "relu", [], ""))
    assert binary == pytest.approx(wanted)


def test_arithmetic_of_a_case_is_that_of_the_networks_layers(
    tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image(dataset.cases(split="test")[0].name)
    fast = load_model(COMMITTED, device="cpu")
    measured = bench.count_gflop(lambda: fast.localize(image))
    monkeypatch.setattr(fused, "available", lambda: False)  # layers that say what they are
    localizer = load_model(COMMITTED, device="cpu")
    assert isinstance(localizer, global_to_local.GlobalToLocal)
    counted = 0.0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d)
        inputs = layer.in_channels // layer.groups
        counted += 2 * inputs * math.prod(layer.kernel_size) * output.numel() / 1e9

    assert localizer.local_networks is not None
    layers = [*localizer.global_network.modules(), *localizer.local_networks.modules()]
    handles = [layer.register_forward_hook(count) for layer in layers if isinstance(layer, nn.Conv2d)]
    localizer.localize(image)
    assert len(handles) > 10 and measured == pytest.approx(counted, rel=1e-6)


def test_the_peak_is_a_rate_of_this_machine() -> None:
    meter = bench.peak_meter(2, torch.device("cpu"))
    rates = [meter(seconds) for seconds in (0.0, 0.05, 0.1)]
    assert all(1 < rate < 1e5 for rate in rates)  # one core of the last decade to the largest server


def test_memory_peaks_are_of_the_work_since_the_last_restart() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux can start the peak anew")
    held = np.ones(25_000_000)  # 200 MB, touched
    high = peak_ram_mb()
    del held
    restart_peak()
    assert peak_ram_mb() < high - 150


def test_the_command_splits_a_case_into_its_parts(tiny_dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    arguments = [str(COMMITTED), str(tiny_dataset), "--cases", "2", "--device", "cpu", "--json", str(output)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "cold start" in done.output and "% of this machine's" in done.output
    found = json.loads(output.read_text())
    assert found["n_cases"] == len(found["cases"]) == 2 and found["task"] == "ceph-19"
    for case in found["cases"]:
        assert set(case["parts_s"]) == {"read", "resample", "network", "decode", "write", "other"}
        assert sum(case["parts_s"].values()) == pytest.approx(case["seconds"], rel=1e-6)
        assert all(seconds >= 0 for seconds in case["parts_s"].values()) and case["gflop"] > 0
    rates = [case["gflop"] / case["parts_s"]["network"] / case["peak_gflop_per_s"] for case in found["cases"]]
    assert found["share_of_peak"]["median"] == pytest.approx(np.median(rates), abs=2e-5)
    assert found["cold"]["seconds"] > found["cold"]["import_s"] > 0 and found["cold"]["peak_ram_mb"] > 50
    assert found["peak_vram_mb"] is None and found["peak_ram_mb"] > 50


def test_a_method_without_a_network_has_no_share(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset(tiny_dataset)
    train_method("mean_shape", dataset, output=tmp_path / "floor", device="cpu")
    localizer = load_model(tmp_path / "floor", device="cpu")
    (case,) = bench.warm_times(localizer, dataset, dataset.cases(split="test")[:1], device=torch.device("cpu"))
    assert case.gflop == 0 and case.share_of_peak is None and "network" not in case.parts_s


def test_refusals(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset(tiny_dataset)
    image = dataset.image_path(dataset.cases(split="test")[0].name)
    with pytest.raises(ChallengeError, match="a fresh process failed"):
        cold_start(tmp_path, image, device="cpu")
    other = shutil.copytree(COMMITTED, tmp_path / "other")
    (other / "model.json").write_text((other / "model.json").read_text().replace('"ceph-19"', '"ceph-20"'))
    with pytest.raises(ChallengeError, match="wanted a dataset of ceph-20"):
        CliRunner().invoke(command, [str(other), str(tiny_dataset)], catch_exceptions=False)
