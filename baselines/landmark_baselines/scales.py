"""Where the crops of a multi-scale method come from: a training set in memory, or one image that is read lazily.

`read` of a reader is called with a scale and the centres (B, L, ndim) of crops in voxels of that scale and gives (B, L,
*size); for scale 0, where the whole image is looked at, centres are None and it gives (B, 1, *grid).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from landmark_challenge.images import Image, canonical_geometry
from landmark_challenge.task import Task

from .augmentation import Augmentation, Draws, Warp, change_intensity, image_positions, random_warp, warp_images
from .grids import rescale
from .patches import padded, sample_points, sample_windows, window_grid
from .store import Store, prepare

Reader = Callable[[int, Tensor | None], Tensor]
# A power of a grey value below 0 is none, and at 0 its slope, which reaches coarser scales, may be infinite.
DARKEST = 1e-3


@dataclass(frozen=True)
class StoreReader:
    """The cases `index` of stores of one data set, one store per scale; crops are of `crop` voxels along every axis.
    A case alone that nothing changes is seen in its own size.

    multiple: voxels that sides of the whole images are filled up to. change: what was drawn for the cases at random.
    """

    stores: Sequence[Store]
    index: Tensor
    crop: int
    multiple: int
    change: "Change | None" = None

    def read(self, scale: int, centres: Tensor | None) -> Tensor:
        """Windows of a scale; see the module."""
        store = self.stores[scale]
        one = self.change is None and len(self.index) == 1
        images = store.alone(int(self.index)) if one else store.batch(self.index)
        if centres is None:
            if self.change is None:
                return padded(images, self.multiple)
            return self.change.intensity(warp_images(images, self.change.warp)[:, :, 0])
        size = (self.crop,) * (images.ndim - 2)
        if self.change is None:
            return sample_windows(images, centres, size)[:, :, 0]
        offsets = window_grid(size, device=images.device).reshape(-1, len(size))
        positions = (centres.unsqueeze(2) + offsets).flatten(1, 2)
        # One warp for the whole chain: a position is carried to the coarsest grid, where it is drawn, and back.
        own, coarsest = self.stores[scale].spacing_mm, self.stores[0].spacing_mm
        there = image_positions(rescale(positions, spacing_from=own, spacing_to=coarsest), self.change.warp)
        there = rescale(there, spacing_from=coarsest, spacing_to=own)
        return self.change.intensity(sample_points(images, there).reshape(*centres.shape[:2], *size))


@dataclass(frozen=True)
class Change:
    """Random geometry, in voxels of the coarsest scale, and grey values of a batch."""

    warp: Warp
    augmentation: Augmentation
    draws: Draws

    @classmethod
    def random(
        cls, store: Store, positions: Sequence[int], *, augmentation: Augmentation, multiple: int, seed: int
    ) -> "Change":
        """A change of whole images of the coarsest store, for the cases at `positions` of the order of training."""
        draws = Draws.of(seed, positions)
        shape = store.images.shape[2:]
        middle = (torch.tensor(shape[::-1], dtype=torch.float32, device=store.points.device) - 1) / 2
        size = tuple(count + -count % multiple for count in shape)
        centres = middle.expand(len(positions), 1, -1)
        warp = random_warp(centres, size, augmentation, spacing_mm=store.spacing_mm, draws=draws)
        return cls(warp, augmentation, draws)

    def intensity(self, windows: Tensor) -> Tensor:
        """(B, W, *size) windows with changed grey values, drawn for each of them."""
        return change_intensity(windows.clamp(min=DARKEST), self.augmentation, draws=self.draws)


@dataclass(frozen=True)
class ImageReader:
    """One image, of which only what crops cover is resampled and converted, landmark by landmark.

    That holds for tasks whose intensities have a fixed window. The other rules ask for all grey values of a scale, so
    its whole grid is prepared once. average: as in `canonical`; spacings_mm, crop, multiple: as in `StoreReader`.
    """

    image: Image
    task: Task
    spacings_mm: Sequence[float]
    crop: int
    multiple: int
    average: bool
    device: torch.device
    _whole: dict[int, Image] = field(default_factory=dict, repr=False)

    def read(self, scale: int, centres: Tensor | None) -> Tensor:
        """Windows of a scale; see the module. B crops of a landmark come from one part of the image."""
        if centres is None:
            return padded(self._tensor(self._grid(scale)), self.multiple)
        size = (self.crop,) * self.image.ndim
        crops = []
        for of_landmark in centres.unbind(dim=1):
            part, first = self._part(scale, of_landmark)
            crops.append(sample_windows(self._tensor(part), (of_landmark - first)[None], size)[0, :, 0])
        return torch.stack(crops, dim=1)

    @cached_property
    def last(self) -> Image:
        """The grid of the finest scale, without grey values: its voxels are those of the points."""
        return canonical_geometry(self.image, [self.spacings_mm[-1]] * self.image.ndim)

    def _grid(self, scale: int) -> Image:
        if scale not in self._whole:
            self._whole[scale] = prepare(self.image, self.task, self.spacings_mm[scale], average=self.average)
        return self._whole[scale]

    def _part(self, scale: int, centres: Tensor) -> tuple[Image, Tensor]:
        """What crops around `centres` (B, ndim) can see, and its first voxel."""
        if self.task.intensity.rule != "window":
            return self._grid(scale), torch.zeros_like(centres[0])
        limits = np.array(canonical_geometry(self.image, [self.spacings_mm[scale]] * self.image.ndim).size)
        reach = (self.crop - 1) / 2 + 1
        low, high = (np.asarray(end(dim=0).cpu(), float) for end in (centres.amin, centres.amax))
        first = np.clip(np.floor(low - reach), 0, limits - 1).astype(int)
        end = np.clip(np.ceil(high + reach) + 1, first + 1, limits).astype(int)
        spacing, region = self.spacings_mm[scale], (first, end - first)
        part = prepare(self.image, self.task, spacing, region=region, average=self.average)
        return part, torch.from_numpy(first).to(centres)

    def _tensor(self, image: Image) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image.array))[None, None].to(self.device)
