"""Spherical harmonics to colours, and the gradient of that.

Real spherical harmonics up to degree 3 in the order and with the signs of 3D Gaussian Splatting (Kerbl et
al. 2023); closed forms after Sloan, "Efficient Spherical Harmonic Evaluation" (JCGT 2013). The direction
goes from the camera's centre to the Gaussian's mean; a colour is max(0, 1/2 + sum of basis * coefficient).

Coefficients lie in two arrays, so that degree 0 and the others may be one tensor or two. Channel c of
Gaussian i has its coefficient 0 at sh0[i * stride_0 + c] and its coefficient k > 0 at
shn[i * stride_n + first_n + 3 * (k - 1) + c].
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import CULLED, LANES, RECORD
from spaceport_lab.kernels.vector import any_lane, maximum, select, splat, square_root
from spaceport_lab.kernels.vector_memory import last_rows, load, load_ints, prefetch, store
from spaceport_lab.kernels.vector_rows import (
    combine,
    load_columns,
    load_records,
    load_records_first,
    products,
    store_columns,
    store_records,
    store_records_first,
)
from spaceport_lab.kernels.vector_tuples import fma_each, sums_of

ZERO, HALF, ONE, TWO, THREE, FIVE = (np.float32(number) for number in (0, 0.5, 1, 2, 3, 5))
TINY = np.float32(1e-30)
AHEAD = 2 * LANES  # Gaussians between asking for their coefficients and using them
THREE_COLUMNS = (0, 0, 0)
TURNS = 9  # numbers that say how a Gaussian's three channels change with its mean's three
HIGHER = 3 * 15  # coefficients of degrees 1 to 3, all channels
LAST = HIGHER - LANES  # where the last sixteen of them begin

C_0 = np.float32(0.28209479177387814)
C_1 = np.float32(0.4886025119029199)
C_2 = tuple(
    np.float32(c) for c in (1.0925484305920792, 0.9461746957575601, 0.3153915652525201, 0.5462742152960396)
)
C_3 = tuple(
    np.float32(c)
    for c in (
        0.5900435899266435,
        2.890611442640554,
        0.4570457994644658,
        0.3731763325901154,
        1.445305721320277,
    )
)


@kernel(inline=True)
def basis(x, y, z):
    """The fifteen basis functions of degrees 1 to 3 at unit vectors (x, y, z)."""
    xx, yy, zz = x * x, y * y, z * z
    edge, ring = xx - yy, FIVE * zz - ONE
    return (
        -C_1 * y, C_1 * z, -C_1 * x,
        C_2[0] * x * y, -C_2[0] * y * z, C_2[1] * zz - C_2[2], -C_2[0] * x * z, C_2[3] * edge,
        -C_3[0] * y * (THREE * xx - yy), C_3[1] * x * y * z, -C_3[2] * y * ring,
        C_3[3] * z * (FIVE * zz - THREE), -C_3[2] * x * ring, C_3[4] * z * edge,
        -C_3[0] * x * (xx - THREE * yy),
    )  # fmt: skip


@kernel(inline=True)
def direction_gradient(x, y, z, g):
    """Gradient of the direction's three components, from g, the gradient of each function of `basis`."""
    xx, yy, zz = x * x, y * y, z * z
    edge, ring = xx - yy, FIVE * zz - ONE
    gx = C_2[0] * (y * g[3] - z * g[6]) + TWO * C_2[3] * x * g[7] - C_1 * g[2]
    gy = C_2[0] * (x * g[3] - z * g[4]) - TWO * C_2[3] * y * g[7] - C_1 * g[0]
    gz = TWO * C_2[1] * z * g[5] - C_2[0] * (y * g[4] + x * g[6]) + C_1 * g[1]
    gx = gx + C_3[1] * y * z * g[9] - C_3[2] * ring * g[12] + TWO * C_3[4] * x * z * g[13]
    gx = gx - C_3[0] * (TWO * THREE * x * y * g[8] + THREE * edge * g[14])
    gy = gy + C_3[1] * x * z * g[9] - C_3[2] * ring * g[10] - TWO * C_3[4] * y * z * g[13]
    gy = gy + C_3[0] * (TWO * THREE * x * y * g[14] - THREE * edge * g[8])
    gz = gz + C_3[1] * x * y * g[9] + C_3[3] * (THREE * FIVE * zz - THREE) * g[11] + C_3[4] * edge * g[13]
    gz = gz - C_3[2] * TWO * FIVE * z * (y * g[10] + x * g[12])
    return gx, gy, gz


@kernel(inline=True)
def view_direction(means, i, center):
    """Unit vectors from the camera's centre to sixteen means, and one over the distance."""
    x, y, z = load_columns(means, 3 * i, THREE_COLUMNS)
    x, y, z = x - center[0], y - center[1], z - center[2]
    inverse = ONE / square_root(maximum(x * x + y * y + z * z, TINY))
    return x * inverse, y * inverse, z * inverse, inverse


