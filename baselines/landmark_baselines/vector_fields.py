"""What patches say of one landmark: posteriors and displacements on a grid of cells, and the point they agree on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_challenge.images import Image

from .grids import cell_centres, rescale
from .store import prepare

if TYPE_CHECKING:
    from .global_to_local import GlobalToLocal, Settings


@dataclass(frozen=True, eq=False)
class VectorField:
    """One stage's answer for one landmark, in voxels x, y[, z] of its prepared image.

    image: what the stage works on, grey values 0..1. cell_voxels: side of a patch. centres: (ndim, *grid) of the
    patches. displacement: (ndim, *grid) to where each points, None without regression. posterior: (*grid) that the
    landmark is in the patch, None without classification. point: (ndim,) decoded.
    """

    stage: str
    image: Image
    cell_voxels: int
    centres: NDArray[np.float64]
    displacement: NDArray[np.float64] | None
    posterior: NDArray[np.float64] | None
    point: NDArray[np.float64]

    @property
    def point_mm(self) -> NDArray[np.float64]:
        """(3,) the decoded point in millimetres."""
        point: NDArray[np.float64] = self.image.index_to_mm(self.point)[0]
        return point


def global_to_local_fields(localizer: "GlobalToLocal", image: Image, name: str) -> list[VectorField]:
    """The global field over the whole image, and the local one over the window around its point, where there is one."""
    from . import global_to_local as method

    settings, channel = localizer.settings, localizer.task.names.index(name)
    coarse, fine = settings.global_stage, settings.local_stage
    overview = prepare(image, localizer.task, coarse.spacing_mm)
    outputs = method.global_outputs(localizer.global_network, localizer.tensor(overview), settings)
    points = method.decode(outputs, settings, stride=coarse.architecture.stride)
    shift = torch.zeros(image.ndim)
    fields = [_field("global", overview, outputs, points, shift, settings, channel, coarse.architecture.stride)]
    if settings.local and localizer.local_networks is not None:
        detail = overview if fine.spacing_mm == coarse.spacing_mm else prepare(image, localizer.task, fine.spacing_mm)
        estimates = rescale(points, spacing_from=coarse.spacing_mm, spacing_to=fine.spacing_mm)
        outputs = method.local_outputs(
            localizer.local_networks, localizer.tensor(detail), estimates, window=localizer.window
        )
        inside = method.decode(outputs, settings, stride=fine.architecture.stride)
        shift = (estimates[0, channel] - (localizer.window - 1) / 2).cpu()
        fields.append(_field("local", detail, outputs, inside, shift, settings, channel, fine.architecture.stride))
    return fields


def _field(
    stage: str,
    image: Image,
    outputs: tuple[torch.Tensor, torch.Tensor],
    points: torch.Tensor,
    shift: torch.Tensor,
    settings: "Settings",
    channel: int,
    stride: int,
) -> VectorField:
    """The field of one landmark; shift: (ndim,) from the window's voxels to the image's."""
    from .global_to_local import from_log

    logits, regressed = (output[0, channel].double().cpu() for output in outputs)
    centres = cell_centres(logits.shape, stride).double() + shift.double().reshape(-1, *[1] * logits.ndim)
    displacement = from_log(regressed) if settings.regression == "log" else regressed
    return VectorField(
        stage,
        image,
        stride,
        centres.numpy(),
        displacement.numpy() if settings.regression != "none" else None,
        torch.sigmoid(logits).numpy() if settings.classification else None,
        (points[0, channel].double().cpu() + shift.double()).numpy(),
    )
