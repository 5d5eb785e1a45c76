"""Growing and pruning Gaussians, on gsplat's strategies, with counts of what each densification did.

gsplat 1.5 does the bookkeeping of parameters and optimiser states in plain torch, so it serves on the CPU
too. Added here: a cap for ADC, figures of every densification, opacity resets (gsplat 1.5.3 never does them:
its condition `step % n == 0 & step > 0` is always false), and MCMC without CUDA kernels, in scene units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy, MCMCStrategy, ops
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from spaceport_lab.params import TrainParams
from spaceport_lab.train.schedules import Refinement

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
"""Of the mean view-space gradient over the Gaussians that were seen, recorded at each densification."""

MAX_RATIO = 51
"""A Gaussian is divided into this many at the most in one MCMC step, as in the paper's code."""


@dataclass
class Refined:
    """What one densification did; gradients are in normalised device units as `grow_grad2d`.

    Attributes:
        n_before, n_gaussians: Gaussians before and after.
        above: how many exceeded the threshold; None for MCMC, which has none.
        cloned, split, pruned: what ADC did. A split replaces one Gaussian by two.
        added, relocated: what MCMC did.
        threshold: what was in force; above `grow_grad2d` where the cap allowed fewer.
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
    gradients: dict[str, float] | None = None
    reset: bool = False

    def record(self) -> dict[str, Any]:
        """As it goes into the metrics stream."""
        return asdict(self)


class Adc(DefaultStrategy):
    """Adaptive density control of the 3DGS paper (Kerbl et al. 2023, section 5.2) with a cap on the count."""

    def __init__(self, p: TrainParams, schedule: Refinement, scene_scale: float, cap: int) -> None:
        super().__init__(
            prune_opa=p.prune_opa,
            grow_grad2d=p.grow_grad2d,
            grow_scale3d=p.percent_dense,
            refine_start_iter=schedule.start,
            refine_stop_iter=schedule.stop,
            refine_every=schedule.every,
            reset_every=schedule.reset_every,
            absgrad=p.absgrad,
        )
        self.schedule, self.cap = schedule, cap
        self.state: dict[str, Any] = self.initialize_state(scene_scale)
        self._last: Refined | None = None

    def before_backward(self, splats: dict, optimizers: dict, info: Mapping[str, Any]) -> None:
        """Ask autograd to keep the gradient of the projected centres."""
        self.step_pre_backward(splats, optimizers, self.state, 0, info)

    def after_backward(
        self, splats: dict, optimizers: dict, done: int, info: Mapping[str, Any], means_lr: float
    ) -> Refined | None:
        """Collect gradients and, where the schedule says so, grow, prune and reset; returns what was done."""
        n_before = len(splats["means"])
        self.step_post_backward(splats, optimizers, self.state, done, info)
        refined, self._last = self._last, None
        if self.schedule.resets(done):
            value = min(0.5, self.prune_opa * 2) or 0.01
            ops.reset_opa(splats, optimizers, self.state, value)
            refined = refined or Refined(n_before)
            refined.reset = True
        if refined:
            refined.n_gaussians = len(splats["means"])
        return refined

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over the running state of a checkpoint."""
        self.state = state

    def loss(self, splats: Mapping[str, Tensor]) -> Tensor | float:
        """What the strategy adds to the loss: nothing."""
        return 0.0

    @torch.no_grad()
    def _grow_gs(self, params, optimizers, state, step):
        gradients = state["grad2d"] / state["count"].clamp_min(1)
        wanted = self.grow_grad2d
        room = max(0, self.cap - len(gradients))
        above = int((gradients > wanted).sum())
        # Every clone and every split adds one: under the cap only the largest gradients grow.
        if above > room:
            self.grow_grad2d = float(gradients.sort(descending=True).values[room])
        self._last = Refined(
            len(gradients),
            above=above,
            threshold=self.grow_grad2d,
            gradients=quantiles(gradients[state["count"] > 0]),
        )
        try:
            n_cloned, n_split = super()._grow_gs(params, optimizers, state, step)
        finally:
            self.grow_grad2d = wanted
        self._last.cloned, self._last.split = n_cloned, n_split
        return n_cloned, n_split

    @torch.no_grad()
    def _prune_gs(self, params, optimizers, state, step):
        transparent = torch.sigmoid(params["opacities"]) < self.prune_opa
        if bool(transparent.all()):
            return 0  # an empty scene cannot learn any more: better a faint one
        self._last.pruned = super()._prune_gs(params, optimizers, state, step)
        return self._last.pruned


