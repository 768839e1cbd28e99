"""The kit's own method: a U-Net finds all landmarks in the whole image, two more look at each of them closely.

Every network gives maps whose softmax says where a landmark is. The parts are known from the methods beside it: spatial
cross-entropy (`heatmap_unet`), centres of mass in crops and the distance as loss (`loc_net`), refinement by networks of
their own (`global_to_local`). New are that one network refines all landmarks and is told which one it sees, that maps
are taught how observers disagree, that crops lie as far beside their landmarks as the stage before errs in cases
that it has not seen, and that the covariance is calibrated on those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .ablation import Row
from .blocks import for_inference, placed
from .cascade_network import STAGES, Settings, checked, joined, make_network, run
from .cascade_presets import preset_settings, variant_settings
from .cascade_training import fit_stages
from .checkpoints import MODEL_FILE, Model, read_model, save_model
from .presets import from_plain
from .scales import ImageReader
from .stopwatch import span
from .training import report, set_threads

__all__ = ["STUDY", "STUDY_NOTE", "Cascade", "Settings", "load", "preset_settings", "train", "variant_settings"]

# Share of the points that a region is to hold; what a region of another share holds is not calibrated.
HELD = 0.9
ONE_STANDARD_ERROR = 0.8413  # what lies below it in a normal distribution


def train(
    dataset: Dataset,
    *,
    output: Path,
    preset: str = "cpu",
    settings: Settings | None = None,
    **options: Any,
) -> None:
    """Train all stages into a model folder, then calibrate; `options` are those of `fit_stages`."""
    settings = settings or preset_settings(preset, dataset.task)
    if fit_stages(dataset, settings, output=output, preset=preset, **options):
        calibrate(output, dataset, device=options["device"])


def calibrate(folder: Path, dataset: Dataset, *, device: str) -> float:
    """Scale the covariances of a model so that nine of ten points lie in their 90 % regions; the scale.

    Every validation case is localized as a container would. Those are few, and regions that are too small are worse
    than ones that are too large: the scale is one standard error above the one that holds nine of ten points of them.
    Raises ChallengeError where no validation case has a landmark.
    """
    saved = read_model(folder)
    localizer, distances = load(folder, device=device), []
    for case in dataset.wanted_cases("validation"):
        found = localizer.localize(dataset.image(case.name))
        reference = dataset.landmarks(case.name).aligned_mm(dataset.task.names)
        own = []
        for name, there, point in zip(found.landmarks.names, reference, found.landmarks.points_mm, strict=True):
            if np.isfinite(there).all():
                ndim = dataset.task.dimension
                apart = (point - there)[:ndim]
                own.append(apart @ np.linalg.solve(found.covariance_mm2[name][:ndim, :ndim], apart))
        if own:
            distances.append(np.array(own))
    if not distances:
        raise ChallengeError(f"{dataset.folder}: wanted landmarks in the validation cases, there are none")
    scale = upper_quantile(distances, HELD) / chi2_quantile(HELD, dataset.task.dimension)
    report(f"covariances times {scale:.3f}, from {sum(map(len, distances))} validation points")
    save_model(folder, replace(saved, settings={**saved.settings, "covariance_scale": scale}))
    return scale


def upper_quantile(values: Sequence[NDArray[np.float64]], share: float, *, resamples: int = 1000) -> float:
    """One standard error above the quantile of the values of all cases: the 84th percentile of the quantiles of
    resampled cases, whose points are wrong together.
    """
    draw = np.random.default_rng(0)
    drawn = draw.integers(len(values), size=(resamples, len(values)))
    quantiles = [np.quantile(np.concatenate([values[case] for case in cases]), share) for cases in drawn]
    return float(np.quantile(quantiles, ONE_STANDARD_ERROR))


def chi2_quantile(share: float, ndim: int) -> float:
    """The squared Mahalanobis distance within which `share` of a normal distribution in ndim dimensions lies.

    >>> round(chi2_quantile(0.9, 2), 4)  # -2 ln 0.1
    4.6052
    """
    half = torch.tensor(ndim / 2, dtype=torch.float64)
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        inside = torch.special.gammainc(half, torch.tensor(middle / 2, dtype=torch.float64)) < share
        low, high = (middle, high) if inside else (low, middle)
    return middle


@dataclass(frozen=True)
class Cascade:
    """A trained model, ready to localize."""

    model: Model
    settings: Settings
    networks: dict[str, nn.Module] = field(repr=False)
    device: torch.device

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1, and their calibrated covariances in mm^2."""
        settings = self.settings
        spacings, multiple = settings.spacings_mm, settings.coarse.architecture.multiple
        reader = ImageReader(image, self.task, spacings, settings.window_voxels, multiple, True, self.device)
        found = joined(run(self.networks, reader.read, settings), settings)
        with span("decode"):
            points = found.points.double().cpu().numpy()
            scale = self.model.settings.get("covariance_scale", 1.0) * spacings[-1] ** 2
            covariance = np.zeros((len(points), 3, 3))
            # the axes of the finest grid are those of space
            covariance[:, : image.ndim, : image.ndim] = found.moments.double().cpu().numpy() * scale
            landmarks = Landmarks(self.task.names, reader.last.index_to_mm(points))
            return Localization(landmarks, dict(zip(self.task.names, covariance, strict=True)))

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back in the frame of an image."""
        return self.model.mean_landmarks(image)


def load(model: Path, *, device: str = "cpu") -> Cascade:
    """The localizer in a model folder."""
    set_threads()
    saved = read_model(model)
    settings = checked(from_plain(Settings, saved.settings, source=str(model / MODEL_FILE)))
    ndim, networks = saved.task.dimension, {}
    for number, name in enumerate(STAGES[: 1 + settings.refinements]):
        networks[name] = make_network(ndim, len(saved.task.names), settings, number)
        saved.load_weights(networks[name], model, prefix=f"{name}.")
        for_inference(placed(networks[name], device, ndim))
    return Cascade(saved, settings, networks, torch.device(device))


STUDY = (
    Row("cascade", view={}),
    Row("one pass", view={"passes": 1}),
    Row("the mean of both refinements", view={"joined": True}),
    Row("one refinement", view={"refinements": 1}),
    Row("no refinement", view={"refinements": 0}),
    Row("maps of the reference alone", "reference"),
    Row("not told which landmark", "untold"),
    Row("no distance in the loss", "no_distance"),
    Row("no random changes", "no_changes"),
)
STUDY_NOTE = "The first five rows share one training; each of the others is trained without one part."
