"""What an image file promises in its header against what it holds, before a decoder trusts it.

ITK fills what a truncated or corrupt NIfTI, JPEG or BMP lacks with zeros, reads a corrupt MetaImage as noise, turns a
negative or missing spacing into 1 mm and follows a header that names another file. All of that is refused here.
"""

import contextlib
import gzip
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from .errors import ChallengeError

HEADER_BYTES = 64 * 1024
CHUNK_BYTES = 2**20
# Deflate cannot shrink by more than this, so a larger promise is a broken file or a bomb.
DEFLATE_RATIO_MAX = 1032
META_IMAGE_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
NRRD_BYTES = {
    **dict.fromkeys(("char", "int8"), 1),
    **dict.fromkeys(("short", "short int", "int16"), 2),
    **dict.fromkeys(("int", "int32", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "double"), 8),
}


# Inflates the data of a compressed file, which takes about as long as reading it; raises ChallengeError as all here.
Inflation = Callable[[], None]


def check_header(path: Path) -> Inflation | None:
    """Raise ChallengeError if the file `path` cannot hold what its header promises; formats not known here pass.

    What a compressed file holds is known only once it is inflated: that check is given back, and nothing read from the
    file is to be used before it has passed.
    """
    name = path.name.lower()
    for extensions, check in CHECKS.items():
        if name.endswith(extensions):
            return check(path)
    return None


@contextlib.contextmanager
def checked_beside(inflation: Inflation | None) -> Iterator[None]:
    """Run the check in a thread of its own beside the body; what it finds goes before what the body raises."""
    if inflation is None:
        yield
        return
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(inflation)
        try:
            yield
        finally:
            found.result()


@dataclass(frozen=True)
class NiftiHeader:
    """The part of a NIfTI-1 header that decides size and geometry.

    dim: (8,) as stored. pixdim: (8,). bitpix: bits per voxel. vox_offset: bytes before the data. qform_code,
    sform_code: 0 where that form says nothing. quatern: b, c, d and the three offsets. srow: (3, 4) of the sform. RAS.
    units: code of the unit of length, 2 for millimetres, 0 for not said.
    """

    dim: tuple[int, ...]
    pixdim: tuple[float, ...]
    bitpix: int
    vox_offset: float
    qform_code: int
    sform_code: int
    quatern: tuple[float, ...]
    srow: tuple[tuple[float, ...], ...]
    units: int

    def sform_lps(self) -> NDArray[np.float64]:
        """(3, 4): voxel index -> LPS by the sform."""
        return np.array(self.srow) * [[-1], [-1], [1]]

    def qform_lps(self) -> NDArray[np.float64]:
        """(3, 4): voxel index -> LPS by the qform (nifti1.h, method 2)."""
        b, c, d, *offset = self.quatern
        a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        steps = np.array(self.pixdim[1:4]) * [1, 1, -1 if self.pixdim[0] < 0 else 1]
        return np.column_stack([turn * steps, offset]) * [[-1], [-1], [1]]


def read_nifti_header(path: Path) -> NiftiHeader:
    """The header of a .nii or .nii.gz file. Raises ChallengeError for anything else, NIfTI-2 included."""
    with _refusing(path, "a NIfTI header"), _open(path) as file:
        content = file.read(348)
        if len(content) < 348:
            raise ChallengeError(f"{path}: wanted a NIfTI header of 348 bytes, got {len(content)}")
    order = next((order for order in "<>" if struct.unpack_from(order + "i", content)[0] == 348), None)
    if order is None or content[344:347] not in (b"n+1", b"ni1"):
        raise ChallengeError(f"{path}: wanted a NIfTI-1 header, got something else")

    def numbers(count: int, kind: str, offset: int) -> tuple:
        return struct.unpack_from(f"{order}{count}{kind}", content, offset)

    return NiftiHeader(
        dim=numbers(8, "h", 40),
        pixdim=numbers(8, "f", 76),
        bitpix=numbers(1, "h", 72)[0],
        vox_offset=numbers(1, "f", 108)[0],
        qform_code=numbers(1, "h", 252)[0],
        sform_code=numbers(1, "h", 254)[0],
        quatern=numbers(6, "f", 256),
        srow=tuple(numbers(4, "f", 280 + 16 * row) for row in range(3)),
        units=content[123] & 7,
    )


