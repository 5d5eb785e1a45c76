"""How far the loss would move Gaussians on the image, added up view by view, for densification."""

from __future__ import annotations

import math

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector_memory import claim

CHUNK = 1 << 15
"""Rows that a thread claims at a time; for fewer it takes longer to wake another."""


@kernel()
def add(counter, rows, radii, gradients, across, down, sums, counts):
    """Add lengths of gradients and count what is on the image; run by several threads at once on one counter.

    Args:
        rows: [m] int64, each at most once.
        radii: [m, 2] int32 pixels; 0 where a Gaussian is not on the image.
        gradients: [m, 2] float32.
        across, down: factors of their numbers, float32.
        sums, counts: [n] float32, changed in place.
    """
    while True:
        start = claim(counter) * CHUNK
        if start >= len(rows):
            break
        for k in range(start, min(len(rows), start + CHUNK)):
            x, y = across * gradients[k, 0], down * gradients[k, 1]
            sums[rows[k]] += math.sqrt(x * x + y * y)
            if radii[k, 0] > 0 and radii[k, 1] > 0:
                counts[rows[k]] += 1
