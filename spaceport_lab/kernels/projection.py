"""Gaussians to ellipses on the image, and the gradient of that; sixteen Gaussians at a time.

EWA splatting (Zwicker et al. 2001) as in 3D Gaussian Splatting (Kerbl et al. 2023), with gsplat's
conventions (Ye et al. 2024): the Jacobian's direction is clamped a little outside the image, `eps2d` is
added to both axes of the 2D covariance, and `antialiased` scales opacity by sqrt(det before / det after)
(Mip-Splatting, Yu et al. 2024).

    camera:     c = R mean + t,   u = fx c.x/c.z + cx,   v = fy c.y/c.z + cy
    covariance: S = P P',  P = J R Q diag(scale),  Q the rotation of the quaternion, J = d(u, v)/d(c)

Two rows p, q of P are all that is ever formed: S = [[p.p, p.q], [p.q, q.q]] + eps2d, and its determinant is
summed from positive terms, |p x q|^2 + eps2d (p.p + q.q) + eps2d^2, so a needle never gets a negative one by
rounding.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.binning import count_spans
from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import (
    ABS_W,
    ABS_Y,
    ALPHA_MIN,
    FRUSTUM_MARGIN,
    LANES,
    LN_2,
    LOG2_255,
    LOG2_E,
    M_0,
    M_W,
    M_WW,
    M_WY,
    M_Y,
    M_YY,
    POWER_SLACK,
    SLOT,
    SLOT_STRIDE,
)
from spaceport_lab.kernels.vector import (
    absolute,
    ceiling,
    float_bits,
    maximum,
    minimum,
    select,
    splat,
    square_root,
    to_ints,
)
from spaceport_lab.kernels.vector_math import log2
from spaceport_lab.kernels.vector_memory import last_rows, load, load_ints, store
from spaceport_lab.kernels.vector_rows import load_columns, load_records, store_columns, store_records
from spaceport_lab.kernels.vector_tuples import sums_of

ZERO, HALF, ONE, TWO = (np.float32(number) for number in (0, 0.5, 1, 2))
# Ellipses wider than this many pixels, or centred further away, are beyond float32 and left out.
HUGE = np.float32(1e8)
TINY = np.float32(1e-30)
CAMERA_SUMS = 12  # rotation row by row, then translation
THREE_COLUMNS, FOUR_COLUMNS = (0, 0, 0), (0, 0, 0, 0)


@kernel(inline=True)
def to_camera(view, x, y, z):
    """World to camera coordinates."""
    return (
        view[0] * x + view[1] * y + view[2] * z + view[3],
        view[4] * x + view[5] * y + view[6] * z + view[7],
        view[8] * x + view[9] * y + view[10] * z + view[11],
    )


@kernel(inline=True)
def rotation(w, x, y, z):
    """The nine entries of the rotation of a quaternion of any length (zero gives the identity), by rows."""
    s = TWO / maximum(w * w + x * x + y * y + z * z, TINY)
    return (
        ONE - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y),
        s * (x * y + w * z), ONE - s * (x * x + z * z), s * (y * z - w * x),
        s * (x * z - w * y), s * (y * z + w * x), ONE - s * (x * x + y * y),
    )  # fmt: skip


@kernel(inline=True)
def rotation_gradient(w, x, y, z, g00, g01, g02, g10, g11, g12, g20, g21, g22):
    """Gradient of a quaternion of any length from that of its rotation's entries."""
    inverse = ONE / square_root(maximum(w * w + x * x + y * y + z * z, TINY))
    w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
    gw = TWO * (x * (g21 - g12) + y * (g02 - g20) + z * (g10 - g01))
    gx = TWO * (y * (g10 + g01) + z * (g20 + g02) + w * (g21 - g12) - TWO * x * (g11 + g22))
    gy = TWO * (x * (g10 + g01) + z * (g21 + g12) + w * (g02 - g20) - TWO * y * (g00 + g22))
    gz = TWO * (x * (g20 + g02) + y * (g21 + g12) + w * (g10 - g01) - TWO * z * (g00 + g11))
    along = gw * w + gx * x + gy * y + gz * z
    return (
        (gw - along * w) * inverse, (gx - along * x) * inverse,
        (gy - along * y) * inverse, (gz - along * z) * inverse,
    )  # fmt: skip


