"""Far splats: a few of them must not cost all others their precision.

Positions are stored in 65536 steps between the outermost ones, so a single splat at a million metres makes
every step several times as long. Such splats are pulled in along the line to the scene's middle, and shrunk
as much as they come nearer: seen from the scene they stay where they are and as large as they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.gaussians import Gaussians

_SHARE = 1000  # at most one in so many, on each side of each axis, can be far
_LEAST = 200  # Gaussians; among fewer none can be told to be far
# Extents of all others; what lies beyond is far. Cameras stand nearer than that, so that what is pulled in
# stays behind all they see, and shifts little when they move.
_MARGIN = 10.0


def bounds(means: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """World coordinates beyond which a splat is far: [3] least and [3] greatest."""
    few = max(1, len(means) // _SHARE)
    low, high = np.empty(3), np.empty(3)
    for axis in range(3):
        ends = np.partition(means[:, axis], (few, len(means) - 1 - few))
        low[axis], high[axis] = ends[few], ends[len(means) - 1 - few]
    margin = _MARGIN * (high - low).max()
    return low - margin, high + margin


def far_splats(means: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "F"]:
    """Which splats lie so far from all others that storing them would cost the others precision."""
    nobody = np.empty(0, np.intp)
    if len(means) < _LEAST:
        return nobody
    low, high = bounds(means)
    if not (high > low).all():
        return nobody  # all others lie in one point, which has no extent to measure by
    return np.flatnonzero(((means < low) | (means > high)).any(axis=1))


def pull_in(g: Gaussians, far: Int[np.ndarray, "F"]) -> Gaussians:
    """The same splat, far ones brought to the bounds and as large from the scene's middle as before."""
    if len(far) == 0:
        return g
    low, high = bounds(g.means)
    middle = np.median(g.means, axis=0).astype(np.float64)
    ray = g.means[far].astype(np.float64) - middle
    room = np.where(ray > 0, high - middle, low - middle)
    factor = np.min(np.divide(room, ray, out=np.ones_like(ray), where=ray != 0), axis=1).clip(max=1)
    means, scales = g.means.copy(), g.scales.copy()
    means[far] = middle + ray * factor[:, None]
    scales[far] += np.log(np.maximum(factor, 1e-300))[:, None].astype(np.float32)
    return replace(g, means=means, scales=scales)
