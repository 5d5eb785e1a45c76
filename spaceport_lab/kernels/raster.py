"""Tiles to pixels, and the gradient of that.

Front-to-back blending of 3D Gaussian Splatting (Kerbl et al. 2023): a pixel sums colour * alpha * T with
T the product of (1 - alpha) of all nearer Gaussians, until T would fall to T_MIN.

A tile is 16 x 16 pixels, 4 x 4 blocks of 4 x 4 pixels, one block to a vector. A tile's planes
(transmittance, one per colour channel, …) lie block after block in a thread's scratch memory. For every
entry of a tile the blocks its ellipse touches are a 16-bit word, worked out for 16 entries at a time, and
only those blocks are evaluated.

Forward marks a finished pixel by a negative T. Backward walks front to back again, so T needs no division:
with rest = dot(gradient, final colour) minus what the Gaussians up to this one have contributed, the gradient
of alpha is T dot(gradient, colour) - rest / (1 - alpha). Sums over a tile's pixels go to a slot that belongs
to one Gaussian and one segment, so no two threads ever add to the same number and the result does not depend
on their order.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import (
    ALPHA,
    ALPHA_MAX,
    ALPHA_MIN,
    BETA,
    BLOCK,
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
from spaceport_lab.kernels.vector import (
    absolute,
    any_lane,
    ceiling,
    floor,
    fma,
    fnma,
    lowest_bit,
    maximum,
    minimum,
    minus_absolute,
    select,
    shift_left,
    splat,
    square_root,
    to_ints,
)
from spaceport_lab.kernels.vector_math import (
    add_to_each,
    dot_each,
    exp2,
    fma_each,
    load_each,
    reciprocal,
    splat_each,
    sums_of,
    zeros,
)
from spaceport_lab.kernels.vector_memory import claim, gather, load, prefetch, store

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
LAST_PIXEL = np.float32(TILE - 1)
PLANES = 2  # of the forward's scratch that come before the colours: pixel x, pixel y within the tile


@kernel(inline=True)
def aligned_scratch(count):
    """Uninitialised float32 that begin at a whole cache line."""
    raw = np.empty(count + LANES, np.float32)
    skip = ((64 - (raw.ctypes.data & 63)) & 63) >> 2
    return raw[skip : skip + count]


@kernel(inline=True)
def place_in_tile(x, y):
    """Where pixel (x, y) of a tile stands in a plane."""
    return ((y >> 2) * 4 + (x >> 2)) * LANES + (y & 3) * 4 + (x & 3)


@kernel(inline=True)
def pixel_planes(scratch):
    """Fill the first two planes with the pixels' centres, counted from the tile's corner."""
    for y in range(TILE):
        for x in range(TILE):
            place = place_in_tile(x, y)
            scratch[place] = np.float32(x) + HALF
            scratch[PLANE + place] = np.float32(y) + HALF


@kernel(inline=True)
def block_words(records, stride, entry_gaussians, entry, left, top, words):
    """For 16 entries at once: which of the tile's 4 x 4 blocks the ellipse touches, bit 4 * row + column.

    The ellipse's extent left and right is exact within each row of blocks.
    """
    u = gather(records, entry_gaussians, entry, stride, U) - left
    v = gather(records, entry_gaussians, entry, stride, V) - top
    shear = gather(records, entry_gaussians, entry, stride, SHEAR)
    half_width = gather(records, entry_gaussians, entry, stride, HALF_WIDTH)
    reach = gather(records, entry_gaussians, entry, stride, REACH_Y)
    right_y = gather(records, entry_gaussians, entry, stride, RIGHT_Y)
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
    store(words, 0, word)


@kernel(inline=True)
def blocks_alive(scratch, plane):
    """Word of the blocks in which some pixel is not finished."""
    alive = 0
    for block in range(LANES):
        if any_lane(load(scratch, plane + block * LANES) > ZERO):
            alive |= 1 << block
    return alive


@kernel()
def forward_tile(left, top, first, last, entry_gaussians, words, records, stride, scratch, chunk, channels):
    """Blend entries first … last - 1 into the planes of `scratch`: x, y, T, then one for each channel.

    T is 1 inside the image and negative outside on entry. words[entry] gets the blocks that were evaluated,
    for the backward pass. Returns one past the last entry looked at: all pixels are finished there.
    """
    t_plane, color_plane = PLANES * PLANE, (PLANES + 1) * PLANE
    alive = blocks_alive(scratch, t_plane)
    entry = first
    while entry < last and alive != 0:
        end = min(last, entry + LANES)
        block_words(records, stride, entry_gaussians, entry, left, top, chunk)
        for k in range(entry, end):
            word = np.int64(chunk[k - entry]) & alive
            words[k] = word
            o = np.int64(entry_gaussians[k]) * stride
            u, v = records[o + U] - left, records[o + V] - top
            alpha, beta, gamma = records[o + ALPHA], records[o + BETA], records[o + GAMMA]
            alpha_v, beta_v, gamma_v = splat(alpha), splat(beta), splat(gamma)
            w_0, y_0 = splat(alpha * u - beta * v), splat(gamma * v)
            power_0 = splat(records[o + LOG_OPACITY])
            color = splat_each(records, o + RECORD, 1, channels)
            while word != 0:
                at = lowest_bit(word) * LANES
                word &= word - 1
                py = load(scratch, PLANE + at)
                w = fnma(alpha_v, load(scratch, at), fma(beta_v, py, w_0))
                y = fnma(gamma_v, py, y_0)
                raw = exp2(fnma(w, w, fnma(y, y, power_0)))
                a = select(raw >= ALPHA_MIN, minimum(raw, ALPHA_MAX), ZERO)
                t = load(scratch, t_plane + at)
                t_next = fnma(t, a, t)
                goes_on = t_next > T_MIN
                store(scratch, t_plane + at, select(goes_on, t_next, minus_absolute(t)))
                weight = select(goes_on, a * t, ZERO)
                add_to_each(scratch, color_plane + at, PLANE, weight, color)
        entry = end
        alive = blocks_alive(scratch, t_plane)
    return entry


@kernel(inline=True)
def begin_forward(scratch, x0, y0, width, height, n_channels):
    """T and colours of an untouched tile; pixels beyond the image are finished from the start."""
    t_plane = PLANES * PLANE
    for y in range(TILE):
        for x in range(TILE):
            place = t_plane + place_in_tile(x, y)
            scratch[place] = ONE if x0 + x < width and y0 + y < height else -ONE
    for k in range(n_channels * PLANE):
        scratch[t_plane + PLANE + k] = ZERO


@kernel(inline=True)
def end_forward(scratch, x0, y0, width, height, background, image, transmittance, n_channels):
    """Write a tile's pixels: colour + T * background, and T."""
    t_plane = PLANES * PLANE
    for y in range(min(TILE, height - y0)):
        pixel = (y0 + y) * width + x0
        for x in range(min(TILE, width - x0)):
            place = t_plane + place_in_tile(x, y)
            t = abs(scratch[place])
            transmittance[pixel + x] = t
            for c in range(n_channels):
                image[(pixel + x) * n_channels + c] = scratch[place + (c + 1) * PLANE] + t * background[c]


