"""Algorithm images run over cases through the Docker SDK, under the platform's limits. The only import of docker."""

import gzip
import inspect
import io
import json
import socket as sockets
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from docker.client import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, Ulimit
from requests.exceptions import ConnectionError as RequestConnectionError
from requests.exceptions import ReadTimeout

from . import invoke_client
from .errors import ChallengeError
from .running import MODEL_MOUNT, CaseFailedError, Limits, Measured, provide_model, workspace

API_METHOD_LABEL = "org.grand-challenge.api-method"
API_METHODS = ("exec", "invoke")
ROOT_USERS = ("", "root", "0")
STRIPPED_PREFIX = "GRAND_CHALLENGE_"  # of environment variables, before a program sees them
RESERVED_MB = 1024  # what the platform keeps of an instance's memory for itself
LEAST_DATA_MB = 512
MEMORY_POLL_S = 0.25
KILLED_EXIT_CODE = 137
NO_ANSWER = 0  # the invoke client's status where nothing answered
MAX_RUN_S = 7 * 86_400
LOG_LINES = 40
LOG_WAIT_S = 2.0
ENGINE_TIMEOUT_S = 60
SAVE_TIMEOUT_S = 3600  # the engine says nothing until a large image is packed


def connect(*, timeout_s: int = ENGINE_TIMEOUT_S) -> DockerClient:
    """The engine that DOCKER_HOST or Docker's default names. Raises ChallengeError where none answers."""
    try:
        client = DockerClient.from_env(timeout=timeout_s)
        client.ping()
    except (DockerException, OSError):
        raise ChallengeError("docker: wanted a Docker engine, none answers; DOCKER_HOST names it") from None
    return client


def engine_answers() -> bool:
    """Whether a Docker engine answers."""
    try:
        connect().close()
    except ChallengeError:
        return False
    return True


def image_exists(tag: str) -> bool:
    """Whether the engine has an image of this tag."""
    client = connect()
    try:
        client.images.get(tag)
    except ImageNotFound:
        return False
    finally:
        client.close()
    return True


@dataclass(frozen=True)
class ImageFacts:
    """What the engine knows of an image. size_bytes: unpacked. user: as configured, empty where it is not."""

    identity: str
    size_bytes: int
    user: str
    architecture: str
    labels: Mapping[str, str]
    environment: tuple[str, ...]


def image_facts(tag: str) -> ImageFacts:
    """What the engine knows of the image of this tag. Raises ChallengeError where there is none."""
    client = connect()
    try:
        attributes = client.images.get(tag).attrs
    except (ImageNotFound, APIError):
        raise ChallengeError(f"{tag}: wanted an image that the engine has, there is none of this tag") from None
    finally:
        client.close()
    config = attributes["Config"]
    return ImageFacts(
        attributes["Id"],
        int(attributes["Size"]),
        config.get("User") or "",
        f"{attributes['Os']}/{attributes['Architecture']}",
        config.get("Labels") or {},
        tuple(config.get("Env") or ()),
    )


def file_in_image(tag: str, path: str) -> str | None:
    """The text of a file in an image, which need not run for that; None where there is no such file."""
    client = connect()
    container = client.containers.create(tag, command=["none"])
    try:
        chunks, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            member = archive.extractfile(archive.getmembers()[0])
            return None if member is None else member.read().decode(errors="replace")
    except NotFound:
        return None
    finally:
        _remove(container)
        client.close()


def save_image(tag: str, path: Path) -> None:
    """Write an image as an upload archive (.tar.gz, exactly one image), whole or not at all. Raises ChallengeError."""
    client = connect(timeout_s=SAVE_TIMEOUT_S)
    partial = path.with_name(path.name + ".part")
    try:
        chunks = client.images.get(tag).save(named=tag)
        with gzip.open(partial, "wb", compresslevel=1) as archive:
            for chunk in chunks:
                archive.write(chunk)
        partial.replace(path)
    except (ImageNotFound, APIError):
        raise ChallengeError(f"{tag}: wanted an image that the engine has, there is none of this tag") from None
    finally:
        partial.unlink(missing_ok=True)
        client.close()


