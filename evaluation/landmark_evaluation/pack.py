"""What an organiser uploads: archives, socket definitions, phase settings, an example, a design document, the steps.

Everything follows from the task and the reference folder, and is checked before it is written: the leaderboard's paths
are read from the metrics of a made-up submission, so that a column that does not exist is found here.
"""

import gzip
import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from landmark_challenge import files
from landmark_challenge.containers import save_image
from landmark_challenge.dataset import REFERENCE, Case, Dataset, DatasetWriter
from landmark_challenge.errors import ChallengeError
from landmark_challenge.images import Image
from landmark_challenge.landmarks import Landmarks, write_landmarks
from landmark_challenge.reference import HEADER
from landmark_challenge.samples import write_samples
from landmark_challenge.task import Task, write_task

from .design import design_document, steps, upload_script
from .pairing import read_submission
from .references import Reference, open_reference
from .scoring import evaluate_submission

EVALUATION_TAG = "landmarks-evaluation:invoke"
SHIFT_MM = 0.5
# Slugs of the platform's own sockets, and what no path of a socket may hold.
RESERVED_SLUGS = frozenset(
    {"predictions-csv-file", "predictions-json-file", "predictions-zip-file", "metrics-json-file", "results-json-file"}
)
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
EXAMPLE_PARTS = (
    *("LICENSE", "README.md", "pyproject.toml", "constraints.txt", "docker", "data_specs", "baselines/template"),
    *("challenge/landmark_challenge", "evaluation/landmark_evaluation", "baselines/landmark_baselines"),
)
LEFT_OUT = shutil.ignore_patterns("__pycache__", "wheels", "dist", "*.pyc")
SCORING_METHODS = {"score": "abs", "mean-rank": "avg", "significance": "abs"}


def write_pack(task: Task, reference_folder: Path, output: Path, *, image: str | None = EVALUATION_TAG) -> list[str]:
    """Write the pack of a challenge, whole or not at all; the names of what it holds.

    image: the evaluation image to save, None to leave it out. Raises ChallengeError for a folder that is no reference
    or one of another task, a leaderboard column that the metrics do not have, an image that is not there.
    """
    if not (reference_folder / HEADER).is_file():
        raise ChallengeError(
            f"{reference_folder}: wanted a reference folder with {HEADER}, as `landmarks data hide` writes it; "
            "there is none"
        )
    reference = open_reference(reference_folder)
    if reference.task != task:
        theirs = reference.task
        if (theirs.name, theirs.version) != (task.name, task.version):
            raise ChallengeError(
                f"{reference_folder}: wanted a reference of {task.name}, version {task.version}, got one of "
                f"{theirs.name}, version {theirs.version}"
            )
        parts = [name for name in type(task).model_fields if getattr(theirs, name) != getattr(task, name)]
        raise ChallengeError(
            f"{reference_folder}: wanted a reference of this {task.name}, version {task.version}; it holds another "
            f"definition, which differs in {', '.join(parts)}: hide the dataset again with the task that is meant"
        )
    metrics = example_metrics(reference)
    check_columns(task, metrics)
    check_sockets(task)
    with files.staged_folder(output) as staging:
        write_ground_truth(reference_folder, staging / "ground_truth.tar.gz")
        files.write_json(staging / "sockets.json", socket_definitions(task))
        files.write_json(staging / "phase.json", phase_settings(task, reference))
        files.write_json(staging / "metrics-example.json", metrics)
        files.write_text(staging / "design.md", design_document(task, reference))
        files.write_text(staging / "README.md", steps(task, reference, image=image))
        files.write_text(staging / "upload_cases.py", upload_script(task, reference))
        copy_example(staging / "example-algorithm", task)
        if image is not None:
            save_image(image, staging / "evaluation.tar.gz")
        return sorted(path.name for path in staging.iterdir())


