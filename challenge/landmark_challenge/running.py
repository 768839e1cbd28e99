"""Runs a model or an image over cases: several at a time, each retried once, none able to take the others down."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import files
from .errors import ChallengeError
from .images import image_stem, read_image, write_image
from .local_worker import ALGORITHM_FILE
from .predictions import CaseResult, collect_outputs, image_socket_value
from .task import Task

ATTEMPTS = 2
PASSED_ON = (".mha", ".tif")  # what the platform hands to an algorithm; anything else becomes .mha
MODEL_MOUNT = "/opt/ml/model"  # where the platform puts a model that is uploaded apart


class CaseFailedError(Exception):
    """One case failed; the text says why in one line. Others may go on.

    log: the end of what the program wrote to stderr, where it is known.
    """

    log: str = ""


@dataclass(frozen=True)
class Limits:
    """What a run may use, by default the platform's: an instance of 8 GB, 20 minutes a case, 5 minutes to start.

    cpus: cores of one container, None for all. strict: no fall-back answers. gpu: hand one GPU in.
    """

    memory_mb: int = 8192
    time_s: float = 1200.0
    start_s: float = 300.0
    cpus: float | None = None
    gpu: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Measured:
    """What one run took; see CaseResult."""

    exec_s: float | None
    invoke_s: float | None
    peak_memory_mb: float | None


class Runner(Protocol):
    """Runs on what lies in `input_folder` and leaves its answer in `output_folder`."""

    input_folder: Path
    output_folder: Path
    links: bool  # whether a link to an image will do for a copy

    def run(self) -> Measured:
        """One run. Raises CaseFailedError."""

    def close(self) -> None:
        """End whatever runs and give everything back; may be called from another thread, and twice."""


@dataclass(frozen=True)
class CaseImage:
    """A case to run: its name and its image (for DICOM a folder)."""

    name: str
    path: Path


@contextmanager
def workspace() -> Iterator[Path]:
    """A temporary folder that containers may enter; it goes afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="landmarks-run-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def provide_model(model: Path, folder: Path) -> None:
    """Copy a model folder to one that is mounted at MODEL_MOUNT, readable for any user, as the platform's is."""
    shutil.copytree(model, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def provide_case(task: Task, image: CaseImage, folder: Path, *, links: bool = False) -> None:
    """Lay out /input of one case as the platform does; what lay there before goes.

    links: put a link in place of a copy, where the reader sees the same files and is the same user.
    """
    empty_folder(folder)
    target = folder / task.sockets.image.relative_path
    target.mkdir(parents=True)
    if image.path.is_dir():
        for path in sorted(image.path.iterdir()):
            if path.is_file():
                _copy_readable(path, target / f"{path.stem}.dcm")
    else:
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, image.path.name))
        suffix = image.path.suffix.lower()
        if suffix in PASSED_ON and links:
            (target / f"{name}{suffix}").symlink_to(image.path.resolve())
        elif suffix in PASSED_ON:
            _copy_readable(image.path, target / f"{name}{suffix}")
        else:
            write_image(target / f"{name}.mha", read_image(image.path, dimension=task.dimension))
    files.write_json(folder / "inputs.json", [image_socket_value(task.sockets.image, image.path.name)])
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def _copy_readable(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o644)  # the container's user is another


