"""`landmarks pack`: everything an organiser uploads, from a task and a reference folder."""

from pathlib import Path

import click

from landmark_challenge.task import load_task

from .pack import EVALUATION_TAG, write_pack

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("task")
@click.argument("reference", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="The new folder of the pack.")
@click.option("--image", default=EVALUATION_TAG, show_default=True, help="The evaluation image to save.")
@click.option("--no-image", is_flag=True, help="Leave the evaluation image out: no Docker needed.")
def pack(task: str, reference: Path, out: Path, image: str, no_image: bool) -> None:
    """Write what is uploaded to host TASK (a name or a .yaml file) with the REFERENCE folder, and the steps in order.

    \b
    Example: landmarks pack ceph-19 ground-truth --out pack
    """
    for name in write_pack(load_task(task), reference, out, image=None if no_image else image):
        click.echo(out / name)
