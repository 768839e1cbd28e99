"""`landmarks planes`: the standard planes of a volume through the landmarks that a model locates."""

from pathlib import Path

import click

from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import image_stem, read_image
from landmark_challenge.landmarks import read_landmarks, write_landmarks

from .checkpoints import MODEL_FILE
from .cli import parse_spacing
from .method import load_model


@click.command(short_help="Resample standard planes through located landmarks.")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--out", "output", required=True, type=click.Path(path_type=Path), help="Folder for the planes.")
@click.option("--spacing-mm", help="X,Y,Z of an image whose file carries no spacing.")
@click.option("--reference", type=click.Path(path_type=Path), help="Points JSON with the true positions, to compare.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def planes(model: Path, image: Path, output: Path, spacing_mm: str | None, reference: Path | None, device: str) -> None:
    """Locate the landmarks of IMAGE with MODEL and resample the planes that the task names through them.

    Writes <image stem>-<plane>.mha with the plane's place in space, pictures (.png, .svg), and <image stem>.json with
    the landmarks. With --reference the angle and the offset to the planes of the true landmarks are told. For a method
    that walks to its landmarks, also how each of its starts has converged.

    \b
    Example: landmarks planes model scan.nii.gz --out planes
    """
    from .planes import cut_planes, write_cut

    if not (model / MODEL_FILE).is_file():
        raise ChallengeError(f"{model}: wanted a model folder, there is no {MODEL_FILE}")
    localizer = load_model(model, device=device)
    task = localizer.task
    if not task.planes:
        raise ChallengeError(f"{model}: wanted a task with planes, {task.name} names none")
    volume = read_image(image, dimension=task.dimension, spacing_mm=parse_spacing(spacing_mm))
    truth = None if reference is None else read_landmarks(reference, names=task.names)
    found = localizer.localize(volume).landmarks
    stem = image_stem(image.name)
    write_landmarks(output / f"{stem}.json", found)
    cuts, lost = cut_planes(volume, task, found, reference=truth)
    lines: list[str] = localizer.walk(volume).lines if hasattr(localizer, "walk") else []
    for cut in cuts:
        paths = write_cut(cut, output, name=f"{stem}-{cut.spec.name}", landmarks=found, reference=truth)
        lines += [f"{cut.spec.name}: {cut.comparison or 'resampled'}", *map(str, paths)]
    lines += [f"{name}: not resampled, its landmarks were not all found or lie on one line" for name in lost]
    click.echo("\n".join(lines))