def empty_folder(folder: Path) -> None:
    """Remove everything below `folder`, not the folder itself, which may be mounted."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def run_case(runner: Runner, task: Task, image: CaseImage) -> CaseResult:
    """Run one case and collect its checked outputs.

    Raises CaseFailedError, and ChallengeError for what would fail every case, such as a model that cannot be loaded.
    """
    try:
        provide_case(task, image, runner.input_folder, links=runner.links)
        empty_folder(runner.output_folder)
    except (ChallengeError, OSError) as error:
        raise CaseFailedError(" ".join(str(error).split())) from None
    measured = runner.run()
    try:
        outputs = collect_outputs(task, runner.output_folder)
    except (ChallengeError, OSError) as error:
        raise CaseFailedError(" ".join(str(error).split())) from None
    return CaseResult(
        image_stem(image.path.name),
        image.path.name,
        outputs,
        measured.exec_s,
        measured.invoke_s,
        measured.peak_memory_mb,
    )


Done = tuple[str, CaseResult | str]


def run_local(
    task: Task, images: Sequence[CaseImage], *, runner: Callable[[], AbstractContextManager[Runner]], workers: int
) -> Iterator[Done]:
    """Run all cases with `workers` runners; yields (case, result) or (case, why it failed twice) as they end.

    A failed case goes back to the end of the line once. Raises what making a runner raises, after the others ended.
    """
    waiting: queue.SimpleQueue[tuple[CaseImage, int] | None] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Done | Exception] = queue.SimpleQueue()
    runners: list[Runner] = []
    stopping = threading.Event()
    for image in images:
        waiting.put((image, 1))

    def work() -> None:
        try:
            with runner() as own:
                runners.append(own)
                while (item := waiting.get()) is not None and not stopping.is_set():
                    image, attempt = item
                    try:
                        ended.put((image.name, run_case(own, task, image)))
                    except CaseFailedError as failure:
                        if attempt < ATTEMPTS:
                            waiting.put((image, attempt + 1))
                        else:
                            ended.put((image.name, str(failure)))
        except Exception as error:
            ended.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(workers, len(images))))]
    for thread in threads:
        thread.start()
    try:
        for _ in images:
            event = ended.get()
            if isinstance(event, Exception):
                raise event
            yield event
    except BaseException:
        stopping.set()
        for own in runners:
            with suppress(Exception):
                own.close()
        raise
    finally:
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join(timeout=30)


class ModelRunner:
    """A model folder in a process of its own, so that a case that hangs or crashes takes nothing else down."""

    links = True

    def __init__(self, model: Path, limits: Limits, *, device: str = "auto", threads: int | None = None) -> None:
        self._model = model.resolve()
        self._command = [sys.executable, "-m", "landmark_challenge.local_worker", str(self._model)]
        self._device, self._limits, self._threads = device, limits, threads
        self._stack = workspace()
        folder = self._stack.__enter__()
        self.input_folder, self.output_folder = folder / "input", folder / "output"
        self.input_folder.mkdir()
        self.output_folder.mkdir()
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self) -> Measured:
        """One call of the worker process. Raises CaseFailedError, ChallengeError for a model that cannot be loaded."""
        if self._process is None:
            self._start()
        answer = self._ask("case", seconds=self._limits.time_s)
        if answer["status"] != 201:
            raise CaseFailedError(answer["error"])
        return Measured(exec_s=None, invoke_s=answer["seconds"], peak_memory_mb=answer["peak_memory_mb"])

    def _start(self) -> None:
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}  # spinning threads of several workers are very slow
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        if (self._model / ALGORITHM_FILE).is_file():  # modules beside it come first, as in its container
            before = environment.get("PYTHONPATH")
            environment["PYTHONPATH"] = os.pathsep.join([str(self._model), *([before] if before else [])])
        arguments = [str(self.input_folder), str(self.output_folder), self._device]
        process = subprocess.Popen(
            self._command + arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._process, self._answers = process, queue.SimpleQueue()
        answers = self._answers

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                answers.put(line)
            answers.put("")

        threading.Thread(target=read, daemon=True).start()
        answer = self._ask("", seconds=self._limits.start_s)
        if answer["status"] != 200:
            self._kill()
            raise ChallengeError(answer["error"])

    def _ask(self, line: str, *, seconds: float) -> Mapping[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            if line:
                print(line, file=self._process.stdin, flush=True)
            text = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._kill()
            raise CaseFailedError(f"took longer than {seconds:g} s") from None
        except OSError:
            text = ""
        if not text:
            process = self._process
            self._kill()
            raise CaseFailedError(f"the process ended with code {process.returncode}")
        answer: Mapping[str, Any] = json.loads(text)
        return answer

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End the process."""
        self._kill()
        self._stack.__exit__(None, None, None)


@contextmanager
def model_runner(
    model: Path, limits: Limits, *, device: str = "auto", threads: int | None = None
) -> Iterator[ModelRunner]:
    """A runner for a model folder."""
    runner = ModelRunner(model, limits, device=device, threads=threads)
    try:
        yield runner
    finally:
        runner.close()
