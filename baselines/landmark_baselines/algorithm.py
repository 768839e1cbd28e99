"""The program of an algorithm container: `python3 -m landmark_baselines.algorithm [exec|invoke]`.

It reads algorithm.yaml, loads the model, and leaves the rest to `landmark_challenge.platform`.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from landmark_challenge import platform
from landmark_challenge.errors import ChallengeError
from landmark_challenge.platform import Localizer

FOLDER = Path("/opt/algorithm")
MOUNTED_MODEL = Path("/opt/ml/model")
MODE_VARIABLE = "LANDMARKS_API_METHOD"  # the platform strips GRAND_CHALLENGE_* from the environment


class Algorithm(BaseModel):
    """algorithm.yaml: what an algorithm container is made of.

    name: the image is `landmarks-<name>`, without it `landmarks-<folder>`. libraries: the base image, `light` (NumPy,
    SimpleITK) or `torch`.
    loader: `module:function`, called with the model folder and `device=`, gives a Localizer. max_error_mm: the mean
    error up to which test.sh passes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$")
    title: str
    libraries: Literal["light", "torch"] = "torch"
    loader: str = Field(default="landmark_baselines.method:load_model", pattern=r"^[\w.]+:\w+$")
    max_error_mm: float = Field(gt=0)


def read_algorithm(path: Path) -> Algorithm:
    """The checked algorithm.yaml. Raises ChallengeError: what was wanted, what came."""
    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Algorithm.model_validate(value)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise ChallengeError(f"{path}: wanted a readable YAML file") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the algorithm"
        raise ChallengeError(f"{path}: {place}: {first['msg']}") from None


def model_folder(folder: Path = FOLDER, *, mounted: Path = MOUNTED_MODEL) -> Path:
    """The model that the platform mounted where there is one, else the one in the image."""
    return mounted if mounted.is_dir() and any(mounted.iterdir()) else folder / "model"


def load_localizer(algorithm: Algorithm, model: Path, *, device: str = "auto") -> Localizer:
    """Import the loader that algorithm.yaml names and load the model with it."""
    module_name, _, function = algorithm.loader.partition(":")
    loader: Callable[..., Localizer] = getattr(importlib.import_module(module_name), function)
    return loader(model, device=device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run in the mode that the argument or the image names; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    mode = given[0] if given else os.environ.get(MODE_VARIABLE, "exec")
    if mode not in {"exec", "invoke"} or len(given) > 1:
        print("usage: python3 -m landmark_baselines.algorithm [exec|invoke]", file=sys.stderr)
        return 2

    def load() -> Localizer:
        algorithm = read_algorithm(FOLDER / "algorithm.yaml")
        return load_localizer(algorithm, model_folder(), device=os.environ.get("LANDMARKS_DEVICE", "auto"))

    return platform.run_algorithm(load, mode=mode)


if __name__ == "__main__":
    sys.exit(main())
