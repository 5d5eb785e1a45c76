"""Which Gaussians can be on an image at all, from a bound that takes a fraction of projecting them.

A drone photograph shows a tenth of its scene. What is left out here would have been left out by
`projection.project_rows` too: the bound takes a Gaussian for a ball of its largest axis at full opacity, and
adds some slack for rounding. What is let through may still prove to be off the image.
"""

from __future__ import annotations

import math

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import LANES, LOG2_E
from spaceport_lab.kernels.projection import THREE_COLUMNS, frustum_limits, to_camera
from spaceport_lab.kernels.vector import lowest_bit, maximum, minimum, square_root, true_lanes
from spaceport_lab.kernels.vector_math import exp2
from spaceport_lab.kernels.vector_memory import claim, last_rows
from spaceport_lab.kernels.vector_rows import load_columns

ZERO, ONE = np.float32(0), np.float32(1)
# An opaque Gaussian falls below 1/255 at this many standard deviations; one per mille more for rounding.
REACH = np.float32(math.sqrt(2 * math.log(255.0)) * 1.001)
SLACK = np.float32(2)  # pixels: radii are rounded up to whole ones
CHUNK = 4096  # Gaussians that a thread claims at a time: microseconds, or claims would be what takes time


@kernel(inline=True)
def lanes_in_view(at, means, size, view, camera, width, height, eps2d, near, far):
    """Bits of the Gaussians at … at + 15, of whose largest standard deviations `size` is, that can be on the
    image."""
    mx, my, mz = load_columns(means, 3 * at, THREE_COLUMNS)
    x, y, z = to_camera(view, mx, my, mz)
    inverse_z = ONE / z
    x_low, x_high, y_low, y_high = frustum_limits(camera, width, height)
    free_x, free_y = x * inverse_z, y * inverse_z
    u, v = camera[0] * free_x + camera[2], camera[1] * free_y + camera[3]
    tan_x, tan_y = minimum(maximum(free_x, x_low), x_high), minimum(maximum(free_y, y_low), y_high)
    jx, jy = camera[0] * inverse_z * size, camera[1] * inverse_z * size
    radius_x = REACH * square_root(jx * jx * (ONE + tan_x * tan_x) + eps2d) + SLACK
    radius_y = REACH * square_root(jy * jy * (ONE + tan_y * tan_y) + eps2d) + SLACK
    visible = (z >= near) & (z <= far)
    # Written so that NaN and Inf are let through: it is for the rasterizer to find and name them.
    visible = visible & (u + radius_x > ZERO) & (u - radius_x < width)
    visible = visible & (v + radius_y > ZERO) & (v - radius_y < height)
    return true_lanes(visible)


@kernel(inline=True)
def largest(scales, at):
    """The largest of three numbers of each of sixteen Gaussians."""
    s0, s1, s2 = load_columns(scales, 3 * at, THREE_COLUMNS)
    return maximum(s0, maximum(s1, s2))


@kernel()
def in_view(counter, n, means, scales, view, camera, width, height, eps2d, near, far, found, counts):
    """Find the Gaussians that can be on the image; run by several threads at once on one counter.

    Inputs, flat and float32: means [n*3], scales [n*3] as logarithms, view [16] world to camera, camera [4] =
    fx, fy, cx, cy in pixels. Outputs: found [n] int64, of each CHUNK the numbers of those that can be on the
    image from where it begins, and counts [chunks] int64, how many they are.
    """
    while True:
        chunk = claim(counter)
        start = chunk * CHUNK
        if start >= n:
            break
        to = start
        for i in range(start, min(n, start + CHUNK), LANES):
            if i + LANES <= n:
                size = exp2(LOG2_E * largest(scales, i))
                bits = lanes_in_view(i, means, size, view, camera, width, height, eps2d, near, far)
            else:
                size = exp2(LOG2_E * largest(last_rows(scales, 3, i, n), 0))
                last_means = last_rows(means, 3, i, n)
                bits = lanes_in_view(0, last_means, size, view, camera, width, height, eps2d, near, far)
                bits &= (1 << (n - i)) - 1
            while bits != 0:
                found[to] = i + lowest_bit(bits)
                bits &= bits - 1
                to += 1
        counts[chunk] = to - start


@kernel()
def joined(found, counts):
    """[M] int64: the numbers that `in_view` found, side by side."""
    rows = np.empty(counts.sum(), np.int64)
    to = 0
    for chunk in range(len(counts)):
        for k in range(counts[chunk]):
            rows[to + k] = found[chunk * CHUNK + k]
        to += counts[chunk]
    return rows
