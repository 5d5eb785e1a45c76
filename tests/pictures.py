"""Small photographs to judge: textured, with EXIF, and spoilt in every way that is met with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import piexif
from PIL import Image


def texture(seed: int, width: int = 400, height: int = 300) -> np.ndarray:
    """Grain at several scales, uint8 [H, W, 3]: sharp, well exposed, and like no other seed's."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for step in (2, 5, 15, 40):
        small = rng.uniform(-1, 1, (height // step + 2, width // step + 2, 3))
        grown = np.kron(small, np.ones((step, step, 1)))[:height, :width]
        total += grown * step**0.3
    return np.clip(128 + 28 * total, 0, 255).astype(np.uint8)


def gps_ifd(lat: object = 46.5, lon: object = 7.5, alt: float = 600.0) -> dict:
    """The GPS folder of EXIF; `lat` and `lon` in degrees north and east, or raw rationals."""

    def rational(value: object) -> tuple:
        return value if isinstance(value, tuple) else ((int(value * 1e6), 1000000), (0, 1), (0, 1))

    return {
        piexif.GPSIFD.GPSLatitudeRef: b"N",
        piexif.GPSIFD.GPSLatitude: rational(lat),
        piexif.GPSIFD.GPSLongitudeRef: b"E",
        piexif.GPSIFD.GPSLongitude: rational(lon),
        piexif.GPSIFD.GPSAltitudeRef: 0,
        piexif.GPSIFD.GPSAltitude: (int(alt * 100), 100),
    }


def exif(orientation: int = 1, gps: dict | None = None) -> bytes:
    """EXIF of a camera with a focal length, an orientation, and perhaps GPS."""
    return piexif.dump(
        {
            "0th": {
                piexif.ImageIFD.Make: b"Maker",
                piexif.ImageIFD.Model: b"Flyer 1",
                piexif.ImageIFD.Orientation: orientation,
            },
            "Exif": {
                piexif.ExifIFD.FocalLength: (88, 10),
                piexif.ExifIFD.FocalLengthIn35mmFilm: 24,
                piexif.ExifIFD.DateTimeOriginal: b"2026:05:04 12:30:00",
            },
            "GPS": gps or {},
        }
    )


def save(path: Path, pixels: np.ndarray, **settings: object) -> Path:
    """Write an image in the format of the path's ending; JPEG at quality 92 unless told otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        settings.setdefault("quality", 92)
    Image.fromarray(pixels).save(path, **settings)
    return path


def good_set(folder: Path, count: int = 3, first_seed: int = 0) -> Path:
    """`count` usable photographs `good_0.jpg` and so on, with GPS a few metres apart."""
    for i in range(count):
        tags = exif(gps=gps_ifd(46.5 + i * 1e-4, 7.5 + (i % 2) * 1e-4))
        save(folder / f"good_{i}.jpg", texture(first_seed + i), exif=tags)
    return folder


def overwrite_middle(path: Path, seed: int = 0, length: int = 400) -> None:
    """Put noise without any JPEG marker over the middle of a file."""
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(seed).integers(0, 255, length, dtype=np.uint8)
    middle = len(content) // 2
    content[middle : middle + length] = noise.tobytes()
    path.write_bytes(content)
