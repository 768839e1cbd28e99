"""`landmarks check-image`: will the platform take this image, and will it run there?"""

import tempfile
from pathlib import Path

import click

from .errors import ChallengeError
from .image_check import CALLS, check_import, check_runs, table
from .running import Limits
from .task import load_task

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("check-image")
@click.argument("tag")
@click.option("--cases", type=FOLDER, help="Sample cases, FOLDER/<case>/input as in test/; by default two phantoms.")
@click.option(
    "--task", "task_name", default="ceph-19", show_default=True, help="Whose sockets and landmarks it serves."
)
@click.option(
    "--memory-mb", type=click.IntRange(min=64), default=8192, show_default=True, help="The instance's memory."
)
@click.option("--time-limit-s", type=click.FloatRange(min=1), default=1200.0, show_default=True, help="Per case.")
@click.option(
    "--calls", type=click.IntRange(min=2), default=CALLS, show_default=True, help="Calls to watch memory over."
)
def check_image(tag: str, cases: Path | None, task_name: str, memory_mb: int, time_limit_s: float, calls: int) -> None:
    """Rehearse the platform's import checks and limits on the algorithm image TAG; each failure says what to do.

    \b
    Example: landmarks check-image landmarks-my_method:invoke --cases baselines/my_method/test
    """
    task = load_task(task_name)
    # Strict: an image of this kit must not hide a failure behind its fall-back.
    limits = Limits(memory_mb=memory_mb, time_s=time_limit_s, strict=True)
    checks = check_import(tag)
    with tempfile.TemporaryDirectory(prefix="landmarks-check-") as scratch:
        folder = _phantoms(task_name, Path(scratch)) if cases is None else cases
        inputs = {path.parent.name: path for path in sorted(folder.glob("*/input")) if path.is_dir()}
        if not inputs:
            raise ChallengeError(f"{folder}: wanted sample cases, <case>/input folders, there are none")
        if all(check.passed for check in checks if check.name in {"label", "user", "architecture"}):
            checks += check_runs(tag, inputs, task, limits=limits, calls=calls)
    click.echo(table(checks))
    failed = [check.name for check in checks if check.passed is False]
    if failed:
        which = f"{tag}, for {task.name} (--task names another)"
        click.echo(f"{which}: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", err=True)
        raise SystemExit(1)
    click.echo(f"{tag}: every check passed, for {task.name}")


def _phantoms(task_name: str, scratch: Path) -> Path:
    from .dataset import Dataset
    from .phantoms import PHANTOMS, write_phantoms
    from .samples import write_samples

    if task_name not in PHANTOMS:
        raise ChallengeError(f"--cases: wanted sample cases, there are no synthetic images of {task_name}")
    write_phantoms(task_name, scratch / "phantoms", cases=10, seed=0)
    write_samples(Dataset(scratch / "phantoms"), scratch / "samples", cases=2, model=None)
    return scratch / "samples"
