"""Images with their geometry: reading, canonical grids, index <-> millimetres. The only import of SimpleITK.

An index is 0-based with the centre of a voxel at integers, in the order (x, y[, z]); the NumPy array of an image is in
the reversed order (z,) y, x. Millimetres are ITK physical space (LPS), always three numbers; a 2D image has z = 0.
"""

import contextlib
import hashlib
import itertools
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from .binning import box_means
from .errors import ChallengeError
from .headers import check_header, checked_beside, read_nifti_header
from .progress import note
from .task import Intensity

EXTENSIONS = (".nii.gz", ".mha", ".mhd", ".nii", ".nrrd", ".tiff", ".tif", ".png", ".jpeg", ".jpg", ".bmp", ".dcm")
WITHOUT_TRUSTED_SPACING = {".png", ".jpeg", ".jpg", ".bmp", ".tif", ".tiff"}
# What writers put into a header when they know nothing: 1 mm, and the screen resolutions 72 and 96 dpi.
DEFAULT_SPACINGS_MM = (1.0, 25.4 / 72, 25.4 / 96)
# Named, so that a file is read as what its extension says and no other reader is tried on it.
READERS = {
    (".mha", ".mhd"): "MetaImageIO",
    (".nii", ".nii.gz"): "NiftiImageIO",
    (".nrrd",): "NrrdImageIO",
    (".tif", ".tiff"): "TIFFImageIO",
    (".png",): "PNGImageIO",
    (".jpg", ".jpeg"): "JPEGImageIO",
    (".bmp",): "BMPImageIO",
    (".dcm",): "GDCMImageIO",
}
MAX_SIDE = 20_000
MAX_VOXELS = 2**30
# Of a grid at a working spacing, float32: a scan whose header says centimetres for millimetres would take all memory.
MAX_GRID_VOXELS = MAX_VOXELS // 4
COLOUR_SHARE_MAX = 0.001
COLOUR_DIFFERENCE = 0.01
SHEAR_MAX_MM = 0.1
FORMS_APART_MM = 0.1
SPACING_RANGE_MM = (1e-4, 100.0)

sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True, eq=False)
class Image:
    """A grey image on its grid.

    array: (z,) y, x of any real dtype. spacing_mm, origin_mm: (ndim,) in the order x, y[, z]. direction: (ndim, ndim),
    columns are the image axes in LPS.
    """

    array: NDArray
    spacing_mm: NDArray[np.float64]
    origin_mm: NDArray[np.float64]
    direction: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        array: NDArray,
        spacing_mm: ArrayLike,
        origin_mm: ArrayLike | None = None,
        direction: ArrayLike | None = None,
    ) -> "Image":
        """An image from plain values; the origin defaults to 0 and the direction to the identity."""
        ndim = array.ndim
        return cls(
            array,
            np.asarray(spacing_mm, np.float64).reshape(ndim),
            np.zeros(ndim) if origin_mm is None else np.asarray(origin_mm, np.float64).reshape(ndim),
            np.eye(ndim) if direction is None else np.asarray(direction, np.float64).reshape(ndim, ndim),
        )

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.array.ndim

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along x, y[, z]."""
        return self.array.shape[::-1]

    def index_to_mm(self, index: ArrayLike) -> NDArray[np.float64]:
        """(n, ndim) continuous indices x, y[, z] -> (n, 3) millimetres."""
        index = np.asarray(index, np.float64).reshape(-1, self.ndim)
        points = np.zeros((len(index), 3))
        points[:, : self.ndim] = self.origin_mm + (index * self.spacing_mm) @ self.direction.T
        return points

    def mm_to_index(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """(n, 3) millimetres -> (n, ndim) continuous indices x, y[, z]."""
        points = np.asarray(points_mm, np.float64).reshape(-1, 3)[:, : self.ndim]
        return ((points - self.origin_mm) @ np.linalg.inv(self.direction).T) / self.spacing_mm

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """(n,) whether each point lies inside the outer faces of the image."""
        index = self.mm_to_index(points_mm)
        return np.all((index >= -0.5) & (index <= np.array(self.size) - 0.5), axis=1)

    def content_digest(self) -> str:
        """SHA-256 of the grey values and their shape: equal for identical pictures whatever their file or header."""
        digest = hashlib.sha256(f"{self.array.shape} {self.array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(self.array).tobytes())
        return digest.hexdigest()


def image_stem(name: str) -> str:
    """The case key in a file name: the name without its image extension(s).

    >>> image_stem("scan.01.nii.gz")
    'scan.01'
    """
    lower = name.lower()
    for extension in EXTENSIONS:
        if lower.endswith(extension):
            return name[: -len(extension)]
    return name


def _extension(path: Path) -> str:
    lower = path.name.lower()
    return next((extension for extension in EXTENSIONS if lower.endswith(extension)), "")


def read_image(path: Path, *, dimension: int | None = None, spacing_mm: Sequence[float] | None = None) -> Image:
    """The image in a file or in a folder that holds one DICOM series.

    dimension: 2 or 3, what is wanted; a volume of a single axial slice is read as 2D. spacing_mm: (x, y[, z]) overrides
    the header. Raises ChallengeError for files that are not a grey image, are truncated or corrupt, carry NaN or
    infinity (which ITK turns to 0 in a NIfTI), or have no trustworthy spacing while none is given.
    """
    with _clear_errors(path):
        if path.is_dir():
            itk, first = _read_series(path)
        else:
            if not path.is_file():
                raise ChallengeError(f"{path}: wanted an image, there is no such file")
            inflation = check_header(path)
            first = _file_reader(path)
            with checked_beside(inflation):
                itk = first.Execute()
    array = _grey_array(path, itk)
    image = _as_dimension(path, itk, array, dimension)
    if _extension(path) in (".nii", ".nii.gz"):
        _compare_nifti_forms(path, image)
    if spacing_mm is not None:
        if len(spacing_mm) != image.ndim:
            raise ChallengeError(f"{path}: wanted {image.ndim} numbers of spacing, got {len(spacing_mm)}")
        image = Image.of(image.array, spacing_mm, image.origin_mm, image.direction)
    elif not _knows_spacing(path, image, first):
        raise ChallengeError(
            f"{path}: wanted a known pixel spacing, the file has none that is trusted; give it with --spacing-mm X,Y"
        )
    return _checked(path, image)


def read_geometry(path: Path, *, dimension: int | None = None) -> Image:
    """The geometry of an image file without its grey values: an `Image` whose array is all zero and takes no memory.

    Raises ChallengeError as `read_image` does, as far as the header tells.
    """
    if path.is_dir():
        return read_image(path, dimension=dimension)
    with _clear_errors(path):
        if not path.is_file():
            raise ChallengeError(f"{path}: wanted an image, there is no such file")
        check_header(path)  # what it gives back, whether compressed data are whole, takes as long as reading them
        reader = _file_reader(path)
    array = np.broadcast_to(np.uint8(0), reader.GetSize()[::-1])
    return _checked(path, _as_dimension(path, reader, array, dimension))


def write_image(path: Path, image: Image, *, compress: bool = False) -> None:
    """Write an image, whole or not at all; the format follows from the extension of `path` (.mha preferred)."""
    itk = sitk.GetImageFromArray(image.array)
    itk.SetSpacing(image.spacing_mm.tolist())
    itk.SetOrigin(image.origin_mm.tolist())
    itk.SetDirection(image.direction.flatten().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=_extension(path) or ".mha")
    os.close(handle)
    try:
        with _clear_errors(path):
            sitk.WriteImage(itk, name, compress)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def canonical(
    image: Image,
    spacing_mm: Sequence[float],
    *,
    region: tuple[ArrayLike, ArrayLike] | None = None,
    average: bool = True,
) -> Image:
    """`image` on an axis-aligned LPS grid of `spacing_mm`, float32: the frame in which networks work.

    The grid covers the image's bounding box and starts at its lower corner, so any stored orientation of the same scan
    gives the same grid. Shrinking averages (anti-aliasing) unless `average` is off, the rest is linear; outside the
    image lies its minimum. region: first voxel and number of voxels (x, y[, z]) of the part of the grid that is wanted;
    only what it needs of the image is looked at. Raises ChallengeError where more than `MAX_GRID_VOXELS` are wanted.
    """
    whole = canonical_geometry(image, spacing_mm)
    target = whole.spacing_mm
    first, size = ([0] * image.ndim, whole.size) if region is None else region
    origin, size = whole.origin_mm + np.asarray(first) * target, np.asarray(size, int)
    _check_grid(image, size, target)
    stored, image = image.array, oriented(image)
    factors = [
        max(1, min(int(wanted / spacing + 1e-6), count)) if average else 1
        for wanted, spacing, count in zip(target, image.spacing_mm, image.size, strict=True)
    ]
    if region is not None:
        image = _part_under(image, Image.of(np.empty(size[::-1]), target, origin), margin=factors)
    if max(factors) > 1:
        image = _shrunk(image, factors)
    itk = sitk.GetImageFromArray(image.array)
    itk.SetSpacing(image.spacing_mm.tolist())
    itk.SetOrigin(image.origin_mm.tolist())
    itk.SetDirection(image.direction.flatten().tolist())
    same_grid = (
        itk.GetSize() == tuple(size.tolist())
        and np.allclose(itk.GetOrigin(), origin, rtol=0, atol=1e-6)
        and np.allclose(itk.GetSpacing(), target, rtol=0, atol=1e-9)
        and np.allclose(itk.GetDirection(), np.eye(image.ndim).flatten(), rtol=0, atol=1e-9)
    )
    if not same_grid:
        axis_aligned = np.allclose(np.abs(image.direction).max(axis=0), 1.0, rtol=0, atol=1e-6)
        resampler = sitk.ResampleImageFilter()
        resampler.SetSize(size.tolist())
        resampler.SetOutputOrigin(origin.tolist())
        resampler.SetOutputSpacing(target.tolist())
        resampler.SetOutputDirection(np.eye(image.ndim).flatten().tolist())
        resampler.SetInterpolator(sitk.sitkLinear)
        resampler.SetOutputPixelType(sitk.sitkFloat32)
        if axis_aligned:
            # Such a grid passes the border by less than two voxels, where the border's values go on; an oblique one
            # leaves real gaps. (ITK's own extrapolator would drop the interpolation along the other axes as well.)
            itk = sitk.ZeroFluxNeumannPad(itk, [1] * image.ndim, [2] * image.ndim)
        else:
            resampler.SetDefaultPixelValue(float(stored.min()))
        itk = resampler.Execute(itk)
    array = sitk.GetArrayFromImage(itk).astype(np.float32, copy=False)
    return Image.of(array, target, origin, np.eye(image.ndim))


def canonical_geometry(image: Image, spacing_mm: Sequence[float]) -> Image:
    """The grid of `canonical` without its grey values: an `Image` whose array is all zero and takes no memory."""
    target = np.asarray(spacing_mm, np.float64).reshape(image.ndim)
    lower, upper = bounding_box_mm(oriented(image))
    # The tiny term keeps a half voxel from falling to either side by rounding errors of the header.
    size = np.maximum(1, np.floor((upper - lower) / target + 0.5 + 1e-6)).astype(int)
    return Image.of(np.broadcast_to(np.float32(0), size[::-1]), target, lower + target / 2)


def _check_grid(image: Image, size: NDArray[np.intp], spacing_mm: NDArray[np.float64]) -> None:
    """Raise ChallengeError if a grid of `size` voxels of `spacing_mm` for the image would take too much memory."""
    if math.prod(size.tolist()) > MAX_GRID_VOXELS:
        raise ChallengeError(
            f"image of size {image.size} and spacing {tuple(image.spacing_mm.tolist())} mm: wanted at most "
            f"{MAX_GRID_VOXELS} voxels of {tuple(spacing_mm.tolist())} mm, got {tuple(size.tolist())}: "
            "is its spacing right?"
        )


def _shrunk(image: Image, factors: Sequence[int]) -> Image:
    """The image on voxels that are `factors` (x, y[, z]) times as large, each the mean of what it covers."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    array = box_means(image.array, factors[::-1], threads=threads)
    middle = image.index_to_mm((np.asarray(factors) - 1) / 2)[0, : image.ndim]
    return Image(array, image.spacing_mm * factors, middle, image.direction)