@kernel(inline=True)
def frustum_limits(camera, width, height):
    """Smallest and largest x/z, then y/z, at which the Jacobian is taken."""
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    across, down = np.float32(width), np.float32(height)
    margin_x, margin_y = FRUSTUM_MARGIN * across / fx, FRUSTUM_MARGIN * down / fy
    return (
        -cx / fx - margin_x, (across - cx) / fx + margin_x,
        -cy / fy - margin_y, (down - cy) / fy + margin_y,
    )  # fmt: skip


@kernel(inline=True)
def image_rows(view, jx, jy, jxz, jyz):
    """J R: how the image coordinates move with the world's, two rows of three."""
    return (
        jx * view[0] + jxz * view[8], jx * view[1] + jxz * view[9], jx * view[2] + jxz * view[10],
        jy * view[4] + jyz * view[8], jy * view[5] + jyz * view[9], jy * view[6] + jyz * view[10],
    )  # fmt: skip


@kernel(inline=True)
def covariance(p0, p1, p2, q0, q1, q2, eps2d):
    """Entries xx, xy, yy with eps2d, the determinant without and with it."""
    n0, n1, n2 = p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0
    before = n0 * n0 + n1 * n1 + n2 * n2
    xx, xy, yy = p0 * p0 + p1 * p1 + p2 * p2, p0 * q0 + p1 * q1 + p2 * q2, q0 * q0 + q1 * q1 + q2 * q2
    return xx + eps2d, xy, yy + eps2d, before, before + eps2d * (xx + yy + eps2d)


@kernel(inline=True)
def cholesky(xy, yy, det):
    """ALPHA, BETA and GAMMA of a record: the inverse covariance's factor, in powers of two."""
    alpha = square_root(HALF * LOG2_E * yy / det)
    return alpha, alpha * xy / yy, square_root(HALF * LOG2_E / yy)


