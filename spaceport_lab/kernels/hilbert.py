"""An order in which neighbours in space become neighbours in memory, and on the textures of a SOG."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt64

from spaceport_lab.kernels.compiling import kernel

BITS = 21
"""Of each axis, three of them in 63 bits."""


def hilbert_codes(points: Float[np.ndarray, "N 3"]) -> UInt64[np.ndarray, "N"]:
    """Places of points on Hilbert's curve through their own bounding box, 21 bits an axis.

    Unlike the Z-order (Morton 1966) it never jumps, which saves another hundredth of the bytes.
    """
    low = points.min(axis=0)
    span = points.max(axis=0) - low
    scale = np.where(span > 0, (2**BITS - 1) / np.where(span > 0, span, 1), 0)
    return grid_codes(((points - low) * scale).astype(np.uint32))


@kernel(inline=True)
def _spread(value):
    """21 bits, two zeros between any two of them."""
    bits = np.uint64(value)
    bits = (bits | bits << np.uint64(32)) & np.uint64(0x1F00000000FFFF)
    bits = (bits | bits << np.uint64(16)) & np.uint64(0x1F0000FF0000FF)
    bits = (bits | bits << np.uint64(8)) & np.uint64(0x100F00F00F00F00F)
    bits = (bits | bits << np.uint64(4)) & np.uint64(0x10C30C30C30C30C3)
    return (bits | bits << np.uint64(2)) & np.uint64(0x1249249249249249)


@kernel()
def grid_codes(grid):
    """Places on Hilbert's curve of whole coordinates [N, 3] below 2^21 (Skilling 2004).

    Masks stand for its conditions: nobody can foresee these, and a wrong guess costs more than both ways.
    """
    codes = np.empty(len(grid), np.uint64)
    zero, one = np.uint32(0), np.uint32(1)
    for i in range(len(grid)):
        x, y, z = grid[i, 0], grid[i, 1], grid[i, 2]
        for level in range(BITS - 1, 0, -1):
            shift = np.uint32(level)
            below = np.uint32((one << shift) - one)
            x ^= below & np.uint32(zero - (x >> shift & one))
            flip = below & np.uint32(zero - (y >> shift & one))
            swap = (x ^ y) & (below ^ flip)
            x ^= flip | swap
            y ^= swap
            flip = below & np.uint32(zero - (z >> shift & one))
            swap = (x ^ z) & (below ^ flip)
            x ^= flip | swap
            z ^= swap
        y ^= x
        z ^= y
        flip = zero
        for level in range(BITS - 1, 0, -1):
            shift = np.uint32(level)
            flip ^= np.uint32((one << shift) - one) & np.uint32(zero - (z >> shift & one))
        codes[i] = _spread(x ^ flip) << np.uint64(2) | _spread(y ^ flip) << np.uint64(1) | _spread(z ^ flip)
    return codes


def hilbert_order(points: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N"]:
    """Indices that sort points along Hilbert's curve; equal places keep their order."""
    return np.argsort(hilbert_codes(points), kind="stable")
