"""A stand-in for the platform's runner, inside the container as root: reference/platform.md, sections 1 and 2.

Standard library only; started as `python3 -I shim.py` with /data mounted: /data/jobs.json says what to run,
/data/<pk>/input is what to provide, /data/<pk>/output gets what came out, /data/results.json how it ended.
"""

import grp
import http.client
import json
import os
import pwd
import resource
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

DATA, STORE = Path("/data"), Path("/opt/ml/input/data")
STRIPPED = "GRAND_CHALLENGE_"


def find_user(text):
    """uid, gid, further groups and home of the image's USER, which must be there and not root."""
    name = text.split(":")[0]
    row = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    assert row.pw_uid != 0, text
    groups = [group.gr_gid for group in grp.getgrall() if row.pw_name in group.gr_mem]
    return row.pw_uid, row.pw_gid, groups, row.pw_dir


def own_process(job):
    """The image's program as its user, with the platform's memory limit and environment."""
    uid, gid, groups, home = find_user(job["user"])
    environment = {key: value for key, value in os.environ.items() if not key.upper().startswith(STRIPPED)}
    environment |= {"HOME": home, "LOG_LEVEL": "INFO", "PYTHONUNBUFFERED": "1", "no_proxy": "amazonaws.com"}
    limit = job["memory_bytes"] - 2**30

    def drop():
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)

    return subprocess.Popen(job["command"], preexec_fn=drop, env=environment, cwd=job["workdir"])


def provide(pk):
    """/input as a link that is made anew, its files root's and read-only for the user; /output empty."""
    target = STORE / f"{pk}-input"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(DATA / pk / "input", target)
    for path in (target, *target.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o755 if path.is_dir() else 0o644)
    link = Path("/input")
    link.unlink() if link.is_symlink() else link.rmdir()
    link.symlink_to(target)
    empty(Path("/output"))
    Path("/output").chmod(0o777)


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def take_away(pk):
    """Keep the output; between two calls nothing is left in /input and /output."""
    shutil.copytree("/output", DATA / pk / "output", symlinks=True)
    empty(Path("/output"))
    empty(STORE / f"{pk}-input")


def request(method, path, seconds):
    connection = http.client.HTTPConnection("127.0.0.1", 4743, timeout=seconds)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def run_exec(job):
    for pk in job["pks"]:
        provide(pk)
        started = time.perf_counter()
        code = own_process(job).wait(timeout=job["seconds"])
        yield {"pk": pk, "ok": code == 0, "status": code, "seconds": time.perf_counter() - started}
        take_away(pk)


def run_invoke(job):
    process = own_process(job)
    deadline = time.monotonic() + 300
    status = 0
    while status != 200 and time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        status = request("GET", "/health", 10)
        assert not 300 <= status < 400, "a redirect"
        time.sleep(0.1)
    for pk in job["pks"]:
        provide(pk)
        started = time.perf_counter()
        status = request("POST", "/invoke", job["seconds"])
        yield {"pk": pk, "ok": status == 201, "status": status, "seconds": time.perf_counter() - started}
        take_away(pk)
    process.terminate()
    process.wait(timeout=60)


def main():
    job = json.loads((DATA / "jobs.json").read_text())
    truth = DATA / "ground_truth.tar.gz"
    if truth.exists():
        target = STORE / "ground_truth"
        target.mkdir(parents=True, exist_ok=True)
        uid, gid, _, _ = find_user(job["user"])
        with tarfile.open(truth) as archive:
            if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(target)
        for path in (target, *target.rglob("*")):
            os.chown(path, uid, gid)
        target.chmod(0o777)
    results = list((run_invoke if job["mode"] == "invoke" else run_exec)(job))
    (DATA / "results.json").write_text(json.dumps(results))
    for path in DATA.rglob("*"):
        path.is_symlink() or path.chmod(0o777 if path.is_dir() else 0o666)


main()
