"""One photograph at a time: open it fully, judge it, bring it into a form COLMAP reads."""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import simplejpeg
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from scipy.ndimage import uniform_filter

from spaceport_lab import files
from spaceport_lab.ingest import tags
from spaceport_lab.ingest.tags import text

Image.init()  # until then Pillow knows only five formats, and fails on the names of the others
pillow_heif.register_heif_opener(thumbnails=False)
_KNOWN = {"JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "AVIF", "JPEG2000", "PPM", "HEIF"}
FORMATS = tuple(_KNOWN & set(Image.OPEN))
"""What is opened. A list, because Pillow's EPS reader starts another program."""

COLMAP_ENDINGS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe"),
    "MPO": (".jpg", ".jpeg", ".jpe"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
}
"""Formats COLMAP reads as they are, and the endings that tell it so."""

JUDGED_SIDE = 1024
"""Sharpness and exposure are measured with the longer side reduced to this many pixels."""

SIGNATURE_SIZE = (64, 48)
"""Width and height of the small picture by which near-duplicates are found."""

JPEG_QUALITY = 97

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes it upright."""


@dataclass(frozen=True)
class Photo:
    """What is known of one file.

    Attributes:
        name: its file name under images/, unique.
        source: its path relative to where photographs came from.
        reason: why it is left out; None when it is used.
        overruled: why it would be left out, had it not been kept by name; None otherwise.
        remark: what is odd about it though it is used; None otherwise.
        width, height: pixels, upright; 0 when unreadable.
        format: Pillow's name of the format.
        converted: what had to be changed to bring it into images/; empty when it is the file as it came.
        gps: `lat`, `lon` in degrees, `alt` in metres (or None); None without plausible GPS.
        gps_problem: why GPS that is there is not believed.
        orientation: of EXIF, 1 to 8.
        sharpness: variance of the Laplacian over the variance of grey levels, so that a dull day is no blur.
        contrast: standard deviation of grey levels.
        exposure: mean grey level, 0 to 1.
        clipped: share of pixels that are black or white, within 2 of 255 levels.
        sha256: of the file. pixels_sha256: of its pixels.
        make, model: of the camera. focal_mm, focal_35mm: focal length, millimetres, as EXIF has them.
        exposure_s: exposure time, seconds.
        drone: what the drone wrote into XMP, see `tags.read_drone`; None without.
        taken: `YYYY:MM:DD hh:mm:ss`.
        thumbnail: file name under thumbnails/; empty when the file cannot be read.
        signature: see `signature`; not written down.
    """

    name: str
    source: str
    reason: str | None = None
    overruled: str | None = None
    remark: str | None = None
    width: int = 0
    height: int = 0
    format: str = ""
    converted: str = ""
    gps: dict[str, float | None] | None = None
    gps_problem: str | None = None
    orientation: int = 1
    sharpness: float | None = None
    contrast: float | None = None
    exposure: float | None = None
    clipped: float | None = None
    sha256: str = ""
    pixels_sha256: str = field(default="", repr=False)
    make: str = ""
    model: str = ""
    focal_mm: float | None = None
    focal_35mm: float | None = None
    exposure_s: float | None = None
    drone: dict[str, Any] | None = None
    taken: str = ""
    thumbnail: str = ""
    signature: bytes = field(default=b"", repr=False)

    @property
    def used(self) -> bool:
        """Whether it goes on to structure from motion."""
        return self.reason is None


def judge(path: Path, source: str, name: str, thumbnail: Path, thumbnail_side: int = 320) -> Photo:
    """Open a file to its last byte and measure it; never raises for what the file holds.

    Args:
        path: the file.
        source: its relative path, for the record.
        name: the name it is to have under images/.
        thumbnail: where a small upright JPEG of it goes.
        thumbnail_side: longer side of that, pixels.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        broken = path.is_symlink() and not path.exists()
        why = "a link to nothing" if broken else f"cannot be opened: {error.strerror}"
        return Photo(name, source, reason=why)
    digest = hashlib.sha256(data).hexdigest()
    if not data:
        return Photo(name, source, reason="empty file (0 bytes)", sha256=digest)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            stored = _orientation(image)
            image.load()
            problem = _corruption(data, image)
            if problem is not None:
                width, height = image.size
                return Photo(
                    name, source, problem, width=width, height=height, format=str(image.format), sha256=digest
                )
            return _measure(image, stored, name, source, digest, thumbnail, thumbnail_side)
    except Image.DecompressionBombError as error:
        why = f"too many pixels to be a photograph: {error}"
    except UnidentifiedImageError:
        why = _what_it_is_instead(data, path)
    # What decoders raise on hostile bytes is not documented; whatever it is, this file is not usable.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError) as error:
        why = f"truncated or corrupt: {error}"
    except (OverflowError, MemoryError, zlib.error) as error:
        why = f"corrupt: {type(error).__name__} {error}"
    return Photo(name, source, reason=why, sha256=digest)


def _corruption(data: bytes, image: Image.Image) -> str | None:
    """Damage that Pillow passes over: a JPEG whose middle is broken decodes to grey without a word."""
    if image.format in ("JPEG", "MPO"):
        try:
            # An eighth of the size: every bit is still read, few pixels are computed.
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
        except ValueError as error:
            text = str(error)
            stray = text.split("data: ")[-1].split(" extraneous")[0]
            # Some cameras pad the end of the data by a few bytes; nothing is lost there.
            padding = "extraneous bytes before marker 0xd9" in text and stray.isdigit() and int(stray) <= 8
            if not padding and any(w in text for w in ("Corrupt", "Premature", "Invalid JPEG", "marker")):
                return f"truncated or corrupt: {text}"
    if image.format == "PNG":
        with Image.open(io.BytesIO(data)) as again:
            again.verify()  # checks every chunk's checksum; raises SyntaxError or OSError
    return None


def _what_it_is_instead(data: bytes, path: Path) -> str:
    head = data[:4096]
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim"):
        return "truncated or corrupt: HEIC that cannot be decoded"
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3":
        return "a video, not a photograph: set ingest.source to it to take its frames"
    if head[:2] == b"\xff\xd8":
        return "truncated or corrupt: its JPEG header is broken"
    if b"\0" not in head and sum(32 <= b < 127 or b in b"\r\n\t" for b in head) > 0.9 * len(head):
        return f"not an image: text named {path.suffix or 'without an ending'}"
    return "not an image"


def _measure(
    image: Image.Image,
    stored: int,
    name: str,
    source: str,
    digest: str,
    thumbnail: Path,
    thumbnail_side: int,
) -> Photo:
    exif, details = tags.read_exif(image)
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    converted, endings = _needs(image, stored)
    gps, gps_problem = tags.read_gps(tags.folder(exif, tags.GPS))
    drone, remark = tags.read_drone(image.info.get("xmp"))
    rgb = _as_rgb(image)
    small = rgb.copy()
    small.thumbnail((JUDGED_SIDE, JUDGED_SIDE), Image.Resampling.BOX)
    seen = small.convert("L")
    grey = np.asarray(seen, dtype=np.float32)
    small.thumbnail((thumbnail_side, thumbnail_side), Image.Resampling.BOX)
    with files.atomic_path(thumbnail) as temporary:
        _upright(small, orientation).save(temporary, quality=88)
    return Photo(
        name=_with_ending(name, endings),
        source=source,
        remark=remark,
        width=width,
        height=height,
        format=str(image.format),
        converted=converted,
        gps=gps,
        gps_problem=gps_problem,
        orientation=stored,
        sharpness=sharpness(grey),
        contrast=float(grey.std()),
        exposure=float(grey.mean() / 255),
        clipped=float(((grey <= 2) | (grey >= 253)).mean()),
        sha256=digest,
        pixels_sha256=hashlib.sha256(rgb.tobytes() + str(rgb.size).encode()).hexdigest(),
        make=text(exif.get(tags.MAKE)),
        model=text(exif.get(tags.MODEL)),
        focal_mm=tags.number(details.get(tags.FOCAL)),
        focal_35mm=tags.number(details.get(tags.FOCAL_35)),
        exposure_s=tags.number(details.get(tags.EXPOSURE)),
        drone=drone,
        taken=text(details.get(tags.DATE_TAKEN) or exif.get(tags.DATE)),
        thumbnail=thumbnail.name,
        signature=signature(grey if orientation not in TURNS else np.asarray(_upright(seen, orientation))),
    )


def sharpness(grey: Float[np.ndarray, "H W"]) -> float:
    """Variance of the four-neighbour Laplacian over the variance of the grey levels; 0 for a flat picture.

    Edges make the first, contrast the second (Pech-Pacheco et al., 2000, without the division).
    """
    variance = float(grey.var())
    if min(grey.shape) < 3 or variance == 0:
        return 0.0
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var()) / variance


