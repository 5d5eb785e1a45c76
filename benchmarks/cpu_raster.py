"""The CPU rasterizer's training step beside the sketch it grew from, stage by stage.

    python -m benchmarks.cpu_raster [--json FILE] [--sketch FOLDER] [--seconds S] [--quick]

A step is forward, L1 + SSIM, backward and Adam over all parameters, SH degree 3. Ours and the sketch take
turns within one run. CPU times are those of one thread, so that nobody's waiting counts; wall times are those
of all cores. Medians.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for the sketch: two pools must not spin

import numba
import numpy as np
import torch
from llvmlite import binding
from numba.extending import intrinsic
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from spaceport_lab.backends import l1_ssim_loss, rasterize
from spaceport_lab.kernels import render, threads
from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import LANES
from spaceport_lab.kernels.vector import WIDTH, fma
from spaceport_lab.kernels.vector_memory import load_narrow, store

ROOT = Path(__file__).resolve().parent.parent
SIZES = ((640, 480), (1280, 960))
COUNTS = (20_000, 50_000, 100_000, 500_000)
FIT_COUNTS = (20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
FIT_SIZES = ((320, 240), (640, 480), (960, 720), (1280, 960))
RATES = (1e-5, 1e-4, 1e-4, 1e-3, 1e-4, 1e-5)
FLOPS_PER_PIXEL = 27 + 45
"""Floating-point operations of one evaluated pixel, forward and backward, counted in kernels/raster.py."""

STAGES = {
    "fill": "projection and colours", "fill_spans": "binning", "fill_segments": "binning",
    "forward": "tiles forward", "backward": "tiles backward",
    "fill_backward": "projection and colours backward",
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Gaussians that fill the view, their number given: the more there are, the smaller they are."""

    width: int
    height: int
    fields: list[torch.Tensor]
    viewmat: torch.Tensor
    K: torch.Tensor
    photo: torch.Tensor

    @property
    def n(self) -> int:
        return len(self.fields[0])


def make_scene(n: int, width: int, height: int) -> Scene:
    """The same Gaussians for every size of image."""
    random = torch.Generator().manual_seed(0)
    z = torch.rand(n, generator=random) * 8 + 2
    xy = (torch.rand(n, 2, generator=random) - 0.5) * 1.15
    size = math.log(0.055 * (50_000 / n) ** 0.5)
    fields = [
        torch.stack([xy[:, 0] / 0.8 * z, xy[:, 1] * 0.75 / 0.8 * z, z - 6], 1),
        torch.randn(n, 4, generator=random),
        torch.exp(torch.randn(n, 3, generator=random) * 0.5 + size),
        torch.sigmoid(torch.randn(n, generator=random) * 1.5),
        torch.randn(n, 1, 3, generator=random) * 0.8,
        torch.randn(n, 15, 3, generator=random) * 0.1,
    ]
    viewmat = torch.eye(4)
    viewmat[2, 3] = 6.0
    focal = 0.8 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Scene(width, height, fields, viewmat, K, torch.rand(height, width, 3, generator=random))


class Ours:
    """One training step of ours, with a clock for every part of it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.fields = [field.clone().requires_grad_() for field in scene.fields]
        self.adam = adam(self.fields)

    def render(self, **options: Any) -> torch.Tensor:
        s, f = self.scene, self.fields
        view = (s.viewmat[None], s.K[None], s.width, s.height)
        return rasterize(*f[:4], (f[4], f[5]), *view, sh_degree=3, **options)[0]

    def step(self, clock: Callable[[], float], parts: dict[str, list[float]]) -> None:
        began = clock()
        image = self.render()
        rendered = clock()
        loss = l1_ssim_loss(image, self.scene.photo[None], 0.2)
        compared = clock()
        loss.backward()
        carried = clock()
        self.adam.step()
        self.adam.zero_grad()
        ended = clock()
        times = (rendered - began, compared - rendered, carried - compared, ended - carried, ended - began)
        for name, seconds in zip(
            ("all forward", "L1 + SSIM", "all backward", "Adam", "step"), times, strict=True
        ):
            parts[name].append(seconds)


def let_divide(simd: Any) -> None:
    """Give the sketch's vectors 1 / x without AVX-512, the only machines it was written for.

    Elsewhere LLVM ends the process where it compiles the sketch's own.
    """

    @intrinsic
    def vrcp(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.fdiv(simd._cst(1.0), args[0])

        return simd.v16(x), generate

    simd.vrcp = vrcp


class Sketch:
    """One training step of the sketch."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        if not binding.get_host_cpu_features()["avx512f"]:
            let_divide(importlib.import_module("simd"))
        self.proto, self.loss = importlib.import_module("proto"), importlib.import_module("loss")
        self.scene = scene
        fields = [*scene.fields[:4], scene.fields[4][:, 0], scene.fields[5]]
        self.fields = [field.clone().requires_grad_() for field in fields]
        self.adam = adam(self.fields)
        self.view = scene.viewmat.numpy().reshape(-1)[:12].copy()
        self.camera = tuple(float(scene.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))

    def step(self, clock: Callable[[], float], parts: dict[str, list[float]]) -> None:
        s = self.scene
        began = clock()
        background = np.zeros(3, np.float32)
        image = self.proto.rasterize(*self.fields, self.view, self.camera, s.width, s.height, 3, background)[
            0
        ]
        self.loss.L1SSIM.apply(image, s.photo, 0.2).backward()
        self.adam.step()
        self.adam.zero_grad()
        parts["step"].append(clock() - began)


