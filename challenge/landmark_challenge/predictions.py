"""The predictions folder as the platform mounts it: `predictions.json` beside `<job pk>/output/...`.

Beside it the hidden folder `.jobs` holds one record per finished case, from which an interrupted run goes on.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from . import files
from .errors import ChallengeError
from .landmarks import from_platform_json
from .platform import iso_duration
from .task import Socket, Task

PREDICTIONS = "predictions.json"
JOBS = ".jobs"
RUN = "run.json"
NAMESPACE = uuid.UUID("6c1f7d5e-6f0a-5c0b-9e35-1a4d6c0e7b19")


@dataclass(frozen=True)
class CaseResult:
    """What one run of one case gave.

    outputs: content by relative path, the task's sockets only. exec_s: seconds of a program that started for this case
    alone; invoke_s: seconds of one call of a warm one; the other is None. peak_memory_mb: None where not measured.
    """

    case: str
    image_name: str
    outputs: Mapping[str, bytes]
    exec_s: float | None = None
    invoke_s: float | None = None
    peak_memory_mb: float | None = None


def job_pk(case: str, run: str) -> str:
    """The key of a case's job: always the same for one case of one run, so that a restart finds it again."""
    return str(uuid.uuid5(NAMESPACE, f"{run}/{case}"))


def collect_outputs(task: Task, folder: Path) -> dict[str, bytes]:
    """The outputs of one case, checked as the platform checks them. Raises ChallengeError."""
    outputs: dict[str, bytes] = {}
    for socket in (task.sockets.landmarks, task.sockets.uncertainty):
        path = folder / socket.relative_path
        # A link could point anywhere; the platform takes plain files.
        if path.is_symlink() or not path.is_file():
            raise ChallengeError(f"output file '{socket.relative_path}' was not produced")
        if path.stat().st_size > files.MAX_JSON_BYTES:
            raise ChallengeError(f"output file '{socket.relative_path}' is larger than {files.MAX_JSON_BYTES} bytes")
        content = path.read_bytes()
        value = files.parse_json(content, source=socket.relative_path)
        if socket is task.sockets.landmarks:
            from_platform_json(value, source=socket.relative_path, names=task.names)
        elif not isinstance(value, dict):
            raise ChallengeError(f"{socket.relative_path}: wanted an object of covariances by landmark")
        outputs[socket.relative_path] = content
    return outputs


def write_result(folder: Path, task: Task, result: CaseResult, *, run: str, algorithm: str) -> None:
    """Add one finished case to a predictions folder: its outputs, then the record that says they are complete."""
    pk = job_pk(result.case, run)
    for relative_path, content in result.outputs.items():
        files.write_bytes(folder / pk / "output" / relative_path, content)
    record = job_record(task, result, pk=pk, algorithm=algorithm)
    seconds = result.invoke_s if result.exec_s is None else result.exec_s
    job = {"record": record, "seconds": seconds, "peak_memory_mb": result.peak_memory_mb}
    files.write_json(folder / JOBS / f"{pk}.json", job, indent=None)


def job_record(task: Task, result: CaseResult, *, pk: str, algorithm: str) -> dict[str, Any]:
    """A job as the platform serialises it; local values stand where the platform has addresses."""
    inputs = [image_socket_value(task.sockets.image, result.image_name)]
    kinds = ((task.sockets.landmarks, "Multiple points"), (task.sockets.uncertainty, "Anything"))
    outputs = [
        _socket_value(socket, kind, pk=number, file=f"{pk}/output/{socket.relative_path}")
        for number, (socket, kind) in enumerate(kinds, start=2)
    ]
    return {
        "pk": pk,
        "url": f"local:{algorithm}/jobs/{pk}",
        "api_url": f"local:{algorithm}/api/jobs/{pk}",
        "algorithm_image": f"local:{algorithm}",
        "inputs": inputs,
        "outputs": outputs,
        "status": "Succeeded",
        "hanging_protocol": None,
        "optional_hanging_protocols": [],
        "view_content": {},
        "exec_duration": None if result.exec_s is None else iso_duration(result.exec_s),
        "invoke_duration": None if result.invoke_s is None else iso_duration(result.invoke_s),
    }


def image_socket_value(socket: Socket, image_name: str) -> dict[str, Any]:
    """The entry of an input image in inputs.json and predictions.json."""
    value = _socket_value(socket, "Image", pk=1, file=None)
    value["image"] = {"pk": str(uuid.uuid5(NAMESPACE, image_name)), "name": image_name}
    return value


def _socket_value(socket: Socket, kind: str, *, pk: int, file: str | None) -> dict[str, Any]:
    described = {
        "title": socket.slug.replace("-", " ").capitalize(),
        "description": "",
        "slug": socket.slug,
        "kind": kind,
        "pk": pk,
        "default_value": None,
        "super_kind": "Image" if kind == "Image" else "File",
        "relative_path": socket.relative_path,
        "overlay_segments": [],
        "look_up_table": None,
    }
    return {"socket": described, "interface": described, "value": None, "file": file, "image": None, "pk": pk}


def write_predictions_json(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write `predictions.json`, whole or not at all."""
    files.write_json(folder / PREDICTIONS, list(records))


def finished_jobs(folder: Path, *, run: str, cases: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The jobs whose record and outputs are whole, as `write_result` left them, by case."""
    finished: dict[str, dict[str, Any]] = {}
    for case in cases:
        pk = job_pk(case, run)
        path = folder / JOBS / f"{pk}.json"
        if not path.is_file():
            continue
        job: dict[str, Any] = files.read_json(path)
        if all((folder / _below(output["file"])).is_file() for output in job["record"]["outputs"]):
            finished[case] = job
    return finished


def _below(relative_path: str) -> PurePosixPath:
    path = PurePosixPath(relative_path)
    if path.is_absolute() or ".." in path.parts:
        raise ChallengeError(f"{relative_path[:80]}: wanted a path below the predictions folder")
    return path
