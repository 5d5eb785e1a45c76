"""Which photographs are compared with which."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from spaceport_lab.errors import ReconstructionError

EXHAUSTIVE_UP_TO = 200
"""Photographs: without GPS, more than these are taken for a sequence; all pairs would be 20,000 and more."""

SEQUENCE_OVERLAP = 10
MIN_GPS_SPREAD_M = 5.0
"""When photographs lie closer together than a receiver's error, GPS cannot say which are neighbours."""

Pairs = list[tuple[int, int]]


def choose_matching(asked: str, gps: Float[np.ndarray, "N 3"]) -> str:
    """`spatial`, `exhaustive` or `sequential`.

    Args:
        asked: one of these, or `auto`: spatial where most photographs have GPS that tells them apart,
            exhaustive for a small set, sequential for a large one.
        gps: [N, 3] east, north, up in metres; NaN where there is none.

    Raises:
        ReconstructionError: spatial was asked for, and fewer than two photographs have GPS.
    """
    known = np.isfinite(gps[:, :2]).all(axis=1)
    if asked == "spatial" and known.sum() < 2:
        raise ReconstructionError(
            "spatial matching needs GPS, and these photographs have none",
            got=f"{known.sum()} of {len(gps)} photographs with plausible GPS",
            hint="set sfm.matching to auto or exhaustive",
        )
    if asked != "auto":
        return asked
    if known.sum() >= max(3, 0.6 * len(gps)):
        spread = gps[known, :2] - np.median(gps[known, :2], axis=0)
        if np.median(np.linalg.norm(spread, axis=1)) > MIN_GPS_SPREAD_M:
            return "spatial"
    return "exhaustive" if len(gps) <= EXHAUSTIVE_UP_TO else "sequential"


def make_pairs(matching: str, gps: Float[np.ndarray, "N 3"], neighbors: int) -> Pairs:
    """The pairs (i < j) to match, sorted.

    Args:
        matching: `spatial`, `exhaustive` or `sequential`.
        gps: [N, 3] metres, in the order the photographs were taken; NaN where there is none.
        neighbors: nearest photographs each is paired with in spatial matching.
    """
    n = len(gps)
    if matching == "exhaustive":
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    if matching == "sequential":
        return sorted(_sequential(n, SEQUENCE_OVERLAP))
    known = np.flatnonzero(np.isfinite(gps[:, :2]).all(axis=1))
    # Neighbours in time hold on to a photograph whose position is wrong or missing.
    pairs = _sequential(n, 3)
    if len(known) > 1:
        _, nearest = cKDTree(gps[known, :2]).query(gps[known, :2], k=min(neighbors + 1, len(known)))
        pairs |= {_ordered(known[i], known[j]) for i, row in enumerate(nearest) for j in row if i != j}
    without = sorted(set(range(n)) - set(known.tolist()))
    reach = n if n <= EXHAUSTIVE_UP_TO else 2 * SEQUENCE_OVERLAP
    pairs |= {_ordered(i, j) for i in without for j in range(max(0, i - reach), min(n, i + reach)) if i != j}
    return sorted(pairs)


def _sequential(n: int, overlap: int) -> set[tuple[int, int]]:
    """Each with the next `overlap`, and with those 2, 4, 8, … further on, which closes loops."""
    steps = {*range(1, overlap + 1), *(2**k for k in range(overlap))}
    return {(i, i + step) for i in range(n) for step in steps if i + step < n}


def _ordered(i: int, j: int) -> tuple[int, int]:
    return (int(min(i, j)), int(max(i, j)))
