"""Pairs worth matching, found with the coarsest features alone.

All pairs of a set without GPS are mostly pairs that share nothing, and to find that out with all features is
what costs the most in structure from motion. The coarsest features are few, and are seen again from farther
away than others: pairs that share none of them share little (preemptive matching, Wu 2013, "Towards
linear-time incremental structure from motion").
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Shaped

FEATURES = 1024
"""Coarsest features of a photograph that are compared."""

MAX_RATIO = 0.7
"""Stricter than in matching, so that a pair that shares nothing has none: what is looked for is evidence."""

MIN_SHARED = 3
"""Of 275 pairs of 41 photographs that full matching verified, 9 share less: 0.1 % of the matches."""

PARTNERS = 5
"""Each photograph keeps so many partners, those that share the most with it, however little that is."""

Pair = tuple[str, str]


def coarsest(
    keypoints: Float[np.ndarray, "N 6"], descriptors: Shaped[np.ndarray, "N 128"], n: int = FEATURES
) -> Float[np.ndarray, "M 128"]:
    """Unit descriptors of the features of the largest scale.

    Args:
        keypoints: x, y and the 2×2 shape of each feature, as COLMAP keeps them.
        descriptors: of the features, any length.
        n: how many at the most.
    """
    shape = keypoints[:, 2:6]
    area = np.abs(shape[:, 0] * shape[:, 3] - shape[:, 1] * shape[:, 2])
    order = np.argsort(-area, kind="stable")[:n]
    chosen = descriptors[order].astype(np.float32)
    return chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)


def count_shared(one: Float[np.ndarray, "N 128"], other: Float[np.ndarray, "M 128"]) -> int:
    """How many features are each other's nearest, by angle, and clearly nearer than the second nearest."""
    if len(one) < 2 or len(other) < 2:
        return 0
    likeness = one @ other.T
    best = likeness.argmax(axis=1)
    rows = np.flatnonzero(likeness.argmax(axis=0)[best] == np.arange(len(one)))
    mutual = likeness[rows]
    first = mutual[np.arange(len(rows)), best[rows]]
    mutual[np.arange(len(rows)), best[rows]] = -1.0
    nearest = np.arccos(np.clip([first, mutual.max(axis=1)], -1.0, 1.0))
    return int((nearest[0] < MAX_RATIO * nearest[1]).sum())


def likely_pairs(
    pairs: list[Pair],
    features: Mapping[str, Float[np.ndarray, "_ 128"]],
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Pair]:
    """Those of `pairs` that share something, and for each photograph its best partners; in order.

    Args:
        pairs: names of two photographs each.
        features: name → `coarsest` features; a photograph that is not in it has none.
        told: gets how many pairs were compared, and of how many.
    """
    nothing = np.empty((0, 128), np.float32)
    shared: dict[Pair, int] = {}
    for number, (one, other) in enumerate(pairs, 1):
        shared[one, other] = count_shared(features.get(one, nothing), features.get(other, nothing))
        if number % 50 == 0 or number == len(pairs):
            told(number, len(pairs))
    of: dict[str, list[Pair]] = {}
    for pair, name in itertools.chain.from_iterable(((p, p[0]), (p, p[1])) for p in pairs):
        of.setdefault(name, []).append(pair)
    kept = {pair for pair, n in shared.items() if n >= MIN_SHARED}
    for mine in of.values():
        kept.update(sorted(mine, key=lambda pair: -shared[pair])[:PARTNERS])
    return [pair for pair in pairs if pair in kept]
