"""What changes on the way: learning rates, SH degree, resolution, blur, low-pass, densification, growth.

Each schedule is a small frozen object that answers for any step, so that it can be drawn before training
starts and needs no state in a checkpoint. Steps are counted from 0; a schedule is asked before its step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from spaceport_lab.params import TrainParams

STEP_STAGES = ((0.0, 4.0), (0.1, 2.0), (0.35, 1.0))
"""Share of the steps from which an image side is divided by the factor."""

COARSE_SHARE = 1.1
"""Steps on small images with "frequency", over the share that their spectrum is worth; they are cheap."""

COARSE_MOST = 0.85
"""Of the steps, at most, for small images, however little detail there is."""

FINER_EVERY = 3
"""Of the steps on small images of "frequency", each so manieth is taken on one of twice the side."""

FINER_PARTS = 3
"""Where such a step is one on a photograph of full size, it sees one of so many parts of it."""

MIN_COARSE_SIDE = 96
"""A coarse image keeps at least this many pixels on its shorter side; below there is no SSIM window left."""

PRUNINGS = 4
"""In so many steps `prune_share` is pruned: what is left takes over what went before the next is chosen."""

PRUNE_TIME = 0.25
"""Share of the time for growth that pruning takes instead; what is left still has to learn from it."""

BANDS_DROPPED = 0.8
"""Share of the steps after which SH bands are dropped: they are learnt by then, others can still adapt."""

CORRECTIONS_FINAL = 0.01
"""Share of the learning rates of exposures and cameras that is left at the end."""

MOST_DROPPED = 0.2
"""Share of the Gaussians that a step leaves out at the most, however few photographs there are."""

EPS2D = 0.3
"""Pixels² by which every Gaussian is spread in the image, as in the 3DGS code."""


@dataclass(frozen=True)
class Decay:
    """Exponential decay from `start` to `start * final` over `steps` steps.

    The last `cooldown` of them go straight down to nothing besides, which averages out what the last few
    photographs pull one way and the other (Hägele et al., "Scaling laws and compute-optimal training beyond
    fixed training durations", 2024).
    """

    start: float
    final: float
    steps: int
    cooldown: int = 0

    def at(self, step: int) -> float:
        """The value before step `step` is taken."""
        value = self.start * self.final ** min(1.0, step / max(1, self.steps))
        return value * min(1.0, max(1, self.steps - step) / (self.cooldown + 1))


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
    """By what the image sides are divided: `stages` of (first step, factor), factors falling.

    With `finer_every` each so manieth step sees twice as much: small images alone teach what is wrong for
    large ones, and that has to be unlearnt. A part of a full photograph teaches that nearly as well.
    """

    stages: tuple[tuple[int, float], ...]
    finer_every: int = 0

    def stage(self, step: int) -> float:
        """The factor of the stage that step `step` lies in."""
        return [factor for first, factor in self.stages if first <= step][-1]

    def at(self, step: int) -> float:
        """The factor at step `step` itself."""
        factor = self.stage(step)
        return max(1.0, factor / 2) if self.finer_every and step % self.finer_every == 0 else factor

    def parts(self, step: int) -> int:
        """Into how many parts the photograph of step `step` is cut, of which it sees one."""
        return FINER_PARTS if self.at(step) == 1 < self.stage(step) else 1


@dataclass(frozen=True)
class Blur:
    """Photographs are blurred by a Gaussian whose sigma falls in equal ratios from `start` to none at `stop`.

    Sigmas are pixels of the full photograph (Trick-GS, Armagan et al. 2025, section 3.2); in steps, so that a
    photograph is not blurred anew each time.
    """

    start: float
    stop: int
    levels: int = 4

    def at(self, step: int) -> float:
        """The sigma at step `step`."""
        if self.start == 0 or step >= self.stop:
            return 0.0
        return self.start / 2 ** (step * self.levels // self.stop)


@dataclass(frozen=True)
class LowPass:
    """How far Gaussians are spread in the image at first, so that they cover it together.

    The variance HW / (9 pi N) of RAIN-GS (Jung et al. 2024), which is also Trick-GS's schedule of scales; it
    falls to the usual one as Gaussians grow in number.
    """

    active: bool
    stop: int

    def at(self, step: int, n: int, pixels: int, factor: float = 1.0) -> float:
        """`eps2d` in pixels² for `n` Gaussians on an image of `pixels`, its sides divided by `factor`.

        A pixel of a smaller image is the mean of those it covers, so it spreads a Gaussian by its own width
        (factor² - 1) / 12 on top of what a full pixel does. Then Gaussians fit the full image when it comes.
        """
        usual = (EPS2D + (factor**2 - 1) / 12) / factor**2
        if not self.active or step >= self.stop:
            return usual
        return max(usual, pixels / (9 * math.pi * max(1, n)))


@dataclass(frozen=True)
class Dropout:
    """The share of Gaussians that a step leaves out at random: none at first, `last` at the end.

    Where few photographs look, Gaussians in front of a camera explain its photograph alone, and hide from
    those behind what the others could teach them. With some left out each time none can be relied on, and
    all are taught (DropGaussian, Park et al. 2025, whose share rises evenly too).
    """

    last: float
    steps: int

    def at(self, step: int) -> float:
        """The share at step `step`."""
        return self.last * step / max(1, self.steps)


@dataclass(frozen=True)
class Refinement:
    """When Gaussians are grown and pruned: after `start` finished steps, until `stop`, each `every` steps.

    Opacities are reset each `reset_every` steps until `stop`; 0 for never.
    """

    start: int
    stop: int
    every: int
    reset_every: int

    def refines(self, done: int) -> bool:
        """Whether Gaussians are grown and pruned once `done` steps are finished."""
        return self.start < done < self.stop and done % self.every == 0

    def resets(self, done: int) -> bool:
        """Whether opacities are reset once `done` steps are finished."""
        return self.reset_every > 0 and 0 < done < self.stop and done % self.reset_every == 0

    @property
    def last_reset(self) -> int:
        """Finished steps at the last reset; 0 where there is none."""
        if self.reset_every == 0 or self.stop == 0:
            return 0
        return (self.stop - 1) // self.reset_every * self.reset_every


@dataclass(frozen=True)
class Growth:
    """How many Gaussians there should be: from `first` to `last` while they are grown, fewer while coarse.

    An image of half the side can tell a quarter of the Gaussians apart: with r the factor of the resolution
    and t the share of growth that is over, the count is first + (last - first) t / r^(2 - 2 t): the rule of
    DashGaussian (Chen et al. 2025, section 3.3) with an exponent that falls to 0, so that the count comes to
    `last` in even steps, as growth ends when images get their full size. Were it to jump there, all Gaussians
    would be grown at once, and which of them need it would decide nothing.

    Attributes:
        automatic: whether densification follows it; a threshold that was given goes its own way.
    """

    first: int
    last: int
    refinement: Refinement
    resolution: Resolution
    automatic: bool = True

    def target(self, done: int) -> int:
        """Gaussians wanted once `done` steps are finished."""
        r = self.refinement
        checks = max(1, (r.stop - 1) // r.every - r.start // r.every)
        over = min(1.0, max(0, done // r.every - r.start // r.every) / checks)
        factor = self.resolution.stage(done)
        return round(self.first + (self.last - self.first) * over / factor ** (2 - 2 * over))


@dataclass(frozen=True)
class Plan:
    """All schedules of one training.

    Attributes:
        shN_every: steps between two that train SH bands above degree 0.
        prune_at: finished steps after which some of the least significant Gaussians go; empty for never.
        prune_share: how many of them in all, 0 to 1.
        drop_bands_at: finished steps after which SH bands go; None for never.
    """

    steps: int
    learning_rates: Mapping[str, Decay]
    sh_degree: ShDegree
    resolution: Resolution
    blur: Blur
    low_pass: LowPass
    dropout: Dropout
    shN_every: int
    refinement: Refinement
    growth: Growth
    prune_at: tuple[int, ...]
    prune_share: float
    drop_bands_at: int | None

    @property
    def prune_each(self) -> float:
        """The share that goes each time, of those there are then."""
        return 1 - (1 - self.prune_share) ** (1 / max(1, len(self.prune_at)))

    def resting(self, step: int) -> tuple[str, ...]:
        """Fields that step `step` leaves as they are.

        SH bands above degree 0 are three quarters of a Gaussian's numbers and the slowest to change: most of
        what moving them costs is saved by moving them seldom (as in Taming 3DGS, Mallick et al. 2024).
        """
        return () if step % self.shN_every == 0 else ("shN",)

    def changes_gaussians(self, done: int) -> bool:
        """Whether Gaussians come, go or are altered at once after `done` finished steps."""
        r = self.refinement
        return r.refines(done) or r.resets(done) or done in (*self.prune_at, self.drop_bands_at)


def plan(
    p: TrainParams, scene_scale: float, shorter_side: int, n_first: int, spectrum: Mapping[float, float],
    n_points: int | None = None, n_views: int | None = None,
) -> Plan:  # fmt: skip
    """The schedules `p` asks for.

    Args:
        p: the stage's parameters.
        scene_scale: radius of the camera positions, in world units; positions move in proportion.
        shorter_side: of the images, in pixels; bounds how coarse the resolution schedule begins.
        n_first: Gaussians at the start.
        spectrum: of the photographs, as `spectra.significance` gives it; used by "frequency" alone.
        n_points: sparse points that the first Gaussians stand for, which tell how many the scene is worth;
            None where each of the first counts.
        n_views: training photographs, of which few call for dropout; None for none.
    """
    cooldown = round(p.cooldown * p.max_steps)
    rates = {
        name: Decay(getattr(p, f"{name}_lr"), 1.0, p.max_steps, cooldown)
        for name in ("scales", "opacities", "quats", "sh0", "shN")
    }
    rates["means"] = Decay(p.means_lr * scene_scale, p.means_lr_final, p.max_steps, cooldown)
    for name, wanted in (("exposure", p.exposure), ("cameras", p.refine_cameras)):
        if wanted:
            rates[name] = Decay(getattr(p, f"{name}_lr"), CORRECTIONS_FINAL, p.max_steps)
    resolution = _resolution(p, max(1.0, shorter_side / MIN_COARSE_SIDE), spectrum)
    start = round(p.refine_start * p.max_steps)
    # Which Gaussians a full image wants shows on a full one.
    stop = max(round(p.refine_stop * p.max_steps), resolution.stages[-1][0]) if p.refine_stop else 0
    prune_at = _prunings(start, max(start, stop)) if p.prune_share else ()
    refinement = Refinement(
        start=start,
        stop=min((stop, *prune_at)),
        every=p.refine_every,
        # MCMC moves what is faint, it never resets.
        reset_every=p.reset_every if p.strategy == "default" else 0,
    )
    last = aim(p, n_first if n_points is None else n_points)
    return Plan(
        steps=p.max_steps,
        learning_rates=rates,
        sh_degree=ShDegree(p.sh_degree, round(p.sh_degree_interval * p.max_steps)),
        resolution=resolution,
        blur=Blur(p.blur, round(p.blur_stop * p.max_steps)),
        low_pass=LowPass(p.lowpass, refinement.stop),
        dropout=Dropout(min(MOST_DROPPED, p.dropout / n_views) if n_views else 0.0, p.max_steps),
        shN_every=p.shN_every,
        refinement=refinement,
        growth=Growth(n_first, last, refinement, resolution, is_automatic(p)),
        prune_at=prune_at,
        prune_share=p.prune_share,
        drop_bands_at=round(BANDS_DROPPED * p.max_steps) if p.prune_sh else None,
    )


def is_automatic(p: TrainParams) -> bool:
    """Whether growth goes by a number of Gaussians, not by a threshold that was given."""
    return p.strategy == "mcmc" or p.grow_grad2d == 0


def aim(p: TrainParams, n_points: int) -> int:
    """How many Gaussians automatic growth and MCMC aim at, in a scene of so many sparse points."""
    return p.grow_to or round(p.grow_ratio * max(100_000, 5 * n_points))


def _prunings(start: int, stop: int) -> tuple[int, ...]:
    """When Gaussians are pruned that views miss least: in even steps at the end of the time for growth."""
    first = stop - (stop - start) * PRUNE_TIME
    return tuple(sorted({round(first + (stop - first) * i / (PRUNINGS - 1)) for i in range(PRUNINGS)}))


def _resolution(p: TrainParams, coarsest: float, spectrum: Mapping[float, float]) -> Resolution:
    if p.coarse_to_fine == "none":
        return Resolution(((0, 1.0),))
    if p.coarse_to_fine == "step":
        return Resolution(tuple((round(s * p.max_steps), min(f, coarsest)) for s, f in STEP_STAGES))
    # A factor lasts until the share of steps is over that its spectrum has in the whole one, and a bit more.
    stages, first = [], 0
    for factor in sorted(spectrum, reverse=True):
        if factor <= coarsest:
            stages.append((first, factor))
            first = round(min(COARSE_MOST, COARSE_SHARE * spectrum[factor]) * p.max_steps)
    return Resolution((*stages, (first, 1.0)), FINER_EVERY)
