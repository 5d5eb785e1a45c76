"""Masks: which parts of a photograph do not count. Found beside the photographs, and turned as they are."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from spaceport_lab import files
from spaceport_lab.errors import PhotosError
from spaceport_lab.ingest.photos import FORMATS, TURNS, Photo

SHAPE_TOLERANCE = 0.02
"""Of the ratio of the sides: reduced masks are rounded to whole pixels."""

_ORIENTATION = 0x0112


@dataclass(frozen=True)
class FoundMasks:
    """Masks and the photographs they belong to.

    Attributes:
        of: source of the photograph → its mask.
        unmatched: masks of no photograph, relative to their folder.
    """

    of: dict[str, Path]
    unmatched: tuple[str, ...]


def find(folder: Path | None, sources: list[str]) -> FoundMasks:
    """Match the files of `folder` to photographs by their names, upper and lower case alike.

    COLMAP's a.jpg.png comes before a.png and a.jpg. Subfolders may be repeated below `folder` or left out; a
    bare name that several photographs have belongs to none of them.

    Args:
        folder: of masks; None for no masks.
        sources: photographs, relative to where they came from.
    """
    if folder is None:
        return FoundMasks({}, ())
    names = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }
    by_name = {name.casefold(): name for name in names}
    bare = Counter(PurePosixPath(source).name.casefold() for source in sources)
    of, used = {}, set()
    for source in sources:
        path = PurePosixPath(source)
        # a/b/c.jpg may have its mask under a/b, b or at the top.
        ends = [PurePosixPath(*path.parts[i:]) for i in range(len(path.parts))]
        if bare[path.name.casefold()] > 1:
            ends = ends[:-1] or ends
        wanted = [n for end in ends for n in (f"{end}.png", str(end.with_suffix(".png")), str(end))]
        name = next((by_name[n.casefold()] for n in wanted if n.casefold() in by_name), None)
        if name is not None:
            of[source] = names[name]
            used.add(name)
    return FoundMasks(of, tuple(name for name in names if name not in used))


def place(path: Path, photo: Photo, target: Path) -> float:
    """Write a mask as 8-bit grey, 0 or 255, upright and of the size of its photograph under images/.

    A mask that has an EXIF orientation is turned by that. Others may be of the photograph as stored or of it
    upright: their shape says which, and where both have one shape they are turned like the photograph.

    Returns:
        The share of the photograph that counts.

    Raises:
        PhotosError: the mask cannot be read, or has another shape than the photograph.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    counts = _upright(*_read(path), photo)
    height, width = counts.shape
    if not _same_shape((width, height), (photo.width, photo.height)):
        raise PhotosError(
            f"mask {path.name} has another shape than its photograph",
            got=f"{width}×{height}",
            expected=f"{photo.width}×{photo.height}, or the same at another resolution",
        )
    grey = Image.fromarray(np.where(counts, 255, 0).astype(np.uint8))
    if grey.size != (photo.width, photo.height):
        grey = grey.resize((photo.width, photo.height), Image.Resampling.NEAREST)
    with files.atomic_path(target) as temporary:
        grey.save(temporary)
    return float(np.asarray(grey).mean() / 255)


def _read(path: Path) -> tuple[Bool[np.ndarray, "H W"], int | None]:
    """Where it is not black, as stored, and its EXIF orientation if it has one."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            orientation = image.getexif().get(_ORIENTATION)
            pixels = _colors(image)
            # JPEG leaves ripples in the black: there the darker half is ignored.
            least = 128 if image.format in ("JPEG", "MPO") else 1
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise PhotosError(f"mask {path.name} cannot be read", got=str(error)) from error
    return (pixels >= least).any(axis=2), orientation if orientation in range(1, 9) else None


def _colors(image: Image.Image) -> UInt8[np.ndarray, "H W D"]:
    if image.mode.startswith(("I", "F")):  # 16 bits: Pillow would clip them
        return (np.asarray(image) != 0).astype(np.uint8)[:, :, None] * 255
    return np.asarray(image.convert("RGB"))


def _upright(
    counts: Bool[np.ndarray, "H W"], orientation: int | None, photo: Photo
) -> Bool[np.ndarray, "h w"]:
    size, upright = counts.shape[::-1], (photo.width, photo.height)
    stored = upright[::-1] if photo.orientation >= 5 else upright
    if orientation is None:
        already = _same_shape(size, upright) and not _same_shape(size, stored)
        orientation = 1 if already else photo.orientation
    if orientation not in TURNS:
        return counts
    return np.asarray(Image.fromarray(counts).transpose(TURNS[orientation]))


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(math.log(size[0] * other[1] / (size[1] * other[0]))) < SHAPE_TOLERANCE
