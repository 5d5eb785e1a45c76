"""More points to start from, midway between sparse points that are neighbours.

Photographs are matched where there is texture, so sparse points leave gaps. Densification fills them with
copies of what lies at their edge, which have to find their depth, and find one that suits the photographs
trained on. The middle between two neighbours is near the surface from the start.

New Gaussians midway between neighbours are the proximity-guided unpooling of FSGS (Zhu et al. 2024, "FSGS:
Real-Time Few-shot View Synthesis using Gaussian Splatting", section 3.2); here they are laid once, before
training, and first where neighbours are far apart.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

NEIGHBOURS = 4
"""Of each point, for each point that is wanted: about twice as many pairs as are needed, to choose from."""

BRIDGES = 0.1
"""Of the pairs the furthest apart: they bridge two surfaces, or one of the two is a stray point."""


def add_between(
    points: Float[np.ndarray, "P 3"], colors: Float[np.ndarray, "P 3"], wanted: int
) -> tuple[Float[np.ndarray, "Q 3"], Float[np.ndarray, "Q 3"]]:
    """The points, and after them up to `wanted` more midway between neighbours, in the mean of their colours.

    Neighbours that are far apart come first, except for the very furthest.

    Args:
        points: [P, 3] world coordinates; those that are not finite are nobody's neighbours.
        colors: [P, 3] RGB, 0 to 255.
        wanted: how many more; fewer where there are not so many pairs of neighbours.
    """
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    a, b = finite[_neighbours(points[finite], wanted)[:wanted]].T
    middles, mixed = (points[a] + points[b]) / 2, (colors[a].astype(float) + colors[b]) / 2
    return np.concatenate([points, middles]), np.concatenate([colors, mixed])


def _neighbours(points: Float[np.ndarray, "P 3"], wanted: int) -> Int[np.ndarray, "E 2"]:
    """Pairs of neighbours, each once, from far to near."""
    n = len(points)
    if wanted < 1 or n < 2:
        return np.zeros((0, 2), np.int64)
    k = min(n - 1, NEIGHBOURS * math.ceil(wanted / n))
    distances, near = cKDTree(points).query(points, k=k + 1, workers=-1)
    # Among twins a point need not be its own first neighbour.
    one, other = np.repeat(np.arange(n), k + 1), near.ravel()
    apart = distances.ravel() > 0
    keys = np.minimum(one, other)[apart] * n + np.maximum(one, other)[apart]
    keys, first = np.unique(keys, return_index=True)
    lengths = distances.ravel()[apart][first]
    from_far = np.argsort(-lengths, kind="stable")[int(BRIDGES * len(lengths)) :]
    return np.stack([keys[from_far] // n, keys[from_far] % n], axis=1)
