"""Growing and pruning Gaussians, on gsplat's strategies, with counts of what each densification did.

gsplat 1.5 does the bookkeeping of parameters and optimiser states in plain torch, so it serves on the CPU
too. Added here: a cap and an automatic threshold for ADC, figures of every densification, opacity resets
(gsplat 1.5.3 never does them: its condition `step % n == 0 & step > 0` is always false), and MCMC without
CUDA kernels.
"""

from __future__ import annotations

from spaceport_lab.params import TrainParams
from spaceport_lab.train.densify.adc import Adc
from spaceport_lab.train.densify.mcmc import Mcmc
from spaceport_lab.train.densify.record import Refined
from spaceport_lab.train.schedules import Plan


def make(p: TrainParams, plan: Plan, scene_scale: float, cap: int) -> Adc | Mcmc:
    """The densification `p.strategy` names, with at most `cap` Gaussians."""
    return (Mcmc if p.strategy == "mcmc" else Adc)(p, plan, scene_scale, cap)


__all__ = ["Adc", "Mcmc", "Refined", "make"]
