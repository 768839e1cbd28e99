"""`landmarks task ...` and `landmarks data ...`: look at tasks, make, check and hide datasets."""

import textwrap
from pathlib import Path
from typing import Literal

import click

from .dataset import SPLITS, Dataset
from .errors import ChallengeError
from .task import Task, load_task, task_names

FOLDER = click.Path(file_okay=False, path_type=Path)
SHOWN_PER_KIND = 20


@click.group()
def task() -> None:
    """List and show the tasks that come with the kit.

    \b
    Example: landmarks task show ceph-19
    """


@task.command("list")
def task_list() -> None:
    """Print one line per task: name, version, dimension, number of landmarks, title.

    \b
    Example: landmarks task list
    """
    for name in task_names():
        spec = load_task(name)
        click.echo(f"{name:<18} v{spec.version}  {spec.dimension}D  {len(spec.names):>3} landmarks  {spec.title}")


@task.command("show")
@click.argument("name", metavar="TASK")
def task_show(name: str) -> None:
    """Print a task: its landmarks, protocol and published results. TASK is a name or a .yaml file.

    \b
    Example: landmarks task show ceph-19
    """
    click.echo(describe(load_task(name)))


@task.command("schema")
@click.option("--out", type=FOLDER, required=True, help="Where to write the <name>.schema.json files.")
def task_schema(out: Path) -> None:
    """Write the JSON Schema of every file that crosses a boundary.

    \b
    Example: landmarks task schema --out data_specs/schemas
    """
    from .schemas import export_schemas

    for path in export_schemas(out):
        click.echo(path)


@click.group()
def data() -> None:
    """Make and import datasets.

    \b
    Example: landmarks data phantom ceph-19 phantoms --cases 20
    """


@data.command("phantom")
@click.argument("name", metavar="TASK")
@click.argument("out", type=FOLDER)
@click.option("--cases", type=click.IntRange(min=3), default=20, show_default=True, help="How many cases to make.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same bytes.")
@click.option("--full-size", is_flag=True, help="Make images of clinical size.")
def data_phantom(name: str, out: Path, cases: int, seed: int, full_size: bool) -> None:
    """Make a dataset of synthetic images with exactly known landmarks.

    \b
    Example: landmarks data phantom ceph-19 phantoms --cases 20 --seed 1
    """
    from .phantoms import write_phantoms

    write_phantoms(name, out, cases=cases, seed=seed, full_size=full_size)
    click.echo(summary(Dataset(out)))


@data.group("import")
def data_import() -> None:
    """Import the folder SOURCE, laid out as FORMAT says, as the dataset OUT.

    \b
    Example: landmarks data import isbi2015 archive ceph
    """


@data.command("check")
@click.argument("dataset", type=FOLDER)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page with thumbnails.")
@click.option(
    "--thumbnails", type=click.IntRange(min=0), default=60, show_default=True, help="Cases drawn on the page."
)
def data_check(dataset: Path, html: Path | None, thumbnails: int) -> None:
    """Look for what is wrong in DATASET: exit code 1 for an error or a warning, 0 for notes alone.

    Points outside the image, missing or doubled names, left-right swaps, outliers, identical images, groups that span
    splits, unlikely spacing, raters that disagree by far. Images are not decoded, except for thumbnails.

    \b
    Example: landmarks data check ceph --html check.html
    """
    from .check import check
    from .check_page import write_page

    if not (dataset / "dataset.json").is_file():
        raise ChallengeError(f"{dataset}: wanted a dataset, with dataset.json in it; there is none")
    findings, contents = check(dataset)
    for kind in dict.fromkeys(finding.kind for finding in findings):
        own = [finding for finding in findings if finding.kind == kind]
        for finding in own[:SHOWN_PER_KIND]:
            place = " ".join(part for part in (finding.case, finding.landmark) if part)
            click.echo(f"{finding.severity:<8} {kind:<10} {place + ': ' if place else ''}{finding.text}")
        if len(own) > SHOWN_PER_KIND:
            click.echo(f"{'':<8} {kind:<10} and {len(own) - SHOWN_PER_KIND} more; --html FILE lists all")
    counts = {level: sum(finding.severity == level for finding in findings) for level in ("error", "warning", "note")}
    cases = "" if contents is None else f"{len(contents.cases)} cases, "
    told = ", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counts.items())
    click.echo(f"{dataset}: {cases}{told}")
    if html is not None:
        write_page(html, findings, contents, thumbnails=thumbnails)
        click.echo(f"page: {html}")
    if counts["error"] or counts["warning"]:
        raise click.exceptions.Exit(1)