@kernel()
def project_group(
    at, i, means, quats, scales, opacities, view, camera, width, height, eps2d, near, far, radius_clip,
    antialiased, tiles_x, tiles_y, stride, records, radii, means2d, depths, keys, counts,
):  # fmt: skip
    """Gaussians at … at + 15 of the inputs to rows i … i + 15 of the outputs, which are `project_rows`'."""
    mx, my, mz = load_columns(means, 3 * at, THREE_COLUMNS)
    x, y, z = to_camera(view, mx, my, mz)
    inverse_z = ONE / z
    x_low, x_high, y_low, y_high = frustum_limits(camera, width, height)
    free_x, free_y = x * inverse_z, y * inverse_z
    u, v = camera[0] * free_x + camera[2], camera[1] * free_y + camera[3]
    jx, jy = camera[0] * inverse_z, camera[1] * inverse_z
    jxz, jyz = (
        -(jx * minimum(maximum(free_x, x_low), x_high)),
        -(jy * minimum(maximum(free_y, y_low), y_high)),
    )
    a0, a1, a2, b0, b1, b2 = image_rows(view, jx, jy, jxz, jyz)
    qw, qx, qy, qz = load_columns(quats, 4 * at, FOUR_COLUMNS)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    s0, s1, s2 = load_columns(scales, 3 * at, THREE_COLUMNS)
    p0, q0 = (a0 * r00 + a1 * r10 + a2 * r20) * s0, (b0 * r00 + b1 * r10 + b2 * r20) * s0
    p1, q1 = (a0 * r01 + a1 * r11 + a2 * r21) * s1, (b0 * r01 + b1 * r11 + b2 * r21) * s1
    p2, q2 = (a0 * r02 + a1 * r12 + a2 * r22) * s2, (b0 * r02 + b1 * r12 + b2 * r22) * s2
    xx, xy, yy, before, det = covariance(p0, p1, p2, q0, q1, q2, eps2d)
    opacity = load(opacities, at)
    if antialiased:
        opacity = opacity * square_root(before / det)
    # Every comparison is false for NaN, so numbers that were too large for float32 drop out here.
    visible = (
        (z >= near)
        & (z <= far)
        & (det > ZERO)
        & (opacity >= ALPHA_MIN)
        & (xx < HUGE * HUGE)
        & (yy < HUGE * HUGE)
    )
    visible = visible & (absolute(u) < HUGE) & (absolute(v) < HUGE)
    power = log2(opacity)
    width_x, width_y = square_root(xx), square_root(yy)
    reach = square_root(TWO * LN_2 * maximum(power + LOG2_255, ZERO))
    radius_x, radius_y = ceiling(reach * width_x), ceiling(reach * width_y)
    visible = visible & ((radius_x > radius_clip) | (radius_y > radius_clip))
    visible = visible & (u + radius_x > ZERO) & (u - radius_x < width)
    visible = visible & (v + radius_y > ZERO) & (v - radius_y < height)

    alpha, beta, gamma = cholesky(xy, yy, det)
    reach = square_root(TWO * LN_2 * (power + (LOG2_255 + POWER_SLACK)))
    shear, half_width, reach_y, right_y = (
        xy / yy,
        square_root(det) / yy,
        reach * width_y,
        reach * xy / width_x,
    )
    store_records(
        records, i * stride, stride, (u, v, alpha, beta, gamma, power, shear, half_width, reach_y, right_y)
    )
    store_columns(
        radii, 2 * i, (to_ints(select(visible, radius_x, ZERO)), to_ints(select(visible, radius_y, ZERO)))
    )
    store_columns(means2d, 2 * i, (select(visible, u, ZERO), select(visible, v, ZERO)))
    store(depths, i, select(visible, z, ZERO))
    store(keys, i, select(visible, float_bits(z), -1))
    store(counts, i, count_spans(visible, u, v, shear, half_width, reach_y, right_y, tiles_x, tiles_y))


@kernel(inline=True)
def cull_group(i, radii, means2d, depths, keys, counts):
    """Write of sixteen Gaussians, none of which is on the image, all that is read of such ones."""
    nothing, none = splat(ZERO), to_ints(splat(ZERO))
    store_columns(radii, 2 * i, (none, none))
    store_columns(means2d, 2 * i, (nothing, nothing))
    store(depths, i, nothing)
    store(keys, i, none - 1)
    store(counts, i, none)


@kernel(inline=True)
def project_rows(
    start, end, n, means, quats, scales, opacities, view, camera, width, height, eps2d, near, far,
    radius_clip, antialiased, tiles_x, tiles_y, stride, records, radii, means2d, depths, keys, counts,
):  # fmt: skip
    """Project Gaussians start … end - 1 of n; start is a multiple of 16.

    Inputs, flat and float32: means [n*3], quats [n*4] (wxyz), scales [n*3], opacities [n], view [16] world
    to camera, camera [4] = fx, fy, cx, cy in pixels. Outputs, their rows padded to whole groups of 16:
    records [n*stride], radii [n*2] int32 pixels, means2d [n*2] pixels, depths [n], keys [n] uint32 that sort
    by depth (CULLED where not on the image), counts [n] int32 spans of tiles touched.
    """
    for i in range(start, end, LANES):
        if i + LANES <= n:
            project_group(
                i, i, means, quats, scales, opacities, view, camera, width, height, eps2d, near, far,
                radius_clip, antialiased, tiles_x, tiles_y, stride, records, radii, means2d, depths,
                keys, counts,
            )  # fmt: skip
        else:
            project_group(
                0, i, last_rows(means, 3, i, n), last_rows(quats, 4, i, n), last_rows(scales, 3, i, n),
                last_rows(opacities, 1, i, n), view, camera, width, height, eps2d, near, far, radius_clip,
                antialiased, tiles_x, tiles_y, stride, records, radii, means2d, depths, keys, counts,
            )  # fmt: skip


