"""Tiles to pixels, and the gradient of that.

Front-to-back blending of 3D Gaussian Splatting (Kerbl et al. 2023): a pixel sums colour * alpha * T with
T the product of (1 - alpha) of all nearer Gaussians, until T would fall to T_MIN.

For every entry of a tile the blocks its ellipse touches are a 16-bit word, and only those are evaluated.
Forward goes through a chunk of entries block after block, with a block's pixels in registers; backward entry
after entry, with an entry's sums in registers. What of the exponent depends on a pixel's row alone is worked
out once for an entry's sixteen rows; four rows of it, over and over, are what the columns of a block need.

Between chunks a finished pixel is marked by a negative T. Backward walks front to back again, so T needs no
division: with rest = dot(gradient, final colour) minus what the Gaussians up to this one have contributed,
the gradient of alpha is T dot(gradient, colour) - rest / (1 - alpha). Sums over a tile's
pixels go to a slot that belongs to one Gaussian and one segment, so no two threads ever add to the same
number and the result does not depend on their order.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import (
    ALPHA,
    ALPHA_MAX,
    BETA,
    BLOCK,
    GAMMA,
    HALF_WIDTH,
    LANES,
    PLANE,
    REACH_Y,
    RECORD,
    RIGHT_Y,
    SEGMENT,
    SHEAR,
    SLOT_STRIDE,
    T_MIN,
    TILE,
    U,
    V,
)
from spaceport_lab.kernels.tiles import (
    ALL_ROWS,
    CHUNK,
    PLANES,
    POWER_MIN,
    ROW_POWER,
    ROW_W,
    ROW_Y,
    ROWS,
    aligned_scratch,
    block_inside,
    block_words,
    blocks_alive,
    choose_entries,
    faded,
    pixel_planes,
    row_terms,
)
from spaceport_lab.kernels.vector import (
    absolute,
    any_lane,
    fma,
    fnma,
    keep,
    lane_indices,
    lowest_bit,
    minimum,
    minus_absolute,
    select,
    splat,
    splat_narrow,
)
from spaceport_lab.kernels.vector_choice import lanes_with_bits
from spaceport_lab.kernels.vector_math import exp2_constants, reciprocal
from spaceport_lab.kernels.vector_memory import (
    claim,
    gather,
    load,
    load_narrow_repeated,
    load_repeated,
    prefetch,
    store,
    store_first,
)
from spaceport_lab.kernels.vector_rows import gather_records, load_block, store_block
from spaceport_lab.kernels.vector_tuples import (
    dot_each,
    fma_each,
    fold,
    fold_fma,
    fold_fma_each,
    load_each,
    part_of,
    splat_each,
    store_each,
    sums_of,
    zeros,
    zeros_narrow,
)

ZERO, ONE = np.float32(0), np.float32(1)
ALL_BLOCKS = (1 << LANES) - 1
F_COLOR = CHUNK  # the colours of a chunk's entries; the field before them is -ALPHA
ONE_CHANNEL = (0,)


@kernel(inline=True)
def begin_chunk(
    left, top, count, gaussians, records, stride, words, first_word, terms, fields, masks, channels
):  # fmt: skip
    """What the chosen entries of a tile have in common for all blocks.

    words[first_word …] gets the blocks that each ellipse touches; masks[block] the entries that touch a
    block, bit by bit; `terms` ROWS numbers of each entry, `fields` what else is needed of the records, CHUNK
    of each kind.
    """
    for block in range(LANES):
        masks[block] = 0
    for start in range(0, count, LANES):
        for k in range(start + LANES, min(start + 2 * LANES, count)):
            prefetch(records, np.int64(gaussians[k]) * stride)
        f = gather_records(records, gaussians, start, stride)
        store(fields, start, -f[ALPHA])
        if len(channels) <= LANES - RECORD:
            store_each(fields, F_COLOR + start, CHUNK, part_of(f, RECORD, channels))
        else:
            for c in range(len(channels)):
                value = gather(records, gaussians, start, stride, RECORD + c)
                store(fields, F_COLOR + c * CHUNK + start, value)
        word = block_words(f[U] - left, f[V] - top, f[SHEAR], f[HALF_WIDTH], f[REACH_Y], f[RIGHT_Y])
        word = select(lane_indices() < count - start, word, 0)
        if words.shape[0] > 0:
            store_first(words, first_word + start, word, count - start)
        touching = lanes_with_bits(word)
        for block in range(LANES):
            masks[block] |= touching[block] << start
    for k in range(count):
        row_terms(records, np.int64(gaussians[k]) * stride, left, top, terms, k * ROWS)


@kernel(inline=True)
def blend_block(block, mask, scratch, terms, fields, alphas, channels):
    """Blend the entries of `mask` into the pixels of one block.

    First all alphas, which do not wait for each other, then the blending, in which every T waits for the one
    before: with both in one loop a processor, which looks ahead no further than an entry or two, would take
    as long as an entry's whole way through the exponent. Returns whether a pixel goes on, and the last entry
    blended.
    """
    t_plane, color_plane = PLANES * PLANE, (PLANES + 1) * PLANE
    at, row = block * LANES, (block >> 2) * BLOCK
    constants, power_min, alpha_max = exp2_constants(), keep(POWER_MIN), keep(ALPHA_MAX)
    px, todo, place = load(scratch, at), mask, 0
    while todo != 0:
        k = lowest_bit(todo)
        todo &= todo - 1
        w_row = load_repeated(terms, k * ROWS + ROW_W + row)
        power_row = load_repeated(terms, k * ROWS + ROW_POWER + row)
        raw = faded(splat(fields[k]), px, w_row, power_row, constants, power_min)
        store(alphas, place, minimum(raw, alpha_max))
        place += LANES
    t, t_min = load(scratch, t_plane + at), keep(T_MIN)
    weights = ONE - absolute(t)
    colors = load_each(scratch, color_plane + at, PLANE, channels)
    goes_on, k, place = any_lane(t > t_min), 0, 0
    while mask != 0 and goes_on:
        k = lowest_bit(mask)
        mask &= mask - 1
        before = t
        t = fnma(t, load(alphas, place), t)
        place += LANES
        weight = select(t > t_min, before - t, ZERO)
        weights = weights + weight
        colors = fma_each(weight, splat_each(fields, F_COLOR + k, CHUNK, channels), colors)
        goes_on = any_lane(t > t_min)
    store(scratch, t_plane + at, select(t > t_min, t, minus_absolute(ONE - weights)))
    store_each(scratch, color_plane + at, PLANE, colors)
    return goes_on, k


@kernel(inline=True)
def forward_tile(
    left, top, tile, first, last, entries, words, first_word, records, stride, scratch,
    terms, fields, alphas, gaussians, chosen, masks, channels,
):  # fmt: skip
    """Blend the entries first … last - 1 that reach a tile into the planes of `scratch`: x, y, T, channels.

    A chunk of entries at a time, block after block, so that a block's pixels stay in registers. T is 1 inside
    the image and negative outside on entry. words, from first_word on, gets the blocks in which each chosen
    entry was evaluated, for the backward pass, unless it is empty. Returns one past the last entry looked at,
    where all pixels are finished, and one past the last word.
    """
    alive = blocks_alive(scratch, PLANES * PLANE)
    entry = first
    while entry < last and alive != 0:
        count, entry = choose_entries(entries, entry, last, tile, gaussians, chosen)
        begin_chunk(
            left, top, count, gaussians, records, stride, words, first_word, terms, fields, masks, channels
        )
        if alive != ALL_BLOCKS and words.shape[0] > 0:
            for k in range(first_word, first_word + count):
                words[k] &= alive
        for block in range(LANES):
            if (alive >> block) & 1 == 0 or masks[block] == 0:
                continue
            goes_on, reached = blend_block(block, masks[block], scratch, terms, fields, alphas, channels)
            if not goes_on:
                alive &= ~(1 << block)
                if words.shape[0] > 0:
                    for k in range(first_word + reached + 1, first_word + count):
                        words[k] &= ~(1 << block)
        first_word += count
    return entry, first_word


@kernel(inline=True)
def begin_forward(scratch, x0, y0, width, height, channels):
    """T and colours of an untouched tile; pixels beyond the image are finished from the start."""
    t_plane = PLANES * PLANE
    for block in range(LANES):
        _, _, _, inside = block_inside(scratch, block, x0, y0, width, height)
        store(scratch, t_plane + block * LANES, select(inside, splat(ONE), splat(-ONE)))
        store_each(scratch, t_plane + PLANE + block * LANES, PLANE, zeros(channels))


@kernel(inline=True)
def end_forward(scratch, x0, y0, width, height, background, image, transmittance, channels):
    """Write a tile's pixels: colour + T * background, and T."""
    t_plane, n_channels = PLANES * PLANE, len(channels)
    behind = splat_each(background, 0, 1, channels)
    for block in range(LANES):
        pixel, rows, columns, _ = block_inside(scratch, block, x0, y0, width, height)
        at = t_plane + block * LANES
        t = absolute(load(scratch, at))
        colors = fma_each(t, behind, load_each(scratch, at + PLANE, PLANE, channels))
        store_block(transmittance, pixel, width, rows, columns, (t,))
        store_block(image, pixel * n_channels, width * n_channels, rows, columns * n_channels, colors)


