"""What `landmarks run` runs: a model folder, a Docker image or an Apptainer file, in a form that travels."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from . import files
from .errors import ChallengeError
from .local_worker import ALGORITHM_FILE
from .running import Limits, Runner, model_runner

MODEL_FILE = "model.json"
APPTAINER_SUFFIX = ".sif"


@dataclass(frozen=True)
class Target:
    """place: the folder, tag or file. identity: a digest of its content. threads: of a model, None for all cores.
    model: a folder that takes the place of the model in an image.
    """

    kind: Literal["model", "image", "apptainer"]
    place: str
    identity: str
    limits: Limits
    device: str = "auto"
    threads: int | None = None
    model: str | None = None


def find_target(
    text: str,
    *,
    limits: Limits,
    device: str = "auto",
    threads: int | None = None,
    model: Path | None = None,
) -> Target:
    """What `text` names. Raises ChallengeError where it is neither the folder of a model or an algorithm, a .sif file
    nor a known tag.
    """
    path = Path(text)
    if model is not None and not (model / MODEL_FILE).is_file():
        raise ChallengeError(f"{model}: wanted a model folder with {MODEL_FILE}")
    if (path / MODEL_FILE).is_file():
        if model is not None:
            raise ChallengeError(f"{text}: wanted an image to give the model {model} to, got a model folder")
        return Target("model", str(path.resolve()), files.sha256_folder(path), limits, device, threads)
    if (path / ALGORITHM_FILE).is_file():
        if model is not None:
            raise ChallengeError(f"{text}: wanted an image to give the model {model} to, got an algorithm's folder")
        return Target("model", str(path.resolve()), files.sha256_folder(path), limits, device, threads)
    if path.is_dir():
        raise ChallengeError(
            f"{text}: wanted a model folder with {MODEL_FILE}, an algorithm's with {ALGORITHM_FILE}, or the tag of an "
            "image"
        )
    if text.endswith(APPTAINER_SUFFIX):
        if not path.is_file():
            raise ChallengeError(f"{text}: wanted an Apptainer image file, there is none")
        target = Target("apptainer", str(path.resolve()), files.sha256_file(path), limits, device, threads)
        return _with_model(target, model)
    from .containers import image_identity

    identity, _ = image_identity(text)
    return _with_model(Target("image", text, identity, limits, device, threads), model)


def _with_model(target: Target, model: Path | None) -> Target:
    if model is None:
        return target
    identity = f"{target.identity}+{files.sha256_folder(model)}"
    return replace(target, model=str(model.resolve()), identity=identity)


def open_runner(target: Target) -> AbstractContextManager[Runner]:
    """A runner for a target, closed at the end of a `with` block."""
    if target.kind == "model":
        return model_runner(Path(target.place), target.limits, device=target.device, threads=target.threads)
    model = None if target.model is None else Path(target.model)
    if target.kind == "apptainer":
        from .apptainer import apptainer_runner

        return apptainer_runner(Path(target.place), target.limits, model=model)
    from .containers import image_runner

    return image_runner(target.place, target.limits, model=model)
