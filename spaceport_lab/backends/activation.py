"""Scales and opacities of the raw parameters that training moves, in plain torch.

On the CPU `rasterize(raw=True)` has them from a kernel (`kernels.activation`); this is what runs on CUDA, and
what the kernel is tested against.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def activate(
    scales: Float[Tensor, "N 3"], opacities: Float[Tensor, " N"], left_out: float = 0.0
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, " N"]]:
    """exp of the scales and sigmoid of the opacities, a random share of the Gaussians left out.

    The others are raised by as much, so that all of them together are as opaque as before (DropGaussian, Park
    et al. 2025).

    Args:
        scales: logarithms of the standard deviations.
        opacities: logits.
        left_out: share of the Gaussians that get an opacity of 0; at least 0, below 1. Which ones is drawn
            from torch's random numbers.
    """
    opacities = torch.sigmoid(opacities)
    if left_out:
        opacities = opacities * (torch.rand_like(opacities) >= left_out) / (1 - left_out)
    return scales.exp(), opacities


def draw_seed() -> int:
    """A seed of 31 bits from torch's random numbers."""
    return int(torch.randint(1 << 31, ()))