@kernel()
def forward(
    counter, starts, word_starts, entries, words, records, stride, width, height, tiles_x,
    background, image, transmittance, ends, channels,
):  # fmt: skip
    """Render all tiles; run by several threads at once on one counter.

    image [H*W*channels], transmittance [H*W], ends [tiles] int64: where each tile's blending stopped in its
    segment's list. `channels` is a tuple whose length is the number of channels.
    """
    n_channels = len(channels)
    scratch = aligned_scratch((PLANES + 1 + n_channels) * PLANE)
    # The last entry's y, which nobody needs here, goes past its terms.
    terms, fields = aligned_scratch(CHUNK * ROWS + TILE), aligned_scratch((1 + n_channels) * CHUNK)
    alphas = aligned_scratch(CHUNK * LANES)
    gaussians, chosen = np.zeros(CHUNK, np.int32), np.zeros(CHUNK, np.int32)
    masks = np.empty(LANES, np.int64)
    pixel_planes(scratch)
    segments = (tiles_x + SEGMENT - 1) // SEGMENT
    while True:
        share = claim(counter)
        if share >= starts.shape[0] - 1:
            break
        row, first = share // segments, (share % segments) * SEGMENT
        first_word = word_starts[share]
        for column in range(first, min(tiles_x, first + SEGMENT)):
            x0, y0 = column * TILE, row * TILE
            begin_forward(scratch, x0, y0, width, height, channels)
            end, first_word = forward_tile(
                np.float32(x0), np.float32(y0), column - first, starts[share], starts[share + 1],
                entries, words, first_word, records, stride, scratch, terms, fields, alphas, gaussians,
                chosen, masks, channels,
            )  # fmt: skip
            ends[row * tiles_x + column] = end
            end_forward(scratch, x0, y0, width, height, background, image, transmittance, channels)


