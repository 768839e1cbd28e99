"""Rehearses what the platform checks of an algorithm image: on import, and on every case under its limits."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from . import containers
from .containers import ExecRunner, ImageFacts, InvokeRunner, image_runner
from .errors import ChallengeError
from .predictions import collect_outputs
from .running import CaseFailedError, Limits, Measured, empty_folder
from .schemas import Points
from .task import Task

MAX_IMAGE_GB = 10.0
UNVERIFIED_UPLOAD_GB = 2.0
PLAIN_USER = re.compile(r"[0-9a-zA-Z]*:?[0-9a-zA-Z]*")
CALLS = 50
SETTLED_CALLS = 10
ALLOWED_GROWTH_MB = 20.0
ALLOWED_GROWTH = 0.05

# What a program says when it meets one of the limits under which every case runs, and what to do then.
MET = {
    "network": (
        r"network is unreachable|name or service not known|failure in name resolution|could not resolve|gaierror"
        r"|no address associated|connection refused",
        "there is no network: put weights and everything else that is fetched into the image or the model folder",
    ),
    "read-only root": (
        r"read-only file system|permission denied|operation not permitted",
        "the program runs without root's rights in a read-only root: write to /tmp and /output only",
    ),
    "memory": (
        r"memoryerror|cannot allocate memory|can't allocate memory|bad_alloc|out of memory|memory limit was exceeded",
        "choose an instance with more memory, or use less",
    ),
    "scratch space": (
        r"no space left on device|bus error",
        "/dev/shm has half of the instance's memory, /tmp 1 GB of it: use fewer worker processes, write less",
    ),
    "time": (r"took longer than", "stay below the time limit; what is read once belongs into the start, not a case"),
}
WRONG_OUTPUT = "the platform checks each output: points [x, y, z] in finite millimetres, names of the task, each once"
NO_OUTPUT = "the platform fails the whole submission on one such case: write every output of the task in every case"


@dataclass(frozen=True)
class Check:
    """One line of the table. passed: None where it could not be tried. advice: what to do where it failed."""

    name: str
    passed: bool | None
    found: str
    advice: str


def check_import(tag: str) -> list[Check]:
    """What the platform looks at when an image is uploaded."""
    facts = containers.image_facts(tag)
    method = facts.labels.get(containers.API_METHOD_LABEL)
    size_gb = facts.size_bytes / 1e9
    return [
        Check(
            "label",
            method is None or method in containers.API_METHODS,
            f"api-method {method or 'absent, taken as exec'}",
            f'LABEL {containers.API_METHOD_LABEL}="invoke" (or "exec")',
        ),
        Check(
            "architecture", facts.architecture == "linux/amd64", facts.architecture, "build with --platform linux/amd64"
        ),
        _check_user(tag, facts),
        Check(
            "environment",
            not _stripped(facts),
            ", ".join(_stripped(facts)) or "nothing the platform strips",
            f"rename the variable: {containers.STRIPPED_PREFIX}* never reaches the program",
        ),
        Check(
            "size",
            size_gb <= MAX_IMAGE_GB,
            f"{size_gb:.2f} GB unpacked",
            f"at most {MAX_IMAGE_GB:g} GB; uploads over {UNVERIFIED_UPLOAD_GB:g} GB need a verified account",
        ),
    ]


def _stripped(facts: ImageFacts) -> list[str]:
    names = [variable.partition("=")[0] for variable in facts.environment]
    return [name for name in names if name.upper().startswith(containers.STRIPPED_PREFIX)]


def _check_user(tag: str, facts: ImageFacts) -> Check:
    user = facts.user.split(":")[0]
    advice = "add a user that is not root to the image and name it with USER"
    if user in containers.ROOT_USERS:
        return Check("user", False, facts.user or "not set, so root", advice)
    if not PLAIN_USER.fullmatch(facts.user):
        # The platform's runner reads letters and digits only and stops at anything else.
        return Check("user", False, facts.user, "name the user with letters and digits alone")
    rows = [line.split(":") for line in (containers.file_in_image(tag, "/etc/passwd") or "").splitlines()]
    row = next((row for row in rows if len(row) > 3 and user in (row[0], row[2])), None)
    if row is None:
        known = user.isdecimal()
        return Check("user", known, f"{user}, {'a number' if known else 'not in the image'}", advice)
    return Check("user", row[2] != "0", f"{row[0]} ({row[2]})", advice)


def check_runs(tag: str, cases: Mapping[str, Path], task: Task, *, limits: Limits, calls: int = CALLS) -> list[Check]:
    """What the platform asks at run time, on cases laid out as its /input, name -> folder."""
    checks: list[Check] = []
    try:
        with image_runner(tag, limits) as runner:
            first, measured, extra, failure = _answers(runner, cases, task)
            checks += _check_answers(runner, cases, measured, failure, limits)
            if failure is not None:
                return checks
            checks.append(
                Check("extra files", True, ", ".join(sorted(extra)) or "none", "the platform ignores what is no output")
            )
            second, _, _, _ = _answers(runner, cases, task)
            same = first == second
            checks.append(
                Check(
                    "determinism",
                    same,
                    "two runs, identical bytes" if same else "two runs differ",
                    "seed what is random; test-time augmentation by a fixed seed",
                )
            )
            checks.append(_check_growth(runner, next(iter(cases.values())), calls))
            checks.append(_check_broken_input(runner, next(iter(cases.values())), task))
    except ChallengeError as error:
        by_hand = f"run the image by hand: docker run --rm --network none {tag}"
        checks.append(_failure(str(error), "", otherwise=("starts", by_hand)))
    return checks


def _provide(source: Path, runner: ExecRunner | InvokeRunner) -> None:
    empty_folder(runner.input_folder)
    empty_folder(runner.output_folder)
    shutil.copytree(source, runner.input_folder, dirs_exist_ok=True)
    for path in (runner.input_folder, *runner.input_folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _answers(
    runner: ExecRunner | InvokeRunner, cases: Mapping[str, Path], task: Task
) -> tuple[dict[str, Mapping[str, bytes]], list[Measured], set[str], Check | None]:
    """Run every case once: its outputs, what it took, files that are no output, and what the first failure failed."""
    outputs: dict[str, Mapping[str, bytes]] = {}
    measured: list[Measured] = []
    extra: set[str] = set()
    for name, source in cases.items():
        _provide(source, runner)
        try:
            measured.append(runner.run())
        except CaseFailedError as error:
            test_it = "see the container's stderr; test.sh runs the same cases by hand"
            return outputs, measured, extra, _failure(f"{name}: {error}", error.log, otherwise=("runs", test_it))
        try:
            outputs[name] = _collect(task, runner.output_folder)
        except ChallengeError as error:
            absent = "was not produced" in str(error)
            wrong = Check("outputs", False, f"{name}: {error}", NO_OUTPUT if absent else WRONG_OUTPUT)
            return outputs, measured, extra, wrong
        written = {path.relative_to(runner.output_folder).as_posix() for path in runner.output_folder.rglob("*")}
        extra |= written - set(outputs[name])
    return outputs, measured, extra, None


def _collect(task: Task, folder: Path) -> Mapping[str, bytes]:
    """The outputs of a case, held to the platform's schema: the kit reads a little more than every version takes."""
    outputs = collect_outputs(task, folder)
    path = task.sockets.landmarks.relative_path
    try:
        Points.model_validate_json(outputs[path])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ChallengeError(f"{path}: {place}: {first['msg']}") from None
    return outputs


