"""What one densification did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
"""Of the mean view-space gradient over the Gaussians that were seen, recorded at each densification."""


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