@kernel(inline=True)
def entry_gradient(word, o, records, scratch, terms, at_terms, absolutes, channels):
    """Sums over a tile's pixels for one entry, as the fields of a slot; T and rest move past it."""
    t_plane, rest_plane, gradient_plane = PLANES * PLANE, (PLANES + 1) * PLANE, (PLANES + 2) * PLANE
    alpha_plane = gradient_plane + len(channels) * PLANE
    alpha, beta, gamma = records[o + ALPHA], records[o + BETA], records[o + GAMMA]
    todo, minus_alpha, constants, power_min = word, splat(-alpha), exp2_constants(), keep(POWER_MIN)
    while todo != 0:
        block = lowest_bit(todo)
        todo &= todo - 1
        at, row = block * LANES, (block >> 2) * BLOCK
        w_row = load_repeated(terms, at_terms + ROW_W + row)
        power_row = load_repeated(terms, at_terms + ROW_POWER + row)
        raw = faded(minus_alpha, load(scratch, at), w_row, power_row, constants, power_min)
        store(scratch, alpha_plane + at, raw)
    zero = splat_narrow(ZERO)
    m_0, m_w, m_y, m_ww, m_wy, m_yy = zero, zero, zero, zero, zero, zero
    abs_w, abs_y = zero, zero
    color = splat_each(records, o + RECORD, 1, channels)
    color_sums = zeros_narrow(channels)
    for row in range(0, TILE, BLOCK):
        todo = (word >> row) & ((1 << BLOCK) - 1)
        if todo == 0:
            continue
        w_row = load_repeated(terms, at_terms + ROW_W + row)
        y_row = load_repeated(terms, at_terms + ROW_Y + row)
        row_0, row_w = zero, zero
        while todo != 0:
            at = (row + lowest_bit(todo)) * LANES
            todo &= todo - 1
            raw = load(scratch, alpha_plane + at)
            a = minimum(raw, ALPHA_MAX)
            t = load(scratch, t_plane + at)
            t_next = fnma(t, a, t)
            store(scratch, t_plane + at, t_next)
            shown = t_next > T_MIN
            weight = select(shown, t * a, ZERO)
            gradient = load_each(scratch, gradient_plane + at, PLANE, channels)
            color_sums = fold_fma_each(weight, gradient, color_sums)
            seen = weight * dot_each(gradient, color)
            rest = load(scratch, rest_plane + at) - seen
            store(scratch, rest_plane + at, rest)
            g = fnma(rest, a * reciprocal(ONE - a), seen)
            g = select(shown & (raw <= ALPHA_MAX), g, ZERO)
            w = fma(minus_alpha, load(scratch, at), w_row)
            gw = g * w
            row_0, row_w = row_0 + fold(g), row_w + fold(gw)
            m_ww = fold_fma(gw, w, m_ww)
            if len(absolutes) > 0:
                abs_w = abs_w + fold(absolute(gw))
                abs_y = abs_y + fold(absolute(fnma(gamma * y_row, g, gw * beta)))
        y = load_narrow_repeated(terms, at_terms + ROW_Y + row)
        row_y = row_0 * y
        m_0, m_w, m_y = m_0 + row_0, m_w + row_w, m_y + row_y
        m_wy, m_yy = fma(row_w, y, m_wy), fma(row_y, y, m_yy)
    moments = (m_0, m_w, m_y, m_ww, m_wy, m_yy, abs_w, abs_y)
    return sums_of(moments + color_sums)


