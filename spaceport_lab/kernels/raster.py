"""Tiles to pixels, and the gradient of that.

Front-to-back blending of 3D Gaussian Splatting (Kerbl et al. 2023): a pixel sums colour * alpha * T with
T the product of (1 - alpha) of all nearer Gaussians, until T would fall to T_MIN.

For every entry of a tile the blocks its ellipse touches are a 16-bit word, and only those are evaluated.
Forward goes through a chunk of entries block after block, with a block's pixels in registers; backward entry
after entry, with an entry's sums in registers.

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
    ALPHA_MIN,
    BETA,
    GAMMA,
    HALF_WIDTH,
    LANES,
    LOG_OPACITY,
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
    CHUNK,
    PLANES,
    aligned_scratch,
    block_inside,
    block_words,
    blocks_alive,
    choose_entries,
    pixel_planes,
)
from spaceport_lab.kernels.vector import (
    WIDTH,
    absolute,
    any_lane,
    fma,
    fnma,
    lane_indices,
    lowest_bit,
    minimum,
    minus_absolute,
    select,
    splat,
    splat_narrow,
)
from spaceport_lab.kernels.vector_choice import lanes_with_bits
from spaceport_lab.kernels.vector_math import (
    dot_each,
    exp2,
    exp2_each,
    fma_each,
    fnma_each,
    load_each,
    load_narrow_each,
    part_of,
    reciprocal,
    splat_each,
    splat_narrow_at,
    splat_narrow_each,
    store_each,
    sums_of,
    zeros,
    zeros_narrow,
)
from spaceport_lab.kernels.vector_memory import (
    claim,
    gather,
    load,
    load_narrow,
    prefetch,
    store,
    store_first,
)
from spaceport_lab.kernels.vector_rows import gather_records, load_block, store_block

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
ALL_BLOCKS = (1 << LANES) - 1
PITCH = CHUNK + LANES  # from one kind of number of a chunk to the next; entry CHUNK stands for none
F_Y, F_ALPHA, F_BETA, F_GAMMA, F_POWER, F_COLOR = (PITCH * k for k in range(1, 7))
NOTHING = np.float32(-1000)  # power of two that is zero
ONE_CHANNEL = (0,)


@kernel(inline=True)
def begin_chunk(left, top, count, gaussians, records, stride, words, first_word, fields, masks, channels):
    """What the chosen entries of a tile have in common for all blocks.

    words[first_word …] gets the blocks that each ellipse touches; masks[block] the entries that touch a
    block, bit by bit; `fields` what is needed of the records, PITCH of each kind, W and Y at the tile's
    corner.
    """
    for block in range(LANES):
        masks[block] = 0
    for start in range(0, count, LANES):
        for k in range(start + LANES, min(start + 2 * LANES, count)):
            prefetch(records, np.int64(gaussians[k]) * stride)
        f = gather_records(records, gaussians, start, stride)
        u, v = f[U] - left, f[V] - top
        store(fields, start, fnma(f[BETA], v, f[ALPHA] * u))
        store(fields, F_Y + start, f[GAMMA] * v)
        store(fields, F_ALPHA + start, f[ALPHA])
        store(fields, F_BETA + start, f[BETA])
        store(fields, F_GAMMA + start, f[GAMMA])
        store(fields, F_POWER + start, f[LOG_OPACITY])
        if len(channels) <= LANES - RECORD:
            store_each(fields, F_COLOR + start, PITCH, part_of(f, RECORD, channels))
        else:
            for c in range(len(channels)):
                value = gather(records, gaussians, start, stride, RECORD + c)
                store(fields, F_COLOR + c * PITCH + start, value)
        word = block_words(u, v, f[SHEAR], f[HALF_WIDTH], f[REACH_Y], f[RIGHT_Y])
        word = select(lane_indices() < count - start, word, 0)
        if words.shape[0] > 0:
            store_first(words, first_word + start, word, count - start)
        touching = lanes_with_bits(word)
        for block in range(LANES):
            masks[block] |= touching[block] << start
    # the entry that stands for none
    fields[F_POWER + CHUNK] = NOTHING


@kernel(inline=True)
def blend_part(at, mask, scratch, fields, channels):
    """Blend the entries of `mask`, four at a time, into the pixels of one narrow vector, `at` in each plane.

    Returns whether a pixel goes on, and the last entry blended.
    """
    t_plane, color_plane = PLANES * PLANE, (PLANES + 1) * PLANE
    px, py, t = load_narrow(scratch, at), load_narrow(scratch, PLANE + at), load_narrow(scratch, t_plane + at)
    seen = t
    colors = load_narrow_each(scratch, color_plane + at, PLANE, channels)
    goes_on, reached = any_lane(t > T_MIN), 0
    while mask != 0 and goes_on:
        k_0 = lowest_bit(mask)
        mask &= mask - 1
        k_1 = lowest_bit(mask)
        mask &= mask - 1
        k_2 = lowest_bit(mask)
        mask &= mask - 1
        k_3 = lowest_bit(mask)
        mask &= mask - 1
        ks = (k_0, k_1, k_2, k_3)
        w = fma_each(splat_narrow_at(fields, F_BETA, ks), py, splat_narrow_at(fields, 0, ks))
        w = fnma_each(splat_narrow_at(fields, F_ALPHA, ks), px, w)
        y = fnma_each(splat_narrow_at(fields, F_GAMMA, ks), py, splat_narrow_at(fields, F_Y, ks))
        power = fnma_each(y, y, splat_narrow_at(fields, F_POWER, ks))
        raws = exp2_each(fnma_each(w, w, power))
        for i in range(4):
            raw, k = raws[i], ks[i]
            a = select(raw >= ALPHA_MIN, minimum(raw, ALPHA_MAX), ZERO)
            before = t
            t = fnma(t, a, t)
            shown = t > T_MIN
            seen = select(shown, t, seen)
            color = splat_narrow_each(fields, F_COLOR + k, PITCH, channels)
            colors = fma_each(select(shown, before - t, ZERO), color, colors)
        goes_on = any_lane(t > T_MIN)
        reached = k_3
    store(scratch, t_plane + at, select(t > T_MIN, t, minus_absolute(seen)))
    store_each(scratch, color_plane + at, PLANE, colors)
    return goes_on, reached


@kernel(inline=True)
def blend_block(block, mask, count, words, first_word, scratch, fields, channels):
    """Blend the entries of `mask` into one block. Returns whether a pixel goes on."""
    goes_on, reached = False, 0
    for part in range(LANES // WIDTH):
        more, last = blend_part(block * LANES + part * WIDTH, mask, scratch, fields, channels)
        goes_on, reached = goes_on or more, max(reached, last)
    # Outside of the loop: with this inside, code that comes from the cache takes half as long again.
    if not goes_on and words.shape[0] > 0:
        for k in range(first_word + reached + 1, first_word + count):
            words[k] &= ~(1 << block)
    return goes_on


@kernel(inline=True)
def forward_tile(
    left, top, tile, first, last, entries, words, first_word, records, stride, scratch,
    fields, gaussians, chosen, masks, channels,
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
        begin_chunk(left, top, count, gaussians, records, stride, words, first_word, fields, masks, channels)
        if alive != ALL_BLOCKS and words.shape[0] > 0:
            for k in range(first_word, first_word + count):
                words[k] &= alive
        for block in range(LANES):
            if (alive >> block) & 1 == 0 or masks[block] == 0:
                continue
            if not blend_block(block, masks[block], count, words, first_word, scratch, fields, channels):
                alive &= ~(1 << block)
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
    fields = aligned_scratch(F_COLOR + n_channels * PITCH)
    fields[:] = ZERO
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
                entries, words, first_word, records, stride, scratch, fields, gaussians, chosen, masks,
                channels,
            )  # fmt: skip
            ends[row * tiles_x + column] = end
            end_forward(scratch, x0, y0, width, height, background, image, transmittance, channels)


@kernel(inline=True)
def entry_gradient(word, o, left, top, records, scratch, absolutes, channels):
    """Sums over a tile's pixels for one entry, as the fields of a slot; T and rest move past it."""
    t_plane, rest_plane, gradient_plane = PLANES * PLANE, (PLANES + 1) * PLANE, (PLANES + 2) * PLANE
    raw_plane = gradient_plane + len(channels) * PLANE
    zero = splat_narrow(ZERO)
    u, v = splat_narrow(records[o + U] - left), splat_narrow(records[o + V] - top)
    alpha, beta = splat_narrow(records[o + ALPHA]), splat_narrow(records[o + BETA])
    gamma = splat_narrow(records[o + GAMMA])
    w_0, y_0 = fnma(beta, v, alpha * u), gamma * v
    power_0 = splat_narrow(records[o + LOG_OPACITY])
    color = splat_narrow_each(records, o + RECORD, 1, channels)
    m_0, m_w, m_y, m_ww, m_wy, m_yy = zero, zero, zero, zero, zero, zero
    abs_w, abs_y = zero, zero
    color_sums = zeros_narrow(channels)
    todo = word
    while todo != 0:
        block = lowest_bit(todo) * LANES
        todo &= todo - 1
        for part in range(LANES // WIDTH):
            at = block + part * WIDTH
            py = load_narrow(scratch, PLANE + at)
            w = fnma(alpha, load_narrow(scratch, at), fma(beta, py, w_0))
            y = fnma(gamma, py, y_0)
            store(scratch, raw_plane + at, exp2(fnma(w, w, fnma(y, y, power_0))))
    while word != 0:
        block = lowest_bit(word) * LANES
        word &= word - 1
        for part in range(LANES // WIDTH):
            at = block + part * WIDTH
            py = load_narrow(scratch, PLANE + at)
            w = fnma(alpha, load_narrow(scratch, at), fma(beta, py, w_0))
            y = fnma(gamma, py, y_0)
            raw = load_narrow(scratch, raw_plane + at)
            a = select(raw >= ALPHA_MIN, minimum(raw, ALPHA_MAX), ZERO)
            t = load_narrow(scratch, t_plane + at)
            t_next = fnma(t, a, t)
            store(scratch, t_plane + at, t_next)
            shown = t_next > T_MIN
            weight = select(shown, a * t, ZERO)
            gradient = load_narrow_each(scratch, gradient_plane + at, PLANE, channels)
            color_sums = fma_each(weight, gradient, color_sums)
            along = dot_each(gradient, color)
            rest = fnma(weight, along, load_narrow(scratch, rest_plane + at))
            store(scratch, rest_plane + at, rest)
            g_alpha = fnma(rest, reciprocal(ONE - a), along * t)
            g = select(shown & (raw <= ALPHA_MAX), a * g_alpha, ZERO)
            gw, gy = g * w, g * y
            m_0, m_w, m_y = m_0 + g, m_w + gw, m_y + gy
            m_ww, m_wy, m_yy = fma(gw, w, m_ww), fma(gw, y, m_wy), fma(gy, y, m_yy)
            if len(absolutes) > 0:
                abs_w = abs_w + absolute(gw)
                abs_y = abs_y + absolute(fnma(gamma, gy, gw * beta))
    moments = (m_0, m_w, m_y, m_ww, m_wy, m_yy, abs_w, abs_y)
    return sums_of(moments + color_sums)


@kernel()
def backward_tile(
    left, top, tile, first, end, last, entries, entry_slots, words, first_word, records, stride, scratch,
    gaussians, chosen, slots, begun, absolutes, channels,
):  # fmt: skip
    """Add a tile's part to the slots of entries first … end - 1, where forward had stopped.

    Planes of `scratch`: x, y, T, rest, the gradient of each channel, alpha before it is clamped. Entries are
    chosen as in `forward_tile`, whose words begin at first_word. Returns one past the last word.
    """
    entry = first
    while entry < end:
        count, entry = choose_entries(entries, entry, last, tile, gaussians, chosen)
        for k in range(count):
            ahead = min(k + 6, count - 1)
            prefetch(records, np.int64(gaussians[ahead]) * stride)
            prefetch(slots, np.int64(entry_slots[chosen[ahead]]) * SLOT_STRIDE)
            word = np.int64(words[first_word + k])
            if word == 0:
                continue
            sums = entry_gradient(
                word, np.int64(gaussians[k]) * stride, left, top, records, scratch, absolutes, channels
            )
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

    `image` holds T * background already, and T's own gradient is minus that of the accumulated alpha.
    """
    t_plane, n_channels = PLANES * PLANE, len(channels)
    for block in range(LANES):
        pixel, rows, columns, inside = block_inside(scratch, block, x0, y0, width, height)
        at, first, row = t_plane + block * LANES, pixel * n_channels, width * n_channels
        seen = load_block(image, first, row, rows, columns * n_channels, channels)
        gradient = load_block(g_image, first, row, rows, columns * n_channels, channels)
        (t,) = load_block(transmittance, pixel, width, rows, columns, ONE_CHANNEL)
        (g,) = load_block(g_alpha, pixel, width, rows, columns, ONE_CHANNEL)
        store(scratch, at, select(inside, splat(ONE), splat(-ONE)))
        store(scratch, at + PLANE, fnma(t, g, dot_each(seen, gradient)))
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
    scratch = aligned_scratch((PLANES + 3 + n_channels) * PLANE)
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
                starts[share + 1], entries, entry_slots, words, first_word, records, stride, scratch,
                gaussians, chosen, slots, begun, absolutes, channels,
            )  # fmt: skip
        for entry in range(starts[share], starts[share + 1]):
            if not begun[entry]:
                store(slots, np.int64(entry_slots[entry]) * SLOT_STRIDE, splat(ZERO))
