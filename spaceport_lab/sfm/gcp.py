"""Ground control points as ingest hands them on: gcp.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from spaceport_lab.errors import InputError

MIN_POINTS = 3
"""A similarity has seven unknowns. With just three points nothing is left to notice a wrong one."""

_KEYS = ("name", "x", "y", "z", "crs", "observations")


def read_points(path: Path) -> list[dict[str, Any]]:
    """The points ingest hands on.

    Raises:
        InputError: the file is not a list of points with name, x, y, z, crs and observations.
    """
    try:
        points = json.loads(path.read_text())
        for point in points:
            missing = [key for key in _KEYS if key not in point]
            if missing:
                raise KeyError(", ".join(missing))
            coordinates = np.array([point[k] for k in "xyz"], dtype=float)
            pixels = np.array([[o["px"], o["py"]] for o in point["observations"]], dtype=float)
            if not (np.isfinite(coordinates).all() and np.isfinite(pixels).all()):
                raise ValueError(f"{point['name']} has a coordinate that is no number")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            "the ground control points cannot be read",
            got=f"{path}: {type(error).__name__}: {error}",
            expected='a list of {"name", "x", "y", "z", "crs", "observations": [{"image", "px", "py"}]}',
            hint="run ingest again, or delete the file to go on with GPS alone",
        ) from error
    return points
