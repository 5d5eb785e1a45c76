"""The palette of spherical harmonics: k-means of N vectors in up to 45 dimensions, coarse to fine.

Exact k-means compares every vector with every entry, 64 thousand times a million times 45. Here space is
first split into a few hundred coarse cells; entries are found inside cells, and a vector is compared only
with the entries of the cells nearest to it (the inverted file of Jégou et al. 2011). The error is that of
exact k-means or less, in a twentieth of the time.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spaceport_lab.workspace import Progress

_PROBES = 8  # coarse cells searched for each vector
_BLOCK = 16384  # vectors compared at a time: their distances stay in the processor's cache


@dataclass(frozen=True)
class Palette:
    """K entries, and which of them stands for each of N vectors.

    Attributes:
        entries: [K, D] float32.
        labels: [N] int64, below K.
        mean_square: mean of (vector - entry)² over all numbers.
    """

    entries: Float[np.ndarray, "K D"]
    labels: Int[np.ndarray, " N"]
    mean_square: float


def default_size(n: int) -> int:
    """Entries for n Gaussians: an eighth of them, at least 1024, at most what 16-bit labels reach.

    With so many the centroids weigh about as much as the labels; more of them cost more than they give.
    """
    return min(n, max(1024, n // 8 // 64 * 64), 65536)


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
        seed: of the random starts; the same seed gives the same palette on the same machine.
        device: of the torch tensors.
    """
    exact = _exact_palette(vectors, size)
    if exact is not None:
        return exact
    with torch.no_grad():
        X = torch.from_numpy(np.ascontiguousarray(vectors, np.float32)).to(device)
        w = torch.from_numpy(np.ascontiguousarray(weights, np.float32)).to(device)
        random = torch.Generator(device).manual_seed(seed)
        yield Progress(0, iterations + 1, "SH palette: coarse cells")
        cells = _coarse_cells(X, w, size, random)
        entries = _start_entries(X, w, cells, size, random)
        for i in range(iterations):
            labels, errors = _assign(X, entries, cells)
            entries = _update(X, w, labels, entries, errors if i < iterations - 1 else None)
            rmse = float((errors.double().mean() / X.shape[1]).sqrt())
            yield Progress(i + 1, iterations + 1, "SH palette: k-means", {"sh_rmse": rmse})
        mean_square = float((X - entries[labels]).double().square().mean())
    return Palette(entries.cpu().numpy(), labels.cpu().numpy(), mean_square)


def sort_entries(palette: Palette) -> Palette:
    """Order entries by the mean rank of the vectors that use them, and leave out unused ones.

    Vectors come in spatial order, so that neighbouring entries and neighbouring labels become alike.
    """
    n, k = len(palette.labels), len(palette.entries)
    users = np.bincount(palette.labels, minlength=k)
    rank = np.bincount(palette.labels, np.arange(n), k) / np.maximum(users, 1)
    used = np.flatnonzero(users)
    order = used[np.argsort(rank[used], kind="stable")]
    position = np.zeros(k, np.int64)
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
    return np.unique(vectors.astype(np.float64) @ np.random.default_rng(0).normal(size=vectors.shape[1]))


def _coarse_cells(X: Tensor, w: Tensor, size: int, random: torch.Generator) -> Tensor:
    """[G, D] centres of the coarse cells: plain k-means on a sample."""
    cells = int(np.clip(2 ** round(np.log2(np.sqrt(size))), 8, 512))
    return _small_kmeans(*_sample(X, w, max(65536, cells * 64), random), cells, 8, random)


