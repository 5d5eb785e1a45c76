"""The drone's flight: where each photograph is taken, what its GPS believes, and the EXIF that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import piexif
from jaxtyping import Float

from spaceport_lab.sample import layout

FOCAL_OVER_WIDTH = 0.9
GPS_NOISE_M = (1.0, 1.0, 2.0)
"""Standard deviation of the GPS east, north and up, metres."""

_MIDDLE = np.array([4.0, 8.0, 4.0])
"""What the flight circles around, near the launch pad."""

_SENSOR_WIDTH_MM = 13.2


@dataclass(frozen=True)
class Shot:
    """One photograph's place.

    Attributes:
        name: file name; the order of names is the order of the flight.
        center: [3] camera position, east-north-up metres.
        rotation: [3, 3] world to camera, OpenCV axes (+X right, +Y down, +Z forward).
        gps: [3] where GPS believes it is, east-north-up metres.
    """

    name: str
    center: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    gps: Float[np.ndarray, "3"]


def plan_flight(n_images: int, seed: int) -> list[Shot]:
    """An outer oblique orbit, a pass from above, and a steep inner orbit. Short flights leave out the outer.

    Raises:
        ValueError: fewer than 3 images.
    """
    if n_images < 3:
        raise ValueError(f"a flight needs at least 3 photographs, got {n_images}")
    nadir = round(n_images * 0.2)
    outer = round((n_images - nadir) * 0.6) if n_images >= 20 else 0
    inner = n_images - nadir - outer
    # The pass from above flies between the orbits, so that no held-out view (every eighth) is an end of it.
    stations = _orbit(outer, 70.0, 86.0, 0.25) + _pass(nadir, 98.0) + _orbit(inner, 38.0, 94.0, 0.13)
    shots = []
    for index, (place, target, up) in enumerate(stations):
        rng = np.random.default_rng([seed, 2, index])
        center = place + rng.normal(0.0, 1.0, 3)
        rotation = look_at(center, target + rng.normal(0.0, 1.6, 3), up)
        gps = center + rng.normal(0.0, GPS_NOISE_M)
        shots.append(Shot(f"SPL_{index + 1:04d}.JPG", center, rotation, gps))
    return shots


def _orbit(
    count: int, radius: float, height: float, start: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Stations on a circle around the middle, looking a little short of it."""
    stations = []
    for k in range(count):
        angle = start + 2 * math.pi * k / count
        aside = np.array([math.cos(angle), math.sin(angle), 0.0])
        place = _MIDDLE + radius * aside + [0.0, 0.0, height]
        stations.append((place, _MIDDLE + 0.18 * radius * aside, np.array([0.0, 0.0, 1.0])))
    return stations