@kernel()
def backward_tile(
    left, top, tile, first, end, last, entries, entry_slots, words, first_word, records, stride, scratch,
    terms, gaussians, chosen, slots, begun, absolutes, channels,
):  # fmt: skip
    """Add a tile's part to the slots of entries first … end - 1, where forward had stopped.

    Planes of `scratch`: x, y, T, rest, the gradient of each channel, alpha before it is clamped. Entries are
    chosen as in `forward_tile`, whose words begin at first_word. Returns one past the last word.
    """
    entry = first
    while entry < end:
        count, entry = choose_entries(entries, entry, last, tile, gaussians, chosen)
        for k in range(count):
            prefetch(records, np.int64(gaussians[min(k + 6, count - 1)]) * stride)
            if words[first_word + k] != 0:
                row_terms(records, np.int64(gaussians[k]) * stride, left, top, terms, k * ALL_ROWS)
        for k in range(count):
            ahead = min(k + 6, count - 1)
            prefetch(slots, np.int64(entry_slots[chosen[ahead]]) * SLOT_STRIDE)
            word = np.int64(words[first_word + k])
            if word == 0:
                continue
            o = np.int64(gaussians[k]) * stride
            sums = entry_gradient(word, o, records, scratch, terms, k * ALL_ROWS, absolutes, channels)
            slot = np.int64(entry_slots[chosen[k]])
            if begun[chosen[k]]:
                sums = sums + load(slots, slot * SLOT_STRIDE)
            begun[chosen[k]] = 1
            store(slots, slot * SLOT_STRIDE, sums)
        first_word += count
    return first_word


