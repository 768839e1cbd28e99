"""The kit's own method: a network finds all landmarks in the whole image, others look at each of them closely.

Every network gives maps whose softmax says where a landmark is. The parts are known from the methods beside it: spatial
cross-entropy (`heatmap_unet`), centres of mass in crops and the distance as loss (`loc_net`), refinement by networks of
their own (`global_to_local`). New are that in 2D the first starts from the weights of ImageNet (`pretrained`), that one
network refines all landmarks and is told which one it sees, that maps are taught how observers disagree, that what
stages find is fused by how sure each is, and that the covariance tells how far they differ and is calibrated on the
validation cases.
"""

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, Localization
from landmark_challenge.task import Task

from .ablation import Row
from .blocks import for_inference, placed
from .cascade_network import Settings, checked, make_network, result, run
from .cascade_presets import preset_settings, variant_settings
from .cascade_training import SHAPE, fit_stages
from .checkpoints import MODEL_FILE, Model, read_model
from .finish import save_trained
from .neighbour_shape import NeighbourShape
from .presets import from_plain
from .pretrained import ORIGIN, Pretrained
from .references import reference_mm
from .resuming import already_trained, fingerprint_of
from .scales import ImageReader
from .stopwatch import span
from .training import report, set_threads

__all__ = ["STUDY", "STUDY_NOTE", "Cascade", "Settings", "load", "preset_settings", "train", "variant_settings"]

# Share of the points that a region is to hold; what a region of another share holds is not calibrated.
HELD = 0.9
ONE_STANDARD_ERROR = 0.8413  # what lies below it in a normal distribution
SCALE = "covariance_scale"  # in the settings of model.json


def train(
    dataset: Dataset,
    *,
    output: Path,
    preset: str = "cpu",
    seed: int = 0,
    resume: bool = False,
    settings: Settings | None = None,
    **options: Any,
) -> None:
    """Train all stages, calibrate, and write a model folder; `options` are those of `fit_stages`."""
    settings = settings or preset_settings(preset, dataset.task)
    fingerprint = fingerprint_of(dataset, method="cascade", preset=preset, settings=asdict(settings), seed=seed)
    if resume and already_trained(output, fingerprint):
        return
    options |= {"output": output, "seed": seed, "resume": resume, "fingerprint": fingerprint}
    trained = fit_stages(dataset, settings, **options)
    scale = 1.0
    if trained.fabric.global_rank == 0:
        model = Model("cascade", preset, asdict(settings), dataset.task, {}, {}, {})
        networks = {name: as_kept(network) for name, network in trained.networks.items()}
        localizer = Cascade.of(model, settings, networks, trained.fabric.device, shape=trained.shape)
        scale = calibrated(localizer, dataset)
    weights = trained.weights()
    save_trained(
        output,
        dataset,
        method="cascade",
        preset=preset,
        settings={**asdict(settings), SCALE: scale},
        weights=weights,
        curves=trained.curves,
        fabric=trained.fabric,
        seed=seed,
        exact={key for key, value in weights.items() if key.startswith(SHAPE) or not is_rounded(value)},
        fingerprint=fingerprint,
        rounded=True,  # convolutions compute in bfloat16 wherever that is fast
        begun_from=begun_from(settings),
    )


def begun_from(settings: Settings) -> str:
    """What weights the whole-image network starts from; "" for random ones."""
    architecture = settings.coarse.architecture
    return ORIGIN if isinstance(architecture, Pretrained) and architecture.imagenet else ""


def is_rounded(weights: Tensor) -> bool:
    """Whether a model folder keeps them in bfloat16."""
    return weights.is_floating_point() and weights.ndim > 1


def as_kept(network: nn.Module) -> nn.Module:
    """A copy with the weights that a model folder keeps."""
    copied = copy.deepcopy(network)
    for value in copied.state_dict().values():
        if is_rounded(value):
            value.copy_(value.bfloat16())
    return copied