@kernel(inline=True)
def covariance_gradient(g, alpha, beta, gamma, xx, xy, yy, before, det, eps2d, antialiased):
    """Gradient of the 2D covariance's three entries from a slot's moments.

    With L = [[ALPHA, -BETA], [0, GAMMA]] and M the matrix of second moments it is 2 ln(2)^2 L' M L.
    """
    factor = TWO * LN_2 * LN_2
    m_ww, m_wy, m_yy = g[M_WW], g[M_WY], g[M_YY]
    g_xx = factor * alpha * alpha * m_ww
    g_xy = TWO * factor * alpha * (gamma * m_wy - beta * m_ww)
    g_yy = factor * (beta * (beta * m_ww - TWO * gamma * m_wy) + gamma * gamma * m_yy)
    if antialiased:
        h, inverse_before, inverse_det = HALF * g[M_0], ONE / before, ONE / det
        g_xx = g_xx + h * ((yy - eps2d) * inverse_before - yy * inverse_det)
        g_xy = g_xy - TWO * h * xy * (inverse_before - inverse_det)
        g_yy = g_yy + h * ((xx - eps2d) * inverse_before - xx * inverse_det)
    return g_xx, g_xy, g_yy


@kernel()
def project_backward_group(
    at, i, g, g_depth, visible, means, quats, scales, opacities, view, camera, width, height, eps2d,
    antialiased, g_means, g_quats, g_scales, g_opacities, g_means2d, g_absolute, camera_sums, row,
    with_camera,
):  # fmt: skip
    """Gradients of sixteen Gaussians from the fields g of their summed slots; arrays as in `project_rows`."""
    mx, my, mz = load_columns(means, 3 * at, THREE_COLUMNS)
    x, y, z = to_camera(view, mx, my, mz)
    inverse_z = ONE / z
    x_low, x_high, y_low, y_high = frustum_limits(camera, width, height)
    free_x, free_y = x * inverse_z, y * inverse_z
    tan_x, tan_y = minimum(maximum(free_x, x_low), x_high), minimum(maximum(free_y, y_low), y_high)
    jx, jy = camera[0] * inverse_z, camera[1] * inverse_z
    jxz, jyz = -(jx * tan_x), -(jy * tan_y)
    a0, a1, a2, b0, b1, b2 = image_rows(view, jx, jy, jxz, jyz)
    qw, qx, qy, qz = load_columns(quats, 4 * at, FOUR_COLUMNS)
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(qw, qx, qy, qz)
    s0, s1, s2 = load_columns(scales, 3 * at, THREE_COLUMNS)
    # m, n: the rows of J R Q, without the scales
    m0, n0 = a0 * r00 + a1 * r10 + a2 * r20, b0 * r00 + b1 * r10 + b2 * r20
    m1, n1 = a0 * r01 + a1 * r11 + a2 * r21, b0 * r01 + b1 * r11 + b2 * r21
    m2, n2 = a0 * r02 + a1 * r12 + a2 * r22, b0 * r02 + b1 * r12 + b2 * r22
    p0, p1, p2, q0, q1, q2 = m0 * s0, m1 * s1, m2 * s2, n0 * s0, n1 * s1, n2 * s2
    xx, xy, yy, before, det = covariance(p0, p1, p2, q0, q1, q2, eps2d)
    alpha, beta, gamma = cholesky(xy, yy, det)
    g_xx, g_xy, g_yy = covariance_gradient(g, alpha, beta, gamma, xx, xy, yy, before, det, eps2d, antialiased)
    store(g_opacities, i, select(visible, g[M_0] / load(opacities, at), ZERO))

    two_ln2 = TWO * LN_2
    g_u, g_v = -(two_ln2 * alpha * g[M_W]), two_ln2 * (beta * g[M_W] - gamma * g[M_Y])
    store_columns(g_means2d, 2 * i, (select(visible, g_u, ZERO), select(visible, g_v, ZERO)))
    if g_absolute.shape[0] > 0:
        absolute_u, absolute_v = two_ln2 * alpha * g[ABS_W], two_ln2 * g[ABS_Y]
        store_columns(
            g_absolute, 2 * i, (select(visible, absolute_u, ZERO), select(visible, absolute_v, ZERO))
        )

    gp0, gq0 = TWO * g_xx * p0 + g_xy * q0, g_xy * p0 + TWO * g_yy * q0
    gp1, gq1 = TWO * g_xx * p1 + g_xy * q1, g_xy * p1 + TWO * g_yy * q1
    gp2, gq2 = TWO * g_xx * p2 + g_xy * q2, g_xy * p2 + TWO * g_yy * q2
    gs0, gs1, gs2 = gp0 * m0 + gq0 * n0, gp1 * m1 + gq1 * n1, gp2 * m2 + gq2 * n2
    store_columns(
        g_scales, 3 * i, (select(visible, gs0, ZERO), select(visible, gs1, ZERO), select(visible, gs2, ZERO))
    )
    gp0, gp1, gp2, gq0, gq1, gq2 = gp0 * s0, gp1 * s1, gp2 * s2, gq0 * s0, gq1 * s1, gq2 * s2
    gw, gx, gy, gz = rotation_gradient(
        qw, qx, qy, qz,
        a0 * gp0 + b0 * gq0, a0 * gp1 + b0 * gq1, a0 * gp2 + b0 * gq2,
        a1 * gp0 + b1 * gq0, a1 * gp1 + b1 * gq1, a1 * gp2 + b1 * gq2,
        a2 * gp0 + b2 * gq0, a2 * gp1 + b2 * gq1, a2 * gp2 + b2 * gq2,
    )  # fmt: skip
    gw, gx, gy, gz = (
        select(visible, gw, ZERO), select(visible, gx, ZERO), select(visible, gy, ZERO), select(visible, gz,
        ZERO),
    )  # fmt: skip
    store_columns(g_quats, 4 * i, (gw, gx, gy, gz))

    # of the rows a, b of J R
    ga0, gb0 = gp0 * r00 + gp1 * r01 + gp2 * r02, gq0 * r00 + gq1 * r01 + gq2 * r02
    ga1, gb1 = gp0 * r10 + gp1 * r11 + gp2 * r12, gq0 * r10 + gq1 * r11 + gq2 * r12
    ga2, gb2 = gp0 * r20 + gp1 * r21 + gp2 * r22, gq0 * r20 + gq1 * r21 + gq2 * r22
    # of the Jacobian's four entries: jx = fx/z, jxz = -fx tan_x/z, and the same for y
    g_jx, g_jxz = (
        ga0 * view[0] + ga1 * view[1] + ga2 * view[2],
        ga0 * view[8] + ga1 * view[9] + ga2 * view[10],
    )
    g_jy, g_jyz = (
        gb0 * view[4] + gb1 * view[5] + gb2 * view[6],
        gb0 * view[8] + gb1 * view[9] + gb2 * view[10],
    )
    # The clamped tangents do not move with the mean.
    g_tan_x = select((free_x >= x_low) & (free_x <= x_high), -(jx * g_jxz), ZERO)
    g_tan_y = select((free_y >= y_low) & (free_y <= y_high), -(jy * g_jyz), ZERO)
    g_free_x, g_free_y = camera[0] * g_u + g_tan_x, camera[1] * g_v + g_tan_y
    gx, gy = g_free_x * inverse_z, g_free_y * inverse_z
    gz = g_depth - free_x * gx - free_y * gy
    gz = gz - inverse_z * (jx * (g_jx - tan_x * g_jxz) + jy * (g_jy - tan_y * g_jyz))
    gx, gy, gz = select(visible, gx, ZERO), select(visible, gy, ZERO), select(visible, gz, ZERO)
    store_columns(
        g_means, 3 * i,
        (
            view[0] * gx + view[4] * gy + view[8] * gz,
            view[1] * gx + view[5] * gy + view[9] * gz,
            view[2] * gx + view[6] * gy + view[10] * gz,
        ),
    )  # fmt: skip
    if with_camera:
        sums = np.empty(LANES, np.float32)
        rows_0, rows_1, rows_2 = jx * ga0, jx * ga1, jx * ga2
        rows_3, rows_4, rows_5 = jy * gb0, jy * gb1, jy * gb2
        rows_6, rows_7, rows_8 = jxz * ga0 + jyz * gb0, jxz * ga1 + jyz * gb1, jxz * ga2 + jyz * gb2
        store(sums, 0, sums_of((
            gx * mx + select(visible, rows_0, ZERO), gx * my + select(visible, rows_1, ZERO),
            gx * mz + select(visible, rows_2, ZERO), gy * mx + select(visible, rows_3, ZERO),
            gy * my + select(visible, rows_4, ZERO), gy * mz + select(visible, rows_5, ZERO),
            gz * mx + select(visible, rows_6, ZERO), gz * my + select(visible, rows_7, ZERO),
            gz * mz + select(visible, rows_8, ZERO), gx, gy, gz,
        )))  # fmt: skip
        for k in range(CAMERA_SUMS):
            camera_sums[row, k] += sums[k]