def _part_under(image: Image, grid: Image, *, margin: Sequence[int]) -> Image:
    """The voxels of an image that lie under a grid, and a few `margin` around them; their first is a multiple of it."""
    corners = np.array(np.meshgrid(*[(0, count - 1) for count in grid.size])).reshape(grid.ndim, -1).T
    index = image.mm_to_index(grid.index_to_mm(corners))
    step, count = np.asarray(margin), np.asarray(image.size)
    last = (count - 1) // step  # the bins of `step` voxels that hold the first and the last voxel; at least one is left
    first = np.clip(np.floor(index.min(axis=0) / step).astype(int) - 2, 0, np.maximum(last - 1, 0)) * step
    end = np.minimum(np.maximum((np.ceil(index.max(axis=0) / step).astype(int) + 3) * step, first + 2 * step), count)
    array = image.array[tuple(slice(low, high) for low, high in zip(first[::-1], end[::-1], strict=True))]
    return Image(array, image.spacing_mm, image.index_to_mm(first)[0, : image.ndim], image.direction)


def oriented(image: Image) -> Image:
    """The same voxels with the image axes permuted and flipped to run along x, y[, z] of LPS as nearly as they can."""
    closeness = np.abs(image.direction)
    along = max(itertools.permutations(range(image.ndim)), key=lambda axes: closeness[range(image.ndim), axes].sum())
    flips = np.sign(image.direction[range(image.ndim), along]) < 0
    # NumPy's axes run the other way round.
    order = [image.ndim - 1 - axis for axis in reversed(along)]
    steps = tuple(slice(None, None, -1 if flip else None) for flip in reversed(flips))
    corner = np.zeros(image.ndim)
    for axis, flip in zip(along, flips, strict=True):
        corner[axis] = image.size[axis] - 1 if flip else 0
    return Image(
        image.array.transpose(order)[steps],
        image.spacing_mm[list(along)],
        image.index_to_mm(corner)[0, : image.ndim],
        image.direction[:, along] * np.where(flips, -1.0, 1.0),
    )


