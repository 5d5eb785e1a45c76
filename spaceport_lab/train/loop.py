"""The training loop, from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spaceport_lab import backends
from spaceport_lab.errors import BackendError
from spaceport_lab.params import TrainParams
from spaceport_lab.train import checkpoint, compacting, memory, progress, shown, steering, views
from spaceport_lab.train.checkpoint import State
from spaceport_lab.train.control import Control
from spaceport_lab.train.inputs import Inputs
from spaceport_lab.train.photos import View
from spaceport_lab.train.schedules import Plan
from spaceport_lab.train.shown import Shown
from spaceport_lab.train.stream import Stream
from spaceport_lab.train.timelapse import Timelapse
from spaceport_lab.workspace import Progress

YIELD_EVERY = 10
"""Steps between two states handed to whoever watches."""

FRAMES = 48
"""Pictures of the time lapse."""

AHEAD = 3
"""Photographs asked for before their step comes."""


def optimise(
    state: State, plan: Plan, p: TrainParams, inputs: Inputs, backend: str, stream: Stream, path: Path,
    timelapse: Timelapse | None = None, control: Control | None = None,
) -> Iterator[Progress]:  # fmt: skip
    """Train `state` in place until it is done, reaches its target, loses patience, meets NaN or is stopped.

    Args:
        state: from the start or from a checkpoint.
        plan: the schedules.
        p: the stage's parameters.
        inputs: views and photographs.
        backend: "cpu" or "cuda".
        stream: takes the metrics.
        path: where checkpoints go.
        timelapse: takes a picture now and then; None for none.
        control: asked between two steps; what it changes replaces `plan` and `p`.
    """
    c = state.counters
    training = steering.Steered(state, inputs, stream, path)
    device = torch.device(backend)
    while c.step < p.max_steps and not c.stopped_by:
        if control is not None and control.wanted:
            plan, p = yield from steering.attend(control, training, plan, p)
            if c.stopped_by or c.step >= p.max_steps:
                break

        # What this step is: rates, view, resolution, blur, strip of it, SH degree.
        step, began = c.step, time.monotonic()
        rates = {name: decay.at(step) for name, decay in plan.learning_rates.items()}
        for name, optimizer in state.optimizers.items():
            optimizer.param_groups[0]["lr"] = rates[name]
        (index, factor, blur), *upcoming = _versions(plan, p, step, len(inputs.train.cameras))
        whole, parts = inputs.train.at(index, factor, blur, device), plan.resolution.parts(step)
        inputs.train.prefetch(upcoming)
        # In the next round a photograph's next strip has its turn.
        view = whole.strip((step // len(inputs.train.cameras) + index) % parts, parts)
        # Bands that have been trained stay, whatever becomes of the schedule.
        degree = c.sh_degree = max(c.sh_degree, plan.sh_degree.at(step))
        eps2d = plan.low_pass.at(step, state.n, whole.width * whole.height, factor)

        # Forward, loss, backward.
        viewmat = state.cameras.apply(view.viewmat, index) if state.cameras else view.viewmat
        seen = shown.take(state, view, viewmat, degree, eps2d, plan.resting(step))
        try:
            renders, info = render(seen, view, viewmat, degree, eps2d, plan.dropout.at(step), p, backend)
        except BackendError:
            if not (fault := not_finite(state.splats)):
                raise
            c.fault, c.stopped_by = f"{fault} after step {step}", "nan"
            break
        if state.appearance:
            renders = state.appearance.apply(renders, index)
        loss = state.strategy.regularised(compare(renders, view, p), seen.splats, state.n)
        state.strategy.before_backward(info)
        loss.backward()
        loss_value = float(loss.detach())
        if not np.isfinite(loss_value):
            c.fault = f"the loss of step {step + 1}, from {not_finite(state.splats) or 'the rendered image'}"
            c.stopped_by = "nan"
            break

        # Update.
        progress.note_loss(state, loss_value)
        finite = shown.step(seen, state)
        c.step = done = step + 1
        for name, correction in (("exposure", state.appearance), ("cameras", state.cameras)):
            if correction:
                correction.step(done, rates[name])
        last, looks = done == p.max_steps, done % YIELD_EVERY == 0 or done == p.max_steps
        evaluates, checkpoints = done % p.eval_every == 0 or last, done % p.checkpoint_every == 0 or last
        pictures = timelapse is not None and (done % max(1, p.max_steps // FRAMES) == 0 or last)
        if evaluates or plan.changes_gaussians(done):
            shown.settle(state)

        # Look, before Gaussians that have just been split blur what there is to see.
        c.seconds += time.monotonic() - began
        if (not finite or evaluates or checkpoints) and (fault := not_finite(state.splats)):
            c.fault, c.stopped_by = f"{fault} by step {done}", "nan"
            break
        if evaluates:
            progress.evaluate(state, plan, p, inputs, backend, stream)
        if pictures:
            timelapse.add(done, progress.picture(state, inputs, backend))

        # Grow, prune.
        if not c.stopped_by:
            began = time.monotonic()
            strategy, fields = state.strategy, (state.splats, state.optimizers)
            refined = strategy.after_backward(*fields, done, info, rates["means"])
            refined = compacting.compact(state, plan, p, inputs, backend, done) or refined
            if refined:
                shown.arrange(state)
            c.seconds += time.monotonic() - began
            if refined:
                progress.note_refined(state, refined, done, stream)

        # Write down, keep.
        if looks:
            stream.write(
                "step", done, loss=loss_value, n_gaussians=state.n, n_shown=seen.n, lr=rates,
                sh_degree=degree, resolution=list(view.whole), blur=blur, eps2d=eps2d,
                seconds=round(c.seconds, 3), **memory.peak_mb(device),
            )  # fmt: skip
        if checkpoints or c.stopped_by:
            checkpoint.save(path, inputs.key, state)
        if looks:
            yield Progress(done, p.max_steps, "training", progress.values(loss_value, state))
    if c.stopped_by == "person" or (c.changes and not c.stopped_by and c.eval_steps[-1:] != [c.step]):
        _measure_the_last(training, plan, p, backend, timelapse)
    c.stopped_by = c.stopped_by or "max_steps"


def _measure_the_last(
    training: steering.Steered, plan: Plan, p: TrainParams, backend: str, timelapse: Timelapse | None
) -> None:
    """What the plan's last step gets, for one that a person made the last."""
    state, inputs = training.state, training.inputs
    c, why = state.counters, state.counters.stopped_by
    shown.settle(state)
    if fault := not_finite(state.splats):
        c.fault, c.stopped_by = f"{fault} by step {c.step}", "nan"
        return
    if c.step and c.eval_steps[-1:] != [c.step]:
        progress.evaluate(state, plan, p, inputs, backend, training.stream)
        c.stopped_by = why
        if timelapse is not None:
            timelapse.add(c.step, progress.picture(state, inputs, backend))
    checkpoint.save(training.path, inputs.key, state)