def adam(fields: list[torch.Tensor]) -> torch.optim.Adam:
    groups = [{"params": [field], "lr": rate} for field, rate in zip(fields, RATES, strict=True)]
    return torch.optim.Adam(groups, eps=1e-15, fused=True)


def use_threads(count: int) -> None:
    """For everybody: ours, numba's and torch's."""
    threads.set_thread_count(count)
    numba.set_num_threads(count)
    torch.set_num_threads(count)


def milliseconds(values: list[float]) -> float:
    return round(1000 * float(np.median(values)), 3)


def take_turns(
    runners: dict[str, Any], clock: Callable[[], float], seconds: float, least: int = 5
) -> dict[str, dict[str, list[float]]]:
    """Steps in turn until the time is up, but at least `least` of each after one to warm up."""
    for runner in runners.values():
        runner.step(clock, defaultdict(list))
    parts: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in runners}
    ends, rounds = time.monotonic() + seconds, 0
    while rounds < least or time.monotonic() < ends:
        for name, runner in runners.items():
            runner.step(clock, parts[name])
        rounds += 1
    return parts


def by_stage(ours: Ours, clock: Callable[[], float], rounds: int) -> dict[str, float]:
    """Median milliseconds of each kernel in a step."""
    found: dict[str, list[float]] = defaultdict(list)
    plain = threads.on_all

    def timed(function: Any, shares: int, *args: Any) -> list:
        began = clock()
        results = plain(function, shares, *args)
        if hasattr(function, "py_func"):  # the loss is none: it is timed beside its peer
            found[STAGES[function.__name__]].append(clock() - began)
        return results

    threads.on_all = timed
    try:
        for _ in range(rounds):
            ours.step(clock, defaultdict(list))
    finally:
        threads.on_all = plain
    return {name: round(1000 * sum(values) / rounds, 3) for name, values in found.items()}


