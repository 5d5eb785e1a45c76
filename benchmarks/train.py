"""The train stage beside a plain 3DGS loop: PSNR, time, Gaussians, bytes.

    python -m benchmarks.train SCENE… --json F [--preset demo …] [--set train.x=y …] [--steps N] [--work DIR]

SCENE is a folder of photographs, a scene with images/, or a run folder whose sfm stage has finished. Plain
is ADC as in the paper (Kerbl et al. 2023) with no coarse-to-fine, the same rasterizer, the same photographs
and held-out views. All contenders take turns in one process, after a warm-up; seconds are those of training
steps and densification, without evaluations and checkpoints. Ours is measured as the stage leaves it: at the
best evaluation of validation views where something may stop it early. The first of several presets is what
the others are held against.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import train_tasks
from benchmarks.machine import machine
from spaceport_lab import backends, files
from spaceport_lab.errors import SpaceportError

BOTH = ("psnr_heldout", "ssim", "cc_psnr", "seconds", "setup_seconds", "cpu_seconds", "n_gaussians", "curve")
"""Figures of a case that are given for ours and for the plain loop."""

COLUMNS = ("steps", "PSNR", "SSIM", "cc-PSNR", "seconds", "CPU s", "Gaussians", "PLY MB", "render ms")

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", type=Path, nargs="+", help="photographs, a scene, or a run with 02_sfm")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument(
        "--preset", action="append", help="NAME, NAME+NAME, NAME:none (no coarse-to-fine), none or default"
    )
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="train.NAME=VALUE, ours")
    parser.add_argument("--steps", type=int, default=2000, help="steps of the plain loop")
    parser.add_argument("--evaluate-every", type=int, default=125, help="steps between two evaluations")
    parser.add_argument("--backend", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--work", type=Path, help="folder that keeps ingest and sfm for the next time")
    a = parser.parse_args()
    if a.steps < 1 or a.evaluate_every < 1:
        parser.error("--steps and --evaluate-every count from 1")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            figures = run_all(a, Path(scratch))
        except SpaceportError as error:
            sys.exit(str(error))
    if a.json:
        files.write_json(a.json, figures)


def run_all(a: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All scenes, printed as they come; a scene that fails is noted and does not stop the others.

    Raises:
        SpaceportError: a preset cannot be used, or no scene could be measured.
    """
    names = list(dict.fromkeys(a.preset or ["demo"]))
    params = {
        name: train_tasks.resolve_preset(name, a.overrides, a.evaluate_every).params["train"]
        for name in names
    }
    backend = backends.choose_backend(a.backend)
    cases, failures = [], []
    for number, path in enumerate(a.scene):
        folder = scratch / str(number)
        try:
            ready = train_tasks.make_ready(path, a.work or scratch / "work")
            found = run_scene(ready, params, a.steps, a.evaluate_every, folder, backend)
        except SpaceportError as error:
            failures.append((path.name, error))
            console.print(f"{path.name}: {error}", markup=False)
            continue
        show(found)
        cases += found
    if not cases:
        raise failures[0][1]
    return {
        "machine": machine(), "backend": backend, "plain_steps": a.steps, "set": a.overrides,
        "failed": [{"set": name, "reason": str(error)} for name, error in failures], "cases": cases,
    }  # fmt: skip