@kernel(inline=True)
def prefetch_rows(values, at, count):
    """Ask for `count` floats: rows come from memory faster than the machine's own foresight fetches them."""
    for k in range(at, min(at + count, values.shape[0]), LANES):
        prefetch(values, k)


@kernel(inline=True)
def coefficients(shn, at, stride, n_floats):
    """Coefficients of degrees 1 to 3 of sixteen Gaussians, HIGHER vectors: n_floats of them, zeros after."""
    if n_floats == HIGHER:
        overlapping = load_records(shn, at + LAST, stride)
        return load_records(shn, at, stride) + load_records(shn, at + LANES, stride) + overlapping[3:]
    first = load_records_first(shn, at, stride, min(n_floats, LANES))
    second = load_records_first(shn, at + min(LANES, n_floats), stride, max(0, min(n_floats - LANES, LANES)))
    third = load_records_first(shn, at + min(2 * LANES, n_floats), stride, max(0, n_floats - 2 * LANES))
    return first + second + third[:13]


@kernel(inline=True)
def store_turns(turns, i, channel, x, y, z, inverse, g):
    """How a channel changes as sixteen Gaussians from i on move: across the direction, over the distance."""
    gx, gy, gz = direction_gradient(x, y, z, g)
    along = gx * x + gy * y + gz * z
    at = TURNS * i + 3 * LANES * channel
    store(turns, at, (gx - along * x) * inverse)
    store(turns, at + LANES, (gy - along * y) * inverse)
    store(turns, at + 2 * LANES, (gz - along * z) * inverse)


@kernel()
def shade_group(
    at, i, means, center, sh0, at_0, stride_0, shn, at_n, stride_n, n_floats, records, stride, turns
):  # fmt: skip
    """Colours of sixteen Gaussians, the inputs' from `at`, to records i … i + 15, and how they turn."""
    x, y, z, inverse = view_direction(means, at, center)
    base = load_records_first(sh0, at_0, stride_0, 3)
    colors = fma_each((base[0], base[1], base[2]), splat(C_0), splat(HALF))
    if n_floats > 0:
        rest = coefficients(shn, at_n, stride_n, n_floats)
        colors = combine(basis(x, y, z), rest, colors)
        if len(turns) > 0:
            store_turns(turns, i, 0, x, y, z, inverse, rest[0::3])
            store_turns(turns, i, 1, x, y, z, inverse, rest[1::3])
            store_turns(turns, i, 2, x, y, z, inverse, rest[2::3])
    red, green, blue = colors
    store_records_first(
        records, i * stride + RECORD, stride, (maximum(red, ZERO), maximum(green, ZERO), maximum(blue, ZERO)),
        3, 3,
    )  # fmt: skip


@kernel(inline=True)
def shade_rows(
    start, end, n, keys, means, center, sh0, stride_0, shn, stride_n, first_n, degree, records, stride, turns
):  # fmt: skip
    """Write the colours of those of the Gaussians start … end - 1 of n that are visible to their records.

    turns [TURNS * n, padded as in `project_rows`] takes how each channel changes with the mean, of sixteen
    Gaussians side by side; the backward pass then need not read all coefficients again. Empty for none.
    """
    n_floats = 3 * ((degree + 1) * (degree + 1) - 1)
    for i in range(start, end, LANES):
        if not any_lane(load_ints(keys, i) > -1):
            continue
        if n_floats > 0:
            prefetch_rows(shn, (i + AHEAD) * stride_n, LANES * stride_n)
        if i + LANES <= n:
            shade_group(
                i, i, means, center, sh0, i * stride_0, stride_0, shn, i * stride_n + first_n, stride_n,
                n_floats, records, stride, turns,
            )  # fmt: skip
        else:
            shade_group(
                0, i, last_rows(means, 3, i, n), center, last_rows(sh0, stride_0, i, n), 0, stride_0,
                last_rows(shn, stride_n, i, n), first_n, stride_n, n_floats, records, stride, turns,
            )  # fmt: skip


@kernel(inline=True)
def store_coefficients(g_shn, to, stride, rows, live, count):
    """Write the first `count` of HIGHER vectors as rows of sixteen Gaussians; zero from `live` on."""
    if count > 0:
        store_records_first(g_shn, to, stride, rows[:16], live, count)
    if count > LANES:
        store_records_first(g_shn, to + LANES, stride, rows[16:32], live - LANES, count - LANES)
    if count > 2 * LANES:
        store_records_first(g_shn, to + 2 * LANES, stride, rows[32:], live - 2 * LANES, count - 2 * LANES)


@kernel(inline=True)
def turn(turns, at, red, green, blue, visible):
    """One component of the mean's gradient from those of the colours."""
    g = red * load(turns, at) + green * load(turns, at + 3 * LANES) + blue * load(turns, at + 6 * LANES)
    return select(visible, g, ZERO)


