"""One numeric array out of a MATLAB 5 file, for annotation files: no other part of the format is read.

Format: MathWorks, "MAT-File Format", level 5; compressed elements are zlib streams.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ChallengeError

MAX_BYTES = 2**24
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)
COMPLEX_FLAG = 0x0800


def read_array(path: Path, name: str) -> NDArray[np.float64]:
    """The real 2D array of that name. Raises ChallengeError for a file that does not hold it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ChallengeError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_BYTES or content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise ChallengeError(f"{path}: wanted a MATLAB 5 file of at most {MAX_BYTES} bytes, got something else")
    order = "<" if content[126:128] == b"IM" else ">"
    found = []
    try:
        for kind, data in _elements(content[128:], order):
            if kind == COMPRESSED:
                inflated = zlib.decompressobj().decompress(data, MAX_BYTES)
                kind, data = next(_elements(inflated, order))
            if kind == MATRIX:
                title, array = _matrix(data, order)
                found.append(title)
                if title == name and array is not None:
                    return array
    except (struct.error, zlib.error, ValueError, StopIteration, UnicodeDecodeError):
        raise ChallengeError(f"{path}: wanted a MATLAB 5 file, got a broken one") from None
    raise ChallengeError(f"{path}: wanted the numeric array '{name}', got {', '.join(found)[:80] or 'no array'}")


def _elements(content: bytes, order: str):  # type: ignore[no-untyped-def]  # a generator of (type, bytes)
    """The data elements that follow each other in `content`."""
    position = 0
    while position + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, position)
        if kind >> 16:  # a small element holds its size and up to four bytes of data in the tag itself
            yield kind & 0xFFFF, content[position + 4 : position + 4 + (kind >> 16)]
            position += 8
            continue
        if size > len(content) - position - 8:
            raise ValueError("an element is longer than the file")
        yield kind, content[position + 8 : position + 8 + size]
        position += 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)


def _matrix(data: bytes, order: str) -> tuple[str, NDArray[np.float64] | None]:
    """Name and values of a matrix; no values where it is not a real 2D array of numbers."""
    (_, flags), (_, dimensions), (_, title), *parts = _elements(data, order)
    word = struct.unpack_from(order + "I", flags)[0]
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    if (word & 0xFF) not in NUMERIC_CLASSES or word & COMPLEX_FLAG or len(shape) != 2 or not parts:
        return title.decode(), None
    kind, values = parts[0]
    numbers = np.frombuffer(values, np.dtype(order + NUMBERS.get(kind, "V1")))
    return title.decode(), numbers.astype(np.float64).reshape(shape, order="F")
