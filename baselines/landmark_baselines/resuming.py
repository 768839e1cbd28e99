"""What a training that is taken up again must share with the one before: its method, its settings and its data."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landmark_challenge import files
from landmark_challenge.dataset import Dataset
from landmark_challenge.errors import ChallengeError

from .checkpoints import MODEL_FILE, data_digest
from .training_log import report


def fingerprint_of(dataset: Dataset, *, method: str, preset: str, settings: Mapping[str, Any], seed: int) -> str:
    """A digest of all that a model follows from: what `fit` keeps in its checkpoints and `save_trained` in model.json.

    settings: as plain values, before the training adds what it finds out. Of the data, the training and validation
    cases with the points of every observer, of whom a method may learn.
    """
    described = {
        "method": method,
        "preset": preset,
        "settings": dict(settings),
        "seed": seed,
        "task": dataset.task.model_dump(mode="json"),
        "data": data_digest(dataset, ("train", "validation"), observers=dataset.observers),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def already_trained(output: Path, fingerprint: str) -> bool:
    """Whether the model of that fingerprint is finished in the folder `output`, which is then said in one line.

    Raises ChallengeError where another model is: to go on with it would replace it.
    """
    if not (output / MODEL_FILE).is_file():
        return False
    saved = files.read_json(output / MODEL_FILE)
    provenance = saved.get("provenance") if isinstance(saved, dict) else None
    if not isinstance(provenance, dict) or provenance.get("fingerprint") != fingerprint:
        raise ChallengeError(
            f"{output}: wanted the same method, settings and data to resume, it holds a finished model of others"
        )
    report(f"{output}: finished already, with the same settings and data")
    return True
