"""How long a training will take on this machine, and how much memory, from a few real steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from scipy.optimize import nnls

from spaceport_lab import backends
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.params import TrainParams
from spaceport_lab.train import checkpoint, densify, inputs, loop, memory, progress, shown, steering
from spaceport_lab.train.checkpoint import Counters, State
from spaceport_lab.train.inputs import Views, evenly
from spaceport_lab.train.photos import Photos
from spaceport_lab.train.schedules import Plan
from spaceport_lab.train.starting import FIELDS, first_gaussians
from spaceport_lab.workspace import StageRun

VIEWS = 3
"""Training views that are looked at, evenly spaced."""

SECONDS_A_SIZE = 1.0
"""At each size no further step is taken after this long."""

TRAINED = 1.3
"""Times as long a step takes with trained Gaussians as with copies of the first, which overlap less: measured
between 1.2 and 1.4 on the sample."""

LEAST_DOUBT, MOST_DOUBT = 0.25, 0.6
"""Share by which a training may be faster or slower."""

MEASURED_AT_END = 48
"""Training views rendered at the end, as the stage does."""


class Sample(NamedTuple):
    """One step that was taken: Gaussians in the scene, pixels of the image, seconds."""

    n: int
    pixels: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a training is expected to cost on this machine.

    Attributes:
        seconds: from the start of the stage to its end, if nothing stops it early.
        seconds_low, seconds_high: between which it should lie.
        peak_mb: memory of the process, or of the GPU where one is used, in megabytes.
        n_gaussians_end: as the plan aims at, within the cap; with a threshold that was given nobody knows.
        rows: what takes how long, as a table: `part`, `steps`, `Gaussians`, `ms per step`, `seconds`.
    """

    seconds: float
    seconds_low: float
    seconds_high: float
    peak_mb: float
    n_gaussians_end: int
    rows: list[dict[str, Any]] = field(default_factory=list)


Cost = Callable[[float, float], float]
"""Seconds of one step with so many Gaussians on an image of so many pixels."""


def estimate(run: StageRun, p: TrainParams, views: Views) -> Estimate:
    """Take a few real steps at several sizes, and add them up over the plan; a few seconds.

    Not while a training runs in this process: it would be slowed down, and lose its random numbers.

    Args:
        run: the train stage.
        p: its parameters.
        views: as `read_views` gives them.

    Raises:
        BackendError: `p.backend` asks for CUDA where it cannot run.
        PhotosError: a photograph is missing or broken.
        InputError: `p.init_from` cannot be read.
    """
    backend = backends.choose_backend(p.backend)
    device = torch.device(backend)
    width, height = (int(side) for side in views.scene.cameras.sizes.max(axis=0))
    cap = memory.affordable_cap(p, device, width, height)
    began = time.perf_counter()
    plan = steering.plan_from(p, views, 0, spectrum := inputs.read_spectrum(run, views))
    reading = (time.perf_counter() - began) / min(len(views.train), inputs.MOST_SPECTRA)
    first = first_gaussians(views.scene, views.train, p, cap, lambda _: None)
    plan = steering.plan_from(p, views, first.n, spectrum)
    counts = gaussians_by_step(plan, cap)
    samples, looking, held = measure(run, p, views, plan, first, max(counts), backend)
    cost = fit(samples)
    mean_pixels = float(np.prod(views.train.sizes, axis=1).mean())
    rows = add_up(cost, plan, counts, mean_pixels)
    rows += _beside_the_steps(p, views, looking, reading)
    seconds = sum(row["seconds"] for row in rows)
    doubt = _doubt(samples, cost)
    low = seconds
    if not plan.growth.automatic:
        # Whether a threshold that was given ever fires is not known before.
        unchanged = add_up(cost, plan, [first.n] * plan.steps, mean_pixels)
        low = min(seconds, sum(row["seconds"] for row in unchanged))
    return Estimate(
        seconds=seconds,
        seconds_low=low / (1 + doubt),
        seconds_high=seconds * (1 + doubt),
        peak_mb=_peak_bytes(p, views, max(counts), device, held) / 1e6,
        n_gaussians_end=counts[-1],
        rows=rows,
    )