class Mcmc(MCMCStrategy):
    """3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024), on any device.

    The paper's constants are for a scene of radius one; sizes and noise are taken over the scene scale, so
    that worlds in metres behave the same.
    """

    def __init__(self, p: TrainParams, schedule: Refinement, scene_scale: float, cap: int) -> None:
        super().__init__(
            cap_max=cap,
            noise_lr=p.mcmc_noise,
            refine_start_iter=schedule.start,
            refine_stop_iter=schedule.stop,
            refine_every=schedule.every,
            min_opacity=max(p.prune_opa, 1e-6),
        )
        self.schedule, self.scene_scale = schedule, scene_scale
        self.opacity_reg, self.scale_reg = p.mcmc_opacity_reg, p.mcmc_scale_reg
        self.state: dict[str, Any] = {}

    def before_backward(self, splats: dict, optimizers: dict, info: Mapping[str, Any]) -> None:
        """Nothing: MCMC looks at opacities, not at gradients."""

    def after_backward(
        self, splats: dict, optimizers: dict, done: int, info: Mapping[str, Any], means_lr: float
    ) -> Refined | None:
        """Relocate dead Gaussians and add new ones where the schedule says so; shake all positions."""
        refined = None
        if self.schedule.refines(done):
            refined = Refined(len(splats["means"]))
            refined.relocated = self._relocate(splats, optimizers)
            refined.added = self._add(splats, optimizers)
            refined.n_gaussians = len(splats["means"])
        add_noise(splats, means_lr / self.scene_scale**2 * self.noise_lr)
        return refined

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none to take over."""

    def loss(self, splats: Mapping[str, Tensor]) -> Tensor | float:
        """Pulls opacities and sizes down, so that Gaussians which serve nothing die and are relocated."""
        return (
            self.opacity_reg * torch.sigmoid(splats["opacities"]).mean()
            + self.scale_reg / self.scene_scale * torch.exp(splats["scales"]).mean()
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
    def _add(self, splats: dict, optimizers: dict) -> int:
        """Add 5 % Gaussians up to the cap onto living ones, drawn by opacity."""
        opacities = torch.sigmoid(splats["opacities"])
        n = max(0, min(self.cap_max, int(1.05 * len(opacities))) - len(opacities))
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


def make(p: TrainParams, schedule: Refinement, scene_scale: float, cap: int) -> Adc | Mcmc:
    """The densification `p.strategy` names."""
    return (Mcmc if p.strategy == "mcmc" else Adc)(p, schedule, scene_scale, cap)


def quantiles(gradients: Float[Tensor, " N"]) -> dict[str, float]:
    """The figures of `QUANTILES`; zeros where there is no gradient at all."""
    if len(gradients) == 0:
        return dict.fromkeys(QUANTILES, 0.0)
    ordered = gradients.sort().values
    last = len(ordered) - 1
    return {name: float(ordered[round(share * last)]) for name, share in QUANTILES.items()}


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
def add_noise(splats: Mapping[str, Tensor], amount: float) -> None:
    """Shake positions along each Gaussian's own shape, faint ones most (3DGS-MCMC, equation 10)."""
    faint = torch.sigmoid(100 * (0.005 - torch.sigmoid(splats["opacities"])))
    rotation = ops.normalized_quat_to_rotmat(torch.nn.functional.normalize(splats["quats"], dim=-1))
    noise = torch.randn_like(splats["means"]) * (faint * amount)[:, None]
    # Covariance R S² Rᵀ applied from the right, without building it.
    noise = torch.einsum("nji,nj->ni", rotation, noise) * torch.exp(2 * splats["scales"])
    splats["means"].data += torch.einsum("nij,nj->ni", rotation, noise)


@torch.no_grad()
def append_copies(splats: dict, optimizers: dict[str, Optimizer], chosen: Int[Tensor, " M"]) -> None:
    """Append copies of the chosen Gaussians; their optimiser moments start at zero."""
    for name, values in list(splats.items()):
        grown = torch.nn.Parameter(torch.cat([values.data, values.data[chosen]]))
        optimizer = optimizers[name]
        moments = _moments(optimizer, values)
        state = optimizer.state.pop(values, {})
        for key, moment in moments.items():
            state[key] = torch.cat([moment, torch.zeros_like(values.data[chosen])])
        if state:
            optimizer.state[grown] = state
        optimizer.param_groups[0]["params"] = [grown]
        splats[name] = grown


def _moments(optimizer: Optimizer, values: Tensor) -> dict[str, Tensor]:
    """The optimiser's running averages of one parameter; none before its first step."""
    state = optimizer.state.get(values, {})
    return {key: moment for key, moment in state.items() if key != "step"}
