"""Multi-scale Loc-Net: U-Nets whose maps' centres of mass are points, chained coarse to fine by differentiable crops.

Ma et al., "Volumetric landmark detection with a multi-scale shift equivariant neural network", ISBI 2020, arXiv
2003.01639. All scales are trained together; random shifts of the finest crop make the chain robust and, repeated for an
image, tell how sure it is. The paper trains one chain per landmark, in 3D; here landmarks may share one (`shared`), and
there is a 2D form.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .blocks import for_inference, placed
from .checkpoints import MODEL_FILE, Model, read_model
from .loc_net_network import Chain, Settings, checked, run
from .loc_net_presets import PRESETS, STUDY, STUDY_NOTE, VARIANTS, preset_settings, variant_settings
from .loc_net_training import train
from .presets import from_plain
from .scales import ImageReader
from .stopwatch import span
from .training import set_threads

__all__ = [
    "PRESETS",
    "STUDY",
    "STUDY_NOTE",
    "VARIANTS",
    "Chain",
    "LocNet",
    "Settings",
    "load",
    "preset_settings",
    "train",
    "variant_settings",
]


@dataclass(frozen=True)
class LocNet:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    chain: Chain = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1: the mean of all passes (the paper does not say which
        point of them it scores), and their sample covariance in mm^2.

        The paper takes the variances along the axes as uncorrelated. What it calls the 90 % confidence volume follows
        from a covariance: `ellipsoid_90` of `landmarks evaluate`. It tells how much the point depends on where the
        finest crop is cut, which is smaller than the error; with `map_spread` the mean spread of the maps is added (the
        law of total variance), which holds the width that they were taught and is larger. Nothing calibrates either.
        """
        settings = self.settings
        reader = ImageReader(
            image,
            self.task,
            settings.spacings_mm,
            settings.crop_voxels,
            settings.coarse.multiple,
            settings.anti_alias,
            self.device,
        )
        found, spread = run(self.chain, reader.read, passes=settings.passes)
        points, spreads = found.double().cpu().numpy(), spread.double().cpu().numpy()
        landmarks = Landmarks(self.task.names, reader.last.index_to_mm(points.mean(axis=0)))
        if len(points) == 1:
            return Localization(landmarks)
        with span("decode"):
            apart = (points - points.mean(axis=0)) * settings.spacings_mm[-1]
            covariance = np.zeros((len(self.task.names), 3, 3))
            # the axes of the finest grid are those of space
            between = np.einsum("kli,klj->lij", apart, apart) / (len(points) - 1)
            within = spreads.mean(axis=0) * settings.spacings_mm[-1] ** 2
            covariance[:, : image.ndim, : image.ndim] = between + within
        return Localization(landmarks, dict(zip(self.task.names, covariance, strict=True)))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> LocNet:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)))
    ndim = saved.task.dimension
    chain = Chain(ndim, len(saved.task.names), settings)
    saved.load_weights(chain, model)
    for_inference(placed(chain, device, ndim))
    return LocNet(saved, settings, chain, torch.device(device))