def image_identity(tag: str) -> tuple[str, str]:
    """Id and API method of an image. Raises ChallengeError for one that the platform's import would refuse."""
    facts = image_facts(tag)
    method = facts.labels.get(API_METHOD_LABEL, "exec")
    if method not in API_METHODS:
        raise ChallengeError(f"{tag}: label {API_METHOD_LABEL}: wanted exec or invoke, got '{method}'")
    if facts.user.split(":")[0] in ROOT_USERS:
        raise ChallengeError(f"{tag}: wanted a user that is not root, got '{facts.user}'")
    return facts.identity, method


def data_limit_mb(limits: Limits) -> int:
    """What the platform sets as RLIMIT_DATA: the instance's memory less what it keeps for itself."""
    return max(limits.memory_mb - RESERVED_MB, LEAST_DATA_MB)


def limit_options(limits: Limits) -> dict[str, Any]:
    """The platform's limits as options of the Docker SDK (reference: platform conventions, run-time environment)."""
    data_bytes = data_limit_mb(limits) * 2**20
    options: dict[str, Any] = {
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,nosuid,nodev,size=1g,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 512,
        "mem_limit": f"{limits.memory_mb}m",
        "memswap_limit": f"{limits.memory_mb}m",
        "shm_size": f"{limits.memory_mb // 2}m",
        "ulimits": [Ulimit(name="data", soft=data_bytes, hard=data_bytes)],
        "environment": {"LOG_LEVEL": "INFO", "PYTHONUNBUFFERED": "1", "no_proxy": "amazonaws.com"},
    }
    if limits.strict:
        options["environment"]["STRICT"] = "1"
    if limits.cpus is not None:
        options["nano_cpus"] = int(limits.cpus * 1e9)
        options["environment"]["OMP_NUM_THREADS"] = str(max(1, int(limits.cpus)))
    if limits.gpu:
        options["device_requests"] = [DeviceRequest(count=1, capabilities=[["gpu"]])]
    return options


class _MemoryWatch(threading.Thread):
    """Samples the working set of a running container (usage less evictable file cache)."""

    def __init__(self, container: Container) -> None:
        super().__init__(daemon=True)
        self._container = container
        self._stopped = threading.Event()
        self.peak_bytes = 0

    def run(self) -> None:
        """Sample until stopped or the container is gone."""
        while not self._stopped.is_set() and self.sample():
            self._stopped.wait(MEMORY_POLL_S)

    def sample(self) -> bool:
        """Look once; whether the container is still there."""
        used = _working_set_bytes(self._container)
        self.peak_bytes = max(self.peak_bytes, used or 0)
        return used is not None

    def stop(self) -> float | None:
        """End the sampling; the peak in MB, None where nothing was seen."""
        self._stopped.set()
        self.join(timeout=5)
        return self.peak_bytes / 1e6 if self.peak_bytes else None


def _working_set_bytes(container: Container) -> int | None:
    """Memory in use less evictable file cache; None once the container is gone."""
    try:
        stats = container.stats(stream=False, one_shot=True).get("memory_stats") or {}
    except (DockerException, OSError, ValueError):
        return None
    details = stats.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return int(stats.get("usage", 0)) - int(cache)


class _ImageRunner:
    """What both modes share: the engine, the folders that are mounted, and a container that always goes away."""

    links = False  # a container sees nothing but its own folders

    def __init__(self, tag: str, limits: Limits, *, model: Path | None = None) -> None:
        self._tag = tag
        self._limits = limits
        self._client = connect()
        variables = [variable.partition("=")[0] for variable in image_facts(tag).environment]
        self._stripped = [name for name in variables if name.upper().startswith(STRIPPED_PREFIX)]
        self._stack = workspace()
        folder = self._stack.__enter__()
        self.input_folder, self.output_folder = folder / "input", folder / "output"
        self.input_folder.mkdir(mode=0o755)
        self.output_folder.mkdir()
        self.output_folder.chmod(0o777)  # the container's user is another
        self._model_folder = folder / "model" if model is not None else None
        if model is not None:
            provide_model(model, folder / "model")

    def close(self) -> None:
        """Give everything back."""
        self._stack.__exit__(None, None, None)
        self._client.close()

    def _create(self) -> Container:
        volumes = {
            str(self.input_folder): {"bind": "/input", "mode": "ro"},
            str(self.output_folder): {"bind": "/output", "mode": "rw"},
        }
        if self._model_folder is not None:
            volumes[str(self._model_folder)] = {"bind": MODEL_MOUNT, "mode": "ro"}
        options = limit_options(self._limits)
        # None takes a variable of the image away, as the platform does.
        options["environment"] |= dict.fromkeys(self._stripped)
        try:
            return self._client.containers.create(self._tag, volumes=volumes, **options)
        except (APIError, ImageNotFound) as error:
            raise ChallengeError(f"{self._tag}: cannot be started ({_one_line(error)})") from None


