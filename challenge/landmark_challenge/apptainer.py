"""Algorithm images where nodes have no Docker daemon: the same image as an Apptainer file, one run per case.

Make the file once: `apptainer build NAME.sif docker-archive:landmarks-NAME-exec.tar` (gunzip what save.sh wrote).
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import ChallengeError
from .running import MODEL_MOUNT, CaseFailedError, Limits, Measured, workspace

RESERVED_MB = 1024  # what the platform keeps of an instance's memory for itself
LEAST_MB = 512


def command(
    image: Path, input_folder: Path, output_folder: Path, limits: Limits, *, model: Path | None = None
) -> list[str]:
    """The command line of one run: nothing of the host but the two folders, no network, read-only image.

    >>> " ".join(command(Path("a.sif"), Path("/i"), Path("/o"), Limits())[:5])
    'apptainer run --containall --cleanenv --no-privs'
    """
    words = ["apptainer", "run", "--containall", "--cleanenv", "--no-privs", "--net", "--network", "none"]
    words += ["--bind", f"{input_folder}:/input:ro", "--bind", f"{output_folder}:/output"]
    if model is not None:
        words += ["--bind", f"{model}:{MODEL_MOUNT}:ro"]
    environment = {"LOG_LEVEL": "INFO", "PYTHONUNBUFFERED": "1"}
    if limits.strict:
        environment["STRICT"] = "1"
    if limits.cpus is not None:
        environment["OMP_NUM_THREADS"] = str(max(1, int(limits.cpus)))
    for name, value in environment.items():
        words += ["--env", f"{name}={value}"]
    if limits.gpu:
        words.append("--nv")
    return [*words, str(image)]


class ApptainerRunner:
    """Runs an Apptainer file once per case."""

    links = False  # the image sees nothing but its own folders

    def __init__(self, image: Path, limits: Limits, *, model: Path | None = None) -> None:
        if shutil.which("apptainer") is None:
            raise ChallengeError(f"{image}: wanted the apptainer command, it is not installed")
        self._image, self._limits, self._model = image, limits, model
        self._stack = workspace()
        folder = self._stack.__enter__()
        self.input_folder, self.output_folder = folder / "input", folder / "output"
        self.input_folder.mkdir()
        self.output_folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> Measured:
        """Run the image on what lies in the input folder. Raises CaseFailedError."""
        words = command(self._image, self.input_folder, self.output_folder, self._limits, model=self._model)
        started = time.perf_counter()
        self._process = subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=self._limit_memory,
            start_new_session=True,  # so that the whole container can be ended
        )
        try:
            _, errors = self._process.communicate(timeout=self._limits.time_s)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.communicate()
            raise CaseFailedError(f"took longer than {self._limits.time_s:g} s") from None
        if self._process.returncode != 0:
            raise CaseFailedError(f"exit code {self._process.returncode}: {last_line(errors)}")
        return Measured(exec_s=time.perf_counter() - started, invoke_s=None, peak_memory_mb=None)

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _limit_memory(self) -> None:
        # As the platform limits it; a cgroup limit would need rights that users of a cluster rarely have.
        data_bytes = max(self._limits.memory_mb - RESERVED_MB, LEAST_MB) * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))

    def close(self) -> None:
        """End what runs and give everything back."""
        self._kill()
        self._stack.__exit__(None, None, None)


def last_line(errors: bytes) -> str:
    """The last line that says anything, which is what the platform shows."""
    lines: Sequence[str] = [line.strip() for line in errors.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:1024] if lines else "nothing on stderr"


@contextmanager
def apptainer_runner(image: Path, limits: Limits, *, model: Path | None = None) -> Iterator[ApptainerRunner]:
    """A runner for an Apptainer file; `model` takes the place of the one in it."""
    runner = ApptainerRunner(image, limits, model=model)
    try:
        yield runner
    finally:
        runner.close()
