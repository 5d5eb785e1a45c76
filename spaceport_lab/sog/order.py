"""The order of splats in the images: neighbours in space become neighbours on the texture."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt64

_BITS = 21  # per axis, three of them in 63 bits
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_codes(points: Float[np.ndarray, "N 3"]) -> UInt64[np.ndarray, "N"]:
    """Z-order codes of points, 21 bits an axis, over their own bounding box (Morton 1966)."""
    low = points.min(axis=0)
    span = points.max(axis=0) - low
    scale = np.where(span > 0, (2**_BITS - 1) / np.where(span > 0, span, 1), 0)
    codes = np.zeros(len(points), np.uint64)
    for axis in range(3):
        bits = ((points[:, axis] - low[axis]) * scale[axis]).astype(np.uint64)
        for shift, mask in _SPREAD:
            bits = (bits | bits << np.uint64(shift)) & np.uint64(mask)
        codes |= bits << np.uint64(axis)
    return codes


def morton_order(points: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N"]:
    """Indices that sort points along the Z-order curve; equal codes keep their order."""
    return np.argsort(morton_codes(points), kind="stable")
