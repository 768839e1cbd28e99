"""Global-to-local FCNN: patch-wise regression and classification, first over the image, then around each landmark.

Noothout et al., "Deep Learning-Based Regression and Classification for Automatic Landmark Localization in Medical
Images", IEEE TMI 39(12), 2020. What the paper leaves open is chosen where the comment says so.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .blocks import for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .global_to_local_network import (
    Architecture,
    PatchNetwork,
    Settings,
    Stage,
    decode,
    from_log,
    global_outputs,
    local_outputs,
    patch_loss,
    run_global,
    run_local,
    to_log,
)
from .global_to_local_presets import (
    PRESETS,
    PUBLISHED,
    STUDY,
    STUDY_NOTE,
    VARIANTS,
    preset_settings,
    variant_settings,
)
from .global_to_local_training import choose_window, train
from .grids import rescale
from .presets import from_plain
from .store import prepare
from .training import set_threads

if TYPE_CHECKING:
    from .vector_fields import VectorField

__all__ = [
    "PRESETS",
    "PUBLISHED",
    "STUDY",
    "STUDY_NOTE",
    "VARIANTS",
    "Architecture",
    "GlobalToLocal",
    "PatchNetwork",
    "Settings",
    "Stage",
    "choose_window",
    "decode",
    "from_log",
    "global_outputs",
    "load",
    "local_outputs",
    "patch_loss",
    "preset_settings",
    "run_global",
    "run_local",
    "to_log",
    "train",
    "variant_settings",
]


@dataclass(frozen=True)
class GlobalToLocal:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    window: int
    global_network: nn.Module = field(repr=False)
    local_networks: nn.Module | None = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm. The method has no covariance; every landmark of the task is given with probability 1."""
        if not self.settings.local or self.local_networks is None:
            return self.localize_global(image)
        coarse, fine = self.settings.global_stage, self.settings.local_stage
        overview = prepare(image, self.task, coarse.spacing_mm)
        points = run_global(self.global_network, self.tensor(overview), self.settings)
        detail = overview if fine.spacing_mm == coarse.spacing_mm else prepare(image, self.task, fine.spacing_mm)
        estimates = rescale(points, spacing_from=coarse.spacing_mm, spacing_to=fine.spacing_mm)
        refined = run_local(self.local_networks, self.tensor(detail), estimates, self.settings, window=self.window)
        index = refined[0].double().cpu().numpy()
        return Localization(Landmarks(self.task.names, detail.index_to_mm(index)))

    def localize_global(self, image: Image) -> Localization:
        """The global stage alone."""
        overview = prepare(image, self.task, self.settings.global_stage.spacing_mm)
        points = run_global(self.global_network, self.tensor(overview), self.settings)
        return Localization(Landmarks(self.task.names, overview.index_to_mm(points[0].double().cpu().numpy())))

    def vector_fields(self, image: Image, name: str) -> list["VectorField"]:
        """What the patches of each stage say of the landmark `name` (Fig. 5 of the paper)."""
        from .vector_fields import global_to_local_fields  # only who looks at them needs it

        return global_to_local_fields(self, image, name)

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)

    def tensor(self, image: Image) -> Tensor:
        """(1, 1, ...) of a prepared image, on the device of the networks."""
        return torch.from_numpy(np.ascontiguousarray(image.array))[None, None].to(self.device)


def load(model: Path, *, device: str = "cpu") -> GlobalToLocal:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = from_plain(Settings, saved.settings, source=str(model / MODEL_FILE))
    ndim, landmarks = saved.task.dimension, len(saved.task.names)
    network = PatchNetwork(ndim, landmarks, settings.global_stage.architecture)
    specialists = (
        PatchNetwork(ndim, landmarks, settings.local_stage.architecture, specialised=True) if settings.local else None
    )
    for prefix, module in (("global.", network), ("local.", specialists)):
        if module is None:
            continue
        saved.load_weights(module, model, prefix=prefix)
        for_inference(placed(module, device, ndim))
    return GlobalToLocal(saved, settings, int(saved.settings["window"]), network, specialists, torch.device(device))
