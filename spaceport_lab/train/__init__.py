"""The train stage: cameras, points and photographs in, Gaussians out (3DGS, Kerbl et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from spaceport_lab import backends, evaluation, files
from spaceport_lab.errors import QualityGateError
from spaceport_lab.gaussians import Gaussians, write_ply
from spaceport_lab.params import TrainParams
from spaceport_lab.train import (
    checkpoint,
    densify,
    evidence,
    inputs,
    loop,
    memory,
    progress,
    shown,
    steering,
)
from spaceport_lab.train.appearance import Appearance
from spaceport_lab.train.checkpoint import Counters, State
from spaceport_lab.train.control import Change, Control, decisive, in_force
from spaceport_lab.train.inputs import Inputs, Views, evenly, read_views
from spaceport_lab.train.poses import CameraRefinement
from spaceport_lab.train.results import Comparison, heldout_comparisons, records
from spaceport_lab.train.schedules import Plan
from spaceport_lab.train.starting import FIELDS, first_gaussians
from spaceport_lab.train.stream import Stream
from spaceport_lab.train.timelapse import Timelapse
from spaceport_lab.train.verdicts import Facts, judge
from spaceport_lab.workspace import Progress, StageRun

MAX_LOOKED_AT = 16
"""Training photographs whose noise is estimated, evenly spaced."""

MAX_TRAIN_VIEWS_MEASURED = 48
"""Training views rendered at the end for psnr_train, evenly spaced; the figure is for comparison only."""


def run(run: StageRun, p: TrainParams, control: Control | None = None) -> Iterator[Progress]:
    """Optimise Gaussians from the sfm stage's model; resumes from its own checkpoint after an interruption.

    Reads `02_sfm/images`, `02_sfm/sparse` and `02_sfm/masks`; writes `splat.ply`, `heldout.json`,
    `metrics.jsonl`, `checkpoint.pt`, and where asked for `timelapse.gif`, `exposure.json`, `cameras.json`.

    Args:
        run: the train stage.
        p: its parameters.
        control: through which a person may steer it. What was changed is in `run.metrics["changes"]`, and
            `run.steered` keeps the result from being taken for what `p` says. Without one nobody can: then a
            checkpoint of a training that was steered is put aside, and training starts anew.

    Raises:
        WorkspaceError: the sfm stage has not finished, or the run folder cannot be written.
        BackendError: `p.backend` asks for CUDA where it cannot run.
        ReconstructionError: there is nothing to train on.
        PhotosError: an image is missing or broken.
    """
    backend = backends.choose_backend(p.backend)
    device = torch.device(backend)
    yield Progress(0, p.max_steps, "reading photographs")
    data = inputs.read(run, p)
    try:
        yield from _train(run, p, data, backend, device, control)
    finally:
        data.close()
        if control is not None:
            control.end()


def _train(
    run: StageRun, p: TrainParams, data: Inputs, backend: str, device: torch.device, control: Control | None
) -> Iterator[Progress]:
    _say_what_comes_in(run, p, data)
    path = run.dir / "checkpoint.pt"
    state, course = start(run, p, data, device)
    saved = checkpoint.load(path, data.key, device, run.warn)
    if saved and control is None and checkpoint.steered(saved):
        _put_aside(path, run)
        saved = None
    if saved:
        checkpoint.restore(state, saved)
        course, p = steering.go_on(state, course, p, data)
        yield Progress(state.counters.step, p.max_steps, f"going on from step {state.counters.step:,}")
    else:
        checkpoint.save(path, data.key, state)
    resume_from = state.counters.step if saved else None
    boards = run.dir / "tensorboard" if p.tensorboard else None
    records_file = Stream(run.output("metrics.jsonl"), resume_from, boards)
    frames = Timelapse(run.dir / "timelapse", resume_from) if p.timelapse else None
    if control is not None:
        control.begin(p, steering.changes(state))
    try:
        yield from loop.optimise(state, course, p, data, backend, records_file, path, frames, control)
    finally:
        records_file.close()
    p = in_force(p, steering.changes(state))
    yield Progress(state.counters.step, p.max_steps, "measuring what was trained")
    _finish(run, p, data, state, backend)
    if frames and frames.write(run.dir / "timelapse.gif"):
        run.output("timelapse.gif")


def plan(run: StageRun, p: TrainParams, views: Views) -> Plan:
    """The schedules of this training, to be drawn before it starts.

    Raises:
        PhotosError: a photograph is missing or broken.
        InputError: `p.init_from` cannot be read.
    """
    first = first_gaussians(views.scene, views.train, p, p.cap_max, run.warn)
    return steering.plan_from(p, views, first.n, inputs.read_spectrum(run, views))


def _put_aside(path: Path, run: StageRun) -> None:
    """Rename the checkpoint of a training that a person steered: it cannot become what parameters say."""
    aside = path.with_stem(f"{path.stem}_steered")
    with files.clear_os_errors(path):
        path.replace(aside)
    run.warn(
        f"{path.name} belongs to a training that a person changed or stopped; training starts anew, and "
        f"it is kept as {aside.name}"
    )


def start(run: StageRun, p: TrainParams, data: Inputs, device: torch.device) -> tuple[State, Plan]:
    """The state before the first step, with seeded random numbers, and the schedules from there."""
    torch.manual_seed(p.seed)
    width, height = (int(side) for side in data.views.scene.cameras.sizes.max(axis=0))
    cap = memory.affordable_cap(p, device, width, height)
    first = first_gaussians(data.views.scene, data.views.train, p, cap, run.warn)
    splats = {name: torch.nn.Parameter(torch.tensor(getattr(first, name), device=device)) for name in FIELDS}
    counters = Counters(cap=cap)
    if cap < p.cap_max:
        counters.warnings.append(
            f"memory holds about {cap:,} Gaussians: train.cap_max of {p.cap_max:,} was lowered to that"
        )
    course = steering.plan_from(p, data.views, first.n, data.spectrum)
    strategy = densify.make(p, course, data.views.scale, cap)
    n_views = len(data.views.train)
    appearance = Appearance(n_views, device) if p.exposure else None
    cameras = CameraRefinement(n_views, device, data.views.scale) if p.refine_cameras else None
    optimizers = checkpoint.make_optimizers(splats)
    state = State(
        splats, optimizers, strategy, counters, appearance=appearance, cameras=cameras, n_first=first.n
    )
    shown.arrange(state)
    return state, course


def _say_what_comes_in(run: StageRun, p: TrainParams, data: Inputs) -> None:
    """Write the split down; warn of what limits quality whatever the training does."""
    views = data.views
    files.write_json(
        run.output("heldout.json"),
        {"train": views.train.names, "test": views.heldout.names, "validation": views.validation.names},
    )
    if inputs.may_stop_early(p) and data.heldout and not data.validation:
        run.warn(
            f"{len(views.scene.cameras)} views are too few for validation views of their own: stopping looks "
            "at the held-out views, so their figures are a little optimistic"
        )
    for photos in (data.train, data.validation, data.heldout):
        if photos and photos.fully_masked:
            run.warn(
                f"masks hide all of {len(photos.fully_masked)} views: {', '.join(photos.fully_masked[:5])}"
            )
    if data.heldout is None:
        run.warn(
            f"only {len(data.views.train)} views: all are trained on, none is held out, "
            "so quality on new views is not measured"
        )
    far = float(np.abs(data.views.train.centers).max())
    if far * np.finfo(np.float32).eps > 1e-5 * data.views.scale:
        run.warn(
            f"the cameras stand up to {far:.3g} units from the origin, yet only {data.views.scale:.3g} from "
            "each other: single precision loses detail; move the model to the origin before training"
        )


def _finish(run: StageRun, p: TrainParams, data: Inputs, state: State, backend: str) -> None:
    """Choose the state to keep, write it as PLY, measure it, judge it."""
    restored = _keep_the_right_state(run, p, data, state)
    c = state.counters
    gaussians = progress.to_gaussians(state.splats)
    write_ply(run.output("splat.ply"), gaussians)
    heldout = progress.measure(gaussians, data.heldout, backend, with_cc=True) if data.heldout else []
    psnr, ssim = evaluation.mean_psnr(heldout), evaluation.mean_ssim(heldout)
    psnr_train = _measure_training_views(gaussians, data, backend)
    verdicts = judge(
        Facts(
            n_train=len(data.views.train), n_heldout=len(data.views.heldout),
            evidence=evidence.gather(data.train, data.heldout, evenly(len(data.views.train), MAX_LOOKED_AT)),
            psnr_train=psnr_train, psnr_heldout=psnr, eval_steps=c.eval_steps, eval_psnrs=c.eval_psnrs,
            checks=c.checks, grown=c.grown, stopped_by=c.stopped_by, fault=c.fault,
            capped=state.n >= 0.97 * c.cap, best_psnr=c.best_psnr, best_step=c.best_step,
            loss_best=c.loss_best, loss=c.loss, restored=restored,
        )
    )  # fmt: skip
    run.metrics.update(
        steps=c.step, n_gaussians=gaussians.n, psnr_heldout=psnr, ssim_heldout=ssim,
        cc_psnr_heldout=evaluation.mean_cc_psnr(heldout), psnr_train=psnr_train, stopped_by=c.stopped_by,
        psnr_validation=c.psnr_validation, best_step=c.best_step, verdicts=verdicts,
    )  # fmt: skip
    _say_what_was_steered(run, state)
    if state.appearance:
        files.write_json(run.output("exposure.json"), state.appearance.rows(data.views.train.names))
    if state.cameras:
        moved = state.cameras.rows(data.views.train.names, data.views.train.viewmats)
        files.write_json(run.output("cameras.json"), moved)
    for warning in c.warnings:
        run.warn(warning)


def _say_what_was_steered(run: StageRun, state: State) -> None:
    """Changes go on the card, and what parameters alone would not have made is marked."""
    c, changes = state.counters, steering.changes(state)
    if changes:
        run.metrics["changes"] = c.changes
    stopped = c.step if c.stopped_by == "person" else None
    if (told := decisive(changes)) or stopped is not None:
        run.steered = {"changes": told, "stopped": stopped}


def _keep_the_right_state(run: StageRun, p: TrainParams, data: Inputs, state: State) -> bool:
    """After NaN the last checkpoint, the best evaluation where it was better, otherwise the last step.

    Returns:
        Whether it is the best instead of the last.
    """
    c = state.counters
    if c.stopped_by == "nan":
        fault, met_at = c.fault, c.step
        saved = checkpoint.load(run.dir / "checkpoint.pt", data.key, state.splats["means"].device, run.warn)
        checkpoint.restore(state, saved)
        shown.settle(state)
        c = state.counters
        c.fault, c.stopped_by = fault, "nan"
        c.warnings.append(f"training met a value that is no number: {fault}; kept is step {c.step}")
        run.gate(
            c.step > 0,
            QualityGateError(
                f"training broke at step {met_at}, before its first checkpoint",
                got=f"NaN or Inf: {fault}",
                hint="lower the learning rates, or look at the sparse points and cameras of the sfm stage",
            ),
        )
        return False
    return progress.restore_best(state, p)


def _measure_training_views(gaussians: Gaussians, data: Inputs, backend: str) -> float | None:
    chosen = evenly(len(data.views.train), MAX_TRAIN_VIEWS_MEASURED)
    renders = evaluation.render_views(gaussians, data.views.train, chosen, backend)
    measured = [
        evaluation.compare(
            data.views.train.names[i], render, data.train.full(i), with_ssim=False, mask=data.train.mask(i)
        )
        for i, render in zip(chosen, renders, strict=True)
    ]
    return evaluation.mean_psnr(measured)


__all__ = [
    "Change", "Comparison", "Control", "heldout_comparisons", "plan", "read_views", "records", "run", "start",
]  # fmt: skip
