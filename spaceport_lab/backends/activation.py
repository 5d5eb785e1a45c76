"""Scales and opacities of the raw parameters that training moves: fused on the CPU, plain torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from spaceport_lab.backends.checks import expect_finite
from spaceport_lab.kernels import activation as kernels
from spaceport_lab.kernels import threads


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

    Raises:
        BackendError: a scale or an opacity is NaN or Inf (which of both, and in how many rows).
    """
    if scales.device.type == "cpu" and scales.dtype == opacities.dtype == torch.float32:
        return _Fused.apply(scales, opacities, left_out)
    return torch_activate(scales, opacities, left_out)


def torch_activate(scales: Tensor, opacities: Tensor, left_out: float = 0.0) -> tuple[Tensor, Tensor]:
    """The same in plain torch: the reference, and what runs on CUDA, where NaN and Inf are not looked for."""
    opacities = torch.sigmoid(opacities)
    if left_out:
        opacities = opacities * (torch.rand_like(opacities) >= left_out) / (1 - left_out)
    return scales.exp(), opacities


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, raw_scales: Tensor, raw_opacities: Tensor, left_out: float) -> tuple[Tensor, Tensor]:
        scales, opacities = torch.empty_like(raw_scales), torch.empty_like(raw_opacities)
        seed = int(torch.randint(1 << 31, ())) if left_out else 0
        finite = _on_all(
            kernels.activate, kernels.CHUNK, raw_scales, raw_opacities, seed, left_out, scales, opacities
        )
        if not all(finite):
            expect_finite("scales", raw_scales.exp())
            expect_finite("opacities", raw_opacities)
        ctx.save_for_backward(scales, opacities)
        ctx.left_out = left_out
        return scales, opacities

    @staticmethod
    @once_differentiable
    def backward(ctx, g_scales: Tensor, g_opacities: Tensor) -> tuple[Tensor, Tensor, None]:
        scales, opacities = ctx.saved_tensors
        g_raw_scales, g_raw_opacities = torch.empty_like(scales), torch.empty_like(opacities)
        _on_all(
            kernels.activate_backward, kernels.CHUNK_BACKWARD, scales, opacities, ctx.left_out, g_scales,
            g_opacities, g_raw_scales, g_raw_opacities,
        )  # fmt: skip
        return g_raw_scales, g_raw_opacities, None


def _on_all(kernel: Callable, chunk: int, *args: Tensor | float) -> list:
    n = len(args[1])
    given = [a.detach().contiguous().numpy().reshape(-1) if isinstance(a, Tensor) else a for a in args]
    return threads.on_all(kernel, -(-n // chunk), n, *given)