def calibrated(localizer: "Cascade", dataset: Dataset) -> float:
    """By what covariances are to be multiplied so that nine of ten points lie in their 90 % regions.

    Every validation case is localized as a container would. Those are few, they have chosen the weights, and regions
    that are too small are worse than ones that are too large: the scale is one standard error above the one that holds
    nine of ten of their points. Raises ChallengeError where no validation case has a landmark.
    """
    distances, ndim = [], dataset.task.dimension
    for case in dataset.wanted_cases("validation"):
        found = localizer.localize(dataset.image(case.name))
        apart = (found.landmarks.points_mm - reference_mm(dataset, case))[:, :ndim]
        covariance = np.array(list(found.covariance_mm2.values()))[:, :ndim, :ndim]
        distances.append(np.einsum("ni,nij,nj->n", apart, np.linalg.inv(covariance), apart))
    squared = np.array(distances)
    if not np.isfinite(squared).any():
        raise ChallengeError(f"{dataset.folder}: wanted landmarks in the validation cases, there are none")
    scale = upper_quantile(squared, HELD) / chi2_quantile(HELD, ndim) * localizer.scale
    report(f"covariances times {scale:.3f}, from {np.isfinite(squared).sum()} validation points")
    return scale


def upper_quantile(values: NDArray[np.float64], share: float, *, resamples: int = 1000) -> float:
    """One standard error above the quantile of values (cases, landmarks), NaN where there is none.

    The points of an image are wrong together, and so are those of a landmark, which other raters may mean otherwise:
    cases and landmarks are both drawn again (Owen, Annals of Applied Statistics 2007, the pigeonhole bootstrap).
    """
    draw = np.random.default_rng(0)
    quantiles = []
    for _ in range(resamples):
        again = [draw.integers(count, size=count) for count in values.shape]
        drawn = values[np.ix_(*again)]
        if np.isfinite(drawn).any():
            quantiles.append(np.nanquantile(drawn, share))
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
    """A trained model, ready to localize. scale: of its covariances. shape: of its training cases, if they tell one."""

    model: Model
    settings: Settings
    networks: dict[str, nn.Module] = field(repr=False)
    device: torch.device
    scale: float = 1.0
    shape: NeighbourShape | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        settings: Settings,
        networks: dict[str, nn.Module],
        device: torch.device,
        scale: float = 1.0,
        shape: NeighbourShape | None = None,
    ) -> "Cascade":
        """Made ready for inference, in place."""
        ready = {
            name: for_inference(placed(part, str(device), model.task.dimension)) for name, part in networks.items()
        }
        return cls(model, settings, ready, device, scale, shape and shape.to(device))

    @property
    def task(self) -> Task:
        """The task it was trained for."""
        return self.model.task

    def localize(self, image: Image) -> Localization:
        """Landmarks in mm, each of the task with probability 1, and their calibrated covariances in mm^2."""
        settings = self.settings
        spacings, multiple = settings.spacings_mm, settings.coarse.architecture.multiple
        reader = ImageReader(image, self.task, spacings, settings.window_voxels, multiple, True, self.device)
        found = result(run(self.networks, reader.read, settings, shape=self.shape))
        with span("decode"):
            points = found.points.double().cpu().numpy() / spacings[-1] - 0.5
            covariance = np.zeros((len(points), 3, 3))
            # the axes of the finest grid are those of space
            covariance[:, : image.ndim, : image.ndim] = found.moments.double().cpu().numpy() * self.scale
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
    if not isinstance(saved.settings.get(SCALE), int | float):
        raise ChallengeError(f"{model / MODEL_FILE}: wanted the setting {SCALE}, there is none: train it again")
    ndim, networks = saved.task.dimension, {}
    for number, name in enumerate(settings.names):
        networks[name] = make_network(ndim, len(saved.task.names), settings, number)
        saved.load_weights(networks[name], model, prefix=f"{name}.")
    parts = {key.removeprefix(SHAPE): part for key, part in saved.weights.items() if key.startswith(SHAPE)}
    if parts and set(parts) != set(NeighbourShape.__dataclass_fields__):
        raise ChallengeError(f"{model}: wanted a whole shape among the weights, got {', '.join(sorted(parts))} of it")
    shape = NeighbourShape(**parts) if parts else None
    return Cascade.of(saved, settings, networks, torch.device(device), saved.settings[SCALE], shape)


STUDY = (
    Row("cascade", view={}),
    Row("one pass", view={"passes": 1}),
    Row("one fine stage", view={"skipped": ("finest",)}),
    Row("whole image alone", view={"skipped": ("middle", "fine", "finest")}),
    Row("no weights of ImageNet", "scratch"),
    Row("a middle stage before the fine ones", "middle"),
    Row("maps of the reference alone", "reference"),
    Row("not told which landmark", "untold"),
    Row("no distance in the loss", "no_distance"),
    Row("no random changes", "no_changes"),
)
STUDY_NOTE = (
    "The first four rows share one training; each of the others is trained without one part, or with a middle stage."
)