def run_scene(
    ready: train_tasks.Ready, params: dict[str, Any], steps: int, evaluate_every: int, folder: Path,
    backend: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """One case a preset, all beside the same plain loop."""
    train_tasks.warm_up(ready, list(params.values()), folder, backend)
    contenders = [train_tasks.plain(ready, steps, backend, evaluate_every)]
    contenders += [
        train_tasks.ours(ready, name, p, folder / f"run-{number}", backend)
        for number, (name, p) in enumerate(params.items())
    ]
    train_tasks.take_turns(contenders)
    plain, *ours = [train_tasks.measure(ready, c, folder, backend) for c in contenders]
    plain["render_ms"], *times = train_tasks.render_ms(ready, contenders, backend)
    cases = []
    for (name, p), figures, ms in zip(params.items(), ours, times, strict=True):
        figures["render_ms"] = ms
        cases.append(
            summary(ready.name, name, figures, plain) | {"steps": {"ours": p.max_steps, "plain": steps}}
        )
        cases[-1]["against"] = against(cases[-1], cases[0])
    return cases


def summary(scene: str, preset: str, ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """One case as it stands in the JSON."""
    case: dict[str, Any] = {"set": scene, "preset": preset}
    for name in BOTH:
        case[name] = {"ours": ours[name], "plain": plain[name]}
    at_equal_time = psnr_at(ours["curve"], plain["seconds"])
    return case | {
        "seconds_to_plain_psnr": seconds_to(ours["curve"], plain["curve"][-1][2]),
        "psnr_at_plain_seconds": at_equal_time,
        "gain_at_plain_seconds": at_equal_time - plain["curve"][-1][2],
        "ply_bytes": ours["ply_bytes"], "ply_bytes_plain": plain["ply_bytes"],
        "render_ms": ours["render_ms"], "render_ms_plain": plain["render_ms"],
    }  # fmt: skip


def against(case: dict[str, Any], first: dict[str, Any]) -> dict[str, Any] | None:
    """A preset held against the first one: dB more, and shares of its time, bytes and render time."""
    if case is first:
        return None
    return {
        "preset": first["preset"],
        "psnr_db": case["psnr_heldout"]["ours"] - first["psnr_heldout"]["ours"],
        "seconds": case["seconds"]["ours"] / first["seconds"]["ours"],
        "ply_bytes": case["ply_bytes"] / first["ply_bytes"],
        "render_ms": case["render_ms"] / first["render_ms"],
    }


def seconds_to(curve: Sequence[tuple[float, int, float]], psnr: float) -> float | None:
    """Seconds at which a curve of (seconds, step, PSNR) first reaches `psnr` dB; None if it never does.

    Between two evaluations PSNR is taken as linear; before the first one nothing is known, so that a first
    evaluation already above counts from its own time.
    """
    before = None
    for seconds, _, value in curve:
        if value >= psnr:
            if before is None:
                return seconds
            share = (psnr - before[1]) / (value - before[1])
            return before[0] + share * (seconds - before[0])
        before = (seconds, value)
    return None


def psnr_at(curve: Sequence[tuple[float, int, float]], seconds: float) -> float:
    """PSNR in dB after so many seconds, linear between evaluations; the first or last one outside them."""
    return float(np.interp(seconds, [point[0] for point in curve], [point[2] for point in curve]))


def show(cases: list[dict[str, Any]]) -> None:
    """The cases of a scene as a table, and the ratios."""
    table = Table(box=None, pad_edge=False, title=cases[0]["set"], title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    sides = [("plain", "plain", cases[0])] + [(case["preset"], "ours", case) for case in cases]
    for label, side, case in sides:
        suffix = "_plain" if side == "plain" else ""
        table.add_row(
            label, f"{case['steps'][side]:,}", f"{case['psnr_heldout'][side]:.2f}",
            f"{case['ssim'][side]:.3f}", f"{case['cc_psnr'][side]:.2f}", f"{case['seconds'][side]:.1f}",
            f"{case['cpu_seconds'][side]:.1f}", f"{case['n_gaussians'][side]:,}",
            f"{case[f'ply_bytes{suffix}'] / 1e6:.1f}", f"{case[f'render_ms{suffix}']:.1f}",
        )  # fmt: skip
    console.print(table)
    for case in cases:
        console.print("\n".join(_ratios(case)), markup=False)
    console.print()


def _ratios(case: dict[str, Any]) -> list[str]:
    needed, plain = case["seconds_to_plain_psnr"], case["seconds"]["plain"]
    reached = "never reaches its PSNR" if needed is None else f"its PSNR in {needed / plain:.2f} of its time"
    lines = [
        f"{case['preset']} against plain: {case['psnr_at_plain_seconds']:.2f} dB in its time "
        f"({case['gain_at_plain_seconds']:+.2f} dB), {reached}"
    ]
    if other := case["against"]:
        lines.append(
            f"{case['preset']} against {other['preset']}: {other['psnr_db']:+.2f} dB in "
            f"{other['seconds']:.2f} of its time, PLY {1 / other['ply_bytes']:.2f} times smaller, "
            f"render {1 / other['render_ms']:.2f} times faster"
        )
    return lines


if __name__ == "__main__":
    main()
