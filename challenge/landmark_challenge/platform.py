"""What an algorithm container does on the platform: read the input, call the method, write the answer.

You should not need to edit this file: a method only provides a `Localizer`. Two modes (the platform's label decides):
`exec`, the program runs once per case, and `invoke`, an HTTP server answers `POST /invoke` once per case.
"""

import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from . import files
from .errors import ChallengeError
from .images import Image, image_stem, read_image
from .landmarks import Landmarks, Localization, to_platform_json
from .task import Task

INPUT = Path("/input")
OUTPUT = Path("/output")
PORT = 4743
IMAGE_SUFFIXES = (".mha", ".tif", ".tiff")
SIGNAL_CHECK_S = 1.0
ERROR_LINE_LENGTH = 1000  # the platform shows a participant 1024 characters


class Localizer(Protocol):
    """What the platform code asks of a method."""

    @property
    def task(self) -> Task:
        """The task whose landmarks it localizes."""

    def localize(self, image: Image) -> Localization:
        """The landmarks in `image`, in millimetres of its physical space."""

    def mean_shape(self, image: Image) -> Landmarks:
        """The fall-back answer in the frame of `image`, probability 1."""


@dataclass(frozen=True)
class CaseInput:
    """One case as the platform provides it: its key and where its image lies."""

    name: str
    image_path: Path


def find_input(task: Task, folder: Path = INPUT) -> CaseInput:
    """The one case below `folder`, by its inputs.json (keys `socket`, or `interface` as in older versions).

    A folder without inputs.json (the platform before 2025) is read at the task's own path. Raises ChallengeError.
    """
    slug, relative_path, name = task.sockets.image.slug, task.sockets.image.relative_path, ""
    listing = folder / "inputs.json"
    if listing.exists():
        entry = _socket_entry(files.read_json(listing), slug=slug, source=str(listing))
        socket = entry.get("socket") or entry["interface"]
        relative_path = socket.get("relative_path") or relative_path
        image = entry.get("image")
        name = image.get("name") or "" if isinstance(image, dict) else ""
        if not isinstance(relative_path, str) or not isinstance(name, str):
            raise ChallengeError(f"{listing}: socket '{slug}': wanted texts as relative_path and image name")
        path = PurePosixPath(relative_path)
        if path.is_absolute() or ".." in path.parts:
            raise ChallengeError(f"{listing}: socket '{slug}': wanted a path below the input folder, got another")
    image_path = _one_image(folder / relative_path)
    return CaseInput(image_stem(name) if name else image_stem(image_path.name), image_path)


def _socket_entry(value: Any, *, slug: str, source: str) -> dict[str, Any]:
    if not isinstance(value, list):
        raise ChallengeError(f"{source}: wanted a list of socket values, got {type(value).__name__}")
    found: list[dict[str, Any]] = []
    slugs: list[str] = []
    for entry in value:
        socket = (entry.get("socket") or entry.get("interface")) if isinstance(entry, dict) else None
        if not isinstance(socket, dict) or not isinstance(socket.get("slug"), str):
            raise ChallengeError(f"{source}: wanted a socket with a slug in every entry, got one without")
        slugs.append(socket["slug"])
        if socket["slug"] == slug:
            found.append(entry)
    if len(found) != 1:
        raise ChallengeError(f"{source}: wanted the socket '{slug}' once, got {', '.join(slugs)[:200] or 'no sockets'}")
    return found[0]


def _one_image(folder: Path) -> Path:
    """The image in `folder`: its only .mha or .tif file, or the folder itself where it holds DICOM files."""
    if not folder.is_dir():
        raise ChallengeError(f"{folder}: wanted a folder with one image (.mha, .tif or DICOM), there is none")
    shown = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    images = [path for path in shown if path.name.lower().endswith(IMAGE_SUFFIXES)]
    if len(images) == 1:
        return images[0]
    if not images and shown and all(path.suffix.lower() in {".dcm", ""} for path in shown):
        return folder
    found = f"{len(images)} images among {len(shown)} files"
    raise ChallengeError(f"{folder}: wanted one image (.mha, .tif or DICOM), got {found}")


