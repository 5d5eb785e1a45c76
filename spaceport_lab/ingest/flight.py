"""The flight before anything is matched: heights, footprints on flat ground, sampling distance, overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial import ConvexHull

from spaceport_lab.ingest.judging import in_order, local_enu, seconds_of
from spaceport_lab.ingest.photos import Photo
from spaceport_lab.params import IngestParams

FILM_DIAGONAL_MM = 43.267
"""Of 36×24 mm film: equivalent focal lengths see the same angle along the diagonal."""

REACH = 4.0
"""Footprints end this many heights away: beyond, views of the horizon would have no end."""

LOWEST_HEIGHT_M = 2.0
TAKEOFF_GAP_M = 20.0
"""A photograph this far below the flight's usual altitude was taken on the ground or near it."""

SAME_WAY = 0.5
"""Cosine between two directions of view up to which pictures of one spot can be matched."""


def describe(photos: Sequence[Photo], p: IngestParams) -> dict[str, Any]:
    """What can be said of a flight from EXIF and XMP alone; what cannot is None, and `words` says why.

    The ground is taken as a plane at the height of take-off. Cameras that do not say where they look are
    taken as looking straight down, the picture's top to where they fly.

    Args:
        photos: the used ones.
        p: `flying_height` and `min_overlap` are read.

    Returns:
        `views`, in the order of the flight, with `name`, `enu` (metres from the middle), `height_m`, `gsd_cm`
        (mid-picture) and `footprint` ([4, 2] east and north, metres); their medians `height_m`,
        `gsd_cm`; `spacing_m`, `length_m`, `area_ha` (around all footprints); shares `overlap_along` and
        `overlap_across`;
        `height_from`, `direction_from`; `speed_m_s`, `blur_px`; and `words`, sentences for a person.
    """
    located = [photos[i] for i in in_order(photos) if photos[i].gps]
    nothing = ("height_m", "gsd_cm", "spacing_m", "length_m", "area_ha", "overlap_along", "overlap_across",
               "height_from", "direction_from", "speed_m_s", "blur_px")  # fmt: skip
    flight: dict[str, Any] = {"views": [], **dict.fromkeys(nothing), "words": []}
    if len(located) < 2:
        flight["words"] = ["No GPS: flight path, ground sampling distance and overlap cannot be estimated."]
        return flight
    enu = local_enu(located)
    heights, flight["height_from"] = _heights(located, p.flying_height)
    pointed = [bool(photo.drone and "pitch_deg" in photo.drone) for photo in located]
    views = [_view(*row) for row in zip(located, enu, heights, _courses(enu), strict=True)]
    flight["views"] = views
    steps = np.linalg.norm(np.diff(enu[:, :2], axis=0), axis=1)
    flight["spacing_m"], flight["length_m"] = float(np.median(steps)), float(steps.sum())
    for name in ("height_m", "gsd_cm"):
        known = [view[name] for view in views if view[name] is not None]
        flight[name] = float(np.median(known)) if known else None
    seen = [i for i, view in enumerate(views) if view["footprint"] is not None]
    if len(seen) >= 2:
        flight["direction_from"] = "gimbal" if all(pointed) else "assumed straight down"
        flight |= _overlaps([views[i] for i in seen], enu[seen, :2])
    flight |= _motion(located, steps, flight["gsd_cm"])
    flight["words"] = _words(located, flight, p)
    return flight


def focal_px(photo: Photo) -> float | None:
    """Focal length in pixels from its 35 mm equivalent, else the drone's calibration; None when unknown."""
    if photo.focal_35mm and photo.focal_35mm > 5:
        return photo.focal_35mm / FILM_DIAGONAL_MM * math.hypot(photo.width, photo.height)
    value = (photo.drone or {}).get("focal_px")
    longer = max(photo.width, photo.height)
    # Of a reduced picture the drone's number is for the original: then it is no possible lens.
    return value if value and 0.4 * longer < value < 4 * longer else None


