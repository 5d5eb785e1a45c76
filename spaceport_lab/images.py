"""Photographs as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from spaceport_lab.errors import PhotosError


def load_rgb(path: Path | str, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image as 8-bit RGB, pixels as stored (cameras refer to those: EXIF orientation is not applied).

    Args:
        path: anything Pillow opens; grey, palette, CMYK and 16-bit become RGB, an alpha channel is dropped.
        size: (width, height) to bring it to, each pixel the mean of the area it covers.

    Raises:
        PhotosError: there is no such file, or it is truncated or no image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            rgb = _to_rgb(image)
    except FileNotFoundError as error:
        raise PhotosError("an image is missing", got=f"no {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise PhotosError(
            f"cannot read {path.name}", got=str(error), expected="a whole image file"
        ) from error
    if size is not None:
        rgb = resize_area(rgb, size)
    return rgb


def find_masks(folder: Path, names: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Image name → its mask, named a.jpg.png as COLMAP has it, a.png or a.jpg; and the files left over."""
    there = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    found = {}
    for name in names:
        wanted = (f"{name}.png", Path(name).with_suffix(".png").as_posix(), name)
        path = next((there[candidate] for candidate in wanted if candidate in there), None)
        if path is not None:
            found[name] = path
    used = set(found.values())
    return found, [name for name, path in there.items() if path not in used]


def load_mask(path: Path, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Where a photograph of `size` (width, height) counts: where its mask is not black.

    Raises:
        PhotosError: the mask cannot be read.
    """
    counts = load_rgb(path).any(axis=2)
    if counts.shape != size[::-1]:
        counts = np.array(Image.fromarray(counts).resize(size, Image.Resampling.NEAREST))
    return counts


def mask_beside(images: Path, name: str, size: tuple[int, int]) -> Bool[np.ndarray, "H W"] | None:
    """The mask of a photograph in the folder `masks` beside its own; None where it has none.

    Raises:
        PhotosError: the mask cannot be read.
    """
    folder = images.parent / "masks"
    found = find_masks(folder, [name])[0] if folder.is_dir() else {}
    return load_mask(found[name], size) if name in found else None


def resize_area(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The image at `size` (width, height): area means when shrinking, bicubic when enlarging."""
    height, width = image.shape[:2]
    if (width, height) == tuple(size):
        return image
    shrinks = size[0] <= width and size[1] <= height
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.array(Image.fromarray(image).resize(size, method))


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode.startswith(("I", "F")):
        # Pillow clips 16-bit grey to 255 when it converts; the high byte is what a viewer shows.
        grey = np.asarray(image)
        grey = np.clip(grey / 257 if image.mode.startswith("I") else grey, 0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))