def localize_case(localizer: Localizer, image: Image, *, name: str, strict: bool = False) -> Localization:
    """What the method finds in `image`, checked; if it fails, its mean shape with probability 0, told on stderr.

    One crash would void a whole submission, so nothing that the method raises gets through, unless `strict`.
    """
    try:
        localization = localizer.localize(image)
        check_localization(localization, localizer.task)
        return localization
    except Exception as error:
        if strict:
            raise
        traceback.print_exc()
        shape = localizer.mean_shape(image)
        _say(
            f"warning: case {name}: the method failed ({type(error).__name__}: {_one_line(error)}); "
            "wrote the mean shape with probability 0 in its place"
        )
        return Localization(Landmarks(shape.names, shape.points_mm, np.zeros(len(shape))))


def check_localization(localization: Localization, task: Task) -> None:
    """Raise ValueError for unknown landmarks or a covariance that is not finite, symmetric and positive."""
    names = localization.landmarks.names
    unknown = [name for name in (*names, *localization.covariance_mm2) if name not in task.names]
    if unknown:
        raise ValueError(f"'{unknown[0]}' is no landmark of {task.name}")
    for name, matrix in localization.covariance_mm2.items():
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError(f"covariance of '{name}': wanted finite (3, 3), got {matrix.shape}")
        scale = max(1e-12, float(np.abs(matrix).max()))
        symmetric = float(np.abs(matrix - matrix.T).max()) <= 1e-6 * scale
        if not symmetric or float(np.linalg.eigvalsh(matrix).min()) < -1e-6 * scale:
            raise ValueError(f"covariance of '{name}': wanted a symmetric positive matrix")


def write_output(localization: Localization, task: Task, folder: Path = OUTPUT) -> None:
    """Write the points and their uncertainty (`{}` where there is none) at the task's sockets, each file whole."""
    uncertainty = {name: matrix.tolist() for name, matrix in localization.covariance_mm2.items()}
    files.write_json(folder / task.sockets.uncertainty.relative_path, uncertainty)
    files.write_json(folder / task.sockets.landmarks.relative_path, to_platform_json(localization.landmarks))


def process_case(
    localizer: Localizer, *, input_folder: Path = INPUT, output_folder: Path = OUTPUT, strict: bool = False
) -> None:
    """Localize the one case below `input_folder` and write its answer. Raises ChallengeError for bad input."""
    started = time.perf_counter()
    task = localizer.task
    for socket in (task.sockets.landmarks, task.sockets.uncertainty):
        # An answer left by an earlier call must never pass for this one's.
        (output_folder / socket.relative_path).unlink(missing_ok=True)
    case = find_input(task, input_folder)
    image = read_image(case.image_path, dimension=task.dimension)
    localization = localize_case(localizer, image, name=case.name, strict=strict)
    write_output(localization, task, output_folder)
    seconds = time.perf_counter() - started
    print(f"case {case.name}: {len(localization.landmarks)} landmarks in {seconds:.2f} s", flush=True)


def warm_up(localizer: Localizer) -> None:
    """Localize once in a small noise image, so that the first real case pays no start-up cost."""
    ndim = localizer.task.dimension
    side = 256 if ndim == 2 else 48
    spacing = max(localizer.task.working_spacing_mm)
    noise = np.random.default_rng(0).integers(0, 255, (side,) * ndim).astype(np.float32)
    try:
        localizer.localize(Image.of(noise, [spacing] * ndim))
    except Exception as error:
        # Noise is no valid input of a method: only real cases may count against it.
        _say(f"warning: the warm-up on noise failed ({type(error).__name__}: {_one_line(error)})")