def signature(grey: Float[np.ndarray, "H W"]) -> bytes:
    """The picture at 48×64 without its coarse light and dark, normalised to 8-bit integers, as bytes.

    What is left are details that move as soon as the camera does: two signatures correlate highly only when
    both pictures show the same from the same place. Without that, all pictures of a horizon would be alike.
    """
    small = Image.fromarray(np.asarray(grey, dtype=np.float32)).resize(SIGNATURE_SIZE, Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32)
    detail = values - uniform_filter(values, 9, mode="nearest")
    spread = float(detail.std())
    return np.clip(detail / max(spread, 1.0) * 32, -127, 127).round().astype(np.int8).tobytes()


def place(path: Path, photo: Photo, target: Path) -> None:
    """Put a usable photograph at `target`: linked as it is, or re-encoded upright as 8-bit RGB or grey.

    EXIF, colour profile and XMP are kept, EXIF only where it is sound; the orientation tag then says upright.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    if not photo.converted:
        files.link_or_copy(path, target)
        return
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        exif, _ = tags.read_exif(image)
        info = {key: image.info[key] for key in ("icc_profile", "xmp") if image.info.get(key)}
        upright = _upright(_as_rgb(image), _orientation(image))
    if image.mode == "CMYK":
        info.pop("icc_profile", None)  # describes inks, and there are none any more
    if tags.ORIENTATION in exif:
        exif[tags.ORIENTATION] = 1
    if target.suffix.lower() in COLMAP_ENDINGS["JPEG"]:
        info |= {"quality": JPEG_QUALITY, "subsampling": 0}
    else:
        info.pop("xmp", None)
    with files.atomic_path(target) as temporary:
        upright.save(temporary, exif=tags.packed(exif), **info)


def _needs(image: Image.Image, orientation: int) -> tuple[str, tuple[str, ...]]:
    """What must be changed for COLMAP, in words, and the endings the result may have."""
    changes = []
    if image.format not in COLMAP_ENDINGS:
        changes.append(f"from {image.format}")
    if image.mode not in ("RGB", "L"):
        changes.append(f"from {image.mode} pixels")
    if orientation != 1:
        changes.append(f"turned upright (EXIF orientation {orientation})")
    if not changes:
        return "", COLMAP_ENDINGS[str(image.format)]
    lossless = image.format in ("PNG", "TIFF", "BMP", "GIF", "PPM")
    return ", ".join(changes), COLMAP_ENDINGS["PNG" if lossless else "JPEG"]


def _with_ending(name: str, endings: tuple[str, ...]) -> str:
    """`name` as it is when it has one of `endings`, else with the first of them instead of its own."""
    stem, dot, _ = name.rpartition(".")
    return name if name.lower().endswith(endings) else (stem if dot else name) + endings[0]


def _orientation(image: Image.Image) -> int:
    """The orientation EXIF gives. Of TIFF Pillow turns the pixels itself on loading: then 1 is left."""
    value = tags.read_exif(image)[0].get(tags.ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow clips 16-bit grey when it converts; the high byte is what a viewer would show.
        values = np.asarray(image, dtype=np.float64)
        scale = 257.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 1.0
        return Image.fromarray(np.clip(values / scale, 0, 255).round().astype(np.uint8))
    return image.copy() if image.mode in ("RGB", "L") else image.convert("RGB")
