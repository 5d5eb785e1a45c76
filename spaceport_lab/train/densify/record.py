"""What one densification did."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
"""Of the mean view-space gradient over the Gaussians that were seen, recorded at each densification."""

LEAST_SHARE = 0.001
"""A histogram begins at this quantile: the few gradients below say nothing and would stretch it."""

PER_DECADE, MOST_BINS = 12, 48
"""Bins of a histogram; its edges are 10^(k / 12) everywhere, so that those of two checks can be compared."""


@dataclass
class Refined:
    """What one densification did; gradients are in normalised device units as `grow_grad2d`.

    Attributes:
        n_before, n_gaussians: Gaussians before and after.
        above: how many exceeded the threshold; None for MCMC, which has none.
        cloned, split, pruned: what ADC did. A split replaces one Gaussian by two.
        added, relocated: what MCMC did.
        threshold: what was in force; found from the gradients, or `grow_grad2d`, or above that where the cap
            allowed fewer.
        target: how many Gaussians automatic growth aimed at; None with a threshold that was given.
        gradients: quantiles of the gradients by name.
        histogram: of the gradients: `edges` [B + 1], rising, and `counts` [B].
        reset: whether opacities were reset.
    """

    n_before: int
    n_gaussians: int = 0
    above: int | None = None
    cloned: int = 0
    split: int = 0
    pruned: int = 0
    added: int = 0
    relocated: int = 0
    threshold: float | None = None
    target: int | None = None
    gradients: dict[str, float] | None = None
    histogram: dict[str, list] | None = None
    reset: bool = False

    def record(self) -> dict[str, Any]:
        """As it goes into the metrics stream."""
        return asdict(self)


def ordered(gradients: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Rising."""
    # On the CPU numpy sorts with vectors, thirty times as fast as torch.
    return gradients.sort().values if gradients.is_cuda else torch.from_numpy(np.sort(gradients.numpy()))


def quantiles(rising: Float[Tensor, " N"]) -> dict[str, float]:
    """The figures of `QUANTILES` of gradients in rising order; zeros where there is no gradient at all."""
    if len(rising) == 0:
        return dict.fromkeys(QUANTILES, 0.0)
    last = len(rising) - 1
    return {name: float(rising[round(share * last)]) for name, share in QUANTILES.items()}


def histogram(rising: Float[Tensor, " N"]) -> dict[str, list]:
    """Counts of the gradients in bins of equal ratio; what lies below the first edge counts in the first bin.

    Args:
        rising: the gradients in rising order.

    Returns:
        `edges` [B + 1] and `counts` [B] with at most 48 bins, which add up to N; both empty where there is no
        gradient above zero.
    """
    most = float(rising[-1]) if len(rising) else 0.0
    if not 0 < most < math.inf:
        return {"edges": [], "counts": []}
    least = float(rising[int(LEAST_SHARE * (len(rising) - 1))])
    end = math.floor(math.log10(most) * PER_DECADE) + 1
    first = math.floor(math.log10(least) * PER_DECADE) if least > 0 else end - MOST_BINS
    edges = [10 ** (k / PER_DECADE) for k in range(max(first, end - MOST_BINS), end + 1)]
    inner = torch.tensor(edges[1:-1], dtype=torch.float64, device=rising.device)
    below = [0, *torch.searchsorted(rising.double(), inner).tolist(), len(rising)]
    counts = [after - before for before, after in pairwise(below)]
    return {"edges": [float(f"{edge:.4g}") for edge in edges], "counts": counts}