def gaussians_by_step(plan: Plan, cap: int) -> list[int]:
    """Gaussians at each step of the plan, if growth does what it aims at."""
    growth, counts, n = plan.growth, [], min(cap, plan.growth.first)
    for step in range(plan.steps):
        if plan.refinement.refines(step):
            n = max(n, min(cap, growth.target(step)))
        if step in plan.prune_at:
            n -= int(plan.prune_each * n)
        counts.append(n)
    return counts


def fit(samples: Sequence[Sample]) -> Cost:
    """Seconds of a step as a + b n + c pixels + d √(n pixels), none of them negative, by least squares.

    A Gaussian covers about √(pixels / n) pixels of a row, which is where the last term comes from; relative
    errors count, so that the small steps are fitted as well as the large ones.
    """
    seconds = np.array([sample.seconds for sample in samples])
    terms = _terms(*np.array([sample[:2] for sample in samples], float).T)
    scale = terms.max(axis=0)
    weights, _ = nnls(terms / scale / seconds[:, None], np.ones(len(samples)))
    return lambda n, pixels: float(_terms(np.array([n]), np.array([pixels]))[0] @ (weights / scale))


def _terms(n: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.stack([np.ones(len(n)), n, pixels, np.sqrt(n * pixels)], axis=1)


def add_up(cost: Cost, plan: Plan, counts: Sequence[int], pixels: float) -> list[dict[str, Any]]:
    """The steps of a plan as rows, one for each size of the images; the later, the more trained they are.

    Args:
        cost: of a step.
        plan: the schedules.
        counts: Gaussians at each step.
        pixels: of a full photograph.
    """
    by_factor: dict[float, list[int]] = {}
    for step in range(plan.steps):
        by_factor.setdefault(plan.resolution.at(step), []).append(step)
    rows = []
    for factor, steps in by_factor.items():
        # A strip of a photograph shows as many Gaussians fewer.
        shares = [1 / plan.resolution.parts(step) for step in steps]
        seconds = sum(
            float(cost(round(counts[step] * share), pixels * share / factor**2))
            * (1 + (TRAINED - 1) * step / plan.steps)
            for step, share in zip(steps, shares, strict=True)
        )
        few, many = counts[steps[0]], counts[steps[-1]]
        rows.append({
            "part": "steps at full size" if factor == 1 else f"steps at 1/{factor:g} of the sides",
            "steps": len(steps), "Gaussians": f"{few:,} … {many:,}" if many > few else f"{few:,}",
            "ms per step": 1000 * seconds / len(steps), "seconds": seconds,
        })  # fmt: skip
    return rows


def measure(
    run: StageRun, p: TrainParams, views: Views, plan: Plan, first: Gaussians, most: int, backend: str
) -> tuple[list[Sample], float, int]:
    """Real steps with few and with many Gaussians, on small and on large images.

    Args:
        first: Gaussians of the start.
        most: how many there will be at the most.

    Returns:
        the steps; the seconds in which one view is rendered and compared at the end; the bytes that the
        process held with most Gaussians.
    """
    chosen = views.train.subset(evenly(len(views.train), VIEWS))
    masks = run.input("sfm") / "masks"
    photos = Photos(
        chosen, run.input("sfm", "images"), mask_dir=masks if p.masks and masks.is_dir() else None,
        cache_bytes=p.cache_gb * 1e9,
    )  # fmt: skip
    samples: list[Sample] = []
    try:
        with torch.random.fork_rng(devices=[]):
            for n in sorted({first.n, most}):
                state = _state(_multiplied(first, n), p, plan, views, backend)
                for factor in sorted({plan.resolution.stage(0), 1.0}, reverse=True):
                    samples += _steps(state, plan, p, photos, factor, backend)
        shown.settle(state)
        began = time.perf_counter()
        looked_at = progress.measure(progress.to_gaussians(state.splats), photos, backend)
        looking = (time.perf_counter() - began) / max(1, len(looked_at))
        held = psutil.Process().memory_info().rss
    finally:
        photos.close()
    return samples, looking, held


def _steps(
    state: State, plan: Plan, p: TrainParams, photos: Photos, factor: float, backend: str
) -> list[Sample]:
    """Up to one timed step a view, after one that is not: it decodes photographs and compiles kernels."""
    device, samples, until = torch.device(backend), [], None
    for index in (0, *range(len(photos.cameras))):
        view = photos.at(index, factor, 0.0, device)
        eps2d = plan.low_pass.at(0, state.n, view.width * view.height, factor)
        began = time.perf_counter()
        seen = shown.take(state, view, view.viewmat, p.sh_degree, eps2d)
        renders, info = loop.render(seen, view, view.viewmat, p.sh_degree, eps2d, 0.0, p, backend)
        loss = state.strategy.regularised(loop.compare(renders, view, p), seen.splats, state.n)
        state.strategy.before_backward(info)
        loss.backward()
        shown.step(seen, state)
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if until is not None:
            samples.append(Sample(state.n, view.width * view.height, now - began))
        until = until or now + SECONDS_A_SIZE
        if samples and now > until:
            break
    return samples


def _state(gaussians: Gaussians, p: TrainParams, plan: Plan, views: Views, backend: str) -> State:
    device = torch.device(backend)
    splats = {
        name: torch.nn.Parameter(torch.tensor(getattr(gaussians, name), device=device)) for name in FIELDS
    }
    strategy = densify.make(p, plan, views.scale, gaussians.n)
    state = State(splats, checkpoint.make_optimizers(splats), strategy, Counters(cap=gaussians.n))
    shown.arrange(state)
    return state


def _multiplied(first: Gaussians, n: int) -> Gaussians:
    """`n` Gaussians on the same surface: copies are shaken, and all shrink so that they cover the same."""
    rng = np.random.default_rng(0)
    copied = first.subset(np.arange(n) % first.n)
    if n <= first.n:
        return copied
    shake = rng.normal(size=(n, 3)) * np.exp(copied.scales)
    shake[: first.n] = 0
    scales = copied.scales + 0.5 * np.log(first.n / n)
    return replace(copied, means=(copied.means + shake).astype(np.float32), scales=scales.astype(np.float32))


def _beside_the_steps(p: TrainParams, views: Views, looking: float, reading: float) -> list[dict[str, Any]]:
    def row(part: str, times: int, seconds: float) -> dict[str, Any]:
        return {
            "part": part, "steps": times, "Gaussians": None, "ms per step": 1000 * seconds,
            "seconds": times * seconds,
        }  # fmt: skip

    decided, n_train = len(views.heldout) + len(views.validation), len(views.train)
    rows = [
        row("photographs read", len(views.scene.cameras), reading),
        row("views measured on the way", decided * -(-p.max_steps // p.eval_every), looking),
        row("views measured at the end", len(views.heldout) + min(n_train, MEASURED_AT_END), looking),
    ]
    if p.timelapse:
        rows.append(row("pictures of the time lapse", min(loop.FRAMES, p.max_steps), looking))
    return rows


def _doubt(samples: Sequence[Sample], cost: Cost) -> float:
    """How far single steps lie from what was fitted, within bounds."""
    off = [abs(sample.seconds / cost(sample.n, sample.pixels) - 1) for sample in samples]
    return float(np.clip(np.quantile(off, 0.9), LEAST_DOUBT, MOST_DOUBT))


def _peak_bytes(p: TrainParams, views: Views, n: int, device: torch.device, held: int) -> float:
    """What was held while measuring, with the photographs and the copy of the best state on top.

    Measured, as the libraries that a first step loads take more than the Gaussians of a small training.
    """
    width, height = (int(side) for side in views.scene.cameras.sizes.max(axis=0))
    if device.type == "cuda":
        return n * memory.GPU_BYTES_PER_GAUSSIAN
    photographs = 3 * float(np.prod(views.scene.cameras.sizes.astype(float), axis=1).sum())
    best = n * 4 * (11 + 3 * (p.sh_degree + 1) ** 2)
    return max(held, memory.needed_bytes(n, p, width, height)) + best + min(p.cache_gb * 1e9, photographs)
