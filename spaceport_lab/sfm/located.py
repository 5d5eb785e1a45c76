"""A run's splat in coordinates others use: local east-north-up of any origin, or the grid of a UTM zone.

What training makes of a georeferenced run is in local metres already, east, north, up from the origin in
georeference.json. Another origin, or the grid, is a turn and a shift, and the view-dependent colours turn
along. Numbers in a splat file are single precision, so a grid's millions stay out of it: a JSON beside it has
the offset.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from spaceport_lab.cameras import Similarity
from spaceport_lab.edit.transform import Transform, transform
from spaceport_lab.errors import InputError, ParamsError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.sfm import geodesy

FRAMES = ("enu", "utm")


def read_place(folder: Path | str) -> dict[str, Any]:
    """georeference.json of a run folder or of its 02_sfm.

    Raises:
        InputError: there is none, so nothing is metric, or it is not of ours.
    """
    folder = Path(folder)
    path = next((p for p in (folder / "02_sfm", folder) if (p / "georeference.json").is_file()), folder)
    path = path / "georeference.json"
    try:
        place = json.loads(path.read_text())
        here = _origin(place)
        found = [np.array(place["ecef_from_enu"], float), np.array(place["utm"]["from_enu"], float)]
        if any(matrix.shape != (4, 4) or not np.isfinite(matrix).all() for matrix in found):
            raise ValueError("a matrix is not 4×4 finite numbers")
        if not np.isfinite(here).all():
            raise ValueError("the origin is no place")
    except OSError as error:
        raise InputError(
            "this run is nowhere on Earth",
            got=f"no georeference.json in {folder}",
            expected="a run folder whose photographs had GPS, or control points",
            hint="without either nothing is metric; splat transform turns and scales by numbers",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "this georeference.json does not say where local metres are",
            got=f"{path}: {type(error).__name__}: {error}",
            expected="origin, ecef_from_enu and utm, as the sfm stage writes them",
            hint="run the sfm stage again",
        ) from error
    return place


def change_of_frame(
    place: dict[str, Any], frame: str = "enu", origin: tuple[float, float, float] | None = None
) -> tuple[Similarity, dict[str, Any]]:
    """From the run's local metres to the frame wanted, and what to know of that frame.

    `enu` with an `origin` is exact: through geocentric metres, plumb lines of the two places differ. `utm`
    turns to grid north and takes on the zone's scale, heights too, since a splat can only be scaled alike in
    all directions; whole metres of easting and northing go into the offset.

    Args:
        place: as `read_place` gives it.
        frame: one of `FRAMES`.
        origin: latitude, longitude in degrees, height in metres; None for the run's own.

    Raises:
        ParamsError: no such frame, or an origin that is no place, or one with `utm`, which has its own.
    """
    if frame not in FRAMES:
        raise ParamsError(f"there is no frame {frame!r}", expected=f"one of {', '.join(FRAMES)}")
    about: dict[str, Any] = {"frame": frame, "source": place.get("source")}
    to_earth = np.array(place["ecef_from_enu"], float)
    if frame == "utm":
        if origin is not None:
            raise ParamsError(
                "a grid has an origin of its own", got=f"utm and {origin}", hint="leave one out"
            )
        return _to_grid(place, about)
    where = _origin(place) if origin is None else np.array(origin, float)
    if where.shape != (3,) or not np.isfinite(where).all() or abs(where[0]) > 90 or abs(where[1]) > 180:
        raise ParamsError(
            "this origin is no place on Earth", got=origin, expected="latitude, longitude, metres of height"
        )
    there = geodesy.ecef_from_enu(where)
    matrix = np.linalg.inv(there) @ to_earth
    about |= {
        "axes": "x east, y north, z up, metres",
        "origin": {"lat": where[0], "lon": where[1], "alt": where[2]},
        "words": f"east, north, up from {where[0]:.6f}°, {where[1]:.6f}°, {where[2]:.1f} m",
        "ecef_from_file": there,
        "from_run": matrix,
    }
    return Similarity(1.0, _nearest_rotation(matrix[:3, :3]), matrix[:3, 3]), about


def locate(
    gaussians: Gaussians, place: dict[str, Any], frame: str, origin: tuple[float, float, float] | None = None
) -> tuple[Gaussians, dict[str, Any]]:
    """The splat in another frame, spherical harmonics turned with it, and the record to lie beside it.

    Returns:
        The splat, and a dict with `frame`, `axes`, `from_run` (4×4), what takes the file's numbers to the
        Earth, and `resolution_m`, the step between two neighbouring single-precision numbers at its far end.

    Raises:
        ParamsError: as `change_of_frame`, or coordinates would leave the range of float32.
    """
    change, about = change_of_frame(place, frame, origin)
    x, y, z, w = Rotation.from_matrix(change.rotation).as_quat()
    shift = tuple(float(value) for value in change.translation)
    moved = gaussians
    if not np.allclose(change.matrix, np.eye(4), rtol=0, atol=1e-6):
        moved = transform(gaussians, Transform((w, x, y, z), shift, float(change.scale)))
    # Half of the splats, not the few that lie far outside the scene.
    far = np.float32(np.median(np.abs(moved.means).max(axis=1))) if moved.n else np.float32(0)
    about["resolution_m"] = float(np.spacing(far))
    return moved, about


def record_path(target: Path) -> Path:
    """Where the record of a splat goes: beside its file, or beside its folder where it is written as one."""
    whole = target if target.suffix.lower() in (".ply", ".sog") else target.absolute().parent
    return whole.with_name(f"{whole.name}.place.json")


def _to_grid(place: dict[str, Any], about: dict[str, Any]) -> tuple[Similarity, dict[str, Any]]:
    utm = place["utm"]
    tangent = np.array(utm["from_enu"], float)
    # A projection that keeps angles scales alike in the plane; what differs is up.
    scale = float(np.sqrt(abs(np.linalg.det(tangent[:2, :2]))))
    rotation = _nearest_rotation(tangent[:3, :3])
    offset = np.array([*np.floor(tangent[:2, 3]), 0.0])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * rotation, tangent[:3, 3] - offset
    about |= {
        "axes": "x easting, y northing, z height, metres, without the offset",
        "words": f"EPSG:{utm['epsg']} less {offset[0]:.0f} m east and {offset[1]:.0f} m north",
        "epsg": utm["epsg"],
        "name": utm.get("name"),
        "offset": offset,
        "scale": scale,
        "from_run": matrix,
        "note": "add offset to get easting, northing and height; heights above the run's origin are scaled "
        "by the grid's factor, as everything in a splat is",
    }
    return Similarity(scale, rotation, matrix[:3, 3]), about


def _origin(place: dict[str, Any]) -> Float[np.ndarray, "3"]:
    return np.array([place["origin"][name] for name in ("lat", "lon", "alt")], float)


def _nearest_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt
