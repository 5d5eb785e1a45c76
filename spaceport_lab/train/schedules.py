"""What changes on the way: learning rates, SH degree, resolution, densification.

Each schedule is a small frozen object that answers for any step, so that it can be drawn before training
starts and needs no state in a checkpoint. Steps are counted from 0; a schedule is asked before its step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spaceport_lab.params import TrainParams

COARSE_STAGES = ((0.0, 4), (0.1, 2), (0.35, 1))
"""Share of the steps from which an image side is divided by the factor."""

MIN_COARSE_SIDE = 96
"""A coarse image keeps at least this many pixels on its shorter side; below there is no SSIM window left."""


@dataclass(frozen=True)
class Decay:
    """Exponential decay from `start` to `start * final` over `steps` steps."""

    start: float
    final: float
    steps: int

    def at(self, step: int) -> float:
        """The value before step `step` is taken."""
        return self.start * self.final ** min(1.0, step / max(1, self.steps))


@dataclass(frozen=True)
class ShDegree:
    """One more SH degree after each `interval` steps, up to `highest`; interval 0 starts with all."""

    highest: int
    interval: int

    def at(self, step: int) -> int:
        """The degree rendered at step `step`."""
        return self.highest if self.interval == 0 else min(self.highest, step // self.interval)


@dataclass(frozen=True)
class Resolution:
    """By what the image sides are divided: `stages` of (first step, factor), factors falling."""

    stages: tuple[tuple[int, int], ...]

    def at(self, step: int) -> int:
        """The factor at step `step`."""
        return [factor for first, factor in self.stages if first <= step][-1]


@dataclass(frozen=True)
class Refinement:
    """When Gaussians are grown and pruned: after `start` finished steps, until `stop`, each `every` steps."""

    start: int
    stop: int
    every: int
    reset_every: int

    def refines(self, done: int) -> bool:
        """Whether Gaussians are grown and pruned once `done` steps are finished."""
        return self.start < done < self.stop and done % self.every == 0

    def resets(self, done: int) -> bool:
        """Whether opacities are reset once `done` steps are finished."""
        return 0 < done < self.stop and done % self.reset_every == 0


@dataclass(frozen=True)
class Plan:
    """All schedules of one training."""

    steps: int
    learning_rates: Mapping[str, Decay]
    sh_degree: ShDegree
    resolution: Resolution
    refinement: Refinement


def plan(p: TrainParams, scene_scale: float, shorter_side: int) -> Plan:
    """The schedules `p` asks for.

    Args:
        p: the stage's parameters.
        scene_scale: radius of the camera positions, in world units; positions move in proportion.
        shorter_side: of the images, in pixels; bounds how coarse the resolution schedule begins.
    """
    rates = {
        name: Decay(getattr(p, f"{name}_lr"), 1.0, p.max_steps)
        for name in ("scales", "opacities", "quats", "sh0", "shN")
    }
    rates["means"] = Decay(p.means_lr * scene_scale, p.means_lr_final, p.max_steps)
    stages = COARSE_STAGES if p.coarse_to_fine == "step" else ((0.0, 1),)
    bound = max(1, shorter_side // MIN_COARSE_SIDE)
    return Plan(
        steps=p.max_steps,
        learning_rates=rates,
        sh_degree=ShDegree(p.sh_degree, round(p.sh_degree_interval * p.max_steps)),
        resolution=Resolution(tuple((round(s * p.max_steps), min(f, bound)) for s, f in stages)),
        refinement=Refinement(
            start=round(p.refine_start * p.max_steps),
            stop=round(p.refine_stop * p.max_steps),
            every=p.refine_every,
            reset_every=p.reset_every,
        ),
    )
