"""Which ellipse touches which tiles, nearest first.

In each row of tiles an ellipse touches a run of neighbours. Cut at the borders of segments (SEGMENT tiles,
rendered from left to right by one thread) such a run is a *span*, and each span owns a *slot* for its
gradient. One sort of the visible Gaussians by depth, then a stable counting sort of their spans by segment:
the entries of a segment's list come out nearest first without sorting (segment, depth) pairs. A tile takes
from its segment's list what reaches it, and only until its pixels are finished.

Spans are counted when Gaussians are projected and found again when the lists are filled. Both go through
`touched_tiles`, whose every product stands inside an explicit fma: there is nothing for a compiler to fuse
in one place and not in the other, so both see the same tiles. Filling checks that it finds what was counted,
and never writes beyond it.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import (
    FIRST_BITS,
    HALF_WIDTH,
    LANES,
    REACH_Y,
    RIGHT_Y,
    SEGMENT,
    SEGMENT_SHIFT,
    SHEAR,
    SPAN_BITS,
    SPAN_MASK,
    TILE,
    U,
    V,
)
from spaceport_lab.kernels.vector import (
    any_lane,
    floor,
    fma,
    fnma,
    lane_indices,
    lowest_bit,
    maximum,
    minimum,
    select,
    splat,
    square_root,
    to_ints,
    true_lanes,
)
from spaceport_lab.kernels.vector_memory import claim, prefetch, store
from spaceport_lab.kernels.vector_rows import gather_records

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
TILE_SIZE, PER_TILE = np.float32(TILE), np.float32(1 / TILE)
TILE_SHIFT = TILE.bit_length() - 1
RADIX_BITS = 11
RADIX = 1 << RADIX_BITS
RADIX_MASK = np.uint32(RADIX - 1)
AHEAD = 16  # Gaussians, in the order of depth, between asking for what lies anywhere in memory and its use
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
        keys, counts: as `project_rows` wrote them.
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
        prefetch(keys, other[min(k + AHEAD, visible - 1)])
        digit = (keys[other[k]] >> SHIFT_1) & RADIX_MASK
        order[h1[digit]] = other[k]
        h1[digit] += 1
    for k in range(visible):
        other[k] = order[k]
    for k in range(visible):
        prefetch(keys, other[min(k + AHEAD, visible - 1)])
        digit = keys[other[k]] >> SHIFT_2
        order[h2[digit]] = other[k]
        h2[digit] += 1
    return visible


@kernel(inline=True)
def pack_span(segment, first_tile, last_tile):
    """One number for a span: its segment, then its first and last tile within that."""
    return (segment << SPAN_BITS) | ((last_tile & (SEGMENT - 1)) << FIRST_BITS) | (first_tile & (SEGMENT - 1))


@kernel(inline=True)
def emit_spans(first_tile, last_tile, row_start, slot, end, spans, histogram, lengths):
    """Write one run of tiles as spans from `slot` on, but not beyond `end`. Returns the next slot.

    histogram and lengths count spans and their tiles for each segment; row_start is the row's first segment.
    """
    while first_tile <= last_tile:
        piece_end = min(last_tile, first_tile | (SEGMENT - 1))
        if slot < end:
            segment = row_start + (first_tile >> SEGMENT_SHIFT)
            spans[slot] = pack_span(segment, first_tile, piece_end)
            histogram[segment] += 1
            lengths[segment] += piece_end - first_tile + 1
        slot += 1
        first_tile = piece_end + 1
    return slot


@kernel()
def fill_group(
    ranks, order, records, stride, tiles_x, tiles_y, counts, first_slot, spans, histogram, lengths, scratch
):
    """The spans of at most sixteen Gaussians, order[ranks[0]] … order[ranks[1] - 1].

    Returns:
        how many of them touched another number of spans than was counted.
    """
    first_rank, rows = ranks[0], ranks[1] - ranks[0]
    next_slot, ends = scratch[2 * LANES : 3 * LANES], scratch[3 * LANES : 4 * LANES]
    indices = scratch[4 * LANES : 5 * LANES]
    for lane in range(LANES):
        i = order[first_rank + min(lane, rows - 1)]
        indices[lane] = i
        next_slot[lane], ends[lane] = first_slot[i], first_slot[i] + counts[i]
    f = gather_records(records, indices, 0, stride)
    u, v = f[U], f[V]
    first_y, last_y, row, end_row = touched_rows(v, f[REACH_Y], tiles_y)
    store(scratch, 5 * LANES, to_ints(row))
    segments = (tiles_x + SEGMENT - 1) >> SEGMENT_SHIFT
    real = lane_indices() < rows
    here = real & (row < end_row)
    step = 0
    while any_lane(here):
        first, last, any_tile = touched_tiles(
            u, v, f[SHEAR], f[HALF_WIDTH], f[REACH_Y], f[RIGHT_Y], first_y, last_y, row, tiles_x
        )
        store(scratch, 0, first)
        store(scratch, LANES, last)
        touched = true_lanes(here & any_tile)
        while touched != 0:
            lane = lowest_bit(touched)
            touched &= touched - 1
            row_start = (np.int64(scratch[5 * LANES + lane]) + step) * segments
            next_slot[lane] = emit_spans(
                np.int64(scratch[lane]), np.int64(scratch[LANES + lane]), row_start,
                np.int64(next_slot[lane]), np.int64(ends[lane]), spans, histogram, lengths,
            )  # fmt: skip
        row = row + ONE
        step += 1
        here = real & (row < end_row)
    wrong = 0
    for lane in range(rows):
        if next_slot[lane] != ends[lane]:
            wrong += 1
    return wrong


@kernel()
def fill_spans(
    counter, part_starts, order, records, stride, tiles_x, tiles_y, counts, first_slot, spans, histogram,
    lengths,
):  # fmt: skip
    """Write the span of every slot and count them per segment; run by several threads at once on one counter.

    part_starts [parts + 1] cuts `order` into parts. spans [slots] int32, see `pack_span`. histogram and
    lengths [parts, segments] int64, zero at first, get how many spans each part has in each segment and how
    many tiles those have.

    Returns:
        how many Gaussians touched another number of spans than was counted: always 0, or the lists cannot be
            trusted.
    """
    wrong = 0
    ranks, scratch = np.zeros(2, np.int64), np.zeros(6 * LANES, np.int32)
    while True:
        part = claim(counter)
        if part >= part_starts.shape[0] - 1:
            break
        for rank in range(part_starts[part], part_starts[part + 1], LANES):
            ranks[0], ranks[1] = rank, min(rank + LANES, part_starts[part + 1])
            for k in range(ranks[1], min(rank + 2 * LANES, part_starts[part + 1])):
                i = np.int64(order[k])
                prefetch(records, i * stride)
                prefetch(first_slot, i)
                prefetch(counts, i)
            wrong += fill_group(
                ranks, order, records, stride, tiles_x, tiles_y, counts, first_slot, spans, histogram[part],
                lengths[part], scratch,
            )  # fmt: skip
    return wrong


@kernel()
def segment_starts(histogram, lengths, starts, word_starts):
    """Turn counts into places: where each part begins in each segment's list, where the lists begin in all.

    starts [segments + 1] gets the latter; word_starts [segments + 1] the running sum of the lists' tiles.
    """
    running, words = 0, 0
    for segment in range(starts.shape[0] - 1):
        starts[segment], word_starts[segment] = running, words
        for part in range(histogram.shape[0]):
            histogram[part, segment], running = running, running + histogram[part, segment]
            words += lengths[part, segment]
    starts[starts.shape[0] - 1], word_starts[starts.shape[0] - 1] = running, words


@kernel()
def fill_segments(counter, part_starts, order, first_slot, spans, histogram, entries, entry_slots):
    """Write each segment's list, nearest first; run by several threads at once on one counter.

    entries: a Gaussian and its span without the segment, see `layout`; entry_slots: the slot of every entry,
    unless it is empty.
    """
    while True:
        part = claim(counter)
        if part >= part_starts.shape[0] - 1:
            break
        places, last = histogram[part], part_starts[part + 1] - 1
        for rank in range(part_starts[part], part_starts[part + 1]):
            prefetch(first_slot, order[min(rank + 2 * AHEAD, last)])
            prefetch(spans, first_slot[order[min(rank + AHEAD, last)]])
            i = order[rank]
            for slot in range(first_slot[i], first_slot[i + 1]):
                span = spans[slot]
                entry = places[span >> SPAN_BITS]
                places[span >> SPAN_BITS] = entry + 1
                entries[entry] = (i << SPAN_BITS) | (span & SPAN_MASK)
                if entry_slots.shape[0] > 0:
                    entry_slots[entry] = slot
