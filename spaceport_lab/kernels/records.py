"""From parameters to records and back, one chunk of Gaussians after another.

What a chunk's activation has written its projection finds in the nearest cache, and its colours what that
has; and threads are called together once for all of it, which may take as long as a third of the work.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.activation import activate_rows, activate_rows_backward
from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.culling import lanes_in_view, largest
from spaceport_lab.kernels.harmonics import copy_colors, shade_rows, shade_rows_backward
from spaceport_lab.kernels.layout import LANES, RECORD, SLOT_STRIDE
from spaceport_lab.kernels.projection import cull_group, project_rows, project_rows_backward
from spaceport_lab.kernels.vector import splat, sum_lanes
from spaceport_lab.kernels.vector_memory import claim

ZERO = np.float32(0)
CROWD = 1 << 16
"""So many Gaussians are those of a whole scene, most of them not on the image."""


@kernel(inline=True)
def chunk_size(crowd):
    """Gaussians that a thread claims at a time; also the unit in which camera gradients are summed.

    Those that are not on the image take so little time that claiming a few of them would count.
    """
    return 1024 if crowd else 256


def chunks(n: int) -> int:
    """Into how many shares `fill` and `fill_backward` cut n Gaussians."""
    return -(-n // chunk_size.py_func(n >= CROWD))


@kernel()
def fill(
    counter, n, crowd, raw_scales, raw_opacities, seed, left_out, means, quats, scales, opacities, view,
    camera, width, height, eps2d, near, far, radius_clip, antialiased, tiles_x, tiles_y, stride, records,
    radii, means2d, depths, keys, counts, center, sh0, stride_0, shn, stride_n, first_n, degree, turns, given,
    channels, with_depth,
):  # fmt: skip
    """Records of all n Gaussians; run by several threads at once on one counter.

    Arrays are those of `activate_rows`, `project_rows`, `shade_rows` and `copy_colors`. Where raw_scales is
    empty scales and opacities are inputs. In a `crowd` sixteen of which none can be on the image are not even
    projected, and their records not written. With a degree of -1 colours are `given` [n*channels].

    Returns:
        whether all scales and raw opacities are finite that this thread has met; True where none are raw.
    """
    found, kept, chunk = splat(ZERO), np.ones(LANES, np.float32), chunk_size(crowd)
    while True:
        start = claim(counter) * chunk
        if start >= n:
            break
        end = min(n, start + chunk)
        if raw_scales.shape[0] > 0:
            found = activate_rows(
                start, end, raw_scales, raw_opacities, seed, left_out, kept, scales, opacities, found
            )
        for i in range(start, end, LANES):
            if crowd and i + LANES <= n:
                size = largest(scales, i)
                if lanes_in_view(i, means, size, view, camera, width, height, eps2d, near, far) == 0:
                    cull_group(i, radii, means2d, depths, keys, counts)
                    continue
            project_rows(
                i, min(i + LANES, n), n, means, quats, scales, opacities, view, camera, width, height, eps2d,
                near, far, radius_clip, antialiased, tiles_x, tiles_y, stride, records, radii, means2d,
                depths, keys, counts,
            )  # fmt: skip
        if degree >= 0:
            shade_rows(
                start, end, n, keys, means, center, sh0, stride_0, shn, stride_n, first_n, degree, records,
                stride, turns,
            )  # fmt: skip
        else:
            copy_colors(start, end, keys, given, channels, records, stride)
        if with_depth:
            for i in range(start, end):
                records[i * stride + RECORD + channels] = depths[i]
    return sum_lanes(found) == ZERO


@kernel()
def fill_backward(
    counter, n, crowd, slots, first_slot, counts, means, quats, scales, opacities, view, camera, width,
    height, eps2d, antialiased, depth_slot, channels, g_means, g_quats, g_scales, g_opacities, g_colors,
    g_means2d, g_absolute, camera_sums, center, turns, stride_0, stride_n, first_n, n_coefficients, degree,
    records, stride, g_sh0, g_shn, center_sums, with_camera, raw, left_out,
):  # fmt: skip
    """Gradients of all n Gaussians' parameters from their slots; run by several threads on one counter.

    Arrays are those of `project_rows_backward` and, but with a degree of -1, `shade_rows_backward`; the sums
    of the camera have one row for each chunk, so that they do not depend on threads. Where `raw` the
    gradients of scales and opacities are those of their raw numbers.
    """
    sums, column = np.zeros(LANES * SLOT_STRIDE, np.float32), np.zeros(LANES, np.float32)
    chunk = chunk_size(crowd)
    while True:
        row = claim(counter)
        start = row * chunk
        if start >= n:
            break
        end = min(n, start + chunk)
        project_rows_backward(
            start, end, n, row, slots, first_slot, counts, means, quats, scales, opacities, view, camera,
            width, height, eps2d, antialiased, depth_slot, channels, g_means, g_quats, g_scales, g_opacities,
            g_colors, g_means2d, g_absolute, camera_sums, with_camera, sums, column,
        )  # fmt: skip
        if degree >= 0:
            shade_rows_backward(
                start, end, n, row, counts, means, center, turns, stride_0, stride_n, first_n, n_coefficients,
                degree, records, stride, g_colors, g_sh0, g_shn, g_means, center_sums, with_camera,
            )  # fmt: skip
        if raw:
            activate_rows_backward(start, end, scales, opacities, left_out, g_scales, g_opacities)
