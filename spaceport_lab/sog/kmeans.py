"""k-means kernels: float32 arrays in, arrays out, no GIL, the same bits for any number of threads.

Vectors are compared with entries through ½|x - c|² = ½|x|² + (½|c|² - x·c), of which only the bracket depends
on the entry. Entries lie in panels, transposed, so that sixteen of them are compared at once.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector import LANES, fnma, lane_indices, select, splat
from spaceport_lab.kernels.vector_memory import load, store

STEP = 2 * LANES
"""Entries of a panel come in multiples of this."""


@kernel(inline=True)
def _padded(count):
    return (count + STEP - 1) // STEP * STEP


@kernel(inline=True)
def _pack(entries, first, last, panel, norms):
    """Entries first to last as a panel [D, width], and half their squared lengths; padding is never near."""
    depth, count = entries.shape[1], last - first
    width = _padded(count)
    for j in range(width):
        total = np.float32(0)
        for d in range(depth):
            value = entries[first + j, d] if j < count else np.float32(0)
            panel[d * width + j] = value
            total += value * value
        norms[j] = total / 2 if j < count else np.float32(np.inf)
    return width


@kernel(inline=True)
def _settle(lanes, places, lane, row, base, best, labels):
    """The least of one vector's sixteen lanes, kept where it beats what was found before."""
    k = lane
    for i in range(lane + 1, lane + LANES):
        if lanes[i] < lanes[k] or (lanes[i] == lanes[k] and places[i] < places[k]):
            k = i
    if lanes[k] < best[row]:
        best[row] = lanes[k]
        labels[row] = base + places[k]


@kernel(inline=True)
def _compare(X, rows, first, last, panel, norms, width, base, best, labels, lanes, places):
    """Compare vectors rows[first:last] with a panel; entry j of it is called base + j.

    Four vectors by thirty-two entries at a time: that many sums fit into registers.
    """
    depth = X.shape[1]
    for i in range(first, last, 4):
        r0 = rows[i]
        r1 = rows[min(i + 1, last - 1)]
        r2 = rows[min(i + 2, last - 1)]
        r3 = rows[min(i + 3, last - 1)]
        x0, x1, x2, x3 = X[r0], X[r1], X[r2], X[r3]
        b0 = splat(np.float32(np.inf))
        b1, b2, b3 = b0, b0, b0
        p0 = lane_indices()
        p1, p2, p3 = p0, p0, p0
        for j in range(0, width, STEP):
            a0, c0 = load(norms, j), load(norms, j + LANES)
            a1, a2, a3 = a0, a0, a0
            c1, c2, c3 = c0, c0, c0
            for d in range(depth):
                p, q = load(panel, d * width + j), load(panel, d * width + j + LANES)
                a0, c0 = fnma(x0[d], p, a0), fnma(x0[d], q, c0)
                a1, c1 = fnma(x1[d], p, a1), fnma(x1[d], q, c1)
                a2, c2 = fnma(x2[d], p, a2), fnma(x2[d], q, c2)
                a3, c3 = fnma(x3[d], p, a3), fnma(x3[d], q, c3)
            near, far = lane_indices() + j, lane_indices() + (j + LANES)
            less = c0 < a0
            a0, m0 = select(less, c0, a0), select(less, far, near)
            less = c1 < a1
            a1, m1 = select(less, c1, a1), select(less, far, near)
            less = c2 < a2
            a2, m2 = select(less, c2, a2), select(less, far, near)
            less = c3 < a3
            a3, m3 = select(less, c3, a3), select(less, far, near)
            less = a0 < b0
            b0, p0 = select(less, a0, b0), select(less, m0, p0)
            less = a1 < b1
            b1, p1 = select(less, a1, b1), select(less, m1, p1)
            less = a2 < b2
            b2, p2 = select(less, a2, b2), select(less, m2, p2)
            less = a3 < b3
            b3, p3 = select(less, a3, b3), select(less, m3, p3)
        store(lanes, 0, b0)
        store(lanes, LANES, b1)
        store(lanes, 2 * LANES, b2)
        store(lanes, 3 * LANES, b3)
        store(places, 0, p0)
        store(places, LANES, p1)
        store(places, 2 * LANES, p2)
        store(places, 3 * LANES, p3)
        _settle(lanes, places, 0, r0, base, best, labels)
        _settle(lanes, places, LANES, r1, base, best, labels)
        _settle(lanes, places, 2 * LANES, r2, base, best, labels)
        _settle(lanes, places, 3 * LANES, r3, base, best, labels)


