"""What benchmarks.train does: a scene made ready, contenders that take turns, and their figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.plain_loop import train_plainly
from spaceport_lab import evaluation, ingest, sfm, train, workspace
from spaceport_lab.cameras import Scene, heldout_split, read_scene
from spaceport_lab.errors import InputError, ReconstructionError
from spaceport_lab.gaussians import Gaussians, write_ply
from spaceport_lab.images import load_rgb
from spaceport_lab.params import TrainParams, resolve
from spaceport_lab.params.resolve import Resolved
from spaceport_lab.train import inputs, loop, progress
from spaceport_lab.train.stream import Stream, read
from spaceport_lab.workspace import StageRun

TEST_EVERY = 8
WARM_UP_STEPS = 30
TURN_SECONDS = 2.0
"""Wall time after which another contender goes on, so that a busy machine slows all of them alike."""

RENDER_ROUNDS = 3


@dataclass(frozen=True)
class Ready:
    """A scene that can be trained: name, run folder with 02_sfm, cameras, photographs [H, W, 3] uint8."""

    name: str
    root: Path
    scene: Scene
    photos: list[np.ndarray]
    train: list[int]
    heldout: list[int]


@dataclass
class Contender:
    """A training that goes on a few steps whenever `states` is asked.

    Attributes:
        setup_seconds, seconds, cpu_seconds, curve, gaussians: as in PlainRun.
    """

    name: str
    states: Iterator[None] = field(default_factory=lambda: iter(()))
    setup_seconds: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    curve: list[tuple[float, int, float]] = field(default_factory=list)
    gaussians: Gaussians | None = None


def resolve_preset(text: str, overrides: Sequence[str], evaluate_every: int) -> Resolved:
    """Parameters of `NAME[+NAME…][:none]`; `none` alone is demo:none, `default` no preset at all.

    `:none` takes the coarse-to-fine schedules away. Nothing ends early, nothing is masked and the held-out
    views are the same, whatever a preset says: otherwise there was nothing to compare.

    Raises:
        ParamsError: there is no such preset, or an override cannot be used.
    """
    names, _, suffix = ("demo:none" if text == "none" else text).partition(":")
    if suffix not in ("", "none"):
        raise InputError(
            f"cannot read the preset {text!r}", expected="NAME, NAME+NAME, NAME:none, none or default"
        )
    plain = ["train.coarse_to_fine=none", "train.blur=0", "train.lowpass=false"] if suffix else []
    presets = [name for name in names.split("+") if name != "default"]
    fixed = {
        "patience": 0, "target_psnr": 0.0, "timelapse": False, "tensorboard": False, "masks": False,
        "test_every": TEST_EVERY, "eval_every": evaluate_every, "checkpoint_every": 1_000_000,
    }  # fmt: skip
    return resolve(presets, [*overrides, *plain], {"train": fixed})


def make_ready(path: Path, work: Path) -> Ready:
    """Read a run folder, or make one from photographs in `work` with the demo preset.

    Raises:
        InputError: there is nothing there.
        ReconstructionError: too few views to hold some out.
        SpaceportError: ingest or sfm failed.
    """
    path = path.expanduser().resolve()
    if not path.is_dir():
        raise InputError("there is no such folder", got=path, expected="photographs, a scene or a run folder")
    if (path / "02_sfm" / "stage.json").exists():
        root, name = path, path.parent.parent.name if path.parent.name == "runs" else path.name
    else:
        source = path / "images" if (path / "images").is_dir() else path
        name = source.parent.name if source.name == "images" else source.name
        root = work.resolve() / name / "runs" / "benchmark"
        _reconstruct(root, source)
    scene = read_scene(root / "02_sfm")
    cameras = scene.cameras
    if len(cameras) < inputs.MIN_VIEWS_TO_SPLIT:
        raise ReconstructionError(
            "too few views to hold some out", got=len(cameras), expected=f"{inputs.MIN_VIEWS_TO_SPLIT} views"
        )
    photos = [
        load_rgb(root / "02_sfm" / "images" / file, tuple(size))
        for file, size in zip(cameras.names, cameras.sizes.tolist(), strict=True)
    ]
    return Ready(name, root, scene, photos, *heldout_split(cameras.names, TEST_EVERY))


def _reconstruct(root: Path, source: Path) -> None:
    """Run ingest and sfm, unless they were run on the same photographs before."""
    params = resolve(["demo"], fixed={"ingest": {"source": str(source)}}).params
    for module, stage in ((ingest, "ingest"), (sfm, "sfm")):
        run, p = StageRun(root, stage), params[stage]
        if workspace.is_done(run, workspace.stage_key(stage, p, workspace.gather_inputs(run, p))):
            continue
        run.dir.mkdir(parents=True, exist_ok=True)
        (run.dir / "stage.json").unlink(missing_ok=True)
        message = ""
        for state in module.run(run, p):
            if state.message != message:
                message = state.message
                print(f"{stage}: {message}", flush=True)
        if run.failed_gates:
            raise run.failed_gates[0]
        workspace.write_manifest(run, p)


def plain(ready: Ready, steps: int, backend: str, evaluate_every: int, **options: Any) -> Contender:
    """The plain loop, about to begin."""
    contender = Contender("plain")

    def states() -> Iterator[None]:
        for run in train_plainly(
            ready.scene, ready.photos, ready.train, ready.heldout, steps, backend=backend,
            evaluate_every=evaluate_every, **options,
        ):  # fmt: skip
            contender.setup_seconds, contender.seconds = run.setup_seconds, run.seconds
            contender.cpu_seconds, contender.curve = run.cpu_seconds, run.curve
            contender.gaussians = run.gaussians
            yield

    contender.states = states()
    return contender


def ours(ready: Ready, name: str, p: TrainParams, folder: Path, backend: str) -> Contender:
    """The train stage's own loop, about to begin; writes into a run folder `folder`."""
    contender = Contender(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "02_sfm").symlink_to(ready.root / "02_sfm", target_is_directory=True)
    run = StageRun(folder, "train")
    run.dir.mkdir()

    def states() -> Iterator[None]:
        began = time.perf_counter()
        data = inputs.read(run, p)
        state, course = train.start(run, p, data, torch.device(backend))
        stream = Stream(run.dir / "metrics.jsonl", None)
        contender.setup_seconds = time.perf_counter() - began
        steps = loop.optimise(state, course, p, data, backend, stream, run.dir / "checkpoint.pt")
        try:
            while True:
                with _EvaluationsAside() as aside:
                    if next(steps, None) is None:
                        break
                contender.seconds, contender.cpu_seconds = (
                    state.counters.seconds,
                    contender.cpu_seconds + aside.cpu_seconds,
                )
                yield
        finally:
            stream.close()
            data.close()
        if state.counters.stopped_by == "nan":
            raise InputError(f"training with {name} met NaN", got=state.counters.fault)
        contender.curve = [(r["seconds"], r["step"], r["psnr"]) for r in read(stream.path) if "psnr" in r]
        progress.restore_best(state, p)
        contender.gaussians = progress.to_gaussians(state.splats)

    contender.states = states()
    return contender