@kernel()
def shade_backward_group(
    at, i, counts, means, center, turns, stride_n, n_floats, all_floats, records, stride, g_colors, g_sh0,
    at_0, stride_0, g_shn, to_n, g_means, camera_sums, row, with_camera,
):  # fmt: skip
    """Sixteen Gaussians of `shade_rows_backward`, the inputs' from `at`, the outputs' from i."""
    visible = load_ints(counts, i) > 0
    shown = load_records_first(records, i * stride + RECORD, stride, 3)
    red, green, blue = load_columns(g_colors, 3 * i, THREE_COLUMNS)
    red = select(visible & (shown[0] > ZERO), red, ZERO)
    green = select(visible & (shown[1] > ZERO), green, ZERO)
    blue = select(visible & (shown[2] > ZERO), blue, ZERO)
    store_records_first(g_sh0, at_0, stride_0, (C_0 * red, C_0 * green, C_0 * blue), 3, 3)
    if all_floats > 0:
        x, y, z, _ = view_direction(means, at, center)
        rows = products(basis(x, y, z), (red, green, blue))
        if n_floats == HIGHER == all_floats:
            # The last sixteen overlap those before: whole stores cost less than masked ones.
            store_records(g_shn, to_n, stride_n, rows[:16])
            store_records(g_shn, to_n + LANES, stride_n, rows[16:32])
            store_records(g_shn, to_n + LAST, stride_n, rows[LAST:])
        else:
            store_coefficients(g_shn, to_n, stride_n, rows, n_floats, all_floats)
    if n_floats > 0:
        place = TURNS * i
        gx = turn(turns, place, red, green, blue, visible)
        gy = turn(turns, place + LANES, red, green, blue, visible)
        gz = turn(turns, place + 2 * LANES, red, green, blue, visible)
        mx, my, mz = load_columns(g_means, 3 * i, THREE_COLUMNS)
        store_columns(g_means, 3 * i, (mx + gx, my + gy, mz + gz))
        if with_camera:
            sums = np.empty(LANES, np.float32)
            store(sums, 0, sums_of((gx, gy, gz)))
            for k in range(3):
                camera_sums[row, k] -= sums[k]


@kernel(inline=True)
def clear_rows(values, at, stride, rows, count):
    """Zero the first `count` floats of some rows."""
    for lane in range(rows):
        for k in range(count):
            values[at + lane * stride + k] = ZERO


@kernel(inline=True)
def shade_rows_backward(
    start, end, n, row, counts, means, center, turns, stride_0, stride_n, first_n, n_coefficients, degree,
    records, stride, g_colors, g_sh0, g_shn, g_means, camera_sums, with_camera,
):  # fmt: skip
    """Gradients of the coefficients (all of them written) and of the direction, added to those of the means.

    Of Gaussians start … end - 1 of n. n_coefficients: how many coefficients per channel shN holds; those
    above `degree` get zeros; 0 where none of their gradients are wanted, and g_shn is empty. turns: as
    `shade_rows` left them. g_colors [n*3] and g_means [n*3] are padded as in `project_rows`. camera_sums
    [chunks, 3] float64: its row `row` takes the gradient of the camera's centre.
    """
    n_floats, all_floats = 3 * ((degree + 1) * (degree + 1) - 1), 3 * n_coefficients
    for i in range(start, end, LANES):
        rows = min(LANES, n - i)
        prefetch_rows(g_shn, (i + AHEAD) * stride_n, LANES * stride_n)
        if not any_lane(load_ints(counts, i) > 0):
            clear_rows(g_sh0, i * stride_0, stride_0, rows, 3)
            clear_rows(g_shn, i * stride_n + first_n, stride_n, rows, all_floats)
        elif rows == LANES:
            shade_backward_group(
                i, i, counts, means, center, turns, stride_n, n_floats, all_floats, records, stride,
                g_colors, g_sh0, i * stride_0, stride_0, g_shn, i * stride_n + first_n, g_means,
                camera_sums, row, with_camera,
            )  # fmt: skip
        else:
            last_sh0 = np.empty(LANES * stride_0, np.float32)
            last_shn = (
                last_sh0 if stride_n == stride_0 and first_n > 0 else np.empty(LANES * stride_n, np.float32)
            )
            shade_backward_group(
                0, i, counts, last_rows(means, 3, i, n), center, turns, stride_n, n_floats, all_floats,
                records, stride, g_colors, last_sh0, 0, stride_0, last_shn, first_n, g_means, camera_sums,
                row, with_camera,
            )  # fmt: skip
            for k in range(rows * stride_0):
                g_sh0[i * stride_0 + k] = last_sh0[k]
            for k in range(rows * stride_n if all_floats > 0 else 0):
                g_shn[i * stride_n + k] = last_shn[k]


@kernel(inline=True)
def copy_colors(start, end, keys, colors, channels, records, stride):
    """Colours [n*channels] of Gaussians start … end - 1 to the records of those that are visible."""
    for i in range(start, end):
        if keys[i] != CULLED:
            for c in range(channels):
                records[i * stride + RECORD + c] = colors[i * channels + c]
