"""The training loop, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaceport_lab import backends, evaluation
from spaceport_lab.errors import BackendError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.params import TrainParams
from spaceport_lab.train import checkpoint, memory, views
from spaceport_lab.train.checkpoint import State
from spaceport_lab.train.densify import Refined
from spaceport_lab.train.inputs import Inputs
from spaceport_lab.train.schedules import Plan
from spaceport_lab.train.stream import Stream
from spaceport_lab.workspace import Progress

YIELD_EVERY = 10
"""Steps between two states handed to whoever watches."""

IDLE_CHECKS = 3
"""Densifications in a row without a Gaussian above the threshold that are worth a warning."""


def optimise(
    state: State, plan: Plan, p: TrainParams, inputs: Inputs, backend: str, stream: Stream, path: Path
) -> Iterator[Progress]:
    """Train `state` in place until it is done, reaches its target, loses patience or meets NaN.

    Args:
        state: from the start or from a checkpoint.
        plan: the schedules.
        p: the stage's parameters.
        inputs: views and photographs.
        backend: "cpu" or "cuda".
        stream: takes the metrics.
        path: where checkpoints go.
    """
    c = state.counters
    device = torch.device(backend)
    n_views = len(inputs.train.cameras)
    began = time.monotonic() - c.seconds
    while c.step < p.max_steps and not c.stopped_by:
        # What this step is: rates, resolution, SH degree, view.
        step = c.step
        rates = {name: decay.at(step) for name, decay in plan.learning_rates.items()}
        for name, optimizer in state.optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[name]
        factor, degree = plan.resolution.at(step), plan.sh_degree.at(step)
        view = inputs.train.at(views.drawn(step, n_views, p.seed), factor, device)

        # Forward, loss, backward.
        try:
            renders, info = _render(state.splats, view, degree, p, backend)
        except BackendError:
            if not (fault := not_finite(state.splats)):
                raise
            c.fault, c.stopped_by = f"{fault} after step {step}", "nan"
            break
        loss = backends.l1_ssim_loss(renders, view.photo[None], p.ssim_lambda) + state.strategy.loss(
            state.splats
        )
        state.strategy.before_backward(state.splats, state.optimizers, info)
        loss.backward()
        loss_value = float(loss.detach())
        if not np.isfinite(loss_value):
            c.fault = f"the loss of step {step + 1}, from {not_finite(state.splats) or 'the rendered image'}"
            c.stopped_by = "nan"
            break

        # Update, grow, prune.
        for optimizer in state.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        c.step = done = step + 1
        refined = state.strategy.after_backward(state.splats, state.optimizers, done, info, rates["means"])
        c.seconds = time.monotonic() - began
        if refined:
            _note_refined(state, refined, done, p, stream)

        # Look, write down, keep.
        last = done == p.max_steps
        looks = done % YIELD_EVERY == 0 or last
        evaluates = done % p.eval_every == 0 or last
        checkpoints = done % p.checkpoint_every == 0 or last
        if (looks or evaluates or checkpoints) and (fault := not_finite(state.splats)):
            c.fault, c.stopped_by = f"{fault} by step {done}", "nan"
            break
        if looks:
            stream.write(
                "step", done, loss=loss_value, n_gaussians=state.n, lr=rates, sh_degree=degree,
                resolution=[view.width, view.height], seconds=round(c.seconds, 3), **memory.peak_mb(device),
            )  # fmt: skip
        if evaluates and inputs.heldout is not None:
            _evaluate(state, p, inputs, backend, stream, step=done)
        c.seconds = time.monotonic() - began
        if checkpoints or c.stopped_by:
            checkpoint.save(path, inputs.key, state)
        if looks:
            yield Progress(done, p.max_steps, "training", _values(loss_value, state))
    c.stopped_by = c.stopped_by or "max_steps"


def _render(splats, view, degree: int, p: TrainParams, backend: str):
    """Render one view with the SH bands up to `degree`."""
    background = None
    if p.background == "random":
        background = torch.rand(1, 3).to(view.photo.device)
    renders, _, info = backends.rasterize(
        splats["means"],
        splats["quats"],
        torch.exp(splats["scales"]),
        torch.sigmoid(splats["opacities"]),
        (splats["sh0"], splats["shN"]),
        view.viewmat,
        view.K,
        view.width,
        view.height,
        sh_degree=degree,
        backgrounds=background,
        absgrad=p.absgrad,
        backend=backend,
    )
    return renders, info


def _note_refined(state: State, refined: Refined, done: int, p: TrainParams, stream: Stream) -> None:
    """Write a densification down, and warn when they have stopped doing anything."""
    c = state.counters
    stream.write("refine", done, seconds=round(c.seconds, 3), **refined.record())
    if refined.gradients is None and refined.above is None and not (refined.added or refined.relocated):
        return  # an opacity reset alone
    c.checks += 1
    c.grown += refined.cloned + refined.split + refined.added
    c.idle_checks = c.idle_checks + 1 if refined.above == 0 else 0
    if c.idle_checks == IDLE_CHECKS:
        g = refined.gradients
        c.warnings.append(
            f"densification found no Gaussian above train.grow_grad2d {p.grow_grad2d:.3g} at {IDLE_CHECKS} "
            f"checks in a row up to step {done}: measured gradients median {g['p50']:.2g}, 90 % "
            f"{g['p90']:.2g}, 99 % {g['p99']:.2g}, largest {g['max']:.2g}; a threshold of {g['p95']:.2g} "
            "would have fired for one in twenty"
        )


def _evaluate(state: State, p: TrainParams, inputs: Inputs, backend: str, stream: Stream, step: int) -> None:
    """Measure held-out views, remember the best, and decide whether to stop."""
    c = state.counters
    measured = measure(to_gaussians(state.splats), inputs.heldout, backend)
    c.psnr, c.ssim = evaluation.mean_psnr(measured), evaluation.mean_ssim(measured)
    c.eval_steps.append(step)
    c.eval_psnrs.append(c.psnr)
    stream.write(
        "eval", step, psnr=c.psnr, ssim=c.ssim, n_gaussians=state.n, seconds=round(c.seconds, 3),
        views={v.name: round(v.psnr, 3) for v in measured},
    )  # fmt: skip
    if c.best_psnr is None or c.psnr > c.best_psnr:
        c.best_psnr, c.best_step = c.psnr, step
        if p.patience:
            state.best = {name: values.detach().clone() for name, values in state.splats.items()}
    if p.target_psnr and c.psnr >= p.target_psnr:
        c.stopped_by = "target_psnr"
    elif p.patience and step - c.best_step >= p.patience:
        c.stopped_by = "patience"


def measure(
    gaussians: Gaussians, photos: views.Photos, backend: str, *, with_ssim: bool = True
) -> list[evaluation.ViewMetrics]:
    """Metrics of all views of `photos`, which are in memory already."""
    renders = evaluation.render_views(gaussians, photos.cameras, backend=backend)
    return [
        evaluation.compare(name, render, photo, with_ssim=with_ssim)
        for name, render, photo in zip(photos.cameras.names, renders, photos.full, strict=True)
    ]


def to_gaussians(splats: dict[str, Tensor]) -> Gaussians:
    """The fields as numpy arrays, without a copy where they are on the CPU."""
    return Gaussians(**{name: values.detach().cpu().numpy() for name, values in splats.items()})


def not_finite(splats: dict[str, Tensor]) -> str:
    """The first field with NaN or Inf, with the count; empty where all numbers are finite."""
    for name, raw in splats.items():
        # A log scale that is finite may still overflow where it is used.
        values = raw.detach().exp() if name == "scales" else raw.detach()
        # A sum is one pass over memory, and not finite if a term is not; only then is it worth counting.
        if not bool(torch.isfinite(values.sum())):
            rows = int((~torch.isfinite(values).reshape(len(values), -1).all(dim=1)).sum())
            if rows:
                return f"{name} ({rows:,} of {len(values):,} Gaussians)"
    return ""


def _values(loss: float, state: State) -> dict[str, float]:
    psnr = {} if state.counters.psnr is None else {"psnr": state.counters.psnr}
    return {"loss": loss, **psnr, "n_gaussians": state.n}