def _check_nifti(path: Path) -> Inflation | None:
    header = read_nifti_header(path)
    count = header.dim[0]
    sides = header.dim[1 : 1 + count] if 1 <= count <= 7 else ()
    if not sides or min(sides) < 1:
        raise ChallengeError(f"{path}: wanted NIfTI dimensions of at least 1, got {header.dim}")
    _positive(path, "pixdim", header.pixdim[1 : 1 + min(count, 3)])
    if not 0 <= header.vox_offset <= 2**31:
        raise ChallengeError(f"{path}: wanted a NIfTI data offset in the file, got {header.vox_offset}")
    wanted = int(header.vox_offset) + math.prod(sides) * header.bitpix // 8
    if not path.name.lower().endswith(".gz"):
        _holds(path, path.stat().st_size, wanted)
        return None
    _check_ratio(path, wanted, path.stat().st_size)

    def inflate() -> None:
        with _refusing(path, "a whole gzip file"), gzip.open(path) as file:
            held = _count(iter(lambda: file.read(CHUNK_BYTES), b""), wanted)
        _holds(path, held, wanted)

    return inflate


def _check_meta_image(path: Path) -> Inflation | None:
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    fields: dict[str, str] = {}
    position = 0
    for line in start.splitlines(keepends=True):
        position += len(line)
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    else:
        raise ChallengeError(f"{path}: wanted a MetaImage header that ends with ElementDataFile, there is none")
    for key in ("ElementSpacing", "ElementSize"):
        if key in fields:
            _positive(path, key, _numbers(path, key, fields[key]))
    for key in ("Offset", "Position", "Origin", "TransformMatrix", "Rotation", "Orientation"):
        if key in fields and not all(map(math.isfinite, _numbers(path, key, fields[key]))):
            raise ChallengeError(f"{path}: {key}: wanted finite numbers, got '{fields[key][:60]}'")
    data = path if fields["ElementDataFile"] == "LOCAL" else path.parent / fields["ElementDataFile"]
    # A header from elsewhere must not be able to name any file of this machine.
    if data.parent != path.parent or data.name != (fields["ElementDataFile"] if data != path else path.name):
        raise ChallengeError(f"{path}: ElementDataFile: wanted LOCAL or a file beside it, got another place")
    if not data.is_file():
        raise ChallengeError(f"{path}: ElementDataFile: wanted LOCAL or a file beside it, there is no {data.name[:60]}")
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    size = META_IMAGE_BYTES.get(kind.removeprefix("U"))
    sides = _whole(path, "DimSize", fields.get("DimSize", ""))
    if size is None or not sides or min(sides) < 1:
        raise ChallengeError(f"{path}: wanted a known ElementType and DimSize of at least 1, got '{kind}' and {sides}")
    wanted = math.prod(sides) * size * _one(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    before = position if data == path else 0
    after = data.stat().st_size - before
    if fields.get("CompressedData", "False").lower() != "true":
        _holds(path, after, wanted)
        return None
    _check_ratio(path, wanted, after)
    # ITK reads as many bytes as this says and leaves noise where they do not make a whole image, without it as well.
    compressed = _one(path, "CompressedDataSize", fields.get("CompressedDataSize", "0"))
    if not 0 < compressed <= after:
        raise ChallengeError(
            f"{path}: CompressedDataSize: wanted 1 to {after}, the bytes after the header, got {compressed}: truncated?"
        )

    def inflate() -> None:
        with _refusing(path, "whole compressed data"):
            held = _count(_inflate(data, before, compressed), wanted)
        _holds(path, held, wanted)

    return inflate


def _check_nrrd(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    head, blank, _ = start.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not head.startswith(b"NRRD") or not blank:
        raise ChallengeError(f"{path}: wanted an NRRD header and its data in one file, got something else")
    lines = [line.decode("latin-1").partition(":") for line in head.splitlines() if not line.startswith(b"#")]
    fields = {key.strip().lower(): value.strip() for key, _, value in lines}
    if "data file" in fields or "datafile" in fields:
        raise ChallengeError(f"{path}: wanted an NRRD file that holds its data, got one that names another file")
    kind = fields.get("type", "").removeprefix("unsigned ").removeprefix("signed ").removesuffix("_t").removeprefix("u")
    sides = _whole(path, "sizes", fields.get("sizes", ""))
    size = NRRD_BYTES.get(kind)
    if size is None or not sides or min(sides) < 1:
        raise ChallengeError(f"{path}: wanted a known NRRD type and sizes of at least 1, got '{kind}' and {sides}")
    wanted = math.prod(sides) * size
    if fields.get("encoding") == "raw":
        _holds(path, path.stat().st_size - len(head), wanted)
    else:
        _check_ratio(path, wanted, path.stat().st_size)


def _check_jpeg(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - HEADER_BYTES))
        if b"\xff\xd9" not in file.read():
            raise ChallengeError(f"{path}: wanted a whole JPEG, its end is not there")


def _check_bmp(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(54)
    if len(head) < 54 or head[:2] != b"BM":
        raise ChallengeError(f"{path}: wanted a BMP header of 54 bytes, got something else")
    offset, _, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
    if compression == 0:
        _holds(path, path.stat().st_size, offset + abs(height) * ((abs(width) * bits + 31) // 32 * 4))


CHECKS: dict[tuple[str, ...], Callable[[Path], Inflation | None]] = {
    (".nii", ".nii.gz"): _check_nifti,
    (".mha", ".mhd"): _check_meta_image,
    (".nrrd",): _check_nrrd,
    (".jpg", ".jpeg"): _check_jpeg,
    (".bmp",): _check_bmp,
}


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


@contextlib.contextmanager
def _refusing(path: Path, wanted: str) -> Iterator[None]:
    """What a decompressor raises as one line that says what was wanted."""
    try:
        yield
    except (EOFError, zlib.error, OSError):
        raise ChallengeError(f"{path}: wanted {wanted}, got a broken file") from None


def _inflate(path: Path, offset: int, size: int) -> Iterable[bytes]:
    """The decompressed pieces of the zlib stream in the `size` bytes at `offset`; EOFError where it ends too early."""
    decoder = zlib.decompressobj()
    with path.open("rb") as file:
        file.seek(offset)
        while not decoder.eof:
            chunk = decoder.unconsumed_tail
            if not chunk:
                chunk = file.read(min(CHUNK_BYTES, size))
                size -= len(chunk)
            if not chunk:
                raise EOFError
            yield decoder.decompress(chunk, CHUNK_BYTES)


def _count(pieces: Iterable[bytes], enough: int) -> int:
    """Bytes in `pieces`; a stream that holds far more than `enough` is not read to its end."""
    held = 0
    for piece in pieces:
        held += len(piece)
        if held > enough + CHUNK_BYTES:
            break
    return held


def _check_ratio(path: Path, wanted: int, compressed: int) -> None:
    if wanted > DEFLATE_RATIO_MAX * compressed + HEADER_BYTES:
        raise ChallengeError(
            f"{path}: wanted {wanted} bytes of image as its header says, {compressed} cannot hold them"
        )


def _holds(path: Path, held: int, wanted: int) -> None:
    if held < wanted:
        raise ChallengeError(f"{path}: wanted {wanted} bytes of image as its header says, got {held}: truncated?")


def _numbers(path: Path, key: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split()]
    except ValueError:
        raise ChallengeError(f"{path}: {key}: wanted numbers, got '{text[:60]}'") from None


def _whole(path: Path, key: str, text: str) -> list[int]:
    values = _numbers(path, key, text)
    if not all(value.is_integer() for value in values):
        raise ChallengeError(f"{path}: {key}: wanted whole numbers, got '{text[:60]}'")
    return [int(value) for value in values]


def _one(path: Path, key: str, text: str) -> int:
    values = _whole(path, key, text)
    if len(values) != 1:
        raise ChallengeError(f"{path}: {key}: wanted one number, got '{text[:60]}'")
    return values[0]


def _positive(path: Path, key: str, values: Iterable[float]) -> None:
    values = list(values)
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ChallengeError(f"{path}: {key}: wanted a spacing above 0 on every axis, got {values}")
