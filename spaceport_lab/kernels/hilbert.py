"""An order in which neighbours in space become neighbours in memory, and on the textures of a SOG."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt32, UInt64

from spaceport_lab.kernels import threads
from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector_memory import claim

BITS = 21
"""Of each axis, three of them in 63 bits."""


CHUNK = 8192
"""Points that a thread claims at a time."""


def hilbert_codes(points: Float[np.ndarray, "N 3"]) -> UInt64[np.ndarray, "N"]:
    """Places of points on Hilbert's curve through their own bounding box, 21 bits an axis.

    Unlike the Z-order (Morton 1966) it never jumps, which saves another hundredth of the bytes.
    """
    # By columns: numpy is slow along the short axis.
    low = np.array([column.min() for column in points.T])
    span = np.array([column.max() for column in points.T]) - low
    return _codes(points, low, np.where(span > 0, (2**BITS - 1) / np.where(span > 0, span, 1), 0))


def grid_codes(grid: UInt32[np.ndarray, "N 3"]) -> UInt64[np.ndarray, "N"]:
    """Places on Hilbert's curve of whole coordinates below 2^21."""
    return _codes(grid, np.zeros(3), np.ones(3))


def _codes(points: np.ndarray, low: np.ndarray, scale: np.ndarray) -> UInt64[np.ndarray, "N"]:
    codes = np.empty(len(points), np.uint64)
    threads.on_all(fill_codes, -(-len(points) // CHUNK), points, low, scale, codes)
    return codes


@kernel(inline=True)
def _spread(value):
    """21 bits, two zeros between any two of them."""
    bits = np.uint64(value)
    bits = (bits | bits << np.uint64(32)) & np.uint64(0x1F00000000FFFF)
    bits = (bits | bits << np.uint64(16)) & np.uint64(0x1F0000FF0000FF)
    bits = (bits | bits << np.uint64(8)) & np.uint64(0x100F00F00F00F00F)
    bits = (bits | bits << np.uint64(4)) & np.uint64(0x10C30C30C30C30C3)
    return (bits | bits << np.uint64(2)) & np.uint64(0x1249249249249249)


@kernel(inline=True)
def _code(x, y, z):
    """Of whole coordinates below 2^21 (Skilling 2004).

    Masks stand for its conditions: nobody can foresee these, and a wrong guess costs more than both ways.
    """
    zero, one = np.uint32(0), np.uint32(1)
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
    return _spread(x ^ flip) << np.uint64(2) | _spread(y ^ flip) << np.uint64(1) | _spread(z ^ flip)


@kernel()
def fill_codes(counter, points, low, scale, codes):
    """The code of each of `points` [n, 3], less `low` and times `scale`; run by several threads at once."""
    while True:
        start = claim(counter) * CHUNK
        if start >= len(points):
            break
        for i in range(start, min(len(points), start + CHUNK)):
            codes[i] = _code(
                np.uint32((points[i, 0] - low[0]) * scale[0]),
                np.uint32((points[i, 1] - low[1]) * scale[1]),
                np.uint32((points[i, 2] - low[2]) * scale[2]),
            )


def hilbert_order(points: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N"]:
    """Indices that sort points along Hilbert's curve; equal places keep their order."""
    return np.argsort(hilbert_codes(points), kind="stable")