def axes(yaw_deg: float, pitch_deg: float, roll_deg: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """Camera axes right, down and forward, as rows, in east-north-up.

    Args:
        yaw_deg: from north over east.
        pitch_deg: above the horizon; -90 looks straight down, the picture's top to where yaw says.
        roll_deg: clockwise as seen from behind the camera.
    """
    yaw, pitch, roll = (math.radians(angle) for angle in (yaw_deg, pitch_deg, roll_deg))
    forward = np.array([math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
    down = np.cross(forward, right)
    return np.stack(
        [
            right * math.cos(roll) + down * math.sin(roll),
            down * math.cos(roll) - right * math.sin(roll),
            forward,
        ]
    )


def footprint(
    place: Float[np.ndarray, "2"], height: float, size: tuple[int, int], focal: float, axes: np.ndarray
) -> Float[np.ndarray, "4 2"]:
    """Where the corners of a picture meet flat ground, metres east and north, in turn.

    Args:
        place: east and north of the camera, metres.
        height: above the ground, metres.
        size: width and height, pixels.
        focal: focal length, pixels.
        axes: [3, 3] camera axes as rows, see `axes`.
    """
    width, tall = size
    corners = np.array([(-width, -tall), (width, -tall), (width, tall), (-width, tall)]) / 2
    rays = np.column_stack([corners, np.full(4, focal)]) @ axes
    across = np.linalg.norm(rays[:, :2], axis=1)
    # At or above the horizon a ray never lands; what is further than REACH is cut there.
    far = np.where(rays[:, 2] < 0, across / np.maximum(-rays[:, 2], 1e-9), np.inf)
    reach = np.minimum(far, REACH) * height
    return np.asarray(place) + rays[:, :2] / np.maximum(across, 1e-9)[:, None] * reach[:, None]


def overlap(one: Float[np.ndarray, "N 2"], other: Float[np.ndarray, "M 2"]) -> float:
    """Area that two convex polygons share over the area of the first (Sutherland and Hodgman, 1974)."""
    one, other = (poly if _area(poly) > 0 else poly[::-1] for poly in (np.asarray(one), np.asarray(other)))
    whole = _area(one)
    rest = one
    for start, end in zip(other, np.roll(other, -1, axis=0), strict=True):
        edge = end - start
        side = edge[0] * (rest[:, 1] - start[1]) - edge[1] * (rest[:, 0] - start[0])
        kept = []
        for k in range(len(rest)):
            before, after = side[k - 1], side[k]
            if (before < 0) != (after < 0):
                kept.append(rest[k - 1] + (rest[k] - rest[k - 1]) * (before / (before - after)))
            if after >= 0:
                kept.append(rest[k])
        rest = np.array(kept).reshape(-1, 2)
        if len(rest) < 3:
            return 0.0
    return abs(_area(rest)) / whole if whole > 0 else 0.0


def _area(poly: Float[np.ndarray, "N 2"]) -> float:
    ahead = np.roll(poly, -1, axis=0)
    return float((poly[:, 0] * ahead[:, 1] - ahead[:, 0] * poly[:, 1]).sum() / 2)


def _heights(photos: Sequence[Photo], given: float) -> tuple[list[float | None], str | None]:
    """Height of each above the ground, metres, and where it is from."""
    above = [(photo.drone or {}).get("relative_alt_m") for photo in photos]
    if sum(value is not None for value in above) >= len(photos) / 2:
        return above, "the drone, above take-off"
    altitudes = np.array([np.nan if photo.gps["alt"] is None else photo.gps["alt"] for photo in photos])
    known = np.isfinite(altitudes)
    usual = float(np.median(altitudes[known])) if known.any() else 0.0
    if given > 0:
        return [given + float(a - usual) if k else given for a, k in zip(altitudes, known, strict=True)], (
            "ingest.flying_height"
        )
    lowest = float(altitudes[known].min()) if known.any() else 0.0
    if known.all() and usual - lowest > TAKEOFF_GAP_M and (altitudes < lowest + 5).mean() < 0.2:
        return [float(a - lowest) for a in altitudes], "GPS, above the lowest photograph"
    return [None] * len(photos), None


def _courses(enu: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N"]:
    """Direction of travel at each photograph, degrees from north over east."""
    last = len(enu) - 1
    ways = [enu[min(i + 1, last)] - enu[max(i - 1, 0)] for i in range(len(enu))]
    return np.array([math.degrees(math.atan2(way[0], way[1])) for way in ways])


def _view(photo: Photo, enu: Float[np.ndarray, "3"], height: float | None, course: float) -> dict[str, Any]:
    drone = photo.drone or {}
    direction = axes(
        drone.get("yaw_deg", drone.get("flight_yaw_deg", course)),
        drone.get("pitch_deg", -90.0),
        drone.get("roll_deg", 0.0),
    )
    focal = focal_px(photo)
    view: dict[str, Any] = {"name": photo.name, "enu": enu.tolist(), "height_m": height, "gsd_cm": None,
                            "footprint": None, "forward": direction[2].tolist()}  # fmt: skip
    if height is None or height < LOWEST_HEIGHT_M or focal is None:
        return view
    down = -float(direction[2, 2])
    if down > 1 / REACH:
        view["gsd_cm"] = 100 * height / down / focal
    view["footprint"] = footprint(enu[:2], height, (photo.width, photo.height), focal, direction).tolist()
    return view


def _overlaps(views: list[dict[str, Any]], places: Float[np.ndarray, "N 2"]) -> dict[str, float | None]:
    """Medians of what each view shares with the next, and with the best of the lines beside its own."""
    prints = [np.array(view["footprint"]) for view in views]
    forward = np.array([view["forward"] for view in views])

    def shared(i: int, j: int) -> float:
        return overlap(prints[i], prints[j]) if forward[i] @ forward[j] >= SAME_WAY else 0.0

    along = [shared(i, i + 1) for i in range(len(views) - 1)]
    ways = places[np.minimum(np.arange(len(views)) + 1, len(views) - 1)]
    ways = ways - places[np.maximum(np.arange(len(views)) - 1, 0)]
    ways /= np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-9)
    sizes = np.array([np.ptp(shape, axis=0).max() for shape in prints])
    across = []
    for i in range(len(views)):
        offset = places - places[i]
        ahead = offset @ ways[i]
        aside = np.abs(offset[:, 0] * ways[i, 1] - offset[:, 1] * ways[i, 0])
        parallel = np.abs(ways @ ways[i]) > 0.8
        beside = (
            parallel & (aside > np.abs(ahead)) & (aside < 2 * sizes[i]) & (forward @ forward[i] > SAME_WAY)
        )
        beside[max(0, i - 1) : i + 2] = False
        nearest = np.flatnonzero(beside)[np.argsort(aside[beside] + np.abs(ahead[beside]))[:4]]
        if len(nearest):
            across.append(max(shared(i, j) for j in nearest))
    outline = np.concatenate(prints)
    return {
        "overlap_along": float(np.median(along)),
        # A few that happen to lie side by side are no second line.
        "overlap_across": float(np.median(across)) if len(across) >= max(3, 0.3 * len(views)) else None,
        "area_ha": float(ConvexHull(outline).volume / 1e4),
    }


def _motion(photos: Sequence[Photo], steps: np.ndarray, gsd_cm: float | None) -> dict[str, float | None]:
    """Speed, and by how many pixels the ground moves during an exposure."""
    seconds = seconds_of(photos)
    if seconds is None:
        return {}
    speed = float(np.median(steps / np.maximum(np.diff(seconds), 1.0)))
    exposures = [photo.exposure_s for photo in photos if photo.exposure_s]
    blur = speed * float(np.median(exposures)) / (gsd_cm / 100) if exposures and gsd_cm else None
    return {"speed_m_s": speed, "blur_px": blur}


def _words(photos: Sequence[Photo], flight: dict[str, Any], p: IngestParams) -> list[str]:
    words = [
        f"{len(photos)} photographs with GPS along {flight['length_m']:,.0f} m, "
        f"{flight['spacing_m']:.1f} m from one to the next."
    ]
    if flight["height_from"] is None:
        words.append(
            "Height above the ground unknown: ground sampling distance and overlap cannot be estimated; "
            "ingest.flying_height can say it."
        )
    elif flight["gsd_cm"] is None:
        words.append("Ground sampling distance unknown: no focal length, or the cameras look to the horizon.")
    else:
        words.append(
            f"Flown at {flight['height_m']:.0f} m ({flight['height_from']}): a pixel covers "
            f"{flight['gsd_cm']:.1f} cm of flat ground."
        )
    if flight["overlap_along"] is not None:
        words.append(f"{overlap_words(flight, p.min_overlap)}.")
    if flight["blur_px"] is not None and flight["blur_px"] > 1:
        words.append(
            f"At {flight['speed_m_s']:.0f} m/s the ground moves by {flight['blur_px']:.1f} px "
            "during an exposure."
        )
    drones = [photo.drone for photo in photos if photo.drone]
    rolling = sum(drone.get("shutter") == "electronic" for drone in drones)
    if rolling:
        words.append(f"Rolling shutter in {rolling} photographs: fly slowly, or lines lean.")
    fixed = sum(drone.get("rtk") == "fixed" for drone in drones)
    if any("rtk" in drone for drone in drones):
        words.append(f"RTK was fixed, so GPS good to centimetres, in {fixed} of {len(photos)} photographs.")
    return words


def overlap_words(flight: dict[str, Any], least: float) -> str:
    """The overlap, and what that means where it is below `least` (a share), without a full stop."""
    parts = [("along the flight", flight["overlap_along"]), ("across", flight["overlap_across"])]
    known = [(where, value) for where, value in parts if value is not None]
    listed = ", ".join(f"{value:.0%} {where}" for where, value in known)
    low = any(value < least for _, value in known)
    assumed = "" if flight["direction_from"] == "gimbal" else ", if cameras look straight down"
    warning = f": below {least:.0%} registration often fails" if low else ""
    return f"Estimated overlap {listed}{assumed}{warning}"