def _failure(reason: str, log: str, *, otherwise: tuple[str, str]) -> Check:
    """The limit that was met, by what the program said; `otherwise` (a check and its advice) where it was none."""
    # The last line first: what was said before may be about something it got over.
    for text in (reason, log):
        for limit, (words, advice) in MET.items():
            if re.search(words, text, re.IGNORECASE):
                return Check(limit, False, reason, advice)
    return Check(otherwise[0], False, reason, otherwise[1])


def _check_answers(
    runner: ExecRunner | InvokeRunner,
    cases: Mapping[str, Path],
    measured: Sequence[Measured],
    failure: Check | None,
    limits: Limits,
) -> list[Check]:
    """One line per limit under which the cases ran; where one failed, what failed it alone."""
    if failure is not None:
        return [failure]
    every = f"{len(cases)} of {len(cases)} cases"
    longest = max((one.exec_s if one.exec_s is not None else one.invoke_s) or 0.0 for one in measured)
    started = f", ready after {runner.start_s:.1f} s" if isinstance(runner, InvokeRunner) and runner.start_s else ""
    return [
        Check("runs", True, every, ""),
        Check("network", True, "none is there, none was missed", ""),
        Check("read-only root", True, "no rights of root, no capability; /tmp and /output are enough", ""),
        _check_memory(measured, limits),
        Check("scratch space", True, f"/dev/shm {limits.memory_mb // 2} MB, /tmp 1024 MB", ""),
        Check("time", True, f"longest case {longest:.2f} s of {limits.time_s:g} s{started}", ""),
        Check("outputs", True, f"{every}: all there, in the platform's form, finite", ""),
    ]