def _versions(plan: Plan, p: TrainParams, step: int, n_views: int) -> list[tuple[int, float, float]]:
    """View, resolution factor and blur of this step and of the next few."""
    steps = range(step, min(p.max_steps, step + 1 + AHEAD))
    return [(views.drawn(s, n_views, p.seed), plan.resolution.at(s), plan.blur.at(s)) for s in steps]


def render(
    seen: Shown, view: View, viewmat: Tensor, degree: int, eps2d: float, left_out: float, p: TrainParams,
    backend: str,
) -> tuple[Tensor, dict]:  # fmt: skip
    """Render one view with SH bands up to `degree`, without a random share `left_out` of the Gaussians."""
    background = None
    if p.background == "random":
        background = torch.rand(1, 3).to(view.photo.device)
    splats = seen.splats
    renders, _, info = backends.rasterize(
        splats["means"],
        splats["quats"],
        splats["scales"],
        splats["opacities"],
        (splats["sh0"], splats["shN"]),
        viewmat,
        view.K,
        view.width,
        view.height,
        sh_degree=degree,
        backgrounds=background,
        eps2d=eps2d,
        absgrad=p.absgrad,
        backend=backend,
        raw=True,
        left_out=left_out,
        # Rows that were taken out have been looked at since they changed.
        check_finite=seen.rows is None,
    )
    info["gaussian_ids"] = seen.rows
    # The loss is a mean: that of a strip moves what it shows by as much more as it is smaller.
    share = view.width * view.height / math.prod(view.whole)
    info["width"], info["height"] = (side * share for side in view.whole)
    return renders, info


def compare(renders: Tensor, view: View, p: TrainParams) -> Tensor:
    """L1 and SSIM against the photograph, both black where its mask hides them."""
    photo = view.photo[None]
    if view.mask is not None:
        renders, photo = renders * view.mask[None, ..., None], photo * view.mask[None, ..., None]
    return backends.l1_ssim_loss(renders, photo, p.ssim_lambda)


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
