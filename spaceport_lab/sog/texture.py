"""Images of a SOG that hold one Gaussian in each pixel: read with their sizes checked first."""

from __future__ import annotations

import numpy as np
import psutil
from jaxtyping import UInt8, UInt16

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import N_COEFFS
from spaceport_lab.sog.container import Source, decode_image


def check_memory(count: int, bands: int) -> None:
    """Refuse a SOG that could not be held: a few bytes of JSON may claim any number of Gaussians.

    Raises:
        SplatFormatError: the decoded splat is larger than the free memory.
    """
    needed = count * (4 * (14 + 3 * N_COEFFS[bands]) + 64)  # the result, and images while they are open
    available = psutil.virtual_memory().available
    if needed > available:
        raise SplatFormatError(
            "a SOG of this size does not fit into memory",
            got=f"{count:,} Gaussians, {needed / 1e9:,.1f} GB",
            expected=f"at most {available / 1e9:.1f} GB, which is free",
        )


def read_pixels(source: Source, name: str, count: int) -> UInt8[np.ndarray, "N 4"]:
    """The first `count` pixels of an image that holds one Gaussian in each.

    Raises:
        SplatFormatError: missing, no WebP, or of a size that cannot be.
    """
    return read_image(source, name, 0, count).reshape(-1, 4)[:count]


def read_image(source: Source, name: str, width: int, pixels: int) -> UInt8[np.ndarray, "H W 4"]:
    """An image of exact `width` (0: any) and at least `pixels` pixels.

    Raises:
        SplatFormatError: missing, no WebP, or of a size that cannot be.
    """
    # Writers pad to whole rows, some to more; four times is beyond any of them.
    most = 4 * pixels + 4096
    return decode_image(source.read(name, 5 * most + 65536), name, (width, pixels), most)


def join_bytes(low: UInt8[np.ndarray, "N 4"], high: UInt8[np.ndarray, "N 4"]) -> UInt16[np.ndarray, "N 3"]:
    """16-bit numbers of two images' red, green and blue."""
    return low[:, :3] | high[:, :3].astype(np.uint16) << 8


def palette_labels(source: Source, name: str, n: int, count: int) -> UInt16[np.ndarray, " N"]:
    """Which palette entry each Gaussian has: red is the low byte, green the high one.

    Raises:
        SplatFormatError: the image cannot be read, or a label is not below `count`.
    """
    labels = read_pixels(source, name, n)
    index = labels[:, 0] | labels[:, 1].astype(np.uint16) << 8
    outside = int((index >= count).sum())
    if outside:
        raise SplatFormatError(
            f"{name} points outside the palette",
            got=f"{outside:,} of {n:,} labels, the largest {index.max()}",
            expected=f"below {count}",
        )
    return index
