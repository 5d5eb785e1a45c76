"""Whether an array holds NaN or Inf, in one pass at the speed of memory."""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector import LANES, fma, splat, sum_lanes
from spaceport_lab.kernels.vector_memory import load, load_first

ZERO = np.float32(0)


@kernel()
def all_finite(values):
    """True if every number of a flat float32 array is finite: zero times anything else is not zero."""
    n = values.shape[0]
    a, b = splat(ZERO), splat(ZERO)
    whole = n - n % (2 * LANES)
    for i in range(0, whole, 2 * LANES):
        a, b = fma(load(values, i), ZERO, a), fma(load(values, i + LANES), ZERO, b)
    for i in range(whole, n, LANES):
        a = fma(load_first(values, i, min(LANES, n - i)), ZERO, a)
    return sum_lanes(a + b) == ZERO