class ExecRunner(_ImageRunner):
    """One container per case, as the platform runs an exec image."""

    def run(self) -> Measured:
        """Run the image once on what lies in the input folder. Raises CaseFailedError."""
        container = self._create()
        watch = _MemoryWatch(container)
        try:
            container.start()
            watch.start()
            try:
                code = int(container.wait(timeout=self._limits.time_s)["StatusCode"])
            except (ReadTimeout, RequestConnectionError):
                raise CaseFailedError(f"took longer than {self._limits.time_s:g} s") from None
            peak_mb = watch.stop()
            if code != 0:
                raise _failed(_reason(container, code), container)
            return Measured(exec_s=_run_seconds(container), invoke_s=None, peak_memory_mb=peak_mb)
        except DockerException as error:
            raise CaseFailedError(f"the engine failed: {_one_line(error)}") from None
        finally:
            watch.stop() if watch.is_alive() else None
            _remove(container)


class InvokeRunner(_ImageRunner):
    """One container for many cases, as the platform runs an invoke image; started anew after it died or hung."""

    def __init__(self, tag: str, limits: Limits, *, model: Path | None = None) -> None:
        super().__init__(tag, limits, model=model)
        self._server: Container | None = None
        self._client_side: Container | None = None
        self._watch: _MemoryWatch | None = None
        self.start_s: float | None = None

    def run(self) -> Measured:
        """Call the server once on what lies in the input folder. Raises CaseFailedError."""
        if self._server is None:
            self._start()
        assert self._server is not None
        begun = time.time()
        try:
            self._connection.sendall(b"call\n")
            answer = next(self._answers)
        except (OSError, StopIteration):
            answer = {"status": NO_ANSWER}
        if answer["status"] == NO_ANSWER:
            late = f"took longer than {self._limits.time_s:g} s"
            failure = _failed(_reason(self._server, None) if _exited(self._server) else late, self._server)
            self._stop()
            raise failure
        if answer["status"] != 201:
            what = f"invoke endpoint returned status {answer['status']}, expected 201"
            raise _failed(f"{what}: {_last_line(self._server, since=begun)}", self._server)
        peak = 0
        if self._watch is not None:
            # The engine takes up to a second to look, which short calls must not wait for each time.
            if self._watch.peak_bytes == 0:
                self._watch.sample()
            peak = self._watch.peak_bytes
        return Measured(exec_s=None, invoke_s=float(answer["seconds"]), peak_memory_mb=peak / 1e6 if peak else None)

    def memory_mb(self) -> float | None:
        """What the server uses now; None where none runs."""
        used = None if self._server is None else _working_set_bytes(self._server)
        return None if used is None else used / 1e6

    def _start(self) -> None:
        self._server = self._create()
        try:
            self._server.start()
            self._watch = _MemoryWatch(self._server)
            self._watch.start()
            # The platform's side runs beside the server, in its network of one: the server has no other.
            self._client_side = self._client.containers.create(
                self._tag,
                entrypoint=["python3", "-I", "-c", inspect.getsource(invoke_client)],
                command=[str(self._limits.start_s), str(self._limits.time_s)],
                network_mode=f"container:{self._server.id}",
                stdin_open=True,
                read_only=True,
                cap_drop=["ALL"],
            )
            parameters = {"stdin": 1, "stdout": 1, "stream": 1}
            attached = self._client_side.attach_socket(params=parameters)
            self._connection: sockets.socket = getattr(attached, "_sock", attached)
            self._connection.settimeout(self._limits.start_s + 30)
            self._client_side.start()
            self._answers = _json_lines(self._connection)
            _end_together(self._server, self._client_side)
            first = next(self._answers, {})
            self._connection.settimeout(self._limits.time_s + 5)
        except (DockerException, OSError) as error:
            first = {"problem": _one_line(error)}
        if not first.get("healthy", False):
            late = first.get("problem", f"not healthy after {self._limits.start_s:g} s")
            problem = f"the server did not start: {_reason(self._server, None) if _exited(self._server) else late}"
            self._stop()
            # Never yet: every case would wait and fail in the same way.
            raise CaseFailedError(problem) if self.start_s is not None else ChallengeError(f"{self._tag}: {problem}")
        self.start_s = float(first["seconds"])

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        for container in (self._client_side, self._server):
            if container is not None:
                _remove(container)
        self._server = self._client_side = self._watch = None

    def close(self) -> None:
        """Stop the server and give everything back."""
        self._stop()
        super().close()


