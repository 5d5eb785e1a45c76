"""Adaptive density control of the 3DGS paper, with a cap and a threshold that finds itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from gsplat.strategy import DefaultStrategy, ops
from gsplat.utils import normalized_quat_to_rotmat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spaceport_lab.backends import add_lengths
from spaceport_lab.params import TrainParams
from spaceport_lab.train.densify.record import Refined, histogram, ordered, quantiles
from spaceport_lab.train.schedules import Plan

NO_GRADIENT = 1e-7
"""In normalised device units: what stays below has arrived, whatever the budget; a pixel of 1,000 is 2e-3."""


SMALLER = 1.6
"""By so much each half of a split Gaussian is smaller than the whole, as in the paper."""

NEVER = 1 << 62
"""Steps that no training takes."""


class Adc(DefaultStrategy):
    """Adaptive density control (Kerbl et al. 2023, section 5.2) with a cap on the count.

    With `grow_grad2d` 0 the threshold is found at every densification: the gradient which as many Gaussians
    exceed as the plan's growth wants, so that the number of Gaussians follows the plan at any resolution of
    the photographs, where a fixed threshold does not.
    """

    def __init__(self, p: TrainParams, plan: Plan, scene_scale: float, cap: int) -> None:
        # Whatever is large would be pruned after the first reset, and with it the ground that was laid.
        largest = {"prune_scale3d": math.inf} if p.backdrop else {}
        super().__init__(absgrad=p.absgrad, revised_opacity=p.revised_opacity, **largest)
        self.adopt(p, plan, cap)
        self.state: dict[str, Any] = self.initialize_state(scene_scale)
        self._last: Refined | None = None

    def adopt(self, p: TrainParams, plan: Plan, cap: int) -> None:
        """Take over the numbers that may change while training runs; what was collected stays."""
        self.prune_opa, self.grow_grad2d, self.grow_scale3d = p.prune_opa, p.grow_grad2d, p.percent_dense
        self.schedule, self.growth, self.cap = plan.refinement, plan.growth, cap
        self.refine_start_iter, self.refine_stop_iter = self.schedule.start, self.schedule.stop
        self.refine_every, self.reset_every = self.schedule.every, self.schedule.reset_every or NEVER

    def before_backward(self, info: Mapping[str, Any]) -> None:
        """Ask autograd to keep the gradient of the projected centres."""
        info["means2d"].retain_grad()

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

    def regularised(self, loss: Tensor, shown: Mapping[str, Tensor], n: int) -> Tensor:
        """The loss as it is: this strategy adds nothing."""
        return loss

    @torch.no_grad()
    def _update_state(self, params, state, info, packed=False):
        n, means2d = len(params["means"]), info["means2d"]
        if state["grad2d"] is None:
            state["grad2d"], state["count"] = (means2d.new_zeros(n) for _ in range(2))
        gradients = means2d.absgrad if self.absgrad else means2d.grad
        size = (info["width"] / 2 * info["n_cameras"], info["height"] / 2 * info["n_cameras"])
        for radii, of_view in zip(info["radii"], gradients, strict=True):
            add_lengths(state["grad2d"], state["count"], info["gaussian_ids"], radii, of_view, size)

    @torch.no_grad()
    def _grow_gs(self, params, optimizers, state, step):
        gradients = state["grad2d"] / state["count"].clamp_min(1)
        given = self.grow_grad2d
        target = None if given else min(self.cap, self.growth.target(step))
        self.grow_grad2d = self._threshold(gradients, target)
        seen = ordered(gradients[state["count"] > 0])
        self._last = Refined(
            len(gradients),
            above=int((gradients > (given or self.grow_grad2d)).sum()),
            threshold=self.grow_grad2d,
            target=target,
            gradients=quantiles(seen),
            histogram=histogram(seen),
        )
        grown = gradients > self.grow_grad2d
        self.grow_grad2d = given
        largest = params["scales"].detach().exp().max(dim=-1).values
        large = largest > self.grow_scale3d * state["scene_scale"]
        if self.revised_opacity:
            _share_opacity(params["opacities"].data, grown)
        n = len(grown)
        if bool(grown.any()):
            ops.duplicate(params, optimizers, state, grown)
        pairs = torch.stack(
            [grown.nonzero()[:, 0], torch.arange(n, len(params["means"]), device=grown.device)]
        )
        halves = pairs[:, large[pairs[0]]]
        _split(params, optimizers, halves)
        self._last.cloned, self._last.split = pairs.shape[1] - halves.shape[1], halves.shape[1]
        return self._last.cloned, self._last.split

    def _threshold(self, gradients: Tensor, target: int | None) -> float:
        """The threshold that was given, or the lowest one that leaves no more than `target` or the cap."""
        lowest = self.grow_grad2d or NO_GRADIENT
        # Every clone and every split adds one: with little room only the largest gradients grow.
        room = max(0, (self.cap if target is None else target) - len(gradients))
        if room >= len(gradients):
            return lowest
        return max(lowest, float(gradients.kthvalue(len(gradients) - room).values))

    @torch.no_grad()
    def _prune_gs(self, params, optimizers, state, step):
        transparent = torch.sigmoid(params["opacities"]) < self.prune_opa
        if bool(transparent.all()):
            return 0  # an empty scene cannot learn any more: better a faint one
        self._last.pruned = super()._prune_gs(params, optimizers, state, step)
        return self._last.pruned


def _share_opacity(opacities: Float[Tensor, " N"], grown: Bool[Tensor, " N"]) -> None:
    """Lower logits so that two of each of these look as one did (Rota Bulo et al. 2024)."""
    half = (1 - torch.sqrt(1 - torch.sigmoid(opacities[grown]))).clamp(1e-6, 1 - 1e-6)
    opacities[grown] = torch.logit(half)


def _split(params: dict, optimizers: dict, pairs: Int[Tensor, "2 S"]) -> None:
    """Make of each pair of equal Gaussians two smaller ones, drawn from what the one covered.

    As gsplat's `split`, which copies all Gaussians twice for it, and once more to clone others before.
    """
    if pairs.shape[1] == 0:
        return
    one = pairs[0]
    scales = params["scales"].data[one].exp()
    rotations = normalized_quat_to_rotmat(F.normalize(params["quats"].data[one], dim=-1))
    drawn = torch.randn(2, *scales.shape, device=scales.device)
    params["means"].data[pairs] += torch.einsum("nij,nj,bnj->bni", rotations, scales, drawn)
    params["scales"].data[pairs] -= math.log(SMALLER)
    for name, values in params.items():
        for moment in optimizers[name].state[values].values():
            # What a new Gaussian remembers is nothing; a count of steps is no memory.
            if isinstance(moment, Tensor) and moment.ndim > 0:
                moment[one] = 0
