"""Which ellipse touches which tile, nearest first.

One sort of the visible Gaussians by depth, then a stable counting sort of their tiles: entries of a tile
come out nearest first without sorting (tile, depth) pairs.

In each row of tiles an ellipse touches a run of neighbours. Cut at the borders of segments (SEGMENT tiles,
rendered from left to right by one thread) such a run is a *span*, and each span owns a *slot* for its
gradient. Spans are counted when Gaussians are projected and found again when the lists are filled. Both go
through `touched_tiles`, whose every product stands inside an explicit fma: there is nothing for a compiler to
fuse in one place and not in the other, so both see the same tiles. Filling checks that it finds what was
counted, and never writes beyond it.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import (
    HALF_WIDTH,
    LANES,
    REACH_Y,
    RIGHT_Y,
    SEGMENT,
    SHEAR,
    TILE,
    U,
    V,
)
from spaceport_lab.kernels.vector import (
    any_lane,
    floor,
    fma,
    fnma,
    maximum,
    minimum,
    select,
    splat,
    square_root,
    to_ints,
)
from spaceport_lab.kernels.vector_memory import claim, gather, store

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
TILE_SIZE, PER_TILE = np.float32(TILE), np.float32(1 / TILE)
SEGMENT_SHIFT = SEGMENT.bit_length() - 1
TILE_SHIFT = TILE.bit_length() - 1
RADIX_BITS = 11
RADIX = 1 << RADIX_BITS
RADIX_MASK = np.uint32(RADIX - 1)
SHIFT_1, SHIFT_2 = np.uint32(RADIX_BITS), np.uint32(2 * RADIX_BITS)


@kernel(inline=True)
def pixels_before(position, limit):
    """How many of `limit` pixels in a row have their centre before `position`: whole numbers, never NaN."""
    return floor(minimum(maximum(position + HALF, ZERO), limit))


@kernel(inline=True)
def touched_rows(v, reach, tiles_y):
    """First pixel row inside the ellipse's height and one past the last, then the same in tiles."""
    limit = np.float32(tiles_y * TILE)
    first, last = pixels_before(v - reach, limit), pixels_before(v + reach, limit)
    return first, last, floor(first * PER_TILE), floor((last + (TILE_SIZE - ONE)) * PER_TILE)


@kernel(inline=True)
def touched_tiles(u, v, shear, half_width, reach, right_y, first_y, last_y, row, tiles_x):
    """First and last tile that ellipses touch in a row of tiles, and whether they touch any.

    The ellipse is widest at RIGHT_Y; within a row of tiles the nearest height to that counts.
    """
    low = maximum(first_y, row * TILE_SIZE) + (HALF - v)
    high = minimum(last_y, fma(row, TILE_SIZE, TILE_SIZE)) - (HALF + v)
    y = maximum(low, minimum(high, right_y))
    right = fma(half_width, square_root(maximum((reach - y) * (reach + y), ZERO)), fma(shear, y, u))
    y = maximum(low, minimum(high, -right_y))
    left = fnma(half_width, square_root(maximum((reach - y) * (reach + y), ZERO)), fma(shear, y, u))
    limit = np.float32(tiles_x * TILE)
    first_x, last_x = pixels_before(left, limit), pixels_before(right, limit)
    return to_ints(first_x) >> TILE_SHIFT, (to_ints(last_x) - 1) >> TILE_SHIFT, first_x < last_x


@kernel()
def count_spans(visible, u, v, shear, half_width, reach, right_y, tiles_x, tiles_y):
    """How many spans of tiles each of sixteen ellipses touches; zero where not visible."""
    first_y, last_y, row, end_row = touched_rows(v, reach, tiles_y)
    count = to_ints(splat(ZERO))
    here = visible & (row < end_row)
    while any_lane(here):
        first, last, any_tile = touched_tiles(
            u, v, shear, half_width, reach, right_y, first_y, last_y, row, tiles_x
        )
        spans = (last >> SEGMENT_SHIFT) - (first >> SEGMENT_SHIFT) + 1
        count = count + select(here & any_tile, spans, 0)
        row = row + ONE
        here = visible & (row < end_row)
    return count


@kernel()
def depth_order(n, keys, counts, order, first_slot):
    """Sort Gaussians that touch a tile by depth (stable radix sort, three passes of 11 bits) and number
    their slots.

    Args:
        n: how many Gaussians there are; arrays may be longer.
        keys, counts: as `project` wrote them.
        order: int32, its first entries become the sorted indices.
        first_slot: [n + 1] int64 becomes the running sum of counts: a Gaussian's slots lie side by side.

    Returns:
        how many Gaussians touch a tile.
    """
    visible, total = 0, 0
    h0, h1, h2 = np.zeros(RADIX, np.int64), np.zeros(RADIX, np.int64), np.zeros(RADIX, np.int64)
    for i in range(n):
        first_slot[i] = total
        if counts[i] > 0:
            total += counts[i]
            key = keys[i]
            visible += 1
            h0[key & RADIX_MASK] += 1
            h1[(key >> SHIFT_1) & RADIX_MASK] += 1
            h2[key >> SHIFT_2] += 1
    first_slot[n] = total
    for histogram in (h0, h1, h2):
        running = 0
        for digit in range(RADIX):
            histogram[digit], running = running, running + histogram[digit]
    other = np.empty(visible, np.int32)
    for i in range(n):
        if counts[i] > 0:
            digit = keys[i] & RADIX_MASK
            other[h0[digit]] = i
            h0[digit] += 1
    for k in range(visible):
        digit = (keys[other[k]] >> SHIFT_1) & RADIX_MASK
        order[h1[digit]] = other[k]
        h1[digit] += 1
    for k in range(visible):
        other[k] = order[k]
    for k in range(visible):
        digit = keys[other[k]] >> SHIFT_2
        order[h2[digit]] = other[k]
        h2[digit] += 1
    return visible


