"""Files that appear whole or not at all, and JSON that is read strictly."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import ChallengeError

MAX_JSON_BYTES = 64 * 1024**2
# Commas and opening brackets: what a parsed value takes is some 200 bytes for each, however few bytes it is written in.
MAX_JSON_ITEMS = 4_000_000


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes files private; the result should be as readable as any other file of the user.
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Write `value` as JSON, whole or not at all; NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


@contextlib.contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends without an error.

    Raises ChallengeError if `path` exists and is not an empty folder.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    staging.chmod(0o755)
    try:
        yield staging
        if path.is_dir():
            path.rmdir()
        staging.replace(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def refuse_existing(path: Path) -> None:
    """Raise ChallengeError if `path` exists and is anything but an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ChallengeError(f"{path}: wanted a new or empty folder, it exists and is not empty")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """SHA-256 over names and contents of all files below `folder`, hexadecimal; hidden files are left out."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file; refuses NaN, infinity, doubled keys, absurd nesting and files over `max_bytes`."""
    try:
        if not path.is_file():
            raise ChallengeError(f"{path}: wanted a JSON file, there is none")
        size = path.stat().st_size
        if size > max_bytes:
            raise ChallengeError(f"{path}: wanted at most {max_bytes} bytes of JSON, got {size}")
        content = path.read_bytes()
    except OSError as error:
        raise ChallengeError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_json(content, source=str(path), max_items=MAX_JSON_ITEMS * max(1, max_bytes // MAX_JSON_BYTES))


def parse_json(content: bytes, *, source: str, max_items: int = MAX_JSON_ITEMS) -> Any:
    """The value of strict JSON `content`; `source` names it in the ChallengeError.

    max_items: how many lists, objects and commas at most, so that no file needs many times its own size in memory.
    """
    items = sum(content.count(mark) for mark in (b",", b"{", b"["))
    if items > max_items:
        raise ChallengeError(f"{source}: wanted at most {max_items} items of JSON, got {items}")
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError:
        raise ChallengeError(f"{source}: wanted JSON in UTF-8, got other bytes") from None
    except RecursionError:
        raise ChallengeError(f"{source}: wanted landmark JSON, got nesting too deep to read") from None
    except json.JSONDecodeError as error:
        raise ChallengeError(
            f"{source}: wanted JSON, got an error at line {error.lineno} column {error.colno} ({error.msg})"
        ) from None
    except ValueError as error:
        raise ChallengeError(f"{source}: wanted strict JSON, got {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {doubled[:80]!r} twice")
    return result