@kernel()
def forward(
    counter, starts, entry_gaussians, words, records, stride, width, height, tiles_x, background, image,
    transmittance, ends, channels,
):  # fmt: skip
    """Render all tiles; run by several threads at once on one counter.

    image [H*W*channels], transmittance [H*W], ends [tiles] int64: where each tile's blending stopped in its
    list. `channels` is a tuple whose length is the number of channels.
    """
    n_channels = len(channels)
    scratch = aligned_scratch((PLANES + 1 + n_channels) * PLANE)
    chunk = np.empty(LANES, np.int32)
    pixel_planes(scratch)
    while True:
        tile = claim(counter)
        if tile >= ends.shape[0]:
            break
        x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        begin_forward(scratch, x0, y0, width, height, n_channels)
        ends[tile] = forward_tile(
            np.float32(x0), np.float32(y0), starts[tile], starts[tile + 1], entry_gaussians, words, records,
            stride, scratch, chunk, channels,
        )  # fmt: skip
        end_forward(scratch, x0, y0, width, height, background, image, transmittance, n_channels)


@kernel()
def backward_tile(
    left, top, first, end, last, entry_gaussians, entry_slots, words, records, stride, scratch, slots,
    absolutes, channels,
):  # fmt: skip
    """Write the slots of entries first … last - 1; blending had stopped before entry `end`.

    Planes of `scratch`: x, y, T, rest, then the gradient of each channel.
    """
    t_plane, rest_plane, gradient_plane = (
        PLANES * PLANE,
        (PLANES + 1) * PLANE,
        (PLANES + 2) * PLANE,
    )
    raw_plane = gradient_plane + len(channels) * PLANE
    zero = splat(ZERO)
    for k in range(first, end):
        ahead = min(k + 6, end - 1)
        prefetch(records, np.int64(entry_gaussians[ahead]) * stride)
        slot = np.int64(entry_slots[ahead])
        prefetch(slots, (~slot if slot < 0 else slot) * SLOT_STRIDE)
        word = np.int64(words[k])
        slot = np.int64(entry_slots[k])
        begins = slot < 0
        slot = (~slot if begins else slot) * SLOT_STRIDE
        if word == 0:
            if begins:
                store(slots, slot, zero)
            continue
        o = np.int64(entry_gaussians[k]) * stride
        u, v = records[o + U] - left, records[o + V] - top
        alpha, beta, gamma = records[o + ALPHA], records[o + BETA], records[o + GAMMA]
        alpha_v, beta_v, gamma_v = splat(alpha), splat(beta), splat(gamma)
        w_0, y_0 = splat(alpha * u - beta * v), splat(gamma * v)
        power_0 = splat(records[o + LOG_OPACITY])
        color = splat_each(records, o + RECORD, 1, channels)
        m_0, m_w, m_y, m_ww, m_wy, m_yy = zero, zero, zero, zero, zero, zero
        abs_w, abs_y = zero, zero
        color_sums = zeros(channels)
        todo = word
        while todo != 0:
            at = lowest_bit(todo) * LANES
            todo &= todo - 1
            py = load(scratch, PLANE + at)
            w = fnma(alpha_v, load(scratch, at), fma(beta_v, py, w_0))
            y = fnma(gamma_v, py, y_0)
            store(scratch, raw_plane + at, exp2(fnma(w, w, fnma(y, y, power_0))))
        while word != 0:
            at = lowest_bit(word) * LANES
            word &= word - 1
            py = load(scratch, PLANE + at)
            w = fnma(alpha_v, load(scratch, at), fma(beta_v, py, w_0))
            y = fnma(gamma_v, py, y_0)
            raw = load(scratch, raw_plane + at)
            a = select(raw >= ALPHA_MIN, minimum(raw, ALPHA_MAX), ZERO)
            t = load(scratch, t_plane + at)
            t_next = fnma(t, a, t)
            goes_on = t_next > T_MIN
            store(scratch, t_plane + at, select(goes_on, t_next, minus_absolute(t)))
            weight = select(goes_on, a * t, ZERO)
            gradient = load_each(scratch, gradient_plane + at, PLANE, channels)
            color_sums = fma_each(weight, gradient, color_sums)
            along = dot_each(gradient, color)
            rest = fnma(weight, along, load(scratch, rest_plane + at))
            store(scratch, rest_plane + at, rest)
            g_alpha = fnma(rest, reciprocal(ONE - a), along * t)
            g = select(goes_on & (raw <= ALPHA_MAX), a * g_alpha, ZERO)
            gw, gy = g * w, g * y
            m_0, m_w, m_y = m_0 + g, m_w + gw, m_y + gy
            m_ww, m_wy, m_yy = fma(gw, w, m_ww), fma(gw, y, m_wy), fma(gy, y, m_yy)
            if len(absolutes) > 0:
                abs_w = abs_w + absolute(gw)
                abs_y = abs_y + absolute(fnma(gamma_v, gy, gw * beta_v))
        moments = (m_0, m_w, m_y, m_ww, m_wy, m_yy, abs_w, abs_y)
        sums = sums_of(moments + color_sums)
        if not begins:
            sums = sums + load(slots, slot)
        store(slots, slot, sums)
    for k in range(end, last):
        if entry_slots[k] < 0:
            store(slots, np.int64(~entry_slots[k]) * SLOT_STRIDE, zero)


