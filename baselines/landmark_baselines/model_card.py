"""A model card from model.json: `python -m landmark_baselines.model_card MODEL [--out FILE]`.

Every line follows from the model folder, so that a card cannot say more than the model knows of itself.
"""

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from landmark_challenge import files
from landmark_challenge.errors import ChallengeError
from landmark_challenge.task import Task, parse_task

from .checkpoints import MODEL_FILE, WEIGHTS_FILE
from .method import METHODS

SYNTHETIC = "phantom"


def model_card(folder: Path) -> str:
    """The card of the model in `folder`, as Markdown. Raises ChallengeError where model.json is not one."""
    source = str(folder / MODEL_FILE)
    value = files.read_json(folder / MODEL_FILE)
    if not isinstance(value, dict) or not {"method", "preset", "task", "provenance"} <= set(value):
        raise ChallengeError(f"{source}: wanted a model's description")
    task = parse_task(value["task"], source=source)
    provenance = value["provenance"]
    weights = folder / WEIGHTS_FILE
    size = weights.stat().st_size if weights.is_file() else 0
    begun = f"\nTraining began from the weights of {provenance['begun_from']}." if "begun_from" in provenance else ""
    synthetic = SYNTHETIC in str(provenance.get("data_source", "")).lower()
    return f"""# Model card: {value["method"]}, preset {value["preset"]}

Written by `python -m landmark_baselines.model_card` from `model.json`; do not edit.

## Model

{_about(value["method"])}
Task `{task.name}`, version {task.version}: {task.title}, {len(task.names)} landmarks, {task.dimension}D.
Weights: {size / 1e6:.2f} MB, safetensors, SHA-256 `{files.sha256_file(weights)[:16] if size else "none"}`.

## Data and licence

Trained on {provenance.get("training_cases", "?")} cases, chosen on {provenance.get("validation_cases", "?")} more.
Source: {provenance.get("data_source") or "not recorded"}
Licence of the training data, which the weights inherit: {provenance.get("data_licence") or "not recorded"}{begun}
Digest of the training data: `{str(provenance.get("data_digest", ""))[:16]}`; seed {provenance.get("seed", "?")};
{_versions(provenance)}.

## Intended use

{_use(task, synthetic=synthetic)}

## Limits

{_limits(task, synthetic=synthetic)}

## Results

{_results(provenance)}
"""


def _about(method: str) -> str:
    """The first paragraph of the method's own module."""
    if method not in METHODS:
        return f"The method `{method}`, which is not part of the kit."
    text = inspect.getdoc(import_module(METHODS[method])) or ""
    return " ".join(text.split("\n\n")[0].split())


def _versions(provenance: Mapping[str, Any]) -> str:
    versions = provenance.get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "versions not recorded"


def _use(task: Task, *, synthetic: bool) -> str:
    if synthetic:
        return "Shows that a fresh clone works, and tests run it. It knows drawn images only, none of a patient."
    return f"Research on {task.modality} like that it was trained on; a baseline to compare with. No medical device."


def _limits(task: Task, *, synthetic: bool) -> str:
    lines = [
        "- Not for diagnosis, treatment or any decision on a patient.",
        f"- Expects {task.modality} with a true pixel spacing; on anything else its points have no meaning.",
        "- Always answers: the probability of a point says only whether the landmark is thought to be in the image.",
    ]
    if synthetic:
        lines.append("- On real images its points are worthless.")
    return "\n".join(lines)


def _results(provenance: Mapping[str, Any]) -> str:
    """The best validation of every stage."""
    curve = provenance.get("validation_curve") or {}
    rows = [(stage, min(points, key=lambda point: point[1])) for stage, points in curve.items() if points]
    if not rows:
        return "None recorded in the model."
    table = "\n".join(f"| {stage} | {int(step)} | {error:.2f} |" for stage, (step, error) in rows)
    cases = provenance.get("validation_cases", "?")
    seconds = provenance.get("training_seconds")
    spent = f" Training took {seconds:g} s on {provenance.get('device', 'cpu')}." if seconds is not None else ""
    head = "| stage | iteration | mean radial error (mm) |\n|---|---|---|"
    note = f"Best on its own {cases} validation cases, by which it was chosen: no test result.{spent}"
    return f"{note}\n\n{head}\n{table}"


@click.command()
@click.argument("model", type=click.Path(file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the card there; else print it.")
def main(model: Path, out: Path | None) -> None:
    """Write the card of the model folder MODEL.

    \b
    Example: python -m landmark_baselines.model_card model --out MODEL_CARD.md
    """
    try:
        card = model_card(model)
    except ChallengeError as error:
        raise click.ClickException(re.sub(r"\s+", " ", str(error))) from None
    if out is None:
        click.echo(card, nl=False)
    else:
        files.write_text(out, card)


if __name__ == "__main__":
    main()