@kernel(inline=True)
def emit_spans(first_tile, last_tile, row_start, slot, end, spans, changes):
    """Write one run of tiles as spans from `slot` on, but not beyond `end`. Returns the next slot.

    `changes` gets +1 where a span begins and -1 one past its end: its running sum counts entries per tile.
    """
    while first_tile <= last_tile:
        piece_end = min(last_tile, first_tile | (SEGMENT - 1))
        if slot < end:
            spans[2 * slot] = row_start + first_tile
            spans[2 * slot + 1] = piece_end - first_tile + 1
            changes[row_start + first_tile] += 1
            changes[row_start + piece_end + 1] -= 1
        slot += 1
        first_tile = piece_end + 1
    return slot


@kernel()
def fill_group(ranks, order, records, stride, tiles_x, tiles_y, counts, first_slot, spans, changes, scratch):
    """The spans of at most sixteen Gaussians, order[ranks[0]] … order[ranks[1] - 1].

    Returns:
        how many of them touched another number of spans than was counted.
    """
    first_rank, rows = ranks[0], ranks[1] - ranks[0]
    next_slot = scratch[2 * LANES :]
    indices = scratch[3 * LANES :]
    for lane in range(LANES):
        indices[lane] = order[first_rank + min(lane, rows - 1)]
        next_slot[lane] = 0
    u, v = gather(records, indices, 0, stride, U), gather(records, indices, 0, stride, V)
    shear, half_width = (
        gather(records, indices, 0, stride, SHEAR),
        gather(records, indices, 0, stride, HALF_WIDTH),
    )
    reach, right_y = (
        gather(records, indices, 0, stride, REACH_Y),
        gather(records, indices, 0, stride, RIGHT_Y),
    )
    first_y, last_y, row, end_row = touched_rows(v, reach, tiles_y)
    store(scratch, 4 * LANES, to_ints(row))
    here = row < end_row
    step = 0
    while any_lane(here):
        first, last, any_tile = touched_tiles(
            u, v, shear, half_width, reach, right_y, first_y, last_y, row, tiles_x
        )
        touched = here & any_tile
        store(scratch, 0, select(touched, first, 1))
        store(scratch, LANES, select(touched, last, 0))
        for lane in range(rows):
            i = np.int64(indices[lane])
            base = first_slot[i]
            row_start = (np.int64(scratch[4 * LANES + lane]) + step) * tiles_x
            slot = emit_spans(
                np.int64(scratch[lane]), np.int64(scratch[LANES + lane]), row_start, base + next_slot[lane],
                base + counts[i], spans, changes,
            )  # fmt: skip
            next_slot[lane] = slot - base
        row = row + ONE
        step += 1
        here = row < end_row
    wrong = 0
    for lane in range(rows):
        if next_slot[lane] != counts[indices[lane]]:
            wrong += 1
    return wrong


@kernel()
def fill_spans(
    counter, part_starts, order, records, stride, tiles_x, tiles_y, counts, first_slot, spans, histogram
):
    """Write the span of every slot and count tiles per part; run by several threads at once on one counter.

    part_starts [parts + 1] cuts `order` into parts. spans [slots * 2] int32: first tile and how many.
    histogram [parts, tiles + 1] int64, zero at first, gets how many entries each part has in each tile.

    Returns:
        how many Gaussians touched another number of spans than was counted: always 0, or the lists cannot be
            trusted.
    """
    wrong = 0
    ranks, scratch = np.zeros(2, np.int64), np.zeros(5 * LANES, np.int32)
    while True:
        part = claim(counter)
        if part >= part_starts.shape[0] - 1:
            break
        for rank in range(part_starts[part], part_starts[part + 1], LANES):
            ranks[0], ranks[1] = rank, min(rank + LANES, part_starts[part + 1])
            wrong += fill_group(
                ranks,
                order,
                records,
                stride,
                tiles_x,
                tiles_y,
                counts,
                first_slot,
                spans,
                histogram[part],
                scratch,
            )
        for tile in range(1, histogram.shape[1]):
            histogram[part, tile] += histogram[part, tile - 1]
    return wrong


@kernel()
def tile_starts(histogram, starts):
    """Turn counts into places: where each part begins in each tile's list, where the lists begin in all.

    starts [tiles + 1] gets the latter. Returns how many entries there are.
    """
    running = 0
    for tile in range(starts.shape[0] - 1):
        starts[tile] = running
        for part in range(histogram.shape[0]):
            histogram[part, tile], running = running, running + histogram[part, tile]
    starts[starts.shape[0] - 1] = running
    return running


@kernel()
def fill_tiles(
    counter, part_starts, order, counts, first_slot, spans, histogram, entry_gaussians, entry_slots
):
    """Write each tile's list: Gaussian and slot of every entry, nearest first; several threads, one counter.

    A slot's complement (~slot) stands for the first tile of its span: there the slot is begun, not added to.
    """
    while True:
        part = claim(counter)
        if part >= part_starts.shape[0] - 1:
            break
        for rank in range(part_starts[part], part_starts[part + 1]):
            i = order[rank]
            for slot in range(first_slot[i], first_slot[i] + counts[i]):
                mark = ~slot
                for tile in range(spans[2 * slot], spans[2 * slot] + spans[2 * slot + 1]):
                    entry = histogram[part, tile]
                    histogram[part, tile] = entry + 1
                    entry_gaussians[entry] = i
                    entry_slots[entry] = mark
                    mark = slot