class _EvaluationsAside:
    """Processor seconds of all cores within the block, without those of evaluations in it."""

    def __enter__(self) -> _EvaluationsAside:
        self.evaluating, self._measure = 0.0, progress.evaluate
        self._patch = mock.patch.object(progress, "evaluate", self._evaluate)
        self._patch.start()
        self._began = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_seconds = time.process_time() - self._began - self.evaluating
        self._patch.stop()

    def _evaluate(self, *arguments: Any) -> None:
        began = time.process_time()
        self._measure(*arguments)
        self.evaluating += time.process_time() - began


def take_turns(contenders: Sequence[Contender]) -> None:
    """Run all of them to their end, a few seconds each in turn, each with random numbers of its own."""
    going = {contender.name: contender for contender in contenders}
    random = dict.fromkeys(going, torch.get_rng_state())
    while going:
        for name, contender in list(going.items()):
            torch.set_rng_state(random[name])
            began = time.perf_counter()
            while time.perf_counter() - began < TURN_SECONDS:
                try:
                    next(contender.states)
                except StopIteration:
                    del going[name]
                    break
            random[name] = torch.get_rng_state()


def warm_up(ready: Ready, params: Sequence[TrainParams], folder: Path, backend: str) -> None:
    """A few steps of everything, thrown away, so that no figure holds compilation or cold caches."""
    steps = WARM_UP_STEPS
    contenders = [plain(ready, steps, backend, steps // 2, sh_interval=steps // 4)]
    short = {"max_steps": steps, "eval_every": steps // 2, "refine_every": steps // 6, "refine_start": 0.1}
    for number, p in enumerate(params):
        contenders.append(
            ours(ready, str(number), p.model_copy(update=short), folder / f"warm-{number}", backend)
        )
    take_turns(contenders)


def measure(ready: Ready, contender: Contender, folder: Path, backend: str) -> dict[str, Any]:
    """Held-out metrics, Gaussians and bytes of what a contender made."""
    gaussians = contender.gaussians
    renders = evaluation.render_views(gaussians, ready.scene.cameras, ready.heldout, backend)
    views = [
        evaluation.compare("", render, ready.photos[i], with_cc=True)
        for i, render in zip(ready.heldout, renders, strict=True)
    ]
    ply = folder / "splat.ply"
    write_ply(ply, gaussians)
    return {
        "psnr_heldout": evaluation.mean_psnr(views), "ssim": evaluation.mean_ssim(views),
        "cc_psnr": evaluation.mean_cc_psnr(views), "n_gaussians": gaussians.n,
        "ply_bytes": ply.stat().st_size, "seconds": contender.seconds,
        "setup_seconds": contender.setup_seconds, "cpu_seconds": contender.cpu_seconds,
        "curve": contender.curve,
    }  # fmt: skip


def render_ms(ready: Ready, contenders: Sequence[Contender], backend: str) -> list[float]:
    """Median wall time of rendering a held-out view at full size, of each contender; in turns."""
    took: list[list[float]] = [[] for _ in contenders]
    for _ in range(RENDER_ROUNDS):
        for times, contender in zip(took, contenders, strict=True):
            # The first render of a round readies the splat, which a viewer does once; it is not counted.
            views = [ready.heldout[0], *ready.heldout]
            renders = evaluation.render_views(contender.gaussians, ready.scene.cameras, views, backend)
            next(renders)
            for _ in ready.heldout:
                began = time.perf_counter()
                next(renders)
                times.append(1000 * (time.perf_counter() - began))
    return [statistics.median(times) for times in took]