def example_metrics(reference: Reference) -> dict[str, Any]:
    """The metrics of a submission half a millimetre off everywhere, in the form the container writes them."""
    with tempfile.TemporaryDirectory(prefix="landmarks-pack-") as scratch:
        for case, points in zip(reference.cases, reference.points_mm, strict=True):
            there = np.isfinite(points).all(axis=1)
            names = [name for name, present in zip(reference.task.names, there, strict=True) if present]
            write_landmarks(Path(scratch) / f"{case.name}.json", Landmarks(names, points[there] + [SHIFT_MM, 0, 0]))
        return evaluate_submission(read_submission(Path(scratch), reference), reference).metrics.to_json()


def check_columns(task: Task, metrics: Any) -> None:
    """Raise ChallengeError if a leaderboard column of the task is no number in the metrics, or its path is doubled."""
    seen: set[str] = set()
    for column in task.ranking.columns:
        value = metrics
        for key in column.path.split("."):
            # The platform walks dictionaries only, keys without dots.
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ChallengeError(
                f"{task.name}: ranking: '{column.path}': wanted a number in metrics.json, there is none"
            )
        if column.path in seen:
            raise ChallengeError(f"{task.name}: ranking: '{column.path}': wanted each column once, got it twice")
        seen.add(column.path)


def check_sockets(task: Task) -> None:
    """Raise ChallengeError for a socket whose slug or path the platform refuses, or that two sockets share."""
    sockets = (task.sockets.image, task.sockets.landmarks, task.sockets.uncertainty)
    for socket in sockets:
        path = PurePosixPath(socket.relative_path)
        image = socket is task.sockets.image
        wanted = "images/<name>, without a suffix" if image else "a path that ends in .json"
        fits = (
            (len(path.parts) == 2 and path.parts[0] == "images" and not path.suffix)
            if image
            else path.suffix == ".json"
        )
        if socket.slug in RESERVED_SLUGS:
            raise ChallengeError(f"{task.name}: socket '{socket.slug}': the platform keeps this slug for itself")
        if not fits or path.is_absolute() or ".." in path.parts or str(path) == "inputs.json" or UUID.search(str(path)):
            raise ChallengeError(f"{task.name}: socket '{socket.slug}': wanted {wanted}, got '{path}'")
    for values in ([socket.slug for socket in sockets], [socket.relative_path for socket in sockets]):
        if len(set(values)) < len(values):
            raise ChallengeError(f"{task.name}: sockets: wanted three slugs and three paths, got {', '.join(values)}")


def write_ground_truth(reference_folder: Path, path: Path) -> None:
    """The reference folder as the tarball that the platform unpacks at /opt/ml/input/data/ground_truth."""
    members = [reference_folder / HEADER, *sorted((reference_folder / "landmarks").rglob("*.json"))]
    content = io.BytesIO()
    # No dates, owners or modes of this machine: the same reference gives the same bytes.
    with (
        gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for member in members:
            info = tarfile.TarInfo(member.relative_to(reference_folder).as_posix())
            info.size, info.mode = member.stat().st_size, 0o644
            with member.open("rb") as file:
                archive.addfile(info, file)
    files.write_bytes(path, content.getvalue())


def socket_definitions(task: Task) -> list[dict[str, Any]]:
    """The sockets to create, with the schema that the platform checks a submission's points against."""
    points_schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "points": {
                "maxItems": len(task.names),
                "items": {"required": ["name"], "properties": {"name": {"enum": list(task.names)}}},
            }
        },
    }
    covariance = {"type": "array", "minItems": 3, "maxItems": 3}
    uncertainty_schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "propertyNames": {"enum": list(task.names)},
        "additionalProperties": {**covariance, "items": {**covariance, "items": {"type": "number"}}},
    }
    image, landmarks, uncertainty = task.sockets.image, task.sockets.landmarks, task.sockets.uncertainty
    described: Iterable[tuple[Any, str, str, str, dict[str, Any] | None]] = (
        (image, "input", "Image", f"The image: {task.modality}.", None),
        (landmarks, "output", "Multiple points", "Millimetres, ITK physical space (LPS); 2D: z = 0.", points_schema),
        (
            uncertainty,
            "output",
            "Anything",
            "Covariances in mm^2 by landmark; {} where there are none.",
            uncertainty_schema,
        ),
    )
    return [
        {
            "title": socket.slug.replace("-", " ").capitalize(),
            "slug": socket.slug,
            "direction": direction,
            "kind": kind,
            "relative_path": socket.relative_path,
            "description": description,
            "store_in_database": False,
            "schema": schema,
        }
        for socket, direction, kind, description, schema in described
    ]


