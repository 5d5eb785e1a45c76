"""What one densification did."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

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


def quantiles(gradients: Float[Tensor, " N"]) -> dict[str, float]:
    """The figures of `QUANTILES`; zeros where there is no gradient at all."""
    if len(gradients) == 0:
        return dict.fromkeys(QUANTILES, 0.0)
    ordered = gradients.sort().values
    last = len(ordered) - 1
    return {name: float(ordered[round(share * last)]) for name, share in QUANTILES.items()}


def histogram(gradients: Float[Tensor, " N"]) -> dict[str, list]:
    """Counts of the gradients in bins of equal ratio; what lies below the first edge counts in the first bin.

    Returns:
        `edges` [B + 1] and `counts` [B] with at most 48 bins, which add up to N; both empty where there is no
        gradient above zero.
    """
    most = float(gradients.max()) if len(gradients) else 0.0
    if not 0 < most < math.inf:
        return {"edges": [], "counts": []}
    least = float(gradients.sort().values[int(LEAST_SHARE * (len(gradients) - 1))])
    end = math.floor(math.log10(most) * PER_DECADE) + 1
    first = math.floor(math.log10(least) * PER_DECADE) if least > 0 else end - MOST_BINS
    edges = [10 ** (k / PER_DECADE) for k in range(max(first, end - MOST_BINS), end + 1)]
    inner = torch.tensor(edges[1:-1], dtype=torch.float64, device=gradients.device)
    counts = torch.bincount(torch.bucketize(gradients.double(), inner, right=True), minlength=len(edges) - 1)
    return {"edges": [float(f"{edge:.4g}") for edge in edges], "counts": counts.tolist()}
