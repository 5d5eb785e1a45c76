"""What a file says about itself: EXIF, and the XMP packet in which drones write how they flew."""

from __future__ import annotations

import math
from typing import Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring
from PIL import Image

ORIENTATION, MAKE, MODEL, DATE, EXIF, GPS = 0x0112, 0x010F, 0x0110, 0x0132, 0x8769, 0x8825
DATE_TAKEN, FOCAL, FOCAL_35, EXPOSURE = 0x9003, 0x920A, 0xA405, 0x829A

MAX_XMP = 1 << 20
"""Bytes of an XMP packet that are read; those of drones have about four thousand."""

_RTK = {"50": "fixed", "34": "float", "16": "single", "0": "none"}
"""DJI's RtkFlag in the words of satellite positioning."""

_NUMBERS: dict[str, tuple[tuple[str, ...], float]] = {
    "relative_alt_m": (("RelativeAltitude",), 12000),
    "yaw_deg": (("GimbalYawDegree", "CameraYawDegree"), 360),
    "pitch_deg": (("GimbalPitchDegree", "CameraPitchDegree"), 180),
    "roll_deg": (("GimbalRollDegree", "CameraRollDegree"), 360),
    "flight_yaw_deg": (("FlightYawDegree",), 360),
    "focal_px": (("CalibratedFocalLength",), 1e5),
}
"""Our name → names in the XMP of DJI and Parrot, and the most it may be, metres, degrees, pixels."""


def read_gps(ifd: dict[int, Any]) -> tuple[dict[str, float | None] | None, str | None]:
    """Position from the GPS tags of EXIF, and why it is not believed if it is not.

    Returns:
        `({lat, lon, alt}, None)`, `(None, reason)`, or `(None, None)` where there is no GPS.
    """
    if 2 not in ifd and 4 not in ifd:
        return None, None
    lat, lon = _degrees(ifd.get(2), ifd.get(1), "S"), _degrees(ifd.get(4), ifd.get(3), "W")
    if lat is None or lon is None:
        return None, "GPS is not a number (a zero denominator or missing parts)"
    if abs(lat) > 90 or abs(lon) > 180:
        return None, f"GPS is not on the Earth: latitude {lat:g}°, longitude {lon:g}°"
    if lat == 0 and lon == 0:
        return None, "GPS is 0°, 0°: the receiver had no fix"
    alt = number(ifd.get(6))
    if alt is not None and ifd.get(5) in (1, b"\x01"):
        alt = -alt
    # Outside these no camera flies; such altitudes are the receiver's way of saying it does not know.
    return {"lat": lat, "lon": lon, "alt": alt if alt is not None and -500 < alt < 12000 else None}, None


def read_drone(xmp: bytes | str | None) -> tuple[dict[str, Any] | None, str | None]:
    """What a drone wrote into its XMP packet, and why the packet cannot be read if it cannot.

    Entities and document types are refused, so that hostile packets cost nothing.

    Args:
        xmp: the packet as Pillow gives it.

    Returns:
        `(values, None)`, `(None, reason)`, or `(None, None)` where no drone wrote. Of `relative_alt_m` (above
        take-off, metres); `yaw_deg`, `pitch_deg`, `roll_deg` of the gimbal (from north over east; -90 looks
        straight down); `flight_yaw_deg`; `focal_px`; `rtk` (fixed, float, single, none); `rtk_std_m` (east,
        north, up); `shutter` (mechanical, electronic: it rolls), those that are there and possible.
    """
    if not xmp:
        return None, None
    if len(xmp) > MAX_XMP:
        return None, f"XMP of {len(xmp) / 1e6:.1f} MB is not read"
    content = xmp.encode(errors="replace") if isinstance(xmp, str) else xmp
    try:
        root = fromstring(content.strip(b"\0 \r\n\t"), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        return None, f"XMP cannot be read: {type(error).__name__}"
    fields: dict[str, str] = {}
    for element in root.iter():
        pairs = [*element.attrib.items(), (element.tag, element.text or "")]
        for name, value in pairs:
            # {namespace}Name: the names alone differ enough between the makers.
            fields.setdefault(str(name).rpartition("}")[2], value.strip())
    found = _drone_values({name: value for name, value in fields.items() if value})
    return found or None, None


def _drone_values(fields: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ours, (theirs, most) in _NUMBERS.items():
        value = next((number(fields[name]) for name in theirs if name in fields), None)
        if value is not None and abs(value) <= most:
            found[ours] = value
    if fields.get("RtkFlag") in _RTK:
        found["rtk"] = _RTK[fields["RtkFlag"]]
    deviations = [number(fields.get(name)) for name in ("RtkStdLon", "RtkStdLat", "RtkStdHgt")]
    if all(value is not None and value > 0 for value in deviations):
        found["rtk_std_m"] = deviations
    shutter = fields.get("ShutterType", "").lower()
    if shutter.startswith(("mechanical", "electronic")):
        found["shutter"] = shutter.partition(" ")[0]
    return found


def read_exif(image: Image.Image) -> tuple[Image.Exif, dict[int, Any]]:
    """The tags of EXIF and of its sub-folder; broken EXIF counts as none."""
    try:
        exif = image.getexif()
        return exif, folder(exif, EXIF)
    except Exception:  # Pillow parses tags by hand and raises whatever the bytes lead it to
        return Image.Exif(), {}


def packed(exif: Image.Exif) -> bytes:
    try:
        return exif.tobytes()
    except Exception:  # tags of the wrong type are read without complaint, and cannot be written
        return b""


def folder(exif: Image.Exif, tag: int) -> dict[int, Any]:
    try:
        return dict(exif.get_ifd(tag))
    except Exception:  # as above
        return {}


def _degrees(parts: Any, reference: Any, negative: str) -> float | None:
    try:
        degrees, minutes, seconds = ([*parts, 0, 0])[:3]
        value = float(degrees) + float(minutes) / 60 + float(seconds) / 3600
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not math.isfinite(value):
        return None
    return -value if text(reference).upper().startswith(negative) else value


def number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return "".join(c for c in str(value) if c.isprintable()).strip() if value is not None else ""
