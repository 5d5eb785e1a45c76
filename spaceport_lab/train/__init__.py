"""The train stage: cameras, points and photographs in, Gaussians out (3DGS, Kerbl et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from spaceport_lab import backends, evaluation, files
from spaceport_lab.errors import QualityGateError
from spaceport_lab.gaussians import Gaussians, read_ply, write_ply
from spaceport_lab.images import load_rgb
from spaceport_lab.params import TrainParams
from spaceport_lab.train import checkpoint, densify, inputs, loop, memory, schedules, stream
from spaceport_lab.train.checkpoint import Counters, State
from spaceport_lab.train.inputs import Inputs, Views, read_views
from spaceport_lab.train.schedules import Plan
from spaceport_lab.train.stream import Stream
from spaceport_lab.train.verdicts import Facts, judge
from spaceport_lab.workspace import Progress, StageRun

MAX_TRAIN_VIEWS_MEASURED = 48
"""Training views rendered at the end for psnr_train, evenly spaced; the figure is for comparison only."""


def run(run: StageRun, p: TrainParams) -> Iterator[Progress]:
    """Optimise Gaussians from the sfm stage's model; resumes from its own checkpoint after an interruption.

    Reads `02_sfm/images` and `02_sfm/sparse`; writes `splat.ply`, `heldout.json`, `metrics.jsonl` and
    `checkpoint.pt`.

    Raises:
        WorkspaceError: the sfm stage has not finished, or the run folder cannot be written.
        BackendError: `p.backend` asks for CUDA where it cannot run.
        ReconstructionError: there is nothing to train on.
        PhotosError: an image is missing or broken, or all do not fit in memory.
    """
    backend = backends.choose_backend(p.backend)
    device = torch.device(backend)
    yield Progress(0, p.max_steps, "reading photographs")
    data = inputs.read(run, p)
    _say_what_comes_in(run, data)

    path = run.dir / "checkpoint.pt"
    state = start(p, data, device)
    if saved := checkpoint.load(path, data.key, device, run.warn):
        checkpoint.restore(state, saved)
        yield Progress(state.counters.step, p.max_steps, f"going on from step {state.counters.step:,}")
    else:
        checkpoint.save(path, data.key, state)
    records_file = Stream(run.output("metrics.jsonl"), state.counters.step if saved else None)
    try:
        yield from loop.optimise(state, plan(p, data.views), p, data, backend, records_file, path)
    finally:
        records_file.close()
    yield Progress(state.counters.step, p.max_steps, "measuring what was trained")
    _finish(run, p, data, state, backend)


def plan(p: TrainParams, views: Views) -> Plan:
    """The schedules of this training, to be drawn before it starts."""
    return schedules.plan(p, views.scale, int(views.train.sizes.min()))


def records(run: StageRun) -> list[dict[str, Any]]:
    """The metrics stream so far, one dict a record; readable while training writes it."""
    return stream.read(run.dir / "metrics.jsonl")


@dataclass(frozen=True)
class Comparison:
    """One held-out view: photograph, render [H, W, 3] in 0..1, and the render's PSNR in dB."""

    name: str
    photo: Float[np.ndarray, "H W 3"]
    render: Float[np.ndarray, "H W 3"]
    psnr: float


def heldout_comparisons(run: StageRun, p: TrainParams, most: int = 3) -> list[Comparison]:
    """Render the trained splat from up to `most` held-out views, evenly spaced, or from training views."""
    views = inputs.read_views(run, p)
    cameras = views.heldout if len(views.heldout) else views.train
    gaussians = read_ply(run.dir / "splat.ply")
    compared = []
    chosen = evenly(len(cameras), most)
    renders = evaluation.render_views(gaussians, cameras, chosen, backends.choose_backend(p.backend))
    for index, render in zip(chosen, renders, strict=True):
        size = (render.shape[1], render.shape[0])
        photo = load_rgb(run.input("sfm", "images") / cameras.names[index], size)
        psnr = evaluation.compare(cameras.names[index], render, photo, with_ssim=False).psnr
        compared.append(Comparison(cameras.names[index], photo.astype(np.float32) / 255, render, psnr))
    return compared


