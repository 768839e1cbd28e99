"""The cases of a run on an existing Dask cluster. The only import of distributed (extra `cluster`).

A worker keeps one runner per thread, so that a model is loaded once; a case is a task that Dask runs elsewhere if its
worker dies. Images are read by path on a shared file system, or carried with the task.
"""

import atexit
import hashlib
import io
import math
import pickle
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from distributed import Client, WorkerPlugin, as_completed

from .errors import ChallengeError
from .predictions import CaseResult
from .running import ATTEMPTS, CaseFailedError, CaseImage, Done, Runner, run_case
from .targets import Target, open_runner
from .task import Task

AHEAD = 3  # tasks per worker thread that wait at the workers, so that none ever idles
CONNECT_S = 30
LOOK_EVERY_S = 5.0
MAX_CARRIED_MODEL_BYTES = 2**30

_local = threading.local()


@dataclass(frozen=True)
class ClusterCase:
    """A case as it travels. content: the image's bytes where it is carried, None where `image.path` is shared."""

    image: CaseImage
    content: bytes | None = None


def run_dask(
    task: Task, images: Sequence[CaseImage], *, target: Target, scheduler: str, carry: bool = False
) -> Iterator[Done]:
    """Run all cases on the cluster at `scheduler`; yields (case, result) or (case, why it failed twice) as they end.

    Raises ChallengeError where no scheduler answers, none has workers, or the target cannot be run there at all.
    """
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise ChallengeError(f"{scheduler}: wanted a Dask scheduler, none answers ({type(error).__name__})") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError:
            raise ChallengeError(f"{scheduler}: wanted a cluster with workers, it has none") from None
        if carry and target.kind == "model":
            target = _carry_model(client, target)
        yield from _run(client, task, images, target, carry=carry)


def _run(client: Client, task: Task, images: Sequence[CaseImage], target: Target, *, carry: bool) -> Iterator[Done]:
    waiting = deque(images)
    attempts = dict.fromkeys((image.name for image in images), 0)
    running: dict[str, CaseImage] = {}
    pool = as_completed(loop=client.loop)
    what = pickle.dumps((target, task))

    def submit(image: CaseImage) -> None:
        attempts[image.name] += 1
        if carry and image.path.is_dir():
            raise ChallengeError(f"{image.path}: wanted one file to carry; put DICOM folders where workers read them")
        content = image.path.read_bytes() if carry else None
        key = f"{image.name}-{attempts[image.name]}-{target.identity[-12:]}"
        future = client.submit(_run_on_worker, what, ClusterCase(image, content), key=key, pure=False)
        running[key] = image
        pool.add(future)

    left, ahead, looked = len(images), 0, -math.inf
    while left:
        if time.monotonic() - looked > LOOK_EVERY_S:
            # Workers come and go; what is carried never piles up at the scheduler.
            ahead, looked = AHEAD * max(1, sum(client.nthreads().values())), time.monotonic()
        while waiting and len(running) < ahead:
            submit(waiting.popleft())
        future = next(pool)
        image = running.pop(str(future.key))
        outcome = _outcome(future)
        if isinstance(outcome, ChallengeError):
            raise outcome
        if isinstance(outcome, str) and attempts[image.name] < ATTEMPTS:
            waiting.append(image)
            continue
        left -= 1
        yield image.name, outcome


def _outcome(future: Any) -> CaseResult | str | ChallengeError:
    """The result of a task, why the case failed, or what fails every case."""
    try:
        error = future.exception()
    except CancelledError as lost:
        error = lost
    if error is None:
        result: CaseResult = future.result()
        return result
    if isinstance(error, ChallengeError):
        return error
    return str(error) if isinstance(error, CaseFailedError) else f"{type(error).__name__}: {error}"


@lru_cache(maxsize=4)
def _unpacked(what: bytes) -> tuple[Target, Task]:
    """Target and task as they were sent; unpacked once, not with every case."""
    unpacked: tuple[Target, Task] = pickle.loads(what)
    return unpacked


def _run_on_worker(what: bytes, case: ClusterCase) -> CaseResult:
    """Run one case on this worker. Raises CaseFailedError, ChallengeError for what would fail every case."""
    target, task = _unpacked(what)
    runner = _runner(target)
    if case.content is None:
        return run_case(runner, task, case.image)
    with tempfile.TemporaryDirectory(prefix="landmarks-case-") as scratch:
        path = Path(scratch) / case.image.path.name
        path.write_bytes(case.content)
        return run_case(runner, task, CaseImage(case.image.name, path))


def _runner(target: Target) -> Runner:
    """This thread's runner, made once per target."""
    held: dict[Target, tuple[AbstractContextManager[Runner], Runner]] = _local.__dict__.setdefault("held", {})
    if target not in held:
        for stack, _ in held.values():
            stack.__exit__(None, None, None)
        held.clear()
        folder = _carried_folder(target.place)
        stack = open_runner(replace(target, place=str(folder)) if folder is not None else target)
        runner = stack.__enter__()
        atexit.register(runner.close)
        held[target] = (stack, runner)
    return held[target][1]


class _ModelPlugin(WorkerPlugin):
    """Gives every worker, later ones too, the model folder."""

    def __init__(self, archive: bytes) -> None:
        self.archive = archive
        self.name = f"landmarks-model-{hashlib.sha256(archive).hexdigest()[:16]}"

    def setup(self, worker: Any) -> None:
        """Unpack the model into the worker's own folder, which goes with the worker."""
        folder = Path(worker.local_directory) / self.name
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(io.BytesIO(self.archive)) as archive:
            archive.extractall(folder)
        _carried[self.name] = folder


_carried: dict[str, Path] = {}
CARRIED = "carried:"


def _carried_folder(place: str) -> Path | None:
    if not place.startswith(CARRIED):
        return None
    return _carried[place.removeprefix(CARRIED)]


def _carry_model(client: Client, target: Target) -> Target:
    folder = Path(target.place)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    total = sum(path.stat().st_size for path in paths)
    if total > MAX_CARRIED_MODEL_BYTES:
        raise ChallengeError(f"{folder}: wanted at most {MAX_CARRIED_MODEL_BYTES} bytes to carry, got {total}")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for path in paths:
            # A fixed date, so that the same model has the same name.
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    plugin = _ModelPlugin(content.getvalue())
    client.register_plugin(plugin)
    return replace(target, place=CARRIED + plugin.name)