def view_times(ours: Ours, clock: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Median milliseconds of a training step's forward and of rendering alone, in turn."""
    forward, alone = [], []
    for _ in range(rounds):
        began = clock()
        ours.render()
        forward.append(clock() - began)
        with torch.no_grad():
            began = clock()
            ours.render(check_finite=False)
            alone.append(clock() - began)
    return milliseconds(forward), milliseconds(alone)


def evaluated_pixels(ours: Ours) -> int:
    """Pixels, counted once for every Gaussian they are evaluated for, in one forward pass."""
    kept: list[render.Frame] = []
    plain = render._rasterize

    def keep(frame: render.Frame, background: np.ndarray) -> None:
        frame.words[:] = 0
        plain(frame, background)
        kept.append(frame)

    render._rasterize = keep
    try:
        ours.render()
    finally:
        render._rasterize = plain
    return LANES * int(np.bitwise_count(kept[0].words).sum())


@kernel()
def multiply_add(rounds, values):
    """Ten independent chains of fused multiplications and additions."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = a9 = load_narrow(values, 0)
    x, y = load_narrow(values, 16), load_narrow(values, 32)
    for _ in range(rounds):
        a0, a1, a2, a3, a4 = fma(a0, x, y), fma(a1, x, y), fma(a2, x, y), fma(a3, x, y), fma(a4, x, y)
        a5, a6, a7, a8, a9 = fma(a5, x, y), fma(a6, x, y), fma(a7, x, y), fma(a8, x, y), fma(a9, x, y)
    store(values, 48, a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9)


def fma_peak() -> float:
    """Floating-point operations per second of one core, measured."""
    values, rounds, best = np.full(64, 0.5, np.float32), 2_000_000, math.inf
    multiply_add(10, values)
    for _ in range(7):
        began = time.perf_counter()
        multiply_add(rounds, values)
        best = min(best, time.perf_counter() - began)
    return rounds * 10 * WIDTH * 2 / best


def exponent(sizes: list[float], times: list[float]) -> float:
    """The power with which time grows: the slope of a straight line through the logarithms."""
    return round(float(np.polyfit(np.log(sizes), np.log(times), 1)[0]), 3)


def run_case(n: int, width: int, height: int, sketch: Path | None, seconds: float) -> dict[str, Any]:
    """All figures of one number of Gaussians at one size."""
    scene = make_scene(n, width, height)
    runners: dict[str, Any] = {"ours": Ours(scene)}
    if sketch is not None:
        runners["sketch"] = Sketch(scene, sketch)
    use_threads(1)
    cpu = take_turns(runners, time.process_time, seconds)
    rounds = max(5, min(15, len(cpu["ours"]["step"])))
    stages = by_stage(runners["ours"], time.process_time, rounds)
    forward, alone = view_times(runners["ours"], time.process_time, rounds)
    use_threads(threads.available_threads())
    wall = take_turns(runners, time.perf_counter, seconds)
    steps = {
        kind: {
            peer: milliseconds(found[peer]["step"]) if peer in found else None for peer in ("ours", "sketch")
        }
        for kind, found in (("step_cpu_ms", cpu), ("step_wall_ms", wall))
    }
    stages |= {name: milliseconds(cpu["ours"][name]) for name in ("L1 + SSIM", "Adam")}
    return {
        "width": width, "height": height, "n_gaussians": n, **steps, "render_cpu_ms": {"ours": alone},
        "forward_cpu_ms": {"ours": forward}, "stages_cpu_ms": stages,
        "evaluated_pixels": evaluated_pixels(runners["ours"]),
    }  # fmt: skip


def growth(seconds: float) -> dict[str, float]:
    """Exponents of a step's CPU time in the number of Gaussians and in the number of pixels."""
    use_threads(1)

    def step_ms(n: int, width: int, height: int) -> float:
        runner = Ours(make_scene(n, width, height))
        return milliseconds(take_turns({"ours": runner}, time.process_time, seconds, 3)["ours"]["step"])

    by_count = [step_ms(n, 640, 480) for n in FIT_COUNTS]
    by_size = [step_ms(100_000, width, height) for width, height in FIT_SIZES]
    return {
        "n": exponent(list(FIT_COUNTS), by_count),
        "pixels": exponent([width * height for width, height in FIT_SIZES], by_size),
    }


def threads_speedup(seconds: float) -> float | None:
    """Wall time of a whole step on one thread over that on two, in turn; None on one core."""
    if threads.available_threads() < 2:
        return None
    runner = Ours(make_scene(100_000, 1280, 960))
    times: dict[int, dict[str, list[float]]] = {1: defaultdict(list), 2: defaultdict(list)}
    runner.step(time.perf_counter, defaultdict(list))
    ends = time.monotonic() + seconds
    while len(times[2]["step"]) < 5 or time.monotonic() < ends:
        for count, parts in times.items():
            use_threads(count)
            runner.step(time.perf_counter, parts)
    return round(milliseconds(times[1]["step"]) / milliseconds(times[2]["step"]), 3)


def show(console: Console, cases: list[dict[str, Any]]) -> None:
    """One table of steps and one of what they consist of."""
    steps = Table(title="training step, milliseconds, median (CPU: one thread; wall: all cores)")
    names = (
        "image",
        "Gaussians",
        "CPU ours",
        "sketch",
        "ratio",
        "wall ours",
        "sketch",
        "ratio",
        "forward",
        "render",
    )
    for name in names:
        steps.add_column(name, justify="right")
    parts = Table(title="CPU milliseconds of a step by stage")
    stages = list(cases[0]["stages_cpu_ms"])
    for name in ("image", "Gaussians", *stages):
        parts.add_column(name, justify="right")
    for case in cases:
        row = [f"{case['width']} x {case['height']}", f"{case['n_gaussians']:,}"]
        figures = []
        for kind in ("step_cpu_ms", "step_wall_ms"):
            ours, sketch = case[kind]["ours"], case[kind]["sketch"]
            figures += [f"{ours:.1f}"] + ([f"{sketch:.1f}", f"{sketch / ours:.2f}"] if sketch else ["-", "-"])
        alone = [f"{case[kind]['ours']:.1f}" for kind in ("forward_cpu_ms", "render_cpu_ms")]
        steps.add_row(*row, *figures, *alone)
        parts.add_row(*row, *(f"{case['stages_cpu_ms'][name]:.2f}" for name in stages))
    console.print(steps)
    console.print(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--sketch", type=Path, default=ROOT.parent / "shared" / "sketches" / "cpu_raster")
    parser.add_argument("--seconds", type=float, default=6, help="for each case and clock")
    parser.add_argument("--quick", action="store_true", help="one small case, to see that it runs")
    a = parser.parse_args()
    console = Console(width=160)
    sketch = a.sketch if (a.sketch / "proto.py").exists() else None
    if sketch is None:
        console.print(f"The sketch is left out: no proto.py in {a.sketch}")
    kinds = [(n, size) for size in SIZES for n in COUNTS] if not a.quick else [(2_000, (160, 120))]
    cases = []
    for n, (width, height) in kinds:
        cases.append(run_case(n, width, height, sketch, a.seconds))
    show(console, cases)
    peak = fma_peak()
    case = next((c for c in cases if (c["width"], c["n_gaussians"]) == (640, 50_000)), cases[0])
    share = case["evaluated_pixels"] * FLOPS_PER_PIXEL / (case["step_cpu_ms"]["ours"] / 1000) / peak
    figures = {
        "machine": machine() | {"fma_gflops_per_core": round(peak / 1e9, 1)},
        "cases": cases,
        "threads_speedup": threads_speedup(a.seconds),
        "fma_share": round(share, 4),
        "exponent": growth(a.seconds / 3) if not a.quick else {"n": None, "pixels": None},
    }
    console.print({name: figures[name] for name in ("machine", "threads_speedup", "fma_share", "exponent")})
    if a.json:
        a.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
