"""Raw parameters to scales and opacities, with a random share of the Gaussians left out, and the gradient.

    scale = exp(raw),   opacity = keep / (1 - share) / (1 + exp(-raw)),   keep 0 or 1

Whether a Gaussian is kept depends on the seed and on its number alone, not on threads.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import LANES, LOG2_E
from spaceport_lab.kernels.vector import fma, fnma, maximum, minimum, select, splat
from spaceport_lab.kernels.vector_math import exp2
from spaceport_lab.kernels.vector_memory import load, load_some, store_some

ZERO, ONE = np.float32(0), np.float32(1)
INFINITE = np.float32(np.inf)
LARGEST = np.float32(88)
"""Logarithm of what is still a number in single precision."""


@kernel(inline=True)
def hashed(number, seed):
    """32 random bits of a Gaussian's number, mixed with the constants of Wellons (hash-prospector, 2018)."""
    bits = np.uint32(np.uint32(number) * np.uint32(0x9E3779B9)) ^ np.uint32(seed)
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@kernel(inline=True)
def scales_of(raw, at, count, out):
    """exp of up to sixteen numbers; returns them, infinite where they are too large or not numbers."""
    value = load_some(raw, at, count)
    result = select(value < LARGEST, exp2(LOG2_E * value), splat(INFINITE))
    store_some(out, at, result, count)
    return result


@kernel(inline=True)
def opacities_of(raw, at, count, kept, out):
    """Sigmoid of up to sixteen numbers, times those of `kept`; returns the numbers as they were."""
    value = load_some(raw, at, count)
    # exp of what is beyond is nothing beside one, or as good as infinite.
    power = exp2(-(LOG2_E * minimum(maximum(value, -LARGEST), LARGEST)))
    store_some(out, at, load(kept, 0) / (ONE + power), count)
    return value


@kernel(inline=True)
def activate_rows(start, end, raw_scales, raw_opacities, seed, left_out, kept, scales, opacities, found):
    """Scales and opacities of Gaussians start … end - 1; start is a multiple of 16.

    Args:
        raw_scales, raw_opacities: flat [3n] and [n] float32.
        seed: uint32.
        left_out: share of the Gaussians whose opacity is zero, the others' is raised by as much; below 1.
        kept: [16] ones, room to work in.
        scales, opacities: shaped like the raw ones, taking the results.
        found: a vector of zeros so far.

    Returns:
        zeros where all scales, and the raw opacities, are finite.
    """
    raised, limit = np.float32(1 / (1 - left_out)), np.uint32(left_out * 4294967295.0)
    for at in range(3 * start, 3 * end, LANES):
        found = fma(scales_of(raw_scales, at, min(LANES, 3 * end - at), scales), ZERO, found)
    for at in range(start, end, LANES):
        if left_out > 0:
            for lane in range(LANES):
                kept[lane] = raised if hashed(at + lane, seed) >= limit else ZERO
        found = fma(opacities_of(raw_opacities, at, min(LANES, end - at), kept, opacities), ZERO, found)
    return found


@kernel(inline=True)
def activate_rows_backward(start, end, scales, opacities, left_out, g_scales, g_opacities):
    """Gradients of scales and opacities to those of the raw numbers, where they lie."""
    share = np.float32(1 - left_out)
    for at in range(3 * start, 3 * end, LANES):
        count = min(LANES, 3 * end - at)
        store_some(g_scales, at, load_some(scales, at, count) * load_some(g_scales, at, count), count)
    for at in range(start, end, LANES):
        count = min(LANES, end - at)
        opacity = load_some(opacities, at, count)
        slope = opacity * fnma(opacity, share, splat(ONE))
        store_some(g_opacities, at, slope * load_some(g_opacities, at, count), count)