def run_algorithm(
    load: Callable[[], Localizer],
    *,
    mode: str,
    input_folder: Path = INPUT,
    output_folder: Path = OUTPUT,
    port: int = PORT,
) -> int:
    """Run as an algorithm container in `exec` or `invoke` mode; the exit code. `STRICT=1` turns the fall-back off."""
    strict = os.environ.get("STRICT", "") == "1"

    def once(localizer: Localizer) -> None:
        process_case(localizer, input_folder=input_folder, output_folder=output_folder, strict=strict)

    def serve() -> None:
        localizer = load()
        warm_up(localizer)
        serve_http(lambda: once(localizer), port=port, openly=True)

    if mode not in {"exec", "invoke"}:
        raise ValueError(f"mode: wanted exec or invoke, got {mode!r}")
    # A participant's own program: nothing in it is hidden from the participant.
    return run_guarded(serve if mode == "invoke" else lambda: once(load()), openly=True)


def run_guarded(work: Callable[[], None], *, openly: bool = False) -> int:
    """Do the `work` and return the exit code; a failure ends in one clear line, the last on stderr."""
    try:
        work()
    except Exception as error:
        return report_failure(error, openly=openly)
    return 0


def report_failure(error: Exception, *, openly: bool = False) -> int:
    """Say on stderr what went wrong, in one last line; the exit code that goes with it.

    Unless `openly`, only a ChallengeError's text is shown: any other could carry what must stay hidden.
    """
    if isinstance(error, ChallengeError):
        _say(f"error: {_one_line(error)}")
        return 2
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {Path(place[0].filename).name}:{place[0].lineno}" if place else ""
    if openly:
        traceback.print_exception(error)
        _say(f"error: {type(error).__name__}{where}: {_one_line(error)}")
        return 1
    _say(f"error: internal error ({type(error).__name__}{where}); this is a fault of the program, not of the input")
    return 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:ERROR_LINE_LENGTH]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def serve_http(
    handler: Callable[[], None],
    *,
    port: int = PORT,
    host: str = "0.0.0.0",
    ready: Callable[[int], None] | None = None,
    openly: bool = False,
) -> None:
    """Serve `GET /health` (200) and `POST /invoke` (201, or 500 where `handler` raises) until SIGTERM.

    Call it when everything is loaded: before, the port is closed, which the platform takes for "not yet". `handler`
    runs in the calling thread, one call after another, however many requests are open. `ready` is told the port.
    """
    calls: queue.SimpleQueue[queue.SimpleQueue[int]] = queue.SimpleQueue()

    class Endpoint(BaseHTTPRequestHandler):
        timeout = 60  # for a client that connects and says nothing

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/health" else 404)

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "0")
            self.rfile.read(min(int(length), 2**20) if length.isdecimal() else 0)
            if self.path != "/invoke":
                self._answer(404)
                return
            done: queue.SimpleQueue[int] = queue.SimpleQueue()
            calls.put(done)
            self._answer(done.get())

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep stderr, which the platform shows as warnings, for what matters."""

    server = ThreadingHTTPServer((host, port), Endpoint)
    server.daemon_threads = True
    if threading.current_thread() is threading.main_thread():
        # As process 1 of a container nothing else ends the program on SIGTERM.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        if ready is not None:
            ready(server.server_address[1])
        while True:
            try:
                done = calls.get(timeout=SIGNAL_CHECK_S)
            except queue.Empty:
                continue  # a SIGTERM that came between the last call and this wait takes effect now
            try:
                handler()
            except Exception as error:
                report_failure(error, openly=openly)
                done.put(500)
            except BaseException:
                done.put(500)
                raise
            else:
                done.put(201)
    finally:
        server.shutdown()
        server.server_close()


def iso_duration(seconds: float) -> str:
    """A duration as the platform writes it.

    >>> iso_duration(1337.25)
    'P0DT00H22M17.250000S'
    """
    microseconds = round(seconds * 1e6)
    if not math.isfinite(seconds) or microseconds < 0:
        raise ValueError(f"duration: wanted seconds of at least 0, got {seconds}")
    whole, fraction = divmod(microseconds, 10**6)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    tail = f".{fraction:06d}" if fraction else ""
    return f"P{days}DT{hour:02d}H{minute:02d}M{second:02d}{tail}S"
