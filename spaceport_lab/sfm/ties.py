"""Which photographs can be placed together at all: what a group needs to have one scale.

Two photographs that match give their relative pose up to scale. A third one has a place of its own only by
points that two others, placed already, see too; without those a mapper still puts it somewhere, at any
distance, and neither reprojection errors nor the number of registered photographs show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import csr_array, triu
from scipy.sparse.csgraph import connected_components

MIN_TIES = 15
"""Points that a photograph must share with two others that are placed. On photographs of a field, those with
1 to 12 were placed elsewhere by every other setting of the global mapper, by up to the width of the scene."""

FIRM = 30
"""The same, of one that the incremental mapper places: what COLMAP asks of a pose before refining it."""


def tracks(n_features: Sequence[int], matches: Mapping[tuple[int, int], Int[np.ndarray, "M 2"]]) -> csr_array:
    """Points as verified matches give them: features that are linked, directly or by others, are one.

    Args:
        n_features: of each photograph.
        matches: (i, j) → features of photograph i and of j that are the same.

    Returns:
        `incidence` of points and photographs.
    """
    offsets = np.concatenate([[0], np.cumsum(n_features)]).astype(np.int64)
    ends = [np.asarray(m, np.int64) + offsets[[i, j]] for (i, j), m in matches.items()]
    linked = np.concatenate([np.zeros((0, 2), np.int64), *ends])
    n = int(offsets[-1])
    graph = csr_array((np.ones(len(linked), bool), (linked[:, 0], linked[:, 1])), (n, n))
    label = connected_components(graph, directed=False)[1]
    used = np.unique(linked)
    photographs = np.repeat(np.arange(len(n_features)), n_features)
    return incidence(label[used], photographs[used], len(n_features))


def incidence(points: Int[np.ndarray, " K"], photographs: Int[np.ndarray, " K"], n: int) -> csr_array:
    """[points, n photographs] of 1 where one sees the other, however often, and 0.

    Args:
        points: numbers of points, any.
        photographs: 0 to n - 1, that see them.
        n: photographs.
    """
    numbers = np.unique(points, return_inverse=True)[1].reshape(-1)
    shape = (int(numbers.max(initial=-1)) + 1, n)
    matrix = csr_array((np.ones(len(numbers), np.int32), (numbers, photographs)), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def groups(seen: csr_array, least: int = MIN_TIES) -> list[Bool[np.ndarray, " N"]]:
    """Sets of photographs that can have one scale, the largest first; those in none are in no set.

    Each grows from the pair that shares most with third ones, as a mapper's model does.

    Args:
        seen: `incidence` of points and photographs.
        least: points that each shares with two others of its set.
    """
    left, found = np.ones(seen.shape[1], bool), []
    # A pair that shares points with nobody else may be the only link between two groups, and in neither.
    by_three = seen[np.flatnonzero(seen.sum(axis=1) >= 3)]
    for shown in (by_three, seen):
        pairs = triu(shown.T @ shown, 1).tocoo()
        while True:
            shared = np.where(left[pairs.row] & left[pairs.col], pairs.data, 0)
            if shared.max(initial=0) < least:
                break
            best = int(shared.argmax())
            group = np.zeros(len(left), bool)
            group[[pairs.row[best], pairs.col[best]]] = True
            while (new := left & ~group & (count(seen, group) >= least)).any():
                group |= new
            found.append(group)
            left &= ~group
    return sorted(found, key=lambda group: -int(group.sum()))


def count(seen: csr_array, placed: Bool[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Points that each photograph sees and two placed ones see; it may be one of the two.

    Args:
        seen: `incidence` of points and photographs.
        placed: which photographs are.
    """
    by_two = seen @ placed.astype(np.int32) >= 2
    return seen.T @ by_two.astype(np.int32)