def _check_memory(measured: Sequence[Measured], limits: Limits) -> Check:
    peaks = [one.peak_memory_mb for one in measured if one.peak_memory_mb is not None]
    data_mb = containers.data_limit_mb(limits)
    peak = f"peak {max(peaks):.0f} MB" if peaks else "ended before its peak could be measured;"
    return Check("memory", True, f"{peak} of {limits.memory_mb} MB, RLIMIT_DATA {data_mb} MB", "")


def _check_growth(runner: ExecRunner | InvokeRunner, case: Path, calls: int) -> Check:
    """Whether many calls of one server leave memory behind."""
    if not isinstance(runner, InvokeRunner):
        return Check("memory growth", None, "exec mode: every case starts anew", "")
    settled = 0.0
    for call in range(1, calls + 1):
        _provide(case, runner)
        try:
            runner.run()
        except CaseFailedError as error:
            return Check(
                "memory growth", False, f"call {call} of {calls} failed: {error}", "one server takes many calls"
            )
        if call == min(SETTLED_CALLS, calls):
            settled = runner.memory_mb() or 0.0
    growth = (runner.memory_mb() or 0.0) - settled
    found = f"{growth:+.0f} MB between call {min(SETTLED_CALLS, calls)} and {calls}, from {settled:.0f} MB"
    allowed = max(ALLOWED_GROWTH_MB, ALLOWED_GROWTH * settled)
    return Check("memory growth", growth <= allowed, found, "free what a case leaves behind; cache nothing per case")


def _check_broken_input(runner: ExecRunner | InvokeRunner, case: Path, task: Task) -> Check:
    """Whether half an image ends in a word on stderr."""
    _provide(case, runner)
    images = [path for path in (runner.input_folder / task.sockets.image.relative_path).iterdir() if path.is_file()]
    for path in images:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    advice = "check the input; end with a line on stderr that says what is wrong, and exit code 1 (invoke: status 500)"
    try:
        runner.run()
    except CaseFailedError as error:
        reason = str(error)
        return Check("broken image", "nothing on stderr" not in reason and "took longer" not in reason, reason, advice)
    return Check("broken image", False, "half an image was answered as if it were whole", advice)


def table(checks: Sequence[Check]) -> str:
    """The checks as text, advice below what failed."""
    words = {True: "passed", False: "FAILED", None: "-"}
    lines = []
    for check in checks:
        lines.append(f"{words[check.passed]:<7} {check.name:<14} {check.found}")
        if check.passed is False:
            lines.append(f"{'':<7} {'':<14} -> {check.advice}")
    return "\n".join(lines)