@kernel(inline=True)
def _centre(X, w, rows, first, last, sums, entry):
    """The weighted mean of vectors rows[first:last]."""
    sums[:] = 0
    mass = 0.0
    for i in range(first, last):
        row = rows[i]
        mass += w[row]
        for d in range(X.shape[1]):
            sums[d] += np.float64(w[row]) * X[row, d]
    for d in range(X.shape[1]):
        entry[d] = sums[d] / mass


@kernel()
def group(labels, count):
    """Where each label's members begin [count + 1], and the members, by label, in ascending order."""
    starts = np.zeros(count + 1, np.int64)
    for label in labels:
        starts[label + 1] += 1
    for label in range(count):
        starts[label + 1] += starts[label]
    next_place = starts[:-1].copy()
    members = np.empty(len(labels), np.int32)
    for i in range(len(labels)):
        members[next_place[labels[i]]] = i
        next_place[labels[i]] += 1
    return starts, members


@kernel()
def small_kmeans(X, w, rows, entries, iterations):
    """Plain weighted k-means of vectors `rows`, from the given entries [k, D], which it improves in place.

    An entry without members moves to the vector that is worst off.
    """
    n, k = len(rows), len(entries)
    width = _padded(k)
    panel, norms = np.empty(width * X.shape[1], np.float32), np.empty(width, np.float32)
    lanes, places = np.empty(4 * LANES, np.float32), np.empty(4 * LANES, np.int32)
    sums = np.empty(X.shape[1], np.float64)
    inside = np.empty((n, X.shape[1]), np.float32)
    weight, half, here = np.empty(n, np.float32), np.empty(n, np.float32), np.arange(n).astype(np.int32)
    for i in range(n):
        inside[i] = X[rows[i]]
        weight[i] = w[rows[i]]
        half[i] = (inside[i] * inside[i]).sum() / 2
    best, labels = np.empty(n, np.float32), np.zeros(n, np.int32)
    for _ in range(iterations):
        best[:] = np.inf
        _pack(entries, 0, k, panel, norms)
        _compare(inside, here, 0, n, panel, norms, width, 0, best, labels, lanes, places)
        starts, members = group(labels, k)
        empty = 0
        for entry in range(k):
            if starts[entry] < starts[entry + 1]:
                _centre(inside, weight, members, starts[entry], starts[entry + 1], sums, entries[entry])
            else:
                empty += 1
        if empty:
            # Sorted once: among many equal vectors nearly all entries are empty.
            worst = np.argsort(-weight * (best + half))
            for entry in range(k):
                if starts[entry] == starts[entry + 1]:
                    empty -= 1
                    entries[entry] = inside[worst[empty]]


@kernel()
def near_cells(X, first, last, cells, near, errors):
    """The nearest coarse cells of vectors first to last, nearest first: near [N, probes]; and errors [N],
    the squared distance to the very nearest."""
    count, depth = cells.shape
    width = _padded(count)
    panel, norms = np.empty(width * depth, np.float32), np.empty(width, np.float32)
    _pack(cells, 0, count, panel, norms)
    distances = np.empty(2 * width, np.float32)
    lanes, places = np.empty(LANES, np.float32), np.empty(LANES, np.int32)
    for i in range(first, last, 2):
        r1 = min(i + 1, last - 1)
        x0, x1 = X[i], X[r1]
        for j in range(0, width, STEP):
            a0, c0 = load(norms, j), load(norms, j + LANES)
            a1, c1 = a0, c0
            for d in range(depth):
                p, q = load(panel, d * width + j), load(panel, d * width + j + LANES)
                a0, c0 = fnma(x0[d], p, a0), fnma(x0[d], q, c0)
                a1, c1 = fnma(x1[d], p, a1), fnma(x1[d], q, c1)
            store(distances, j, a0)
            store(distances, j + LANES, c0)
            store(distances, width + j, a1)
            store(distances, width + j + LANES, c1)
        for half in range(2):
            row = i if half == 0 else r1
            _least_of(distances, half * width, width, near[row], lanes, places)
            difference = np.float32(0)
            for d in range(depth):
                difference += (X[row, d] - cells[near[row, 0], d]) ** 2
            errors[row] = difference


