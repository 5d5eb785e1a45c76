"""3DGS-MCMC (Kheradmand et al. 2024): dead Gaussians move onto living ones, positions are shaken.

gsplat's strategy without its CUDA kernels, so that it runs on the CPU too, and in scene units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from gsplat.strategy import MCMCStrategy, ops
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from spaceport_lab.params import TrainParams
from spaceport_lab.train.densify.record import Refined
from spaceport_lab.train.schedules import Plan

MAX_RATIO = 51
"""A Gaussian is divided into this many at the most in one step, as in the paper's code."""


class Mcmc(MCMCStrategy):
    """3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024), on any device.

    The paper's constants are for a scene of radius one; sizes and noise are taken over the scene scale, so
    that worlds in metres behave the same.
    """

    def __init__(self, p: TrainParams, plan: Plan, scene_scale: float, cap: int) -> None:
        super().__init__()
        self.scene_scale = scene_scale
        self.adopt(p, plan, cap)
        self.state: dict[str, Any] = {}

    def adopt(self, p: TrainParams, plan: Plan, cap: int) -> None:
        """Take over the numbers that may change while training runs."""
        self.cap_max, self.noise_lr, self.min_opacity = cap, p.mcmc_noise, max(p.prune_opa, 1e-6)
        self.opacity_reg, self.scale_reg = p.mcmc_opacity_reg, p.mcmc_scale_reg
        self.schedule, self.growth = plan.refinement, plan.growth
        self.refine_start_iter, self.refine_stop_iter = self.schedule.start, self.schedule.stop
        self.refine_every = self.schedule.every

    def before_backward(self, info: Mapping[str, Any]) -> None:
        """Nothing: MCMC looks at opacities, not at gradients."""

    def after_backward(
        self, splats: dict, optimizers: dict, done: int, info: Mapping[str, Any], means_lr: float
    ) -> Refined | None:
        """Relocate dead Gaussians and add new ones where the schedule says so; shake all positions."""
        refined = None
        if self.schedule.refines(done):
            target = min(self.cap_max, self.growth.target(done))
            refined = Refined(len(splats["means"]), target=target)
            refined.relocated = self._relocate(splats, optimizers)
            refined.added = self._add(splats, optimizers, target)
            refined.n_gaussians = len(splats["means"])
        ids = info["gaussian_ids"] if refined is None else None
        add_noise(splats, means_lr / self.scene_scale**2 * self.noise_lr, ids)
        return refined

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none to take over."""

    def regularised(self, loss: Tensor, shown: Mapping[str, Tensor], n: int) -> Tensor:
        """The loss and what pulls opacities and sizes down: what serves nothing dies and is relocated.

        Args:
            shown: those that the step renders; on the CPU only they move.
            n: how many there are in all.
        """
        return (
            loss
            + self.opacity_reg / n * torch.sigmoid(shown["opacities"]).sum()
            + self.scale_reg / self.scene_scale / (3 * n) * torch.exp(shown["scales"]).sum()
        )

    @torch.no_grad()
    def _relocate(self, splats: dict, optimizers: dict) -> int:
        """Move every dead Gaussian onto a living one, drawn by opacity; together they look as the one did."""
        opacities = torch.sigmoid(splats["opacities"])
        dead = (opacities <= self.min_opacity).nonzero()[:, 0]
        alive = (opacities > self.min_opacity).nonzero()[:, 0]
        if len(dead) == 0 or len(alive) == 0:
            return 0
        chosen = alive[torch.multinomial(opacities[alive], len(dead), replacement=True)]
        self._divide(splats, chosen)
        for name, values in splats.items():
            values.data[dead] = values.data[chosen]
            for moment in _moments(optimizers[name], values).values():
                moment[chosen] = 0
        return len(dead)

    @torch.no_grad()
    def _add(self, splats: dict, optimizers: dict, target: int) -> int:
        """Add Gaussians up to the target onto living ones, drawn by opacity; at most as many as there are.

        The paper adds 5 % each time, which is for 30,000 steps and hardly grows in 2,000.
        """
        opacities = torch.sigmoid(splats["opacities"])
        n = min(len(opacities), max(0, target - len(opacities)))
        if n == 0:
            return 0
        chosen = torch.multinomial(opacities, n, replacement=True)
        self._divide(splats, chosen)
        append_copies(splats, optimizers, chosen)
        return n

    def _divide(self, splats: dict, chosen: Int[Tensor, " M"]) -> None:
        """Give each chosen Gaussian the opacity and size that it and its copies need to look as it did."""
        copies = torch.bincount(chosen, minlength=len(splats["opacities"]))[chosen] + 1
        opacities, scales = divided(
            torch.sigmoid(splats["opacities"][chosen]), torch.exp(splats["scales"][chosen]), copies
        )
        opacities = opacities.clamp(self.min_opacity, 1 - torch.finfo(torch.float32).eps)
        splats["opacities"].data[chosen] = torch.logit(opacities)
        splats["scales"].data[chosen] = torch.log(scales)


def divided(
    opacities: Float[Tensor, " M"], scales: Float[Tensor, "M 3"], copies: Int[Tensor, " M"]
) -> tuple[Float[Tensor, " M"], Float[Tensor, "M 3"]]:
    """Opacity and size of each of `copies` Gaussians that together look like one (3DGS-MCMC, equation 9).

    Args:
        opacities: [M] of the one, 0 to 1.
        scales: [M, 3] its standard deviations.
        copies: [M] into how many it is divided, counting itself; more than 51 count as 51.
    """
    copies = copies.clamp(1, MAX_RATIO)
    new = 1 - (1 - opacities.double()) ** (1 / copies.double())
    most = int(copies.max()) if len(copies) else 1
    # Row i - 1 holds the sum over k of binomial(i - 1, k) (-1)^k new^(k + 1) / sqrt(k + 1); its signs
    # alternate, hence double precision.
    k = torch.arange(most, device=new.device)
    powers = new[:, None] ** (k + 1) / (k + 1).sqrt() * (1 - 2 * (k % 2))
    binomials = torch.tensor(
        [[math.comb(i, j) for j in range(most)] for i in range(most)], dtype=torch.float64, device=new.device
    )
    inner = powers @ binomials.T
    used = torch.arange(1, most + 1, device=new.device) <= copies[:, None]
    shrink = opacities.double() / (inner * used).sum(dim=1)
    return new.to(opacities.dtype), (shrink[:, None] * scales.double()).to(scales.dtype)


@torch.no_grad()
def add_noise(splats: Mapping[str, Tensor], amount: float, rows: Int[Tensor, " M"] | None = None) -> None:
    """Shake positions along each Gaussian's own shape, faint ones most (3DGS-MCMC, equation 10).

    Args:
        amount: of the noise, world units.
        rows: who is shaken; None for all.
    """
    chosen = slice(None) if rows is None else rows
    opacities, quats, scales = (splats[name].detach()[chosen] for name in ("opacities", "quats", "scales"))
    faint = torch.sigmoid(100 * (0.005 - torch.sigmoid(opacities)))
    rotation = ops.normalized_quat_to_rotmat(torch.nn.functional.normalize(quats, dim=-1))
    noise = torch.randn(len(quats), 3, device=quats.device) * (faint * amount)[:, None]
    # Covariance R S² Rᵀ applied from the right, without building it.
    noise = torch.einsum("nji,nj->ni", rotation, noise) * torch.exp(2 * scales)
    splats["means"].data[chosen] += torch.einsum("nij,nj->ni", rotation, noise)


@torch.no_grad()
def append_copies(splats: dict, optimizers: dict[str, Optimizer], chosen: Int[Tensor, " M"]) -> None:
    """Append copies of the chosen Gaussians; their optimiser moments start at zero."""
    for name, values in list(splats.items()):
        grown = torch.nn.Parameter(torch.cat([values.data, values.data[chosen]]))
        optimizer = optimizers[name]
        moments = _moments(optimizer, values)
        state = optimizer.state.pop(values, {})
        for key, moment in moments.items():
            state[key] = torch.cat([moment, moment.new_zeros(len(chosen), *moment.shape[1:])])
        if state:
            optimizer.state[grown] = state
        optimizer.param_groups[0]["params"] = [grown]
        splats[name] = grown


def _moments(optimizer: Optimizer, values: Tensor) -> dict[str, Tensor]:
    """The optimiser's running averages of one parameter; none before its first step."""
    state = optimizer.state.get(values, {})
    return {key: moment for key, moment in state.items() if key != "step"}
