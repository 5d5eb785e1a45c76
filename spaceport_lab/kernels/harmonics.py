"""Spherical harmonics to colours, and the gradient of that.

Real spherical harmonics up to degree 3 in the order and with the signs of 3D Gaussian Splatting (Kerbl et
al. 2023); closed forms after Sloan, "Efficient Spherical Harmonic Evaluation" (JCGT 2013). The direction
goes from the camera's centre to the Gaussian's mean; a colour is max(0, 1/2 + sum of basis * coefficient).

Coefficients lie in two arrays, so that degree 0 and the others may be one tensor or two. Channel c of
Gaussian i has its coefficient 0 at sh0[i * stride_0 + c] and its coefficient k > 0 at
shn[i * stride_n + first_n + 3 * (k - 1) + c].
"""

from __future__ import annotations

import math

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import CULLED, RECORD
from spaceport_lab.kernels.vector_memory import claim

ZERO, HALF, ONE, TWO, THREE, FOUR, FIVE = (np.float32(number) for number in (0, 0.5, 1, 2, 3, 4, 5))
TINY = np.float32(1e-30)
CHUNK = 256
BASES = 16

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
def basis(x, y, z, degree, out):
    """The (degree + 1)^2 basis functions at the unit vector (x, y, z)."""
    out[0] = C_0
    if degree >= 1:
        out[1], out[2], out[3] = -C_1 * y, C_1 * z, -C_1 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        out[4], out[5], out[7] = C_2[0] * x * y, -C_2[0] * y * z, -C_2[0] * x * z
        out[6], out[8] = C_2[1] * zz - C_2[2], C_2[3] * (xx - yy)
    if degree >= 3:
        out[9], out[15] = -C_3[0] * y * (THREE * xx - yy), -C_3[0] * x * (xx - THREE * yy)
        out[10], out[14] = C_3[1] * x * y * z, C_3[4] * z * (xx - yy)
        out[11], out[13] = -C_3[2] * y * (FIVE * zz - ONE), -C_3[2] * x * (FIVE * zz - ONE)
        out[12] = C_3[3] * z * (FIVE * zz - THREE)


@kernel(inline=True)
def direction_gradient(x, y, z, degree, g):
    """Gradient of the direction's three components, from g, the gradient of each basis function."""
    gx, gy, gz = -C_1 * g[3], -C_1 * g[1], C_1 * g[2]
    if degree >= 2:
        gx += C_2[0] * (y * g[4] - z * g[7]) + TWO * C_2[3] * x * g[8]
        gy += C_2[0] * (x * g[4] - z * g[5]) - TWO * C_2[3] * y * g[8]
        gz += TWO * C_2[1] * z * g[6] - C_2[0] * (y * g[5] + x * g[7])
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        ring, edge = FIVE * zz - ONE, THREE * (xx - yy)
        gx += C_3[1] * y * z * g[10] - C_3[2] * ring * g[13] + TWO * C_3[4] * x * z * g[14]
        gx -= C_3[0] * (TWO * THREE * x * y * g[9] + edge * g[15])
        gy += C_3[1] * x * z * g[10] - C_3[2] * ring * g[11] - TWO * C_3[4] * y * z * g[14]
        gy += C_3[0] * (TWO * THREE * x * y * g[15] - edge * g[9])
        gz += (
            C_3[1] * x * y * g[10] + C_3[3] * (THREE * FIVE * zz - THREE) * g[12] + C_3[4] * (xx - yy) * g[14]
        )
        gz -= C_3[2] * TWO * FIVE * z * (y * g[11] + x * g[13])
    return gx, gy, gz


@kernel(inline=True)
def view_direction(means, i, center):
    """Unit vector from the camera's centre to the mean, and one over the distance."""
    x, y, z = means[3 * i] - center[0], means[3 * i + 1] - center[1], means[3 * i + 2] - center[2]
    inverse = ONE / math.sqrt(max(x * x + y * y + z * z, TINY))
    return x * inverse, y * inverse, z * inverse, inverse


