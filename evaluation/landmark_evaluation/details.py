"""details.json: every case and point of an `open` evaluation, from which tables and plots are made without images."""

from typing import Any

import numpy as np

from .planes import compare_planes
from .scoring import Evaluation


def details(evaluation: Evaluation) -> dict[str, Any]:
    """The value of details.json: per case its mean error and run times, per point its state, points, error in mm and
    covariance, where there is one: all that scoring the submission again takes.

    state: `found`, `missing` (there, not given), `false-alarm` (given, not there), `rejected` (neither), or
    `not-assessed`.
    """
    reference, submission, scores = evaluation.reference, evaluation.submission, evaluation.scores
    names = reference.task.names
    cases = []
    for row, case in enumerate(reference.cases):
        points = []
        for column, name in enumerate(names):
            error = scores.error_mm[row, column]
            point: dict[str, Any] = {"name": name, "state": _state(evaluation, row, column)}
            if np.isfinite(error):
                point["error_mm"] = float(error)
            if np.isfinite(reference.points_mm[row, column]).all():
                point["reference_mm"] = reference.points_mm[row, column].tolist()
            if np.isfinite(submission.points_mm[row, column]).all():
                point["predicted_mm"] = submission.points_mm[row, column].tolist()
            point["probability"] = float(submission.probability[row, column])
            if np.isfinite(submission.covariance_mm2[row, column]).all():
                point["covariance_mm2"] = submission.covariance_mm2[row, column].tolist()
            points.append(point)
        entry: dict[str, Any] = {
            "case": case.name,
            "group": case.group,
            "subset": case.subset,
            "columns": dict(case.columns),
        }
        if scores.scored[row].any():
            entry["mre_mm"] = float(np.nanmean(scores.error_mm[row]))
        times = {"runtime_s": submission.runtime_s, "cold_s": submission.cold_s, "warm_s": submission.warm_s}
        entry |= {key: float(seconds[row]) for key, seconds in times.items() if np.isfinite(seconds[row])}
        if reference.task.planes:
            entry["planes"] = compare_planes(submission.points_mm[row], reference.points_mm[row], reference.task)
        cases.append({**entry, "points": points})
    head = evaluation.metrics.to_json()
    return {key: head[key] for key in ("task", "task_version", "kit_version", "protocol")} | {
        "task_spec": reference.task.model_dump(mode="json"),
        "landmarks": list(names),
        "cases": cases,
    }


def _state(evaluation: Evaluation, row: int, column: int) -> str:
    scores = evaluation.scores
    for state, where in (
        ("missing", scores.missing),
        ("false-alarm", scores.false_alarm),
        ("rejected", scores.rejected),
        ("found", scores.scored),
    ):
        if where[row, column]:
            return state
    return "not-assessed"
