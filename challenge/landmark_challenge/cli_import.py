"""`landmarks data import FORMAT SOURCE OUT` and `landmarks convert IN OUT`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .cli_data import FOLDER, data, data_import, parse_spacing, summary
from .errors import ChallengeError
from .formats import POINT_FORMATS, import_dataset, point_extension, read_points, write_points
from .formats.csv_table import parse_columns
from .formats.pairing import Layout, check_expression
from .task import Task, load_task

Command = Callable[..., None]


# `data` is what the command line loads from here, so that its sub-commands are registered.
__all__ = ["convert", "data"]


def _options(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _size(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        size = tuple(int(part) for part in text.split(","))
    except ValueError:
        size = ()
    if len(size) not in (2, 3) or min(size) < 1:
        raise ChallengeError(f"--pad: wanted X,Y or X,Y,Z in voxels, got '{text}'")
    return size


common = _options(
    click.argument("source", type=FOLDER),
    click.argument("out", type=FOLDER),
    click.option("--task", "task_name", metavar="TASK", help="What the points mean: a task's name or .yaml file."),
    click.option(
        "--spacing-mm",
        metavar="X,Y[,Z]",
        callback=lambda _context, _parameter, text: parse_spacing(text),
        help="Spacing of images whose files do not know it.",
    ),
)
splitting = _options(
    click.option("--group", metavar="REGEX", help="Its first group finds the patient in a case name."),
    click.option(
        "--split", default="0.7,0.1,0.2", show_default=True, help="One split, or shares of train,validation,test."
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of the order in which groups fill the splits.",
    ),
)
pairing = _options(
    click.option("--images", metavar="REGEX", help="Which images, by path; the group (?P<case>...) names the case."),
    click.option(
        "--points",
        multiple=True,
        metavar="[OBSERVER=]REGEX",
        help="Which points files; groups case, observer, session. May come several times, the first that fits counts.",
    ),
    click.option("--mean-as", metavar="OBSERVER", help="Add an observer that is the mean of the others."),
)
padding = _options(
    click.option(
        "--pad",
        metavar="X,Y[,Z]",
        callback=_size,
        help="Put every image at a random place in one of this size; by default as the task says.",
    )
)


def _task(name: str | None) -> Task | None:
    return None if name is None else load_task(name)


def _layout(**options: Any) -> Layout:
    for expression in options.get("points", ()):
        check_expression(expression)
    for name in ("images", "group"):
        if options.get(name) is not None:
            check_expression(options[name], wanted="case" if name == "images" else "")
    return Layout(**options)


@data_import.command("isbi2015")
@common
def import_isbi2015(source: Path, out: Path, task_name: str | None, spacing_mm: tuple[float, ...] | None) -> None:
    """The archive of the ISBI 2015 cephalometric challenge (RawImage, AnnotationsByMD).

    \b
    Example: landmarks data import isbi2015 archive ceph
    """
    click.echo(summary(import_dataset("isbi2015", source, output=out, task=_task(task_name), spacing_mm=spacing_mm)))


@data_import.command("aasce2019")
@common
@splitting
def import_aasce2019(
    source: Path, out: Path, task_name: str | None, spacing_mm: tuple[float, ...] | None, **layout: Any
) -> None:
    """The AASCE 2019 spine X-rays (data, labels); their spacing is not known and has to be given.

    \b
    Example: landmarks data import aasce2019 archive spine --spacing-mm 0.3,0.3
    """
    options: dict[str, Any] = {"task": _task(task_name), "spacing_mm": spacing_mm, "layout": _layout(**layout)}
    click.echo(summary(import_dataset("aasce2019", source, output=out, **options)))


@data_import.command("slicer")
@common
@pairing
@splitting
@padding
def import_slicer(
    source: Path, out: Path, task_name: str | None, spacing_mm: tuple[float, ...] | None, **layout: Any
) -> None:
    """A folder of images with 3D Slicer markups, .fcsv or .mrk.json.

    Without --points, scan.nii.gz goes with scan.fcsv or scan_rater1.fcsv, and rater1 is the observer.

    \b
    Example: landmarks data import slicer scans brains --task brain-afids-32
    """
    options: dict[str, Any] = {"task": _task(task_name), "spacing_mm": spacing_mm, "layout": _layout(**layout)}
    click.echo(summary(import_dataset("slicer", source, output=out, **options)))


@data_import.command("points-json")
@common
@pairing
@splitting
@padding
def import_points_json(
    source: Path, out: Path, task_name: str | None, spacing_mm: tuple[float, ...] | None, **layout: Any
) -> None:
    """A folder of images with the platform's points JSON.

    \b
    Example: landmarks data import points-json scans hearts --task ccta-8 --split test
    """
    options: dict[str, Any] = {"task": _task(task_name), "spacing_mm": spacing_mm, "layout": _layout(**layout)}
    click.echo(summary(import_dataset("points-json", source, output=out, **options)))


@data_import.command("csv")
@common
@click.option("--table", help="The table's path below SOURCE; by default the only .csv there.")
@click.option(
    "--columns", metavar="ROLE=COLUMN,...", help="Roles: case landmark x y z observer split group probability."
)
@click.option("--units", type=click.Choice(["mm", "voxel"]), help="Of x, y, z; columns i, j, k are voxels.")
@click.option(
    "--first-index", type=click.Choice(["0", "1"]), default="0", show_default=True, help="Of the first voxel."
)
@click.option("--axes", type=click.Choice(["LPS", "RAS"]), default="LPS", show_default=True, help="Of millimetres.")
@click.option("--images", metavar="REGEX", help="Which images, by path; the group (?P<case>...) names the case.")
@click.option("--mean-as", metavar="OBSERVER", help="Add an observer that is the mean of the others.")
@splitting
@padding
def import_csv(
    source: Path,
    out: Path,
    task_name: str | None,
    spacing_mm: tuple[float, ...] | None,
    table: str | None,
    columns: str | None,
    units: str | None,
    first_index: str,
    axes: str,
    **layout: Any,
) -> None:
    """A folder with a table of points and images named by case.

    A row is one point (roles case, landmark, x, y, z), or one case where x, y and z hold {name} or {number}: the
    name or the number, from 1, of a landmark.

    \b
    Example: landmarks data import csv scans set --task hippocampus-5 --units voxel \
                 --columns 'case=id,x={name}_i,y={name}_j,z={name}_k'
    """
    options: dict[str, Any] = {
        "task": _task(task_name),
        "spacing_mm": spacing_mm,
        "layout": _layout(**layout),
        "columns": parse_columns(columns, table=table, units=units, first_index=int(first_index), axes=axes),
    }
    click.echo(summary(import_dataset("csv", source, output=out, **options)))


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--task", "task_name", metavar="TASK", help="Turn labels, abbreviations and numbers into its names.")
@click.option(
    "--to", "ending", type=click.Choice([name[1:] for name in POINT_FORMATS]), help="For folders: the format."
)
def convert(source: Path, out: Path, task_name: str | None, ending: str | None) -> None:
    """Convert points between .mrk.json and .fcsv (3D Slicer), .json (the platform's) and .csv; the ending says which.

    With a folder IN, such as `landmarks predict` writes, every points file in it becomes one in the folder OUT.

    \b
    Example: landmarks convert points/scan.json scan.mrk.json
    Example: landmarks convert points slicer --to mrk.json
    """
    task = _task(task_name)
    if not source.is_dir():
        write_points(out, read_points(source, task=task))
        return
    if ending is None:
        raise ChallengeError("convert: wanted --to FORMAT for a folder, there is none")
    found = [(path, point_extension(path)) for path in sorted(source.iterdir()) if path.is_file()]
    known = [(path, path.name[: -len(extension)]) for path, extension in found if extension is not None]
    if not known:
        raise ChallengeError(f"{source}: wanted points files ({', '.join(POINT_FORMATS)}), there are none")
    stems = [stem for _, stem in known]
    doubled = next((stem for stem in stems if stems.count(stem) > 1), None)
    if doubled is not None:
        raise ChallengeError(f"{source}: wanted one points file of '{doubled}', got several")
    for path, stem in known:
        write_points(out / f"{stem}.{ending}", read_points(path, task=task))
    click.echo(f"{out}: {len(known)} files")