def evenly(n: int, most: int) -> list[int]:
    """Up to `most` indices of `n`, first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()


def start(p: TrainParams, data: Inputs, device: torch.device) -> State:
    """The state before the first step: Gaussians from points, fresh optimisers, seeded random numbers."""
    torch.manual_seed(p.seed)
    width, height = (int(side) for side in data.views.scene.cameras.sizes.max(axis=0))
    cap = memory.affordable_cap(p, device, width, height)
    first = inputs.first_gaussians(data.views.scene, p, cap)
    splats = {
        name: torch.nn.Parameter(torch.tensor(getattr(first, name), device=device))
        for name in ("means", "scales", "quats", "opacities", "sh0", "shN")
    }
    counters = Counters(cap=cap)
    if cap < p.cap_max:
        counters.warnings.append(
            f"memory holds about {cap:,} Gaussians: train.cap_max of {p.cap_max:,} was lowered to that"
        )
    strategy = densify.make(p, plan(p, data.views).refinement, data.views.scale, cap)
    return State(splats, checkpoint.make_optimizers(splats), strategy, counters)


def _say_what_comes_in(run: StageRun, data: Inputs) -> None:
    """Write the split down; warn of what limits quality whatever the training does."""
    files.write_json(
        run.output("heldout.json"),
        {"train": data.views.train.names, "test": data.views.heldout.names},
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
    _keep_the_right_state(run, data, state)
    c = state.counters
    gaussians = loop.to_gaussians(state.splats)
    write_ply(run.output("splat.ply"), gaussians)
    heldout = loop.measure(gaussians, data.heldout, backend) if data.heldout else []
    psnr, ssim = evaluation.mean_psnr(heldout), evaluation.mean_ssim(heldout)
    psnr_train = _measure_training_views(gaussians, data, backend)
    verdicts = judge(
        Facts(
            n_train=len(data.views.train), n_heldout=len(data.views.heldout), psnr_train=psnr_train,
            psnr_heldout=psnr, eval_steps=c.eval_steps, eval_psnrs=c.eval_psnrs, checks=c.checks,
            grown=c.grown, stopped_by=c.stopped_by, fault=c.fault, capped=state.n >= 0.97 * c.cap,
            best_psnr=c.best_psnr,
        )
    )  # fmt: skip
    run.metrics.update(
        steps=c.step, n_gaussians=gaussians.n, psnr_heldout=psnr, ssim_heldout=ssim, psnr_train=psnr_train,
        stopped_by=c.stopped_by, best_step=c.best_step, verdicts=verdicts,
    )  # fmt: skip
    for warning in c.warnings:
        run.warn(warning)


def _keep_the_right_state(run: StageRun, data: Inputs, state: State) -> None:
    """After NaN the last checkpoint, after waiting in vain the best evaluation, otherwise the last step."""
    c = state.counters
    if c.stopped_by == "nan":
        fault, met_at = c.fault, c.step
        saved = checkpoint.load(run.dir / "checkpoint.pt", data.key, state.splats["means"].device, run.warn)
        checkpoint.restore(state, saved)
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
    elif state.best is not None and c.best_step != c.step:
        state.splats = {name: torch.nn.Parameter(values) for name, values in state.best.items()}


def _measure_training_views(gaussians: Gaussians, data: Inputs, backend: str) -> float | None:
    chosen = evenly(len(data.views.train), MAX_TRAIN_VIEWS_MEASURED)
    renders = evaluation.render_views(gaussians, data.views.train, chosen, backend)
    measured = [
        evaluation.compare(data.views.train.names[i], render, data.train.full[i], with_ssim=False)
        for i, render in zip(chosen, renders, strict=True)
    ]
    return evaluation.mean_psnr(measured)


__all__ = [
    "Comparison", "evenly", "heldout_comparisons", "plan", "read_views", "records", "run", "start",
]  # fmt: skip
