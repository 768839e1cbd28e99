"""Deep Q-learning agents that walk to their landmarks, on coarse, middle and fine steps; several share one trunk.

Alansary et al., "Evaluating reinforcement learning agents for anatomical landmark detection", Medical Image Analysis
53, 2019, and their code; several agents on one convolutional trunk after Vlontzos et al., MICCAI 2019. How they learn
is in `dqn_training.py`, the network in `dqn_network.py`, what the walks and the memory do in `walks.py`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .blocks import for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .dqn_network import QNetwork, run
from .dqn_presets import PRESETS, VARIANTS, Settings, checked, preset_settings, variant_settings
from .dqn_training import train
from .presets import from_plain
from .store import prepare
from .training import set_threads

__all__ = ["PRESETS", "VARIANTS", "DQNAgent", "Settings", "load", "preset_settings", "train", "variant_settings"]


@dataclass(frozen=True)
class DQNAgent:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    network: nn.Module = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, the means of where the walks end, and covariances in mm^2 of one walk's end where there are
        several: their spread, and that of a step of one voxel. Nothing calibrates them.
        """
        grid = prepare(image, self.task, self.settings.spacing_mm)
        tensor = torch.from_numpy(np.ascontiguousarray(grid.array))[None, None].to(self.device)
        ends = run(self.network, tensor, self.settings, starts=self.settings.starts).double().cpu().numpy()
        landmarks = Landmarks(self.task.names, grid.index_to_mm(ends.mean(axis=1)))
        if self.settings.starts == 1:
            return Localization(landmarks)
        covariances = {}
        for name, own in zip(self.task.names, ends, strict=True):
            spread = np.cov(own, rowvar=False) + np.eye(image.ndim) / 12  # uniform within a voxel
            covariances[name] = np.zeros((3, 3))
            covariances[name][: image.ndim, : image.ndim] = spread * self.settings.spacing_mm**2
        return Localization(landmarks, covariances)

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> DQNAgent:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)))
    ndim = saved.task.dimension
    network = QNetwork(ndim, len(saved.task.names), settings.architecture, frames=settings.frames)
    saved.load_weights(network, model)
    return DQNAgent(saved, settings, for_inference(placed(network, device, ndim)), torch.device(device))