def pad(image: Image, size: Sequence[int], *, offset: Sequence[int]) -> Image:
    """`image` inside a larger one of `size` voxels (x, y[, z]), its first voxel at `offset`, its minimum around it.

    The origin stays, so the picture moves in millimetres by `offset` voxels. ValueError if it does not fit.
    """
    borders = [(begin, total - begin - count) for begin, total, count in zip(offset, size, image.size, strict=True)]
    array = np.pad(image.array, borders[::-1], constant_values=image.array.min())
    return Image(array, image.spacing_mm, image.origin_mm, image.direction)


def bounding_box_mm(image: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper corner, each (ndim,), of the outer faces of the image in millimetres."""
    corners = np.array(np.meshgrid(*[(-0.5, count - 0.5) for count in image.size])).reshape(image.ndim, -1).T
    points = image.index_to_mm(corners)[:, : image.ndim]
    return points.min(axis=0), points.max(axis=0)


def normalise(array: NDArray, intensity: Intensity) -> NDArray[np.float32]:
    """Grey values as float32 in 0..1 by the task's rule; an image of one grey value becomes 0.

    `equalise`: each grey value becomes the share of voxels below it plus half of those equal to it (256 bins).
    """
    values = array.astype(np.float32, copy=False)
    if intensity.rule == "equalise":
        low, high = float(values.min()), float(values.max())
        if high <= low:
            return np.zeros(values.shape, np.float32)
        bins = np.minimum(((values - low) * (256 / (high - low))).astype(np.int32), 255)
        counts = np.bincount(bins.ravel(), minlength=256)
        shares = (np.cumsum(counts) - counts / 2) / values.size
        return shares.astype(np.float32)[bins]
    if intensity.low is None or intensity.high is None:
        raise ValueError(f"rule {intensity.rule} without a range")
    low, high = intensity.low, intensity.high
    if intensity.rule == "percentile":
        low, high = (float(value) for value in np.percentile(values, (low, high)))
    if high <= low:
        return np.zeros(values.shape, np.float32)
    return np.clip((values - low) / (high - low), 0, 1)


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """ITK's many-line exceptions as one line that names the file."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        text = " ".join(re.split(r"ITK ERROR:|itk::ERROR:|sitk::ERROR:", str(error))[-1].split())
        reason = re.sub(r"^\w+\(0x[0-9a-f]+\): ", "", text)[:200] or type(error).__name__
        raise ChallengeError(f"{path}: wanted a readable image, got an error: {reason}") from None


def _file_reader(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header of `path` and found its size bearable."""
    extension = _extension(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    for extensions, name in READERS.items():
        if extension in extensions:
            reader.SetImageIO(name)
    reader.ReadImageInformation()
    _check_size(path, reader.GetSize())
    return reader


def _knows_spacing(path: Path, image: Image, reader: sitk.ImageFileReader) -> bool:
    """Whether the file itself says how large a pixel is; a writer's default counts as not saying it."""
    if _tag(reader, "0008|0016"):  # DICOM: pixel spacing, or that of the detector; multi-frame files keep it deeper
        said = _tag(reader, "0028|0030") or _tag(reader, "0018|1164")
        return bool(said) or not np.all(image.spacing_mm[:2] == 1.0)
    defaults = [abs(image.spacing_mm[0] - default) < 1e-3 for default in DEFAULT_SPACINGS_MM]
    return _extension(path) not in WITHOUT_TRUSTED_SPACING or not any(defaults)


def _tag(reader: sitk.ImageFileReader, key: str) -> str:
    """A DICOM tag such as `0028|0030` of the file that `reader` has opened; empty where it has none."""
    return reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else ""


def _read_series(folder: Path) -> tuple[sitk.Image, sitk.ImageFileReader]:
    """The volume of the one DICOM series in `folder`, and the opened reader of its first file.

    Slices must lie one behind the other at one distance: a missing slice, a tilted gantry, a series over time or slices
    that differ in size are refused.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise ChallengeError(f"{folder}: wanted a folder with one DICOM series, got {len(series)}")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    slices = [_file_reader(Path(name)) for name in names]
    first = slices[0]
    if len(slices) == 1:
        return first.Execute(), first
    sizes = {reader.GetSize() for reader in slices}
    directions = np.array([reader.GetDirection() for reader in slices])
    if len(sizes) != 1 or first.GetSize()[2:] != (1,) or np.ptp(directions, axis=0).max() > 1e-4:
        raise ChallengeError(f"{folder}: wanted slices of one size and orientation, got several")
    _check_size(folder, (*first.GetSize()[:2], len(slices)))
    normal = directions[0].reshape(3, 3)[:, 2]
    positions = np.array([reader.GetOrigin() for reader in slices])
    order = np.argsort(positions @ normal)
    steps = np.diff(positions[order], axis=0)
    along = steps @ normal
    step = float(np.median(along))
    if step < SPACING_RANGE_MM[0] or np.abs(along - step).max() > max(0.01 * step, 0.01):
        raise ChallengeError(f"{folder}: wanted slices at one distance, got {along.min():.3f} to {along.max():.3f} mm")
    if np.abs(steps - along[:, None] * normal).max() > SHEAR_MAX_MM:
        raise ChallengeError(f"{folder}: wanted slices right behind each other, got a tilted gantry")
    volume = sitk.JoinSeries([reader.Execute()[:, :, 0] for reader in (slices[index] for index in order)])
    volume.SetSpacing((*first.GetSpacing()[:2], float(along.mean())))
    volume.SetOrigin(positions[order[0]].tolist())
    volume.SetDirection(directions[0].tolist())
    return volume, first


def _compare_nifti_forms(path: Path, image: Image) -> None:
    """Say which of two orientations was taken where the header's sform and qform disagree, or has neither."""
    header = read_nifti_header(path)
    if header.sform_code <= 0 and header.qform_code <= 0:
        note(f"{path}: neither sform nor qform is set, so nothing says how the stored axes lie in the body")
    if min(header.sform_code, header.qform_code) <= 0 or image.ndim != 3 or header.units not in (0, 2):
        return
    corners = np.array(list(itertools.product(*[(0, count - 1) for count in image.size])), np.float64)
    taken = image.index_to_mm(corners)
    sform, qform = (corners @ form[:, :3].T + form[:, 3] for form in (header.sform_lps(), header.qform_lps()))
    apart = float(np.linalg.norm(sform - qform, axis=1).max())
    if apart > FORMS_APART_MM:
        nearer = "sform" if np.abs(sform - taken).max() <= np.abs(qform - taken).max() else "qform"
        note(f"{path}: sform and qform disagree by up to {apart:.1f} mm, the {nearer} is taken")


def _check_size(path: Path, size: Sequence[int]) -> None:
    if min(size) < 1 or max(size) > MAX_SIDE or np.prod([float(side) for side in size]) > MAX_VOXELS:
        raise ChallengeError(f"{path}: wanted sides of 1 to {MAX_SIDE} and at most 2^30 voxels, got {tuple(size)}")


def _grey_array(path: Path, itk: sitk.Image) -> NDArray:
    array = sitk.GetArrayFromImage(itk)
    if np.iscomplexobj(array):
        raise ChallengeError(f"{path}: wanted real grey values, got complex ones")
    channels = itk.GetNumberOfComponentsPerPixel()
    if channels > 1:
        array = _grey_of_colours(path, array, channels)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ChallengeError(f"{path}: wanted finite grey values, got NaN or infinity")
    return array


def _grey_of_colours(path: Path, array: NDArray, channels: int) -> NDArray:
    """A grey scan stored as RGB(A) as one channel; a colour picture is refused.

    Scans carry specks of colour (a stamp in a corner) and lossy files differ by a level or two between channels: up to
    `COLOUR_SHARE_MAX` of the pixels may be coloured, and take their luminance (ITU-R BT.601).
    """
    if channels not in (3, 4) or array.dtype.kind not in "ui":
        raise ChallengeError(f"{path}: wanted a grey image, got {channels} channels of {array.dtype}")
    red, green, blue = (array[..., channel] for channel in range(3))
    coloured = (red != green) | (red != blue)
    grey = red.copy()
    if coloured.any():
        pixels = array[coloured][:, :3].astype(np.float64)
        # Of the largest value there is, not of the type's: 8-bit colours stored as 16 bits are colours too.
        level = float(array[..., :3].max()) * COLOUR_DIFFERENCE
        if np.count_nonzero(np.ptp(pixels, axis=1) > level) > COLOUR_SHARE_MAX * coloured.size:
            raise ChallengeError(f"{path}: wanted a grey image, got {channels} channels that differ")
        grey[coloured] = np.rint(pixels @ (0.299, 0.587, 0.114)).astype(array.dtype)
    return grey


def _as_dimension(path: Path, itk: sitk.Image | sitk.ImageFileReader, array: NDArray, dimension: int | None) -> Image:
    ndim = itk.GetDimension()
    spacing, origin = np.array(itk.GetSpacing()), np.array(itk.GetOrigin())
    direction = np.array(itk.GetDirection()).reshape(ndim, ndim)
    if ndim == 4 and array.shape[0] == 1:
        ndim, array, spacing, origin, direction = 3, array[0], spacing[:3], origin[:3], direction[:3, :3]
    flat = ndim == 3 and array.shape[0] == 1 and abs(abs(direction[2, 2]) - 1) < 1e-6
    if flat and (dimension == 2 or (dimension is None and _extension(path) in WITHOUT_TRUSTED_SPACING)):
        ndim, array, spacing, origin, direction = 2, array[0], spacing[:2], origin[:2], direction[:2, :2]
    if ndim not in (2, 3) or (dimension is not None and ndim != dimension):
        raise ChallengeError(f"{path}: wanted a {dimension or '2D or 3'}D image, got {ndim}D of size {itk.GetSize()}")
    return Image(array, spacing, origin, direction)


def _checked(path: Path, image: Image) -> Image:
    low, high = SPACING_RANGE_MM
    if not ((image.spacing_mm >= low) & (image.spacing_mm <= high)).all():
        raise ChallengeError(
            f"{path}: wanted a spacing of {low} to {high} mm per axis, got {tuple(image.spacing_mm.tolist())}"
        )
    if not np.isfinite(image.origin_mm).all() or not np.isfinite(image.direction).all():
        raise ChallengeError(f"{path}: wanted a finite origin and direction, got NaN or infinity")
    if not np.allclose(image.direction.T @ image.direction, np.eye(image.ndim), rtol=0, atol=1e-3):
        raise ChallengeError(f"{path}: wanted an orthonormal direction matrix, got {image.direction.tolist()}")
    return image