def _sample(X: Tensor, w: Tensor, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    if len(X) <= count:
        return X, w
    pick = torch.randperm(len(X), generator=random, device=X.device)[:count]
    return X[pick], w[pick]


def _start_entries(X: Tensor, w: Tensor, cells: Tensor, size: int, random: torch.Generator) -> Tensor:
    """[K, D] first entries: every cell gets a share by what is in it and how far it spreads."""
    labels, errors = _nearest(X, cells)
    members = torch.bincount(labels, minlength=len(cells))
    spread = torch.zeros(len(cells), dtype=torch.float64, device=X.device)
    spread.index_add_(0, labels, errors.double())
    # The optimal density of entries grows as a small power of the error where dimensions are many.
    demand = members * (spread / members.clamp(min=1)).clamp(min=1e-12) ** 0.25
    share = _shares(demand.cpu().numpy(), members.cpu().numpy(), size)
    order = torch.argsort(labels, stable=True)
    starts = np.concatenate([[0], np.cumsum(members.cpu().numpy())])
    entries = []
    for cell, k in enumerate(share):
        inside = order[starts[cell] : starts[cell + 1]]
        if k > 0:
            entries.append(_small_kmeans(X[inside], w[inside], int(k), 4, random))
    return torch.cat(entries)


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


def _small_kmeans(X: Tensor, w: Tensor, k: int, iterations: int, random: torch.Generator) -> Tensor:
    """[k, D] centres by plain weighted k-means from random members."""
    entries = X[torch.randperm(len(X), generator=random, device=X.device)[:k]].clone()
    if k >= len(X):
        return entries
    for _ in range(iterations):
        labels, errors = _nearest(X, entries)
        entries = _update(X, w, labels, entries, errors)
    return entries


def _nearest(X: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """[N] nearest entry of each vector and [N] squared distance to it, by comparing with all."""
    labels = torch.empty(len(X), dtype=torch.int64, device=X.device)
    errors = torch.empty(len(X), device=X.device)
    half_norms = entries.square().sum(dim=1) / 2
    for start in range(0, len(X), _BLOCK // 4):
        part = slice(start, start + _BLOCK // 4)
        # |x - c|² / 2 = |x|² / 2 + (|c|² / 2 - x·c): the part that depends on c is one matrix product.
        errors[part], labels[part] = torch.addmm(half_norms[None], X[part], entries.T, alpha=-1).min(dim=1)
    return labels, (2 * errors + X.square().sum(dim=1)).clamp(min=0)


def _assign(X: Tensor, entries: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """As `_nearest`, among the entries of the `_PROBES` coarse cells nearest to each vector."""
    probes = min(_PROBES, len(cells))
    cell_of_entry, _ = _nearest(entries, cells)
    by_cell = torch.argsort(cell_of_entry, stable=True)
    first_entry = _starts(cell_of_entry, len(cells))
    grouped = entries[by_cell]
    half_norms = grouped.square().sum(dim=1) / 2
    near = _near_cells(X, cells, probes).reshape(-1)
    pairs, first_pair = torch.argsort(near, stable=True), _starts(near, len(cells))
    best = torch.full((len(X),), torch.inf, device=X.device)
    labels = torch.zeros(len(X), dtype=torch.int64, device=X.device)
    for cell in range(len(cells)):
        a, b = first_entry[cell], first_entry[cell + 1]
        vectors = torch.div(pairs[first_pair[cell] : first_pair[cell + 1]], probes, rounding_mode="floor")
        if a == b or len(vectors) == 0:
            continue
        errors, nearest = torch.addmm(half_norms[None, a:b], X[vectors], grouped[a:b].T, alpha=-1).min(dim=1)
        better = errors < best[vectors]
        best[vectors[better]] = errors[better]
        labels[vectors[better]] = by_cell[a + nearest[better]]
    lost = torch.nonzero(best.isinf())[:, 0]  # all their cells are without an entry
    if len(lost):
        return _nearest(X, entries)
    return labels, (2 * best + X.square().sum(dim=1)).clamp(min=0)


def _near_cells(X: Tensor, cells: Tensor, probes: int) -> Tensor:
    """[N, probes] the nearest coarse cells of each vector."""
    near = torch.empty(len(X), probes, dtype=torch.int32, device=X.device)
    half_norms = cells.square().sum(dim=1) / 2
    for start in range(0, len(X), _BLOCK):
        part = slice(start, start + _BLOCK)
        distances = torch.addmm(half_norms[None], X[part], cells.T, alpha=-1)
        near[part] = torch.topk(distances, probes, dim=1, largest=False).indices
    return near


def _starts(labels: Tensor, count: int) -> list[int]:
    """Where each label's run begins once they are sorted, and the end of the last."""
    return [0, *torch.bincount(labels, minlength=count).cumsum(0).tolist()]


def _update(X: Tensor, w: Tensor, labels: Tensor, entries: Tensor, errors: Tensor | None) -> Tensor:
    """Weighted means of the members; entries without any move to the vectors that are worst off."""
    mass = torch.zeros(len(entries), device=X.device).index_add_(0, labels, w)
    sums = torch.zeros_like(entries).index_add_(0, labels, X * w[:, None])
    empty = mass == 0
    updated = torch.where(empty[:, None], entries, sums / mass.clamp(min=1e-30)[:, None])
    count = int(empty.sum())
    if count and errors is not None:
        updated[empty] = X[torch.topk(errors * w, min(count, len(X))).indices]
    return updated