@kernel(inline=True)
def begin_backward(scratch, x0, y0, width, height, image, transmittance, g_image, g_alpha, channels):
    """T = 1, rest = all there is to come, and the gradients of a tile's pixels; zero beyond the image.

    `image` holds T * background already, and T's own gradient is minus that of the accumulated alpha, which
    is zero where `g_alpha` is empty.
    """
    t_plane, n_channels = PLANES * PLANE, len(channels)
    for block in range(LANES):
        pixel, rows, columns, inside = block_inside(scratch, block, x0, y0, width, height)
        at, first, row = t_plane + block * LANES, pixel * n_channels, width * n_channels
        seen = load_block(image, first, row, rows, columns * n_channels, channels)
        gradient = load_block(g_image, first, row, rows, columns * n_channels, channels)
        (t,) = load_block(transmittance, pixel, width, rows, columns, ONE_CHANNEL)
        rest = dot_each(seen, gradient)
        if len(g_alpha) > 0:
            (g,) = load_block(g_alpha, pixel, width, rows, columns, ONE_CHANNEL)
            rest = fnma(t, g, rest)
        store(scratch, at, select(inside, splat(ONE), splat(-ONE)))
        store(scratch, at + PLANE, rest)
        store_each(scratch, at + 2 * PLANE, PLANE, gradient)


@kernel()
def backward(
    counter, starts, word_starts, ends, entries, entry_slots, words, records, stride, width, height,
    tiles_x, image, transmittance, g_image, g_alpha, slots, begun, absolutes, channels,
):  # fmt: skip
    """Write the slots of all tiles; run by several threads at once on one counter.

    The arrays are as in `forward`. A segment's tiles are rendered from left to right by one thread: a span's
    slot is begun by the first tile in which it counts and added to by the others, always in that order.
    begun [entries] uint8, zero at first, keeps track; the slots that no tile began are zero.
    """
    n_channels = len(channels)
    scratch, terms = aligned_scratch((PLANES + 3 + n_channels) * PLANE), aligned_scratch(CHUNK * ALL_ROWS)
    gaussians, chosen = np.zeros(CHUNK, np.int32), np.zeros(CHUNK, np.int32)
    pixel_planes(scratch)
    segments = (tiles_x + SEGMENT - 1) // SEGMENT
    while True:
        share = claim(counter)
        if share >= starts.shape[0] - 1:
            break
        row, first = share // segments, (share % segments) * SEGMENT
        first_word = word_starts[share]
        for column in range(first, min(tiles_x, first + SEGMENT)):
            x0, y0 = column * TILE, row * TILE
            begin_backward(scratch, x0, y0, width, height, image, transmittance, g_image, g_alpha, channels)
            first_word = backward_tile(
                np.float32(x0), np.float32(y0), column - first, starts[share], ends[row * tiles_x + column],
                starts[share + 1], entries, entry_slots, words, first_word, records, stride, scratch, terms,
                gaussians, chosen, slots, begun, absolutes, channels,
            )  # fmt: skip
        for entry in range(starts[share], starts[share + 1]):
            if not begun[entry]:
                store(slots, np.int64(entry_slots[entry]) * SLOT_STRIDE, splat(ZERO))