@kernel(inline=True)
def begin_backward(scratch, x0, y0, width, height, image, transmittance, g_image, g_alpha, n_channels):
    """T = 1, rest = all there is to come, and the gradients of a tile's pixels; zero beyond the image.

    `image` holds T * background already, and T's own gradient is minus that of the accumulated alpha.
    """
    t_plane = PLANES * PLANE
    if x0 + TILE > width or y0 + TILE > height:
        for k in range(PLANE):
            scratch[t_plane + k] = -ONE
        for k in range((n_channels + 1) * PLANE):
            scratch[t_plane + PLANE + k] = ZERO
    for y in range(min(TILE, height - y0)):
        row = (y0 + y) * width + x0
        for x in range(min(TILE, width - x0)):
            place, pixel = t_plane + place_in_tile(x, y), row + x
            scratch[place] = ONE
            rest = -transmittance[pixel] * g_alpha[pixel]
            for c in range(n_channels):
                gradient = g_image[pixel * n_channels + c]
                scratch[place + (c + 2) * PLANE] = gradient
                rest += image[pixel * n_channels + c] * gradient
            scratch[place + PLANE] = rest


@kernel()
def backward(
    counter, starts, ends, entry_gaussians, entry_slots, words, records, stride, width, height, tiles_x,
    image, transmittance, g_image, g_alpha, slots, absolutes, channels,
):  # fmt: skip
    """Write the slots of all tiles; run by several threads at once on one counter.

    The arrays are as in `forward`. A segment's tiles are rendered from left to right by one thread: a span's
    slot is begun by its first tile and added to by the others, always in that order.
    """
    n_channels = len(channels)
    scratch = aligned_scratch((PLANES + 3 + n_channels) * PLANE)
    pixel_planes(scratch)
    segments = (tiles_x + SEGMENT - 1) // SEGMENT
    while True:
        share = claim(counter)
        if share >= segments * (ends.shape[0] // tiles_x):
            break
        row, first = share // segments, (share % segments) * SEGMENT
        for column in range(first, min(tiles_x, first + SEGMENT)):
            tile, x0, y0 = row * tiles_x + column, column * TILE, row * TILE
            begin_backward(scratch, x0, y0, width, height, image, transmittance, g_image, g_alpha, n_channels)
            backward_tile(
                np.float32(x0), np.float32(y0), starts[tile], ends[tile], starts[tile + 1], entry_gaussians,
                entry_slots, words, records, stride, scratch, slots, absolutes, channels,
            )  # fmt: skip
