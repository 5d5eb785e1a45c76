"""Surveyed positions beside the photographs: gcp_list.txt and geo.txt as OpenDroneMap has them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyproj
from pyproj.exceptions import ProjError

from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest.judging import names_of
from spaceport_lab.ingest.photos import Photo

GCP_LIST, GEO = "gcp_list.txt", "geo.txt"

_UTM = re.compile(r"^WGS ?84\s+UTM\s+(\d{1,2})\s*([NS])$", re.IGNORECASE)


@dataclass(frozen=True)
class Geo:
    """What geo.txt says: image name in lower case → `lat`, `lon` in degrees and `alt` in metres or None."""

    positions: dict[str, dict[str, float | None]]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Points:
    """Ground control points, and what of their file could not be used.

    Attributes:
        rows: `name`, `x`, `y`, `z` in `crs`, and `observations` with `image`, `px`, `py`: pixels from the top
            left of the picture as it is under images/, upright.
        problems: a sentence each.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: tuple[str, ...] = ()


def beside(root: Path, name: str) -> Path | None:
    """A file of this name in the photographs' folder or the one above, in lower or upper case."""
    places = (folder / spelt for folder in (root, root.parent) for spelt in (name, name.upper()))
    return next((place for place in places if place.is_file()), None)


def read_geo(path: Path) -> Geo:
    """Read geo.txt: a coordinate system, then `image x y [z …]` on each line; what follows z is left aside.

    Raises:
        PhotosError: its first line names no coordinate system.
    """
    lines = _lines(path)
    to_wgs84 = pyproj.Transformer.from_crs(_system(path, lines), "EPSG:4326", always_xy=True)
    positions: dict[str, dict[str, float | None]] = {}
    problems = []
    for number, line in lines[1:]:
        parts = _split(line)
        values = [_finite(part) for part in parts[1:4]]
        if len(values) < 2 or None in values[:2]:
            problems.append(f"line {number} of {path.name} is not `image x y z`")
            continue
        lon, lat = to_wgs84.transform(values[0], values[1])
        if not (abs(lat) <= 90 and abs(lon) <= 180):
            problems.append(f"line {number} of {path.name} is not on the Earth in its coordinate system")
            continue
        alt = values[2] if len(values) > 2 else None
        positions[parts[0].casefold()] = {"lat": lat, "lon": lon, "alt": alt}
    return Geo(positions, tuple(problems))


def apply_geo(photos: Sequence[Photo], geo: Geo) -> tuple[list[Photo], tuple[str, ...]]:
    """Photographs with the positions of geo.txt in place of those of EXIF, and what matched none."""
    placed, used = [], set()
    for photo in photos:
        names = names_of(photo) & set(geo.positions)
        used |= names
        if names:
            # A full name comes before a stem.
            position = geo.positions[max(names, key=len)]
            photo = replace(photo, gps=dict(position), gps_problem=None)
        placed.append(photo)
    left = sorted(set(geo.positions) - used)
    said = f"{len(left)} lines of {GEO} are of no photograph: {', '.join(left[:5])}" if left else ""
    return placed, (said,) if said else ()


def read_points(path: Path, photos: Sequence[Photo]) -> Points:
    """Read gcp_list.txt: a coordinate system, then `x y z px py image [name]` on each line.

    Lines of one name, or without names of one position, are one point. Points are kept in their own system.

    Args:
        path: the file.
        photos: all that were judged; observations in those left out are counted and dropped.

    Raises:
        PhotosError: its first line names no coordinate system.
    """
    lines = _lines(path)
    system = _system(path, lines)
    owners = {name: photo for photo in photos for name in names_of(photo)}
    points: dict[str, dict[str, Any]] = {}
    problems: dict[str, list[int]] = defaultdict(list)
    for number, line in lines[1:]:
        parts = _split(line)
        numbers = [_finite(part) for part in parts[:5]]
        if len(parts) < 6 or None in numbers:
            problems["are not `x y z px py image name`"].append(number)
            continue
        x, y, z, px, py = numbers
        photo = owners.get(parts[5].casefold())
        problem = _unusable(photo, px, py)
        if problem:
            problems[problem].append(number)
            continue
        key = parts[6] if len(parts) > 6 else f"{parts[0]} {parts[1]} {parts[2]}"
        name = parts[6] if len(parts) > 6 else f"gcp{len(points) + 1}"
        point = points.setdefault(
            key, {"name": name, "x": x, "y": y, "z": z, "crs": system.to_string(), "observations": []}
        )
        if (point["x"], point["y"], point["z"]) != (x, y, z):
            problems[f"put {name} elsewhere than its first line"].append(number)
            continue
        point["observations"].append({"image": photo.name, "px": px, "py": py})
    said = tuple(
        f"{len(n)} lines of {path.name} {what} (line {', '.join(map(str, n[:5]))})"
        for what, n in problems.items()
    )
    return Points(list(points.values()), said)


def _unusable(photo: Photo | None, px: float, py: float) -> str | None:
    if photo is None:
        return "name no photograph that is here"
    if not photo.used:
        return "are of photographs that were left out"
    if not (0 <= px <= photo.width and 0 <= py <= photo.height):
        return "point outside their photograph"
    return None


def _lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of the lines that say something."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _system(path: Path, lines: list[tuple[int, str]]) -> pyproj.CRS:
    text = lines[0][1] if lines else ""
    utm = _UTM.match(text)
    try:
        if utm:
            return pyproj.CRS.from_epsg((32600 if utm[2].upper() == "N" else 32700) + int(utm[1]))
        return pyproj.CRS.from_user_input(text)
    except ProjError as error:
        raise PhotosError(
            f"the first line of {path.name} names no coordinate system",
            got=repr(text[:80]),
            expected="EPSG:32633, WGS84 UTM 33N, or a +proj string",
            hint=f"correct {path.name}, or move it away to go on without it",
        ) from error


def _split(line: str) -> list[str]:
    # Tabs allow blanks in file names.
    return [part.strip() for part in line.split("\t")] if "\t" in line else line.split()


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