def _pass(count: int, height: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A straight line of views from above, from west to east, the picture's top to the north."""
    stations = []
    for k in range(count):
        place = _MIDDLE + np.array([13.0 * (k - (count - 1) / 2), -4.0, height])
        target = place * [1.0, 1.0, 0.0] + [0.0, 5.0, 0.0]
        stations.append((place, target, np.array([0.0, 1.0, 0.0])))
    return stations


def look_at(
    center: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """World-to-camera rotation of a camera at `center` that looks at `target`, OpenCV axes."""
    forward = target - center
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def enu_to_wgs84(enu: Float[np.ndarray, "3"]) -> tuple[float, float, float]:
    """Latitude and longitude in degrees and metres above the WGS84 ellipsoid of a point given relative to
    `layout.ORIGIN`; exact to well under a millimetre."""
    a, e2 = 6378137.0, 6.69437999014e-3
    lat0, lon0 = math.radians(layout.ORIGIN["lat"]), math.radians(layout.ORIGIN["lon"])
    sin_lat, cos_lat, sin_lon, cos_lon = math.sin(lat0), math.cos(lat0), math.sin(lon0), math.cos(lon0)
    n = a / math.sqrt(1 - e2 * sin_lat**2)
    h0 = layout.ORIGIN["alt"]
    east, north, up = (float(v) for v in enu)
    x = (n + h0) * cos_lat * cos_lon - sin_lon * east - sin_lat * cos_lon * north + cos_lat * cos_lon * up
    y = (n + h0) * cos_lat * sin_lon + cos_lon * east - sin_lat * sin_lon * north + cos_lat * sin_lon * up
    z = (n * (1 - e2) + h0) * sin_lat + cos_lat * north + sin_lat * up
    across = math.hypot(x, y)
    lat, alt = math.atan2(z, across * (1 - e2)), 0.0
    for _ in range(6):
        n = a / math.sqrt(1 - e2 * math.sin(lat) ** 2)
        alt = across / math.cos(lat) - n
        lat = math.atan2(z, across * (1 - e2 * n / (n + alt)))
    return math.degrees(lat), math.degrees(math.atan2(y, x)), alt


def exif_of(shot: Shot, index: int, width: int, height: int) -> bytes:
    """The EXIF block of a photograph, as a consumer drone writes it; the date is the simulation's, fixed."""
    lat, lon, alt = enu_to_wgs84(shot.gps)
    moment = f"2025:07:15 15:{10 + index * 4 // 60 % 50:02d}:{index * 4 % 60:02d}"
    focal_mm = FOCAL_OVER_WIDTH * _SENSOR_WIDTH_MM
    zeroth = {
        piexif.ImageIFD.Make: "Spaceport Lab",
        piexif.ImageIFD.Model: "Simulated drone camera",
        piexif.ImageIFD.Software: "spaceport-lab sample",
        piexif.ImageIFD.Orientation: 1,
        piexif.ImageIFD.DateTime: moment,
    }
    exif = {
        piexif.ExifIFD.DateTimeOriginal: moment,
        piexif.ExifIFD.FocalLength: (round(focal_mm * 1000), 1000),
        piexif.ExifIFD.FocalLengthIn35mmFilm: round(FOCAL_OVER_WIDTH * 36),
        piexif.ExifIFD.PixelXDimension: width,
        piexif.ExifIFD.PixelYDimension: height,
    }
    gps = {
        piexif.GPSIFD.GPSVersionID: (2, 3, 0, 0),
        piexif.GPSIFD.GPSLatitudeRef: "N" if lat >= 0 else "S",
        piexif.GPSIFD.GPSLatitude: _sexagesimal(lat),
        piexif.GPSIFD.GPSLongitudeRef: "E" if lon >= 0 else "W",
        piexif.GPSIFD.GPSLongitude: _sexagesimal(lon),
        piexif.GPSIFD.GPSAltitudeRef: 0 if alt >= 0 else 1,
        piexif.GPSIFD.GPSAltitude: (round(abs(alt) * 1000), 1000),
        piexif.GPSIFD.GPSMapDatum: "WGS-84",
    }
    return piexif.dump({"0th": zeroth, "Exif": exif, "GPS": gps})


def xmp_of(shot: Shot) -> bytes:
    """The XMP packet of a photograph with what DJI's drones say of their flight: height above take-off, which
    is at height zero here, and where the gimbal points. Rounded as they do, to 0.01 m and 0.1°."""
    right, down, forward = shot.rotation
    yaw, roll = math.atan2(forward[0], forward[1]), math.atan2(-right[2], -down[2])
    pitch = math.asin(float(np.clip(forward[2], -1.0, 1.0)))
    fields = {
        "RelativeAltitude": f"{shot.center[2]:+.2f}",
        "GimbalYawDegree": f"{math.degrees(yaw):+.1f}",
        "GimbalPitchDegree": f"{math.degrees(pitch):+.1f}",
        "GimbalRollDegree": f"{math.degrees(roll):+.1f}",
    }
    listed = " ".join(f'drone-dji:{name}="{value}"' for name, value in fields.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" {listed}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _sexagesimal(degrees: float) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Degrees, minutes and seconds as EXIF rationals; seconds to 1e-5, a third of a millimetre."""
    total = round(abs(degrees) * 3600 * 100_000)
    whole, rest = divmod(total, 3600 * 100_000)
    minutes, seconds = divmod(rest, 60 * 100_000)
    return (whole, 1), (minutes, 1), (seconds, 100_000)