@kernel(inline=True)
def _least_of(distances, start, width, near, lanes, places):
    """Positions of the least distances, ascending."""
    for probe in range(len(near)):
        b, p = splat(np.float32(np.inf)), lane_indices()
        for j in range(0, width, LANES):
            a = load(distances, start + j)
            less = a < b
            b, p = select(less, a, b), select(less, lane_indices() + j, p)
        store(lanes, 0, b)
        store(places, 0, p)
        k = 0
        for i in range(1, LANES):
            if lanes[i] < lanes[k] or (lanes[i] == lanes[k] and places[i] < places[k]):
                k = i
        near[probe] = places[k]
        distances[start + places[k]] = np.inf


@kernel()
def panels(entries, starts, offsets, flat, norms):
    """Entries that are grouped by cell, as one panel a cell: cell g's begins at offsets[g] of `norms`."""
    for cell in range(len(starts) - 1):
        a, b = offsets[cell], offsets[cell + 1]
        depth = entries.shape[1]
        _pack(entries, starts[cell], starts[cell + 1], flat[a * depth : b * depth], norms[a:b])


@kernel()
def assign(X, first, last, near, probes, starts, offsets, flat, norms, labels, errors):
    """The nearest entry of vectors first to last among those of their nearest cells.

    Args:
        X: [N, D] vectors; near: [N, ...] their nearest cells; probes: how many of these are searched.
        starts, offsets, flat, norms: as made by `panels`.
        labels, errors: [N] written: entries, and squared distances to them.
    """
    cells, depth, n = len(starts) - 1, X.shape[1], last - first
    lanes, places = np.empty(4 * LANES, np.float32), np.empty(4 * LANES, np.int32)
    pairs = np.empty(n * probes, np.int32)
    for i in range(n):
        for probe in range(probes):
            pairs[i * probes + probe] = near[first + i, probe]
    begin, members = group(pairs, cells)
    for k in range(len(members)):
        members[k] = first + members[k] // probes
    for i in range(first, last):
        errors[i] = np.inf
        labels[i] = starts[near[i, 0]] if starts[near[i, 0]] < starts[cells] else 0
    for cell in range(cells):
        a, b = offsets[cell], offsets[cell + 1]
        if starts[cell] < starts[cell + 1] and begin[cell] < begin[cell + 1]:
            _compare(
                X, members, begin[cell], begin[cell + 1], flat[a * depth : b * depth], norms[a:b], b - a,
                starts[cell], errors, labels, lanes, places,
            )  # fmt: skip
    for i in range(first, last):
        half = np.float32(0)
        for d in range(depth):
            half += X[i, d] * X[i, d]
        errors[i] = max(np.float32(0), 2 * errors[i] + half)


@kernel()
def centres(X, w, starts, members, first, last, entries):
    """Move entries first to last to the weighted means of their members; those without any stay."""
    sums = np.empty(X.shape[1], np.float64)
    for entry in range(first, last):
        if starts[entry] < starts[entry + 1]:
            _centre(X, w, members, starts[entry], starts[entry + 1], sums, entries[entry])


@kernel()
def squared_errors(X, entries, labels):
    """The sum of (vector - entry)² over all numbers, in double precision."""
    total = 0.0
    for i in range(len(X)):
        for d in range(X.shape[1]):
            difference = np.float64(X[i, d]) - entries[labels[i], d]
            total += difference * difference
    return total