def phase_settings(task: Task, reference: Reference) -> dict[str, Any]:
    """The settings of the phase: inputs, outputs, limits, leaderboard. Names are those of the platform's form."""
    first, *further = task.ranking.columns
    return {
        "title": task.title,
        "submission_kind": "Algorithm",
        "algorithm_inputs": [task.sockets.image.slug],
        "algorithm_outputs": [task.sockets.landmarks.slug, task.sockets.uncertainty.slug],
        "archive_items": len(reference.cases),
        "algorithm_time_limit": 20 * 60,
        "algorithm_maximum_settable_memory_gb": 16,
        "evaluation_time_limit": 60 * 60,
        "evaluation_requires_memory_gb": 8,
        "submissions_limit_per_user_per_period": 1,
        "submission_period": 1 if reference.disclosure == "open" else 7,
        "score_title": first.title,
        "score_jsonpath": first.path,
        "score_default_sort": first.order,
        "score_decimal_places": 3,
        "extra_results_columns": [
            {"title": column.title, "path": column.path, "order": column.order} for column in further
        ],
        "scoring_method_choice": SCORING_METHODS[task.ranking.rule],
        "result_display_choice": "bst",
    }


def copy_example(folder: Path, task: Task) -> None:
    """Copy the participant's template with all that building it needs, for this task.

    Where the template's own is another, every landmark is put into the middle of the image, and the sample case is
    one of noise. Raises ChallengeError outside of a clone.
    """
    root = Path(__file__).resolve().parents[2]
    absent = [part for part in EXAMPLE_PARTS if not (root / part).exists()]
    if absent:
        raise ChallengeError(f"{root}: wanted a clone of the kit for the example algorithm, {absent[0]} is not there")
    for part in EXAMPLE_PARTS:
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / part).is_dir():
            shutil.copytree(root / part, target, ignore=LEFT_OUT)
        else:
            shutil.copyfile(root / part, target)
    template = folder / "baselines/template"
    write_task(task, template / "model/task.yaml")
    shape = files.read_json(template / "model/shape.json")
    if {name: len(fractions) for name, fractions in shape.items()} == dict.fromkeys(task.names, task.dimension):
        return
    files.write_json(template / "model/shape.json", {name: [0.5] * task.dimension for name in task.names})
    shutil.rmtree(template / "test")
    with tempfile.TemporaryDirectory(prefix="landmarks-pack-") as scratch:
        with DatasetWriter(Path(scratch) / "noise", task, source="noise", licence="CC0-1.0") as writer:
            image = noise_image(task)
            middle = image.index_to_mm((np.array([image.size]) - 1) / 2)
            points = Landmarks(task.names, np.repeat(middle, len(task.names), axis=0))
            writer.add(Case("noise", "test", "noise"), image, {REFERENCE: points})
        write_samples(Dataset(Path(scratch) / "noise"), template / "test", cases=1, model=None)


def noise_image(task: Task) -> Image:
    """An image of noise for a task of any dimension, the same each time."""
    size = (40, 36, 30)[: task.dimension]
    grey = np.random.default_rng(0).integers(0, 256, size[::-1]).astype(np.uint8)
    return Image.of(grey, [4 * min(task.working_spacing_mm)] * task.dimension)
