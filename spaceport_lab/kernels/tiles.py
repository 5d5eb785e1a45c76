"""A tile of 16 x 16 pixels as 4 x 4 blocks of 4 x 4 pixels, one block to a vector.

What forward and backward have in common: how a tile's numbers lie in a thread's scratch memory, which entries
of its segment's list reach it, and which of its blocks an ellipse touches. A tile's numbers of one kind (a
plane) lie block after block, a block's column after column; the first two planes are the pixels' places.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import (
    ALPHA,
    BETA,
    BLOCK,
    FIRST_BITS,
    FIRST_MASK,
    GAMMA,
    LANES,
    LOG2_255,
    LOG_OPACITY,
    PLANE,
    SPAN_BITS,
    SPAN_MASK,
    TILE,
    U,
    V,
)
from spaceport_lab.kernels.vector import (
    any_lane,
    ceiling,
    count_lanes,
    floor,
    fma,
    fnma,
    lane_indices,
    maximum,
    minimum,
    select,
    shift_left,
    splat,
    square_root,
    to_ints,
)
from spaceport_lab.kernels.vector_choice import store_chosen
from spaceport_lab.kernels.vector_math import exp2_normal
from spaceport_lab.kernels.vector_memory import load, load_ints, store

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
LAST_PIXEL = np.float32(TILE - 1)
CHUNK = 64  # entries of a tile that are looked at together: the bits of a mask
PLANES = 2  # pixel x and pixel y, counted from the tile's corner
ROW_CENTERS = np.arange(TILE, dtype=np.float32) + HALF  # counted from the tile's corner
# What `row_terms` writes of an entry, and how much of it forward keeps.
ROW_W, ROW_POWER, ROW_Y, ROWS, ALL_ROWS = 0, TILE, 2 * TILE, 2 * TILE, 3 * TILE
POWER_MIN = -LOG2_255  # of two: alpha is ALPHA_MIN


@kernel(inline=True)
def aligned_scratch(count):
    """Uninitialised float32 that begin at a whole cache line."""
    raw = np.empty(count + LANES, np.float32)
    skip = ((64 - (raw.ctypes.data & 63)) & 63) >> 2
    return raw[skip : skip + count]


@kernel(inline=True)
def place_in_tile(x, y):
    """Where pixel (x, y) of a tile stands in a plane."""
    return ((y >> 2) * 4 + (x >> 2)) * LANES + (x & 3) * 4 + (y & 3)


@kernel(inline=True)
def pixel_planes(scratch):
    """Fill the first two planes with the pixels' centres, counted from the tile's corner."""
    for y in range(TILE):
        for x in range(TILE):
            place = place_in_tile(x, y)
            scratch[place] = np.float32(x) + HALF
            scratch[PLANE + place] = np.float32(y) + HALF


@kernel(inline=True)
def block_words(u, v, shear, half_width, reach, right_y):
    """For sixteen ellipses: which of the tile's 4 x 4 blocks each touches, bit 4 * row + column.

    (u, v) is the centre, counted from the tile's corner. The extent left and right is exact within each row
    of blocks.
    """
    word = to_ints(splat(ZERO))
    for row in range(TILE // BLOCK):
        first = np.float32(BLOCK * row) + HALF
        low = maximum(first - v, -reach)
        high = minimum(np.float32(BLOCK * row + BLOCK) - HALF - v, reach)
        y = maximum(low, minimum(high, right_y))
        right = fma(half_width, square_root(maximum((reach - y) * (reach + y), ZERO)), fma(shear, y, u))
        y = maximum(low, minimum(high, -right_y))
        left_end = fnma(half_width, square_root(maximum((reach - y) * (reach + y), ZERO)), fma(shear, y, u))
        first_x = ceiling(left_end - HALF)
        last_x = floor(right - HALF)
        touched = (low <= high) & (first_x <= last_x) & (first_x <= LAST_PIXEL) & (last_x >= ZERO)
        first_block = to_ints(minimum(maximum(first_x, ZERO), LAST_PIXEL)) >> 2
        last_block = to_ints(minimum(maximum(last_x, ZERO), LAST_PIXEL)) >> 2
        bits = shift_left(2, last_block) - shift_left(1, first_block)
        word = word | select(touched, shift_left(bits, 4 * row), 0)
    return word


@kernel(inline=True)
def row_terms(records, o, left, top, terms, at):
    """What of an entry's w, y and exponent its sixteen rows of pixels have, to three times TILE numbers.

    With them, in column px: w = terms[W] - ALPHA * px, exponent = terms[POWER] - w * w.
    """
    u, v = splat(records[o + U] - left), splat(records[o + V] - top)
    alpha_u = splat(records[o + ALPHA]) * u
    beta, gamma = splat(records[o + BETA]), splat(records[o + GAMMA])
    log_opacity = splat(records[o + LOG_OPACITY])
    dy = v - load(ROW_CENTERS, 0)
    y = gamma * dy
    store(terms, at + ROW_W, fnma(beta, dy, alpha_u))
    store(terms, at + ROW_POWER, fnma(y, y, log_opacity))
    store(terms, at + ROW_Y, y)


@kernel(inline=True)
def faded(minus_alpha, px, w_row, power_row, constants, power_min):
    """Alpha before it is clamped, zero where it is too faint to count; see `row_terms`."""
    w = fma(minus_alpha, px, w_row)
    power = fnma(w, w, power_row)
    return select(power >= power_min, exp2_normal(power, constants), ZERO)


@kernel(inline=True)
def blocks_alive(scratch, plane):
    """Word of the blocks in which some pixel is not finished."""
    alive = 0
    for block in range(LANES):
        if any_lane(load(scratch, plane + block * LANES) > ZERO):
            alive |= 1 << block
    return alive


@kernel(inline=True)
def choose_entries(entries, entry, last, tile, gaussians, chosen):
    """The next entries of a segment's list, from `entry` on, that reach its tile number `tile`: up to CHUNK.

    Returns how many, and one past the last entry looked at.
    """
    count = 0
    while entry < last and count <= CHUNK - LANES:
        span = load_ints(entries, entry)
        reaches = ((span & FIRST_MASK) < tile + 1) & (((span & SPAN_MASK) >> FIRST_BITS) > tile - 1)
        reaches = reaches & (lane_indices() < last - entry)
        store_chosen(chosen, count, lane_indices() + entry, reaches)
        store_chosen(gaussians, count, span >> SPAN_BITS, reaches)
        count += count_lanes(reaches)
        entry += LANES
    return count, min(entry, last)


@kernel(inline=True)
def block_inside(scratch, block, x0, y0, width, height):
    """A block's first pixel in the image, how many of its rows and columns are inside, and which lanes."""
    x, y = x0 + (block & 3) * BLOCK, y0 + (block >> 2) * BLOCK
    at = block * LANES
    inside = (load(scratch, at) < np.float32(width - x0)) & (
        load(scratch, PLANE + at) < np.float32(height - y0)
    )
    return y * width + x, min(BLOCK, height - y), min(BLOCK, width - x), inside
