"""Small models: Gaussians that no training view would miss go, and SH bands that change no colour."""

from __future__ import annotations

import math

import numpy as np
import torch
from gsplat.strategy import ops
from jaxtyping import Float, UInt8
from torch import Tensor

from spaceport_lab import backends
from spaceport_lab.cameras import Cameras
from spaceport_lab.params import TrainParams
from spaceport_lab.train import shown
from spaceport_lab.train.checkpoint import State
from spaceport_lab.train.densify import Refined
from spaceport_lab.train.inputs import Inputs
from spaceport_lab.train.schedules import EPS2D, Plan

BANDS = ((0, 3), (3, 8), (8, 15))
"""Coefficients of shN that belong to degree 1, 2 and 3."""

LOOKS = 48
"""With random signs, from which significance is told: of a Gaussian in all of them to a fifth."""


def compact(
    state: State, plan: Plan, p: TrainParams, inputs: Inputs, backend: str, done: int
) -> Refined | None:
    """Prune and drop bands where the plan says so after `done` steps; returns what was pruned."""
    refined = None
    if done in plan.prune_at:
        refined = prune(state, plan.prune_each, inputs.views.train, backend)
    if done == plan.drop_bands_at:
        drop_bands(state, p.prune_sh / 255)
    return refined


@torch.no_grad()
def prune(state: State, share: float, cameras: Cameras, backend: str) -> Refined:
    """Remove the `share` of all Gaussians that the views would miss least; what no view shows stays."""
    n = state.n
    refined = Refined(n, n_gaussians=n)
    worth = significance(state.splats, cameras, backend)
    n_out = min(n - 1, int(share * n), int(torch.isfinite(worth).sum()))
    if n_out > 0:
        out = torch.zeros(n, dtype=torch.bool, device=worth.device)
        out[worth.argsort()[:n_out]] = True
        ops.remove(state.splats, state.optimizers, state.strategy.state, out)
        if state.sh_degrees is not None:
            state.sh_degrees = state.sh_degrees[~out]
        refined.n_gaussians, refined.pruned = n - n_out, n_out
    return refined


@torch.no_grad()
def significance(
    splats: dict[str, Tensor], cameras: Cameras, backend: str, looks: int = LOOKS
) -> Float[Tensor, " N"]:
    """What the pictures would lose with each Gaussian: the squared change, summed over pixels and views.

    Where it covers a pixel by alpha, and those before it let a share T of the light through, the pixel
    changes by alpha T (its colour - what is behind it) when it goes, alpha times the pixel's gradient by
    alpha. So a large one that looks like what it hides is not needed, and a small one before another colour
    is. A backward pass adds the pixels' gradients up instead of their squares, but with a random sign for
    each the square of the sum has the sum of the squares as its mean (Hutchinson 1990). Speedy-Splat (Hanson
    et al. 2025) scores by squared gradients too; Trick-GS adds up blending weights, blind to what is behind.

    Args:
        looks: with new signs, at least, over all views together; few views are looked at again.

    Returns:
        Squared colours; infinite for Gaussians that are in none of the views, of which nothing can be said.
    """
    device = splats["means"].device
    worth = torch.full((len(splats["means"]),), -1.0, device=device)
    values = {name: tensor.detach() for name, tensor in splats.items()}
    degree = math.isqrt(values["shN"].shape[1] + 1) - 1
    times = math.ceil(looks / len(cameras))
    # Of its own, so that training goes on with the numbers it would have had.
    random = torch.Generator().manual_seed(0)
    for index in range(len(cameras)):
        viewmat = torch.from_numpy(cameras.viewmats[index].astype(np.float32)).to(device)
        K = torch.from_numpy(cameras.Ks[index].astype(np.float32)).to(device)
        width, height = (int(side) for side in cameras.sizes[index])
        rows: Tensor | slice = slice(None)
        if backend == "cpu":
            rows = backends.rows_in_view(
                values["means"], values["scales"], viewmat, K, width, height, eps2d=EPS2D
            )
        part = {name: tensor[rows] for name, tensor in values.items()}
        opacities = part["opacities"].sigmoid().requires_grad_()
        with torch.enable_grad():
            render, _, info = backends.rasterize(
                part["means"], part["quats"], part["scales"].exp(), opacities, (part["sh0"], part["shN"]),
                viewmat[None], K[None], width, height, sh_degree=degree, backend=backend,
            )  # fmt: skip
        change = torch.zeros_like(opacities)
        for _ in range(times):
            signs = torch.randint(2, render.shape, generator=random) * 2.0 - 1
            (slopes,) = torch.autograd.grad(render, opacities, signs.to(device), retain_graph=True)
            change += (slopes * opacities).square() / times
        shows = (info["radii"][0] > 0).all(dim=1)
        worth[rows] = torch.where(shows, worth[rows].clamp(min=0) + change, worth[rows])
    return torch.where(worth < 0, torch.inf, worth)


@torch.no_grad()
def drop_bands(state: State, least: float) -> None:
    """Give every Gaussian the lowest SH degree that changes its colour by less than `least`, 0..1.

    The change is the root mean square over all directions, which for orthonormal functions is the root of the
    coefficients' squares over 4 pi; the strongest channel counts. What is dropped is zero from now on.
    """
    values = state.splats["shN"]
    state.sh_degrees = needed_degrees(values.data, least)
    kept = shown.band_mask(state.sh_degrees, values.shape[1])[..., None]
    values.data *= kept
    # Without this Adam would move them on, by what it remembers of their gradients.
    for moment in ("exp_avg", "exp_avg_sq"):
        if moment in state.optimizers["shN"].state[values]:
            state.optimizers["shN"].state[values][moment] *= kept


def needed_degrees(shN: Float[Tensor, "N K 3"], least: float) -> UInt8[Tensor, " N"]:
    """The lowest degree of each Gaussian whose higher bands together change no colour by `least`."""
    energy = shN.square() / (4 * torch.pi)
    degrees = torch.zeros(len(shN), dtype=torch.uint8, device=shN.device)
    for degree, (first, _) in enumerate(BANDS, start=1):
        if first < shN.shape[1]:
            change = energy[:, first:].sum(dim=1).max(dim=1).values.sqrt()
            degrees[change >= least] = degree
    return degrees
