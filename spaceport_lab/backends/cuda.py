"""gsplat on CUDA. Thin on purpose: the semantics are gsplat's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spaceport_lab.backends.checks import Colors
from spaceport_lab.errors import BackendError


def rasterize(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Colors, viewmats: Tensor,
    Ks: Tensor, width: int, height: int, *, backgrounds: Tensor | None, render_mode: str, antialiased: bool,
    near_plane: float, far_plane: float, radius_clip: float, eps2d: float, absgrad: bool,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """As `backends.rasterize`, on tensors that are on a CUDA device."""
    from gsplat import rasterization

    if not means.is_cuda:
        raise BackendError("the CUDA backend needs tensors on a GPU", got=f"means on {means.device}")
    if means.shape[0] == 0:
        return _background_only(means, viewmats, width, height, backgrounds, render_mode, colors.channels)
    coefficients = torch.cat(colors.tensors, dim=-2) if colors.is_split else colors.tensors[0]
    renders, alphas, info = rasterization(
        means, quats, scales, opacities, coefficients, viewmats, Ks, width, height,
        near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d,
        sh_degree=colors.sh_degree, packed=False, backgrounds=backgrounds, render_mode=render_mode,
        absgrad=absgrad, rasterize_mode="antialiased" if antialiased else "classic",
    )  # fmt: skip
    return renders, alphas, info


def _background_only(
    means: Tensor, viewmats: Tensor, width: int, height: int, backgrounds: Tensor | None, render_mode: str,
    channels: int,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """What no Gaussians look like: gsplat 1.5 divides by their number on the host, which ends the process."""
    n_cameras = viewmats.shape[0]
    behind = means.new_zeros(n_cameras, 0)
    if "RGB" in render_mode:
        behind = means.new_zeros(n_cameras, channels) if backgrounds is None else backgrounds
    if render_mode.endswith("D"):
        behind = torch.cat([behind, means.new_zeros(n_cameras, 1)], dim=-1)
    # Adding the sum of nothing keeps the inputs in the graph, so that backward works as ever.
    renders = behind[:, None, None, :].expand(-1, height, width, -1) + means.sum()
    means2d = means.new_zeros(n_cameras, 0, 2).requires_grad_(torch.is_grad_enabled())
    info = {
        "means2d": means2d, "radii": torch.zeros(n_cameras, 0, 2, dtype=torch.int32, device=means.device),
        "depths": means.new_zeros(n_cameras, 0), "width": width, "height": height, "n_cameras": n_cameras,
        "gaussian_ids": None,
    }  # fmt: skip
    return renders, means.new_zeros(n_cameras, height, width, 1) + means.sum(), info
