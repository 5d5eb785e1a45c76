"""The palette on a GPU, through torch: there it costs little to compare every vector with every entry."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spaceport_lab.sog.palette import ENOUGH, Palette
from spaceport_lab.workspace import Progress

_PAIRS = 1 << 28  # distances held at a time, 1 GB


@torch.no_grad()
def build(
    vectors: Float[np.ndarray, "N D"],
    weights: Float[np.ndarray, "N"],
    size: int,
    iterations: int,
    seed: int,
    device: str,
) -> Generator[Progress, None, Palette]:
    """Weighted k-means from random vectors; arguments and result as of `palette.build_palette`.

    Twice the iterations: it starts from random vectors, not from entries made for each region.
    """
    X, w = (torch.from_numpy(array).to(device) for array in (vectors, weights))
    start = np.random.default_rng(seed).permutation(len(X))[:size]
    entries = X[torch.from_numpy(start).to(device)].clone()
    before = np.inf
    for i in range(2 * iterations):
        labels, errors = _nearest(X, entries)
        rmse = float((errors.double().mean() / X.shape[1]).sqrt())
        last = i == 2 * iterations - 1 or rmse > (1 - ENOUGH) * before
        entries = _update(X, w, labels, entries, None if last else errors)
        before = rmse
        yield Progress(i + 1, 2 * iterations + 1, "SH palette: k-means on the GPU", {"sh_rmse": rmse})
        if last:
            break
    mean_square = float((X - entries[labels]).double().square().mean())
    return Palette(entries.cpu().numpy(), labels.int().cpu().numpy(), mean_square)


def _nearest(X: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """[N] nearest entry of each vector and [N] squared distance to it."""
    labels = torch.empty(len(X), dtype=torch.int64, device=X.device)
    errors = torch.empty(len(X), device=X.device)
    half_norms = entries.square().sum(dim=1) / 2
    block = max(1, _PAIRS // len(entries))
    for start in range(0, len(X), block):
        part = slice(start, start + block)
        # |x - c|² / 2 = |x|² / 2 + (|c|² / 2 - x·c): the part that depends on c is one matrix product.
        errors[part], labels[part] = torch.addmm(half_norms[None], X[part], entries.T, alpha=-1).min(dim=1)
    return labels, (2 * errors + X.square().sum(dim=1)).clamp(min=0)


def _update(X: Tensor, w: Tensor, labels: Tensor, entries: Tensor, errors: Tensor | None) -> Tensor:
    """Weighted means of the members; entries without any move to the vectors that are worst off.

    Members are summed up in the order of their numbers: a GPU's atomic additions would come in any.
    """
    order = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=len(entries))
    rows = torch.column_stack([X * w[:, None], w])[order]
    sums = torch.segment_reduce(rows, "sum", lengths=counts)
    updated = torch.where(counts[:, None] > 0, sums[:, :-1] / sums[:, -1:].clamp(min=1e-30), entries)
    empty = torch.nonzero(counts == 0)[:, 0][: len(X)]
    if len(empty) and errors is not None:
        updated[empty] = X[torch.argsort(errors * w, descending=True, stable=True)[: len(empty)]]
    return updated