def _end_together(server: Container, beside: Container) -> None:
    """Remove the container `beside` when the server ends, so that nobody waits for a server that is gone."""

    def work() -> None:
        with suppress(DockerException, OSError):
            server.wait(timeout=MAX_RUN_S)
        _remove(beside)

    threading.Thread(target=work, daemon=True).start()


def _json_lines(connection: sockets.socket) -> Iterator[dict[str, Any]]:
    """The JSON lines that a container writes to stdout, from an attached connection with framed streams."""
    text = b""
    while True:
        header = _exactly(connection, 8)
        content = _exactly(connection, int.from_bytes(header[4:8], "big"))
        if header[0] != 1:
            continue
        text += content
        while b"\n" in text:
            line, _, text = text.partition(b"\n")
            yield json.loads(line)


def _exactly(connection: sockets.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = connection.recv(count - len(content))
        if not part:
            raise OSError("the connection was closed")
        content += part
    return content


def _run_seconds(container: Container) -> float:
    """How long the program of an ended container ran, by the engine's clock."""
    container.reload()
    state = container.attrs["State"]
    return max(0.0, _timestamp(state["FinishedAt"]) - _timestamp(state["StartedAt"]))


def _timestamp(text: str) -> float:
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{fraction or 0}")


def _exited(container: Container) -> bool:
    """Whether a container has ended; one that lost its connection gets a moment to be seen to end."""
    with suppress(DockerException):
        for _ in range(10):
            container.reload()
            if container.status != "running":
                return True
            time.sleep(0.05)
        return False
    return True


def _reason(container: Container, code: int | None) -> str:
    """Why a container failed, in the words the platform would use."""
    with suppress(DockerException):
        container.reload()
        state = container.attrs["State"]
        code = state["ExitCode"] if code is None else code
        if state.get("OOMKilled") or code == KILLED_EXIT_CODE:
            return "killed: the memory limit was exceeded or the container was stopped (exit code 137)"
    return f"exit code {code}: {_last_line(container)}"


def _failed(reason: str, container: Container) -> CaseFailedError:
    failure = CaseFailedError(reason)
    failure.log = "\n".join(_last_lines(container))
    return failure


def _last_line(container: Container, *, since: float | None = None) -> str:
    """The last line on stderr, which is what the platform shows; `since` a time, so that no earlier call's is taken.

    The engine writes its log a little after the program did, line by line: it is read until nothing is added.
    """
    deadline = time.monotonic() + LOG_WAIT_S
    lines: list[str] = []
    while time.monotonic() < deadline:
        newer = _last_lines(container, since=since)
        if newer and newer == lines:
            break
        lines = newer
        time.sleep(0.05)
    return lines[-1][:1024] if lines else "nothing on stderr"


def _last_lines(container: Container, *, since: float | None = None) -> list[str]:
    with suppress(DockerException):
        text = container.logs(stdout=False, stderr=True, tail=LOG_LINES, since=since).decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]
    return []


def _remove(container: Container) -> None:
    with suppress(DockerException):
        container.remove(force=True, v=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def image_runner(tag: str, limits: Limits, *, model: Path | None = None) -> Iterator[ExecRunner | InvokeRunner]:
    """A runner for an image in the mode that its label names; `model` takes the place of the one in the image."""
    _, method = image_identity(tag)
    runner = (InvokeRunner if method == "invoke" else ExecRunner)(tag, limits, model=model)
    try:
        yield runner
    finally:
        runner.close()
