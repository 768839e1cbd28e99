"""How far the task's standard planes through the predicted landmarks are from those through the reference's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_challenge.planes import angle_degrees, fit_plane, offset_mm
from landmark_challenge.task import Task


def compare_planes(
    predicted_mm: NDArray[np.float64], reference_mm: NDArray[np.float64], task: Task
) -> list[dict[str, Any]]:
    """Of one case, for each plane of the task: its name, the angle (degrees) and the offset (mm) between the planes.

    predicted_mm, reference_mm: (landmarks, 3) in the task's order, NaN where a point is absent. A plane that one of the
    two does not have (a landmark absent, or all on a line) has a name only. See `landmark_challenge.planes`.
    """
    found = []
    for spec in task.planes:
        rows = [task.names.index(name) for name in spec.landmarks]
        pair = [points[rows] for points in (predicted_mm, reference_mm)]
        entry: dict[str, Any] = {"name": spec.name}
        if all(np.isfinite(points).all() for points in pair):
            given, wanted = (fit_plane(points) for points in pair)
            if given is not None and wanted is not None:
                entry |= {"angle_degrees": angle_degrees(given, wanted), "offset_mm": offset_mm(given, wanted)}
        found.append(entry)
    return found
