"""What `landmarks run` runs: a model folder, a Docker image or an Apptainer file, in a form that travels."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import files
from .errors import ChallengeError
from .running import Limits, Runner, model_runner

MODEL_FILE = "model.json"
APPTAINER_SUFFIX = ".sif"


@dataclass(frozen=True)
class Target:
    """place: the folder, tag or file. identity: a digest of its content. threads: of a model, None for all cores."""

    kind: Literal["model", "image", "apptainer"]
    place: str
    identity: str
    limits: Limits
    device: str = "auto"
    threads: int | None = None


def find_target(text: str, *, limits: Limits, device: str = "auto", threads: int | None = None) -> Target:
    """What `text` names. Raises ChallengeError where it is neither a model folder, a .sif file nor a known tag."""
    path = Path(text)
    if (path / MODEL_FILE).is_file():
        return Target("model", str(path.resolve()), files.sha256_folder(path), limits, device, threads)
    if path.is_dir():
        raise ChallengeError(f"{text}: wanted a model folder with {MODEL_FILE}, or the tag of an image")
    if text.endswith(APPTAINER_SUFFIX):
        if not path.is_file():
            raise ChallengeError(f"{text}: wanted an Apptainer image file, there is none")
        return Target("apptainer", str(path.resolve()), files.sha256_file(path), limits, device, threads)
    from .containers import image_identity

    identity, _ = image_identity(text)
    return Target("image", text, identity, limits, device, threads)


def open_runner(target: Target) -> AbstractContextManager[Runner]:
    """A runner for a target, closed at the end of a `with` block."""
    if target.kind == "model":
        return model_runner(Path(target.place), target.limits, device=target.device, threads=target.threads)
    if target.kind == "apptainer":
        from .apptainer import apptainer_runner

        return apptainer_runner(Path(target.place), target.limits)
    from .containers import image_runner

    return image_runner(target.place, target.limits)