@kernel(inline=True)
def sum_slots(i, rows, slots, first_slot, sums):
    """The slots of `rows` Gaussians from i on, summed, as rows of `sums`."""
    for lane in range(rows):
        total = splat(ZERO)
        for slot in range(first_slot[i + lane], first_slot[i + lane + 1]):
            total = total + load(slots, slot * SLOT_STRIDE)
        store(sums, lane * SLOT_STRIDE, total)


@kernel(inline=True)
def project_rows_backward(
    start, end, n, row, slots, first_slot, counts, means, quats, scales, opacities, view, camera, width,
    height, eps2d, antialiased, depth_slot, channels, g_means, g_quats, g_scales, g_opacities, g_colors,
    g_means2d, g_absolute, camera_sums, with_camera, sums, column,
):  # fmt: skip
    """Sum the slots of Gaussians start … end - 1 of n and carry them to their parameters.

    Every Gaussian's gradients are written, zeros for those not on the image; rows are padded as in
    `project_rows`. depth_slot is the field of a slot that holds the depth's gradient, or -1. g_colors
    [n*channels] takes the colours' gradients, g_absolute may be empty. camera_sums [chunks, 12] float64: what
    these Gaussians add to is its row `row`. sums [16 slots] and column [16] are room to work in, column
    zeros.
    """
    for i in range(start, end, LANES):
        rows = min(LANES, n - i)
        sum_slots(i, rows, slots, first_slot, sums)
        for lane in range(rows):
            for k in range(channels):
                g_colors[(i + lane) * channels + k] = sums[lane * SLOT_STRIDE + SLOT + k]
            if depth_slot >= 0:
                column[lane] = sums[lane * SLOT_STRIDE + depth_slot]
        g, g_depth = load_records(sums, 0, SLOT_STRIDE), load(column, 0)
        visible = load_ints(counts, i) > 0
        if rows == LANES:
            project_backward_group(
                i, i, g, g_depth, visible, means, quats, scales, opacities, view, camera, width, height,
                eps2d, antialiased, g_means, g_quats, g_scales, g_opacities, g_means2d, g_absolute,
                camera_sums, row, with_camera,
            )  # fmt: skip
        else:
            project_backward_group(
                0, i, g, g_depth, visible, last_rows(means, 3, i, n), last_rows(quats, 4, i, n),
                last_rows(scales, 3, i, n), last_rows(opacities, 1, i, n), view, camera, width, height,
                eps2d, antialiased, g_means, g_quats, g_scales, g_opacities, g_means2d, g_absolute,
                camera_sums, row, with_camera,
            )  # fmt: skip
