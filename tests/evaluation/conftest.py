"""Small tasks, datasets and submissions, made in a temporary folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from landmark_challenge.dataset import Case, Dataset, DatasetWriter
from landmark_challenge.landmarks import Landmarks, to_platform_json
from landmark_challenge.task import load_task, parse_task


def make_task(*, names=("a", "b", "c"), dimension=3, tie="strict", observers=("one",), missing_error_mm=50.0):
    """A task of few landmarks with thresholds 1, 2 and 4 mm."""
    value = load_task("ceph-19").model_dump(mode="json", exclude={"published"})
    value |= {
        "name": "tiny",
        "dimension": dimension,
        "landmarks": [{"name": name, "definition": name} for name in names],
        "reference": {"rule": "mean" if len(observers) > 1 else "observer", "observers": list(observers)},
        "success_thresholds_mm": [1.0, 2.0, 4.0],
        "success_tie": tie,
        "missing_error_mm": missing_error_mm,
        "working_spacing_mm": [1.0] * dimension,
    }
    return parse_task(value, source="tiny")


def write_dataset(
    folder: Path, task, observers, *, not_assessed=None, columns=None, splits=None, subsets=None, groups=None
):
    """A dataset without images. observers: name -> (cases, landmarks, 3), NaN where absent."""
    with DatasetWriter(folder, task, source="test", licence="none") as writer:
        n_cases = len(next(iter(observers.values())))
        (writer.folder / "task.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json")))
        for row in range(n_cases):
            name = f"case{row}"
            case = Case(
                name,
                (splits or {}).get(name, "test"),
                (groups or {}).get(name, name),
                (subsets or {}).get(name, ""),
                tuple((not_assessed or {}).get(name, ())),
                (columns or {}).get(name, {}),
            )
            writer.add(case, None, {key: landmarks_of(task, points[row]) for key, points in observers.items()})
    return Dataset(folder)


def landmarks_of(task, points):
    """(landmarks, 3) points, NaN where absent, as Landmarks."""
    there = np.isfinite(points).all(axis=1)
    return Landmarks([name for name, t in zip(task.names, there, strict=True) if t], np.asarray(points)[there])


def write_plain(folder: Path, task, points):
    """A plain submission of (cases, landmarks, 3) points."""
    folder.mkdir(parents=True)
    for row, case in enumerate(points):
        (folder / f"case{row}.json").write_text(json.dumps(to_platform_json(landmarks_of(task, case))))
    return folder


def job(pk, image_name, *, key="socket", slug="anatomical-landmarks", path="anatomical-landmarks.json", **more):
    """One job of predictions.json as the platform serialises it."""
    image = {"slug": "medical-image", "relative_path": "images/medical-image"}
    uncertainty = {"slug": "landmark-uncertainty", "relative_path": "landmark-uncertainty.json"}
    return {
        "pk": pk,
        "inputs": [{key: image, "image": {"pk": "x", "name": image_name}, "value": None, "file": None}],
        "outputs": [
            {key: {"slug": slug, "relative_path": path}, "value": None, "image": None},
            {key: uncertainty, "value": None, "image": None},
        ],
        "status": "Succeeded",
        "exec_duration": None,
        "invoke_duration": None,
        **more,
    }


def write_platform(folder: Path, task, points, *, key="socket", extension=".mha", covariance=None, **more):
    """The platform's folder of a submission, jobs in reversed order."""
    jobs = []
    for row, case in enumerate(points):
        output = folder / f"pk-{row}" / "output"
        output.mkdir(parents=True)
        (output / "anatomical-landmarks.json").write_text(json.dumps(to_platform_json(landmarks_of(task, case))))
        (output / "landmark-uncertainty.json").write_text(json.dumps(covariance or {}))
        jobs.append(job(f"pk-{row}", f"case{row}{extension}", key=key, **more))
    (folder / "predictions.json").write_text(json.dumps(jobs[::-1]))
    return folder


@pytest.fixture
def kit():
    """The helpers above, for test modules (which are not importable from each other)."""

    class Kit:
        task = staticmethod(make_task)
        dataset = staticmethod(write_dataset)
        plain = staticmethod(write_plain)
        platform = staticmethod(write_platform)
        job = staticmethod(job)

    return Kit


@pytest.fixture
def points():
    """(6, 3, 3) reference points in mm."""
    return np.random.default_rng(7).uniform(-80, 80, size=(6, 3, 3)).round(1)
