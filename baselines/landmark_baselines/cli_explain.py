"""`landmarks explain`: a picture of why a landmark is where a model says."""

from pathlib import Path

import click
import numpy as np

from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import image_stem, read_image
from landmark_challenge.landmarks import read_landmarks

from .checkpoints import MODEL_FILE
from .cli import parse_spacing
from .method import load_model


@click.command(short_help="Show why a landmark is where a model says.")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--landmark", "name", required=True, help="The landmark to explain.")
@click.option("--out", "output", required=True, type=click.Path(path_type=Path), help="Folder for the pictures.")
@click.option("--spacing-mm", help="X,Y[,Z] of an image whose file carries no spacing.")
@click.option("--reference", type=click.Path(path_type=Path), help="Points JSON with the true position, to be marked.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def explain(
    model: Path, image: Path, name: str, output: Path, spacing_mm: str | None, reference: Path | None, device: str
) -> None:
    """Draw, for each stage of MODEL, where the patches of IMAGE point and which of them hold the landmark.

    A volume is shown in three planes through the landmark. Writes <image stem>-<landmark>.png and .svg.

    \b
    Example: landmarks explain model scan.nii.gz --landmark ostium-right --out pictures
    """
    from .explain import draw, fields_of

    if not (model / MODEL_FILE).is_file():
        raise ChallengeError(f"{model}: wanted a model folder, there is no {MODEL_FILE}")
    localizer = load_model(model, device=device)
    picture = read_image(image, dimension=localizer.task.dimension, spacing_mm=parse_spacing(spacing_mm))
    fields = fields_of(localizer, picture, name)
    truth = None
    if reference is not None:
        known = read_landmarks(reference, names=localizer.task.names)
        truth = known.aligned_mm([name])[0] if name in known.names else None
    final = fields[-1].point_mm
    axes = localizer.task.dimension  # as it is scored: in 2D the z of a reference does not count
    lines = [f"{field.stage}: {', '.join(f'{value:.2f}' for value in field.point_mm)} mm" for field in fields]
    if truth is not None and np.isfinite(truth).all():
        lines.append(f"reference: {', '.join(f'{value:.2f}' for value in truth)} mm")
        error = f"{np.linalg.norm((final - truth)[:axes]):.2f} mm"
        lines.append(f"error: {error}")
        title = f"{name} in {image_stem(image.name)}: error {error}"
    else:
        truth, title = None, f"{name} in {image_stem(image.name)}"
    stem = f"{image_stem(image.name)}-{name}"
    paths = draw(fields, output, name=stem, title=title, reference_mm=truth)
    click.echo("\n".join([*lines, *(str(path) for path in paths)]))
