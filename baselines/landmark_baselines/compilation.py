"""torch.compile for training, where this machine can: it wants a C++ compiler, and Triton on a GPU."""

from functools import cache

import torch
from torch import nn

from .training_log import report


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The model in a compiled form that shares its weights, or the model itself where compiling does not work here."""
    reason = why_not(device)
    if reason:
        report(f"not compiled: {reason}")
        return model
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]


@cache
def why_not(device: torch.device) -> str:
    """Why compiled training does not work on this machine, empty where it does: a small one is tried."""
    layer = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(device)
    try:
        torch.compile(layer, dynamic=False)(torch.ones(2, 4, device=device)).sum().backward()
    except Exception as error:  # compilers fail in ways of their own, and none of them matters to training
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return ""
