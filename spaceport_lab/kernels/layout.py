"""What stands where in the arrays that kernels pass to each other; numbers that occur twice, named once.

A *record* describes one visible Gaussian on one image: RECORD + channels floats, rounded up to whole cache
lines. The ellipse is kept as the inverse Cholesky factor of its covariance, in units in which the power of
two falls out:

    alpha = 2 ** (LOG_OPACITY - w*w - y*y),   w = ALPHA*(u - px) - BETA*(v - py),   y = GAMMA*(v - py)

with (u, v) the centre and (px, py) the pixel's. This form is never negative and does not cancel for needles,
as the usual three-number conic does in float32.
"""

from __future__ import annotations

import math

import numpy as np

LANES = 16
TILE = 16  # pixels a side
BLOCK = 4  # pixels a side of what one vector holds; a tile is 4 x 4 blocks
# A tile's numbers of one kind (a plane) lie block after block. One vector more than needed keeps planes off
# the same 4 KiB offset, which would make loads of one wait for stores to another.
PLANE = TILE * TILE + LANES
SEGMENT = 8  # tiles in a row that one thread renders from left to right
SEGMENT_SHIFT = SEGMENT.bit_length() - 1
# An entry of a segment's list is one int32: the Gaussian, then the last and the first tile of its span.
FIRST_BITS, SPAN_BITS = SEGMENT_SHIFT, 2 * SEGMENT_SHIFT
FIRST_MASK, SPAN_MASK = (1 << FIRST_BITS) - 1, (1 << SPAN_BITS) - 1

# fields of a record
U, V = 0, 1  # centre, pixels
ALPHA, BETA, GAMMA = 2, 3, 4  # sqrt of (powers of two) / pixel
LOG_OPACITY = 5  # log2
SHEAR = 6  # x of the ellipse's ridge per pixel of y
HALF_WIDTH = 7  # half width of the ellipse at the centre's height, per pixel of REACH_Y
REACH_Y = 8  # half height of the ellipse outside of which alpha < 1/255, with some slack, pixels
RIGHT_Y = 9  # y at which the ellipse reaches furthest to the right, relative to the centre, pixels
RECORD = 10  # the colours begin here

# fields of a slot: the gradient that one span of tiles contributes to one Gaussian
M_0, M_W, M_Y, M_WW, M_WY, M_YY = 0, 1, 2, 3, 4, 5  # moments of d loss / d log(alpha) over pixels
ABS_W, ABS_Y = 6, 7  # sums of absolute values, for absgrad
SLOT = 8  # the colours begin here
SLOT_STRIDE = 16
MAX_CHANNELS = SLOT_STRIDE - SLOT

# gsplat's numbers
ALPHA_MIN = np.float32(1.0 / 255.0)  # fainter contributions are left out
ALPHA_MAX = np.float32(0.999)
T_MIN = np.float32(1e-4)  # a pixel is finished when its transmittance would fall to this
FRUSTUM_MARGIN = np.float32(0.15)  # of the image's size: centres further outside are clamped in the Jacobian

LOG2_255 = np.float32(math.log2(255.0))
LOG2_E = np.float32(math.log2(math.e))
LN_2 = np.float32(math.log(2.0))
# Ellipses are enlarged by this much log2(alpha) when tiles and blocks are chosen, so that rounding there
# never drops a pixel which the exact test per pixel would keep.
POWER_SLACK = np.float32(0.003)

MAX_GAUSSIANS = 2**31 >> SPAN_BITS

CULLED = np.uint32(0xFFFFFFFF)  # sort key of Gaussians that are not on the image


def record_stride(channels: int) -> int:
    """Floats from one record to the next: whole cache lines."""
    return -(-(RECORD + channels) // LANES) * LANES


def tile_grid(width: int, height: int) -> tuple[int, int]:
    """Tiles across and down."""
    return -(-width // TILE), -(-height // TILE)


def aligned_empty(count: int, dtype: type = np.float32) -> np.ndarray:
    """`np.empty(count)` that begins at a whole cache line (64 bytes)."""
    size = np.dtype(dtype).itemsize
    raw = np.empty(count + 64 // size, dtype)
    skip = (-raw.ctypes.data % 64) // size
    return raw[skip : skip + count]


def padded(n: int) -> int:
    """Rows of an array that is written 16 rows at a time."""
    return -(-n // LANES) * LANES
