"""The palette of spherical harmonics: k-means of N vectors in up to 45 dimensions, coarse to fine.

Exact k-means compares every vector with every entry, 64 thousand times a million times 45. Here space is
first split into a few hundred coarse cells; entries are found inside cells, and a vector is compared only
with the entries of the cells nearest to it (the inverted file of Jégou et al. 2011). The error is that of
exact k-means or less, in a fraction of the time. On CUDA, where comparing with all is quick, `palette_cuda`
does just that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.kernels import threads
from spaceport_lab.sog import kmeans
from spaceport_lab.workspace import Progress

PROBES = 8  # coarse cells searched for each vector
_BLOCK = 1 << 15  # vectors that a thread takes at a time
_ENTRY_BLOCK = 1 << 10
_SAMPLE = 256  # vectors for each coarse cell
ENOUGH = 0.003  # k-means ends when an iteration lowers the error by a smaller share than this


@dataclass(frozen=True)
class Palette:
    """K entries, and which of them stands for each of N vectors.

    Attributes:
        entries: [K, D] float32.
        labels: [N] int32, below K.
        mean_square: mean of (vector - entry)² over all numbers.
    """

    entries: Float[np.ndarray, "K D"]
    labels: Int[np.ndarray, " N"]
    mean_square: float


def default_size(n: int, per_entry: int = 8) -> int:
    """Entries for n Gaussians: one for every eight, 1024 even where they are few, at most 65536 (16 bits).

    With so many the centroids weigh about as much as the labels; more of them cost more than they give.
    """
    return min(n, max(8192 // per_entry, n // per_entry // 64 * 64), 65536)


def build_palette(
    vectors: Float[np.ndarray, "N D"],
    weights: Float[np.ndarray, "N"],
    size: int,
    iterations: int,
    seed: int,
    device: str = "cpu",
) -> Generator[Progress, None, Palette]:
    """Weighted k-means; yields its progress and returns the palette.

    Args:
        vectors: [N, D].
        weights: [N] positive; how much the error of each vector counts.
        size: entries at the most.
        iterations: of the refinement over all vectors.
        seed: of the random starts; the same seed gives the same palette, whatever the number of threads.
        device: "cpu", or a torch device for `palette_cuda`.
    """
    exact = _exact_palette(vectors, size)
    if exact is not None:
        return exact
    X = np.ascontiguousarray(vectors, np.float32)
    w = np.ascontiguousarray(weights, np.float32)
    if device != "cpu":
        from spaceport_lab.sog import palette_cuda  # torch is slow to load and large

        return (yield from palette_cuda.build(X, w, size, iterations, seed, device))
    random = np.random.default_rng(seed)
    yield Progress(0, iterations + 1, "SH palette: coarse cells")
    cells = _coarse_cells(X, w, size, random)
    near, errors = _near_cells(X, cells)
    entries = _start_entries(X, w, near[:, 0], errors, len(cells), size, random)
    labels = np.empty(len(X), np.int32)
    before = np.inf
    for i in range(iterations):
        entries = _assign(X, near, cells, entries, labels, errors)
        rmse = float(np.sqrt(errors.mean(dtype=np.float64) / X.shape[1]))
        last = i == iterations - 1 or rmse > (1 - ENOUGH) * before
        _update(X, w, labels, entries, None if last else errors)
        before = rmse
        yield Progress(i + 1, iterations + 1, "SH palette: k-means", {"sh_rmse": rmse})
        if last:
            break
    return Palette(entries, labels, kmeans.squared_errors(X, entries, labels) / X.size)


def sort_entries(palette: Palette) -> Palette:
    """Order entries by the mean rank of the vectors that use them, and leave out unused ones.

    Vectors come in spatial order, so that neighbouring entries and neighbouring labels become alike.
    """
    n, k = len(palette.labels), len(palette.entries)
    users = np.bincount(palette.labels, minlength=k)
    rank = np.bincount(palette.labels, np.arange(n), k) / np.maximum(users, 1)
    used = np.flatnonzero(users)
    order = used[np.argsort(rank[used], kind="stable")]
    position = np.zeros(k, np.int32)
    position[order] = np.arange(len(order))
    return Palette(palette.entries[order], position[palette.labels], palette.mean_square)


def _exact_palette(vectors: Float[np.ndarray, "N D"], size: int) -> Palette | None:
    """The distinct vectors themselves where there are no more than `size` of them."""
    if len(vectors) > size and len(_distinct(vectors[: 4 * size + 1])) > size:
        return None
    entries, labels = np.unique(vectors, axis=0, return_inverse=True)
    return Palette(entries, labels.reshape(-1), 0.0) if len(entries) <= size else None


def _distinct(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "M"]:
    """Distinct projections on one direction: a lower bound on the distinct vectors, and quick."""
    direction = np.random.default_rng(0).normal(size=vectors.shape[1]).astype(np.float32)
    return np.unique(vectors @ direction)


def _coarse_cells(
    X: Float[np.ndarray, "N D"], w: Float[np.ndarray, "N"], size: int, random: np.random.Generator
) -> Float[np.ndarray, "G D"]:
    """Centres of the coarse cells: plain k-means on a sample."""
    count = min(size, int(np.clip(2 ** round(np.log2(2 * np.sqrt(size))), 8, 512)))
    rows = random.permutation(len(X))[: max(1 << 15, count * _SAMPLE)].astype(np.int32)
    cells = X[rows[:count]].copy()
    kmeans.small_kmeans(X, w, rows, cells, 8)
    return cells


def _near_cells(
    X: Float[np.ndarray, "N D"], cells: Float[np.ndarray, "G D"]
) -> tuple[Int[np.ndarray, "N P"], Float[np.ndarray, "N"]]:
    """The `PROBES` cells nearest to each vector, and the squared distance to the first."""
    near = np.empty((len(X), min(PROBES, len(cells))), np.uint16)
    errors = np.empty(len(X), np.float32)
    _in_blocks(len(X), _BLOCK, lambda a, b: kmeans.near_cells(X, a, b, cells, near, errors))
    return near, errors


def _start_entries(
    X: Float[np.ndarray, "N D"],
    w: Float[np.ndarray, "N"],
    labels: Int[np.ndarray, "N"],
    errors: Float[np.ndarray, "N"],
    cells: int,
    size: int,
    random: np.random.Generator,
) -> Float[np.ndarray, "K D"]:
    """First entries: every cell gets a share by what is in it and how far it spreads."""
    starts, members = kmeans.group(labels, cells)
    counts = np.diff(starts)
    spread = np.bincount(labels, errors, cells)
    # The optimal density of entries grows as a small power of the error where dimensions are many.
    demand = counts * np.maximum(spread / np.maximum(counts, 1), 1e-12) ** 0.25
    share = _shares(demand, counts, size)
    first = np.concatenate([[0], np.cumsum(share)])
    entries = np.empty((first[-1], X.shape[1]), np.float32)
    for cell in range(cells):
        inside = members[starts[cell] : starts[cell + 1]]
        entries[first[cell] : first[cell + 1]] = X[random.permutation(inside)[: share[cell]]]

    def improve(cell: int, _: int) -> None:
        rows = members[starts[cell] : starts[cell + 1]]
        if 0 < share[cell] < len(rows):
            kmeans.small_kmeans(X, w, rows, entries[first[cell] : first[cell + 1]], 4)

    _in_blocks(cells, 1, improve)
    return entries


def _shares(demand: Float[np.ndarray, "G"], members: Int[np.ndarray, "G"], size: int) -> Int[np.ndarray, "G"]:
    """Split `size` entries by demand: none to empty cells, at most one to each member."""
    share = np.minimum(np.floor(demand / demand.sum() * size).astype(int), members)
    share = np.maximum(share, members > 0)
    order = np.argsort(-demand, kind="stable")
    while share.sum() != size:
        need = size - share.sum()
        able = order[(share < members)[order]] if need > 0 else order[(share > 1)[order]]
        if len(able) == 0:
            break
        share[able[: abs(need)]] += np.sign(need)
    return share


def _assign(
    X: Float[np.ndarray, "N D"],
    near: Int[np.ndarray, "N P"],
    cells: Float[np.ndarray, "G D"],
    entries: Float[np.ndarray, "K D"],
    labels: Int[np.ndarray, "N"],
    errors: Float[np.ndarray, "N"],
) -> Float[np.ndarray, "K D"]:
    """Fill labels and errors; returns the entries in the order that labels mean."""
    nearest, _ = _near_cells(entries, cells)
    starts, members = kmeans.group(nearest[:, 0], len(cells))
    entries = entries[members]
    widths = -(-np.diff(starts) // kmeans.STEP) * kmeans.STEP
    offsets = np.concatenate([[0], np.cumsum(widths)])
    flat, norms = np.empty(offsets[-1] * X.shape[1], np.float32), np.empty(offsets[-1], np.float32)
    kmeans.panels(entries, starts, offsets, flat, norms)
    probes = near.shape[1]

    def work(a: int, b: int) -> None:
        kmeans.assign(X, a, b, near, probes, starts, offsets, flat, norms, labels, errors)

    _in_blocks(len(X), _BLOCK, work)
    return entries


def _update(
    X: Float[np.ndarray, "N D"],
    w: Float[np.ndarray, "N"],
    labels: Int[np.ndarray, "N"],
    entries: Float[np.ndarray, "K D"],
    errors: Float[np.ndarray, "N"] | None,
) -> None:
    """Weighted means of the members; entries without any move to the vectors that are worst off."""
    starts, members = kmeans.group(labels, len(entries))
    _in_blocks(len(entries), _ENTRY_BLOCK, lambda a, b: kmeans.centres(X, w, starts, members, a, b, entries))
    empty = np.flatnonzero(np.diff(starts) == 0)[: len(X)]
    if len(empty) and errors is not None:
        worst = np.argpartition(errors * w, len(X) - len(empty))[len(X) - len(empty) :]
        entries[empty] = X[worst]


def _in_blocks(count: int, block: int, work: Callable[[int, int], None]) -> None:
    """Call work(first, last) for all of 0 … count, on all threads."""
    todo, lock = iter(range(0, count, block)), threading.Lock()

    def claim() -> int | None:
        with lock:
            return next(todo, None)

    def loop() -> None:
        while (first := claim()) is not None:
            work(first, min(first + block, count))

    threads.run_on_threads(loop, min(threads.thread_count(), -(-count // block)))
