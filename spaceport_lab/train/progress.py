"""How training goes: densifications and evaluations written down, warnings, and when to stop."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from spaceport_lab import evaluation
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.params import TrainParams
from spaceport_lab.train.checkpoint import State
from spaceport_lab.train.densify import Refined
from spaceport_lab.train.inputs import Inputs, may_stop_early
from spaceport_lab.train.photos import Photos
from spaceport_lab.train.schedules import Plan
from spaceport_lab.train.stream import Stream

LOSS_STEPS = 100
"""Over which the running average of the loss reaches back."""

IDLE_CHECKS = 3
"""Densifications in a row without a Gaussian above the threshold that are worth a warning."""


def note_refined(state: State, refined: Refined, done: int, stream: Stream) -> None:
    """Write a densification down, and warn when they have stopped doing anything."""
    c = state.counters
    stream.write("refine", done, seconds=round(c.seconds, 3), **refined.record())
    if refined.gradients is None and not (refined.added or refined.relocated):
        return  # an opacity reset or pruning alone
    # Without room nothing can grow, which is no fault of the threshold.
    full = refined.n_before >= (refined.target or c.cap)
    c.checks += not full
    c.grown += refined.cloned + refined.split + refined.added
    c.idle_checks = c.idle_checks + 1 if refined.above == 0 and not full else 0
    if c.idle_checks == IDLE_CHECKS:
        g = refined.gradients
        c.warnings.append(
            f"densification found no Gaussian above a threshold of {refined.threshold:.3g} at {IDLE_CHECKS} "
            f"checks in a row up to step {done}: measured gradients median {g['p50']:.2g}, 90 % "
            f"{g['p90']:.2g}, 99 % {g['p99']:.2g}, largest {g['max']:.2g}; a train.grow_grad2d of "
            f"{g['p95']:.2g} would have fired for one in twenty, 0 finds one by itself"
        )


def note_loss(state: State, loss: float) -> None:
    """Take a step's loss into the running average, which views of different difficulty need."""
    c = state.counters
    c.loss = loss if c.loss is None else c.loss + (loss - c.loss) / min(LOSS_STEPS, c.step + 1)


def evaluate(state: State, plan: Plan, p: TrainParams, inputs: Inputs, backend: str, stream: Stream) -> None:
    """Measure the views that are not trained on, remember the best state, and decide whether to stop."""
    c, step = state.counters, state.counters.step
    if inputs.deciding is None:
        return
    gaussians = to_gaussians(state.splats)
    measured = measure(gaussians, inputs.heldout, backend, with_cc=p.exposure)
    c.psnr, c.ssim = evaluation.mean_psnr(measured), evaluation.mean_ssim(measured)
    c.psnr_validation, watched = None, measured
    if inputs.validation:
        watched = measure(gaussians, inputs.validation, backend, with_ssim=False, with_cc=p.exposure)
        c.psnr_validation = evaluation.mean_psnr(watched)
    # A view that is not trained on has an exposure that nobody knows: it must not decide.
    deciding = evaluation.mean_cc_psnr(watched) if p.exposure else evaluation.mean_psnr(watched)
    if deciding is None:
        return
    c.eval_steps.append(step)
    c.eval_psnrs.append(deciding)
    stream.write(
        "eval", step, psnr=c.psnr, ssim=c.ssim, psnr_validation=c.psnr_validation, n_gaussians=state.n,
        seconds=round(c.seconds, 3), views={v.name: round(v.psnr, 3) for v in measured},
    )  # fmt: skip
    if c.best_psnr is None or deciding > c.best_psnr + p.min_delta:
        c.improved_step = step
    if c.best_psnr is None or deciding > c.best_psnr:
        c.best_psnr, c.best_step, c.loss_best = deciding, step, c.loss
        if may_stop_early(p):
            state.best = {name: values.detach().clone() for name, values in state.splats.items()}
    if step >= p.min_steps:
        c.stopped_by = _why_stop(deciding, step, c.improved_step, plan, p)


def restore_best(state: State, p: TrainParams) -> bool:
    """Go back to the best evaluation where it was better than the last one; whether it was."""
    c = state.counters
    if state.best is None or c.best_psnr <= c.eval_psnrs[-1] + p.min_delta:
        return False
    state.splats = {name: torch.nn.Parameter(values) for name, values in state.best.items()}
    return True


def _why_stop(psnr: float, step: int, improved: int, plan: Plan, p: TrainParams) -> str:
    if p.target_psnr and psnr >= p.target_psnr:
        return "target_psnr"
    # An opacity reset sets training back on purpose: patience is not asked for before the last one.
    last_reset = plan.refinement.last_reset
    waited = step - max(improved, last_reset)
    return "patience" if p.patience and step > last_reset and waited >= p.patience else ""


def measure(
    gaussians: Gaussians, photos: Photos, backend: str, *, with_ssim: bool = True, with_cc: bool = False
) -> list[evaluation.ViewMetrics]:
    """Metrics of all views of `photos` of which anything counts."""
    names = photos.cameras.names
    chosen = [i for i, name in enumerate(names) if name not in photos.fully_masked]
    renders = evaluation.render_views(gaussians, photos.cameras, chosen, backend)
    return [
        evaluation.compare(
            names[i], render, photos.full(i), with_ssim=with_ssim, with_cc=with_cc, mask=photos.mask(i)
        )
        for i, render in zip(chosen, renders, strict=True)
    ]


def picture(state: State, inputs: Inputs, backend: str) -> UInt8[np.ndarray, "H W 3"]:
    """What the middle one of the views that are not trained on looks like now."""
    cameras = (inputs.deciding or inputs.train).cameras
    with torch.no_grad():
        render = evaluation.render_view(to_gaussians(state.splats), cameras, len(cameras) // 2, backend)
    return (render * 255).round().astype(np.uint8)


def to_gaussians(splats: dict[str, Tensor]) -> Gaussians:
    """The fields as numpy arrays, without a copy where they are on the CPU."""
    return Gaussians(**{name: values.detach().cpu().numpy() for name, values in splats.items()})


def values(loss: float, state: State) -> dict[str, float]:
    """What the live display shows."""
    c = state.counters
    psnr = {} if c.psnr is None else {"psnr": c.psnr}
    if c.psnr_validation is not None:
        psnr["psnr_validation"] = c.psnr_validation
    return {"loss": loss, **psnr, "n_gaussians": state.n}
