"""The method contract: a method is one module with `train` and `load`, and one line in METHODS."""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.platform import Localizer

from .checkpoints import check_taught, read_model

METHODS = {
    "mean_shape": "landmark_baselines.mean_shape",
    "global_to_local": "landmark_baselines.global_to_local",
    "md_gru": "landmark_baselines.md_gru",
    "heatmap_unet": "landmark_baselines.heatmap_unet",
    "scn": "landmark_baselines.scn",
    "pin": "landmark_baselines.pin",
    "heatmap_coordinate": "landmark_baselines.heatmap_coordinate",
    "dqn_agent": "landmark_baselines.dqn_agent",
    "loc_net": "landmark_baselines.loc_net",
    "cascade": "landmark_baselines.cascade",
}
DEVICES = re.compile("cpu|cuda(:[0-9]{1,3})?")
PRESETS = ("paper", "fast", "cpu", "tiny")


def method_module(name: str) -> ModuleType:
    """The module of a method. Raises ChallengeError for an unknown one."""
    if name not in METHODS:
        raise ChallengeError(f"method: wanted one of {', '.join(METHODS)}, got '{name}'")
    return import_module(METHODS[name])


def resolve_device(device: str) -> str:
    """`auto` becomes `cuda` where there is one, else `cpu`. ChallengeError for what is none, or not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not DEVICES.fullmatch(device):
        raise ChallengeError(f"device: wanted auto, cpu, cuda or cuda:N, got '{device[:60]}'")
    if device == "cpu":
        return device
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2] or 0) >= there:
        raise ChallengeError(f"device: wanted {device}, there {_counted(there)}")
    return device


def _counted(devices: int) -> str:
    return "is no CUDA device" if devices == 0 else f"are {devices} CUDA devices, counted from 0"


def train_method(name: str, dataset: Dataset, *, output: Path, device: str = "auto", **options: Any) -> None:
    """Train a method on the `train` split of a dataset into a model folder, choosing on `validation`."""
    module = method_module(name)
    check_taught(dataset)  # before hours are spent
    module.train(dataset, output=output, device=resolve_device(device), **options)


def load_model(folder: Path, *, device: str = "auto") -> Localizer:
    """The localizer in a model folder, ready to run."""
    name = read_model(folder).method
    localizer: Localizer = method_module(name).load(folder, device=resolve_device(device))
    return localizer
