"""The training's side of a `Control`: what is done between two steps when a person asked for something."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from spaceport_lab.params import TrainParams
from spaceport_lab.train import checkpoint, memory, progress, schedules, shown
from spaceport_lab.train.checkpoint import State
from spaceport_lab.train.control import Change, Control, in_force
from spaceport_lab.train.inputs import Inputs, Views, may_stop_early
from spaceport_lab.train.schedules import Plan
from spaceport_lab.train.stream import Stream
from spaceport_lab.workspace import Progress


@dataclass(frozen=True)
class Steered:
    """A training under way, as far as steering is concerned.

    Attributes:
        state: of the training.
        inputs: its views and photographs.
        stream: takes the metrics.
        path: of the checkpoint.
    """

    state: State
    inputs: Inputs
    stream: Stream
    path: Path


def attend(
    control: Control, training: Steered, plan: Plan, p: TrainParams
) -> Generator[Progress, None, tuple[Plan, TrainParams]]:
    """Do what was asked: wait, take over what changed; returns what is in force from the next step on.

    A wait is announced by a state "paused", so that whoever watches sees the very step. Time spent here is
    no training time.
    """
    state, c = training.state, training.state.counters
    while True:
        waits, keep = control.must_wait()
        if not waits:
            break
        if keep:
            checkpoint.save(training.path, training.inputs.key, state)
        yield Progress(c.step, p.max_steps, "paused", progress.values(c.loss or 0.0, state))
        control.wait()
    if control.stopping:
        c.stopped_by = "person"
        return plan, p
    if values := control.take(c.step):
        change = Change(c.step, values)
        now = p.model_copy(update=values)
        _settle(state, plan)
        plan, p = _take_over(change, state, plan, now, training.inputs), now
        c.changes.append({"step": change.step, "values": change.values})
        # The change first and its record second: what is lost in between comes again from the checkpoint.
        checkpoint.save(training.path, training.inputs.key, state)
        training.stream.write("change", c.step, values=values)
    return plan, p


def changes(state: State) -> list[Change]:
    """What a person changed so far, as the counters keep it."""
    return [Change(**change) for change in state.counters.changes]


def go_on(state: State, plan: Plan, p: TrainParams, inputs: Inputs) -> tuple[Plan, TrainParams]:
    """Plan and parameters of a training that goes on from a checkpoint in which there are changes.

    Args:
        state: as restored.
        plan: of the parameters it began with.
        p: those parameters.
        inputs: of the training.
    """
    taken = changes(state)
    for number, change in enumerate(taken):
        plan = replan(plan, in_force(p, taken[: number + 1]), inputs, state.n_first, change.step)
    p = in_force(p, taken)
    if taken:
        state.strategy.adopt(p, plan, state.counters.cap)
    return plan, p


def plan_from(p: TrainParams, views: Views, n_first: int, spectrum: Mapping[float, float]) -> Plan:
    """The schedules of a training of these views that begins with `n_first` Gaussians."""
    n_points = len(views.scene.points)
    if p.init_points:
        n_points = min(n_points, p.init_points)
    shorter_side = int(views.train.sizes.min())
    return schedules.plan(
        p, views.scale, shorter_side, n_first, spectrum, None if p.init_from else n_points, len(views.train)
    )


def replan(old: Plan, p: TrainParams, inputs: Inputs, n_first: int, done: int) -> Plan:
    """The schedules of new parameters from `done` finished steps on.

    What happens once and has happened does not come again when its step moves; what should have happened
    before comes next.
    """
    new = plan_from(p, inputs.views, n_first, inputs.spectrum)

    pruned = tuple(step for step in old.prune_at if step <= done)
    overdue = enumerate(new.prune_at[len(pruned) :], start=done + 1)
    drop_bands_at = new.drop_bands_at and max(new.drop_bands_at, done + 1)
    if old.drop_bands_at and old.drop_bands_at <= done:
        drop_bands_at = old.drop_bands_at
    return replace(
        new,
        prune_at=pruned + tuple(max(step, soonest) for soonest, step in overdue),
        drop_bands_at=drop_bands_at,
    )


def _take_over(change: Change, state: State, plan: Plan, p: TrainParams, inputs: Inputs) -> Plan:
    c = state.counters
    if "cap_max" in change.values:
        c.cap = _cap(p, state, inputs)
        if c.cap < p.cap_max:
            c.warnings.append(
                f"memory holds about {c.cap:,} Gaussians: train.cap_max of {p.cap_max:,}, asked for after "
                f"step {change.step:,}, was lowered to that"
            )
    if not may_stop_early(p):
        # It would be older than the best evaluation by the time stopping is asked for again.
        state.best = None
    elif "patience" in change.values or "target_psnr" in change.values:
        _warn_of_optimism(state, inputs)
    new = replan(plan, p, inputs, state.n_first, change.step)
    state.strategy.adopt(p, new, c.cap)
    return new


def _cap(p: TrainParams, state: State, inputs: Inputs) -> int:
    """As at the start, and at least the cap in force: its Gaussians have taken some of the memory since."""
    width, height = (int(side) for side in inputs.views.scene.cameras.sizes.max(axis=0))
    affordable = memory.affordable_cap(p, state.splats["means"].device, width, height)
    return min(p.cap_max, max(state.counters.cap, affordable))


def _warn_of_optimism(state: State, inputs: Inputs) -> None:
    said = (
        "stopping was asked for while training ran, when it was too late to keep validation views: it looks "
        "at the held-out views, so their figures are a little optimistic"
    )
    if inputs.heldout and not inputs.validation and said not in state.counters.warnings:
        state.counters.warnings.append(said)


@torch.no_grad()
def _settle(state: State, plan: Plan) -> None:
    """Bring all Gaussians up to date by the rates they waited under."""
    last = max(0, state.counters.step - 1)
    for name, optimizer in state.optimizers.items():
        optimizer.param_groups[0]["lr"] = plan.learning_rates[name].at(last)
    shown.settle(state)