@kernel()
def shade(counter, n, keys, means, center, sh0, stride_0, shn, stride_n, first_n, degree, records, stride):
    """Write the colours of the visible Gaussians' records; run by several threads at once on one counter."""
    functions = np.zeros(BASES, np.float32)
    n_bases = (degree + 1) * (degree + 1)
    while True:
        start = claim(counter) * CHUNK
        if start >= n:
            break
        for i in range(start, min(n, start + CHUNK)):
            if keys[i] == CULLED:
                continue
            x, y, z, _ = view_direction(means, i, center)
            basis(x, y, z, degree, functions)
            at = i * stride_0
            red, green, blue = C_0 * sh0[at], C_0 * sh0[at + 1], C_0 * sh0[at + 2]
            at = i * stride_n + first_n
            for k in range(1, n_bases):
                value = functions[k]
                red += value * shn[at]
                green += value * shn[at + 1]
                blue += value * shn[at + 2]
                at += 3
            o = i * stride + RECORD
            records[o] = max(ZERO, red + HALF)
            records[o + 1] = max(ZERO, green + HALF)
            records[o + 2] = max(ZERO, blue + HALF)


@kernel()
def shade_backward(
    counter, n, counts, means, center, sh0, stride_0, shn, stride_n, first_n, n_coefficients, degree,
    records, stride, g_colors, channels, g_sh0, g_shn, g_means, camera_sums, with_camera,
):  # fmt: skip
    """Gradients of the coefficients (all of them written) and of the direction, added to those of the means.

    n_coefficients: how many coefficients per channel shN holds; those above `degree` get zeros.
    camera_sums [chunks, 3] float64 takes the gradient of the camera's centre, one row for each CHUNK.
    """
    functions, g_functions = np.zeros(BASES, np.float32), np.zeros(BASES, np.float32)
    n_bases = (degree + 1) * (degree + 1)
    while True:
        row = claim(counter)
        start = row * CHUNK
        if start >= n:
            break
        for i in range(start, min(n, start + CHUNK)):
            at_0, at_n = i * stride_0, i * stride_n + first_n
            if counts[i] == 0:
                for k in range(3):
                    g_sh0[at_0 + k] = ZERO
                for k in range(3 * n_coefficients):
                    g_shn[at_n + k] = ZERO
                continue
            o = i * stride + RECORD
            red, green, blue = g_colors[i * channels], g_colors[i * channels + 1], g_colors[i * channels + 2]
            if records[o] <= ZERO:
                red = ZERO
            if records[o + 1] <= ZERO:
                green = ZERO
            if records[o + 2] <= ZERO:
                blue = ZERO
            g_sh0[at_0], g_sh0[at_0 + 1], g_sh0[at_0 + 2] = C_0 * red, C_0 * green, C_0 * blue
            for k in range(3 * (n_bases - 1), 3 * n_coefficients):
                g_shn[at_n + k] = ZERO
            if degree == 0:
                continue
            x, y, z, inverse = view_direction(means, i, center)
            basis(x, y, z, degree, functions)
            for k in range(1, n_bases):
                value = functions[k]
                g_shn[at_n], g_shn[at_n + 1], g_shn[at_n + 2] = value * red, value * green, value * blue
                g_functions[k] = shn[at_n] * red + shn[at_n + 1] * green + shn[at_n + 2] * blue
                at_n += 3
            gx, gy, gz = direction_gradient(x, y, z, degree, g_functions)
            along = gx * x + gy * y + gz * z
            gx, gy, gz = (gx - along * x) * inverse, (gy - along * y) * inverse, (gz - along * z) * inverse
            g_means[3 * i] += gx
            g_means[3 * i + 1] += gy
            g_means[3 * i + 2] += gz
            if with_camera:
                camera_sums[row, 0] -= gx
                camera_sums[row, 1] -= gy
                camera_sums[row, 2] -= gz


@kernel()
def copy_colors(counter, n, keys, colors, depths, channels, with_depth, records, stride):
    """Colours [n*channels], and the depth after them if wanted, to the visible Gaussians' records."""
    while True:
        start = claim(counter) * CHUNK
        if start >= n:
            break
        for i in range(start, min(n, start + CHUNK)):
            if keys[i] == CULLED:
                continue
            o = i * stride + RECORD
            for c in range(channels):
                records[o + c] = colors[i * channels + c]
            if with_depth:
                records[o + channels] = depths[i]
