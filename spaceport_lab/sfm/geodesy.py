"""From the local frame of a scene to the Earth's, and from surveyed coordinates to it, by PROJ."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pyproj
from jaxtyping import Float
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info

from spaceport_lab.errors import InputError

_WORDS = re.compile(r"WGS\s*-?84\s*(?:/\s*)?(?:UTM)\s*(?:zone)?\s*(\d{1,2})\s*([NS])", re.IGNORECASE)
"""How OpenDroneMap's lists name a zone."""


def utm_epsg(lat: float, lon: float) -> int:
    """EPSG number of the WGS84 UTM zone of a place; beyond 84° north and 80° south of the polar grid."""
    if lat > 84:
        return 32661
    if lat < -80:
        return 32761
    lon = (lon + 180) % 360 - 180
    here = AreaOfInterest(lon, lat, lon, lat)
    found = query_utm_crs_info(datum_name="WGS 84", area_of_interest=here)
    return min(int(zone.code) for zone in found)


def ecef_from_enu(origin: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """Local east, north, up in metres → geocentric metres (EPSG:4978); exact.

    Args:
        origin: [3] latitude, longitude in degrees, height in metres.
    """
    lat, lon = np.radians(origin[:2])
    east = [-np.sin(lon), np.cos(lon), 0.0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    up = [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([east, north, up]).T
    matrix[:3, 3] = _transformer("EPSG:4979", "EPSG:4978").transform(origin[1], origin[0], origin[2])
    return matrix


def enu_to_utm(
    points: Float[np.ndarray, "N 3"], origin: Float[np.ndarray, "3"], epsg: int
) -> Float[np.ndarray, "N 3"]:
    """Local east, north, up → easting, northing and height of a zone, metres; exact.

    Args:
        points: [N, 3] metres from `origin`.
        origin: [3] latitude, longitude in degrees, height in metres.
        epsg: of the zone.
    """
    matrix = ecef_from_enu(origin)
    geocentric = points @ matrix[:3, :3].T + matrix[:3, 3]
    lon, lat, height = _transformer("EPSG:4978", "EPSG:4979").transform(*geocentric.T)
    easting, northing = _transformer("EPSG:4326", f"EPSG:{epsg}").transform(lon, lat)
    return np.column_stack([easting, northing, height])


def utm_frame(origin: Float[np.ndarray, "3"], points: Float[np.ndarray, "N 3"]) -> dict[str, Any]:
    """What georeference.json says of UTM.

    A 4×4 from the local frame, which is the tangent of the projection at the origin: the turn from true to
    grid north, the zone's scale and the offset. `error_m` is how far it is from the exact way at `points`.

    Args:
        origin: [3] latitude, longitude in degrees, height in metres.
        points: [N, 3] where it shall hold, local metres.
    """
    epsg = utm_epsg(origin[0], origin[1])
    step = 100.0
    ends = enu_to_utm(np.concatenate([np.eye(3), -np.eye(3)]) * step, origin, epsg)
    matrix = np.eye(4)
    matrix[:3, :3] = ((ends[:3] - ends[3:]) / (2 * step)).T
    matrix[:3, 3] = enu_to_utm(np.zeros((1, 3)), origin, epsg)[0]
    near = points @ matrix[:3, :3].T + matrix[:3, 3]
    error = np.linalg.norm(near - enu_to_utm(points, origin, epsg), axis=1).max(initial=0.0)
    return {
        "epsg": epsg,
        "name": pyproj.CRS.from_epsg(epsg).name,
        "from_enu": matrix,
        "error_m": float(error),
        "grid_north_deg": float(np.degrees(np.arctan2(matrix[0, 1], matrix[1, 1]))),
        "heights": "as the GPS of the photographs or the control points give them",
    }


def to_wgs84(points: Float[np.ndarray, "N 3"], crs: str) -> Float[np.ndarray, "N 3"]:
    """Coordinates in any system PROJ knows → latitude, longitude in degrees, height in metres.

    Args:
        points: [N, 3] x (east or longitude), y (north or latitude), z.
        crs: EPSG:32633, a PROJ string, WKT, or OpenDroneMap's "WGS84 UTM 33N". Heights of a system without
            heights of its own are taken as they are.

    Raises:
        InputError: PROJ does not know the system, or the points do not lie in it.
    """
    named = _WORDS.search(crs)
    if named:
        crs = f"EPSG:{326 if named[2].upper() == 'N' else 327}{int(named[1]):02d}"
    try:
        system = pyproj.CRS.from_user_input(crs)
        target = "EPSG:4979" if len(system.axis_info) == 3 else "EPSG:4326"
        lon, lat, height = _transformer(system.to_wkt(), target).transform(*np.asarray(points, float).T)
    except pyproj.exceptions.ProjError as error:
        raise InputError(
            f"the coordinate system {crs!r} of the control points is not known",
            got=str(error).splitlines()[0],
            expected="such as EPSG:32633, or WGS84 UTM 33N",
            hint="correct the first line of gcp_list.txt",
        ) from error
    found = np.column_stack([lat, lon, height])
    if not np.isfinite(found).all():
        raise InputError(
            f"control points do not lie where {crs} has coordinates",
            got=f"{int((~np.isfinite(found).all(axis=1)).sum())} of {len(found)} points",
            hint="are x and y swapped, or is it another zone?",
        )
    return found


@cache
def _transformer(source: str, target: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(source, target, always_xy=True)