@data.command("folds")
@click.argument("dataset", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Where to write fold-1, fold-2 and so on.")
@click.option("--count", type=click.IntRange(min=2), default=5, show_default=True, help="How many parts.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the order of the groups.")
def data_folds(dataset: Path, out: Path, count: int, seed: int) -> None:
    """Part the training cases of DATASET to choose by: each fold is a dataset that tests on one part.

    The test cases of DATASET are excluded from all of them, so that nothing can be chosen on those. Images are links.

    \b
    Example: landmarks data folds ceph --out folds --count 5
    """
    from .folds import write_folds

    for folder in write_folds(Dataset(dataset), out, count=count, seed=seed):
        click.echo(summary(Dataset(folder)))


@data.command("hide")
@click.argument("dataset", type=FOLDER)
@click.option("--public", type=FOLDER, help="The new public part; without it only the reference folder is written.")
@click.option("--reference", type=FOLDER, required=True, help="The new reference folder, for the evaluation only.")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="What is hidden.")
@click.option("--subset", help="Only this part of the split.")
@click.option(
    "--disclosure",
    type=click.Choice(["open", "protected"]),
    default="protected",
    show_default=True,
    help="Whether scores may tell more than what ranks: per landmark and per case only where open.",
)
@click.option("--details", is_flag=True, help="Let the evaluation container write details.json; only with open.")
@click.option("--observer", help="Score against this rater in place of the task's rule.")
@click.option("--keep-names", is_flag=True, help="Leave hidden cases their names, where those tell nothing.")
def data_hide(
    dataset: Path,
    public: Path | None,
    reference: Path,
    split: str,
    subset: str | None,
    disclosure: Literal["open", "protected"],
    details: bool,
    observer: str | None,
    keep_names: bool,
) -> None:
    """Write DATASET as a public part and the reference folder, what an evaluation container scores against.

    The public part has the training cases with landmarks and the hidden cases as images, renamed, in a new order, with
    nothing but geometry in their headers; names.csv in the reference folder says which is which.

    \b
    Example: landmarks data hide ceph --public public --reference ground-truth
    """
    from .hide import hide
    from .reference import write_reference

    source = Dataset(dataset)
    if public is None:
        header = write_reference(
            source, reference, split=split, subset=subset, disclosure=disclosure, details=details, observer=observer
        )
    else:
        header = hide(
            source, public=public, reference=reference, split=split, subset=subset,
            disclosure=disclosure, details=details, observer=observer, keep_names=keep_names,
        )  # fmt: skip
        click.echo(summary(Dataset(public)))
    click.echo(f"{reference}: {len(header.cases)} cases, reference {header.rule}, {header.disclosure}; keep it private")


def parse_spacing(text: str | None) -> tuple[float, ...] | None:
    """The numbers in `X,Y[,Z]` millimetres; ChallengeError for anything else.

    >>> parse_spacing("0.1,0.1")
    (0.1, 0.1)
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (2, 3) or not all(0 < value < float("inf") for value in values):
        raise ChallengeError(f"--spacing-mm: wanted X,Y or X,Y,Z in millimetres above 0, got '{text}'")
    return values


def summary(dataset: Dataset) -> str:
    """One line on a dataset: how many cases in which split, who marked them."""
    counts = ", ".join(f"{len(dataset.cases(split=split))} {split}" for split in SPLITS)
    return f"{dataset.folder}: {dataset.task.name}, {counts}; observers {', '.join(dataset.observers)}"


def describe(spec: Task) -> str:
    """A task as text that people read."""
    success = ", ".join(f"{value:g}" for value in spec.success_thresholds_mm)
    sign = "<" if spec.success_tie == "strict" else "<="
    grey, sockets = spec.intensity, spec.sockets
    intensity = grey.rule if grey.low is None else f"{grey.rule} {grey.low:g} to {grey.high:g}"
    facts = [
        ("images", f"{spec.dimension}D {spec.modality}"),
        ("reference", spec.reference.text),
        ("success", f"error {sign} {success} mm"),
        ("missing", f"a landmark that is there and not given counts {spec.missing_error_mm:g} mm"),
        ("ranking", f"{spec.ranking.rule}: {'; '.join(column.title for column in spec.ranking.columns)}"),
        ("working grid", f"{' x '.join(f'{value:g}' for value in spec.working_spacing_mm)} mm, intensity {intensity}"),
        ("sockets", f"{sockets.image.slug} -> {sockets.landmarks.slug}, {sockets.uncertainty.slug}"),
        ("source", spec.source),
        ("licence", spec.licence),
    ]
    width = max(len(name) for name in spec.names)
    lines = _wrapped(f"{spec.name}, version {spec.version}: {spec.title}", first="", indent="  ")
    lines += [line for name, text in facts for line in _wrapped(text, first=f"  {name:<14}")]
    lines.append(f"{len(spec.names)} landmarks")
    for landmark in spec.landmarks:
        short = f"{landmark.abbreviation}: " if landmark.abbreviation else ""
        lines += _wrapped(f"{short}{landmark.definition}", first=f"  {landmark.name:<{width}}  ")
    if spec.published:
        lines.append("published results (figures of the papers, not measured with this kit)")
    for result in spec.published:
        lines += _wrapped(f"{result.method}: {result.figures} ({result.source})", first="  ", indent="    ")
    return "\n".join(lines)


def _wrapped(text: str, *, first: str, indent: str | None = None) -> list[str]:
    later = " " * len(first) if indent is None else indent
    return textwrap.wrap(text, 118, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
