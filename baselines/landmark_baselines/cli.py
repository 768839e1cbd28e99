"""`landmarks train` and `landmarks predict`."""

import inspect
import time
from pathlib import Path
from typing import Any

import click

from landmark_challenge import files
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import image_stem, read_image
from landmark_challenge.landmarks import write_landmarks

from .checkpoints import MODEL_FILE
from .method import METHODS, load_model, method_module, resolve_device, train_method
from .presets import overridden
from .training import report

AT_LEAST_ONE: dict[str, Any] = {"type": click.IntRange(min=1), "default": 1, "show_default": True}


@click.command(short_help="Train a method on a dataset.")
@click.argument("method", type=click.Choice(list(METHODS)))
@click.argument("dataset", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", "output", required=True, type=click.Path(path_type=Path), help="The model folder to write.")
@click.option("--preset", type=click.Choice(["paper", "fast", "cpu", "tiny"]), default="cpu", show_default=True)
@click.option("--variant", help="A row of the paper's ablation, for example R_log+C.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--devices", **AT_LEAST_ONE, help="Processes of data-parallel training on each node.")
@click.option("--nodes", **AT_LEAST_ONE, help="Nodes of data-parallel training (under torchrun).")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--deterministic", is_flag=True, help="Refuse operations whose result may vary between runs; slower.")
@click.option("--resume", is_flag=True, help="Continue the unfinished run in the model folder; a finished one is left.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the preset.")
def train(
    method: str,
    dataset: Path,
    output: Path,
    preset: str,
    variant: str | None,
    device: str,
    devices: int,
    nodes: int,
    seed: int,
    deterministic: bool,
    resume: bool,
    assignments: tuple[str, ...],
) -> None:
    """Train METHOD on the train split of DATASET and write a model folder; `validation` chooses the best weights.

    \b
    Example: landmarks train global_to_local ceph --out model --preset cpu
    Example: landmarks train global_to_local ceph --out model --set local_stage.schedule.iterations=500
    """
    if not resume:
        files.refuse_existing(output)
    device = resolve_device(device)
    data = Dataset(dataset)
    module = method_module(method)
    options: dict[str, object] = {}
    if "settings" in inspect.signature(module.train).parameters:
        settings = module.preset_settings(preset, data.task)
        if variant:
            settings = module.variant_settings(variant, settings)
        options["settings"] = overridden(settings, assignments)
    elif assignments or variant:
        raise ChallengeError(f"{method} has nothing to set and no variants")
    finished = resume and (output / MODEL_FILE).is_file()
    begun = time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    train_method(
        method,
        data,
        output=output,
        device=device,
        preset=preset,
        seed=seed,
        deterministic=deterministic,
        resume=resume,
        devices=devices,
        nodes=nodes,
        **options,
    )
    if finished:
        return
    took = "trained; this run took" if resume else "trained in"
    click.echo(f"{output}: {method} ({preset}) for {data.task.name}, {took} {time.monotonic() - begun:.0f} s")


@click.command(short_help="Localize the landmarks of images.")
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", "output", required=True, type=click.Path(path_type=Path), help="Folder for <image stem>.json.")
@click.option("--spacing-mm", help="X,Y[,Z] of images whose files carry no spacing.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def predict(model: Path, images: tuple[Path, ...], output: Path, spacing_mm: str | None, device: str) -> None:
    """Localize the landmarks of IMAGES with MODEL and write the platform's points JSON for each.

    A method that knows how sure it is writes the covariances beside: <image stem>.landmark-uncertainty.json.

    \b
    Example: landmarks predict model scan.nii.gz --out points
    Example: landmarks predict model 151.jpg --spacing-mm 0.1,0.1 --out points
    """
    spacing = parse_spacing(spacing_mm)
    stems = [image_stem(path.name) for path in images]
    doubled = next((stem for stem in stems if stems.count(stem) > 1), None)
    if doubled:
        raise ChallengeError(f"images: wanted different names, got '{doubled}' twice")
    if not (model / MODEL_FILE).is_file():
        raise ChallengeError(f"{model}: wanted a model folder, there is no {MODEL_FILE}")
    localizer = load_model(model, device=device)
    for stem, path in zip(stems, images, strict=True):
        begun = time.monotonic()
        image = read_image(path, dimension=localizer.task.dimension, spacing_mm=spacing)
        found = localizer.localize(image)
        target = output / f"{stem}.json"
        beside = output / f"{stem}.{localizer.task.sockets.uncertainty.slug}.json"
        # Covariances of an earlier method must never pass for this one's.
        beside.unlink(missing_ok=True)
        if found.covariance_mm2:
            files.write_json(beside, {name: matrix.tolist() for name, matrix in found.covariance_mm2.items()})
        write_landmarks(target, found.landmarks)
        report(f"{target}: {len(found.landmarks)} landmarks in {time.monotonic() - begun:.2f} s")


def parse_spacing(text: str | None) -> tuple[float, ...] | None:
    """`X,Y[,Z]` in mm as numbers. Raises ChallengeError."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ChallengeError(f"--spacing-mm: wanted X,Y or X,Y,Z in mm, got '{text}'") from None
