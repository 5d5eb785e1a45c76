"""Our SOG writer beside splat-transform and the sketch it grew from: time, memory, bytes and errors.

    python -m benchmarks.sog --json FILE [--sketch FOLDER] [--limit SECONDS] [--sizes N …]

First, whether splat-transform decodes our files, of every kind, to exactly what our reader decodes. Then the
figures, each from a process of its own. CPU seconds are those of reading the PLY and writing the .sog,
without imports and with kernels already compiled; of splat-transform, those of its whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parent.parent
CASES = (
    (20_000, "quality"), (20_000, "balanced"), (100_000, "quality"), (100_000, "balanced"),
    (250_000, "quality"), (250_000, "balanced"), (1_000_000, "quality"), (1_000_000, "balanced"),
    (1_000_000, "small"), (1_000_000, "no-sh"),
)  # fmt: skip
"""Gaussians and preset. `quality` has the sketch's palette from 65,536 Gaussians on."""

LARGE = 100_000
"""Gaussians of the largest splat that splat-transform has to decode as we do."""

PEERS = ("ours", "splat_transform", "sketch")
ERRORS = (
    "position_mae_extent",
    "quat_deg",
    "log_scale_mae",
    "log_scale_max",
    "alpha_255",
    "color_255",
    "shN_rmse",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--sketch", type=Path, default=ROOT.parent / "shared" / "sketches" / "sog")
    parser.add_argument("--limit", type=float, default=300, help="seconds a peer may take for one case")
    parser.add_argument("--sizes", type=int, nargs="*", help="so many Gaussians instead of the usual")
    parser.add_argument("--skip", choices=PEERS[1:], nargs="*", default=[], help="peers to leave out")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run_all(Path(folder), a.sketch, a.limit, a.sizes, set(a.skip))
    if a.json:
        a.json.write_text(json.dumps(figures, indent=1))


def run_all(
    folder: Path, sketch: Path, limit: float, sizes: list[int] | None, skip: set[str]
) -> dict[str, Any]:
    """All cases, printed as they come."""
    notes, alike = [], []
    has_sketch = (sketch / "sog_proto.py").exists() and "sketch" not in skip
    if not has_sketch:
        notes.append(
            f"sketch left out: {'asked for' if 'sketch' in skip else f'no sog_proto.py in {sketch.name}'}"
        )
    if "splat_transform" in skip:
        notes.append("splat_transform left out: asked for")
    else:
        alike = child("alike", folder / "none", n=min(max(sizes or [LARGE]), LARGE))["rows"]
        show_alike(alike)
    generator = "make_ply.py of the sketch" if (sketch / "make_ply.py").exists() else "benchmarks.scene"
    tools = [p for p in PEERS if p not in skip and (p != "sketch" or has_sketch)]
    cases, results, stuck = [], {}, {}
    for n, preset in chosen_cases(sizes):
        ply = folder / f"{n}.ply"
        if not ply.exists():
            for old in folder.glob("*.ply"):
                old.unlink()
            child("make", ply, n=n, sketch=str(sketch), preset=preset)
        by_tool = {}
        for tool in tools:
            bands = "none" if preset == "no-sh" else "all"
            key = (tool, n, bands if tool != "ours" else preset)  # peers know no presets
            if key not in results:
                results[key] = one(tool, ply, preset, sketch, limit, stuck.get((tool, bands)))
                if results[key].get("null") and tool == "splat_transform":
                    stuck.setdefault((tool, bands), f"it did not finish {n:,} Gaussians")
            by_tool[tool] = results[key]
        cases.append(summary(n, preset, by_tool, ply.stat().st_size, limit))
        show(cases[-1])
    return {
        "machine": machine(), "input": generator, "notes": notes, "limit_s": limit, "cases": cases,
        "decoded_alike": alike,
    }  # fmt: skip


def chosen_cases(sizes: list[int] | None) -> list[tuple[int, str]]:
    """The usual cases, or those of certain sizes."""
    if not sizes:
        return list(CASES)
    usual = ["quality", "balanced"]
    return [(n, preset) for n in sizes for preset in ([p for m, p in CASES if m == n] or usual)]


def warm_up(tool: str, folder: Path, sketch: Path) -> None:
    """Have a tool's kernels compiled just before it is measured, so that no figure holds that."""
    ply = folder / "warm" / "warm.ply"
    if not ply.exists():
        ply.parent.mkdir()
        child("make", ply, n=5000, sketch=str(sketch), preset="balanced")
    child(tool, ply, out=str(ply.with_suffix(".sog")), preset="balanced", sketch=str(sketch))


def one(tool: str, ply: Path, preset: str, sketch: Path, limit: float, why_not: str | None) -> dict[str, Any]:
    """One tool on one file: its figures, or why there are none."""
    if why_not:
        return {"null": f"not tried: {why_not} in {limit:g} s"}
    if tool != "splat_transform":
        warm_up(tool, ply.parent, sketch)
    out = ply.with_name(f"{tool}.sog")
    out.unlink(missing_ok=True)
    task = {"out": str(out), "preset": preset, "sketch": str(sketch), "limit": limit}
    try:
        figures = child(tool, ply, **task)
    except subprocess.TimeoutExpired:
        return {"null": f"not finished in {limit:g} s"}
    return figures if figures.get("null") else figures | child("errors", ply, tool=tool, **task)


def child(what: str, ply: Path, **task: Any) -> dict[str, Any]:
    """Do one task in a process of its own; returns what it says.

    Raises:
        TimeoutExpired: it took longer than it may.
        RuntimeError: it failed.
    """
    task |= {"what": what, "ply": str(ply)}
    # The sketch's own folder may be read-only; and on a busy machine its threads would burn time by waiting.
    cache = Path(tempfile.gettempdir()) / "spaceport-benchmark-numba"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sog_tasks", json.dumps(task)], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, text=True, timeout=None if what == "errors" else task.get("limit", 0) + 600,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{what} failed on {ply.name}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(
    n: int, preset: str, by_tool: dict[str, dict[str, Any]], ply_bytes: int, limit: float
) -> dict[str, Any]:
    """One case as it stands in the JSON."""
    ours = by_tool["ours"]
    case: dict[str, Any] = {"n": n, "sh_degree": 0 if preset == "no-sh" else 3, "preset": preset}
    for name in ("cpu_s", "process_cpu_s", "wall_s", "bytes", *ERRORS):
        case[name] = {tool: figures.get(name) for tool, figures in by_tool.items()}
    case["ratio"], case["peak_rss_mb"] = ply_bytes / ours["bytes"], ours["peak_rss_mb"]
    case["peer_peak_rss_mb"] = {t: f.get("peak_rss_mb") for t, f in by_tool.items() if t != "ours"}
    case["null"] = {tool: f["null"] for tool, f in by_tool.items() if f.get("null")}
    case["limit_s"] = limit
    for tool, figures in by_tool.items():
        if tool != "ours" and figures.get("cpu_s"):
            case[f"times_faster_than_{tool}"] = figures["cpu_s"] / ours["cpu_s"]
    return case


def show(case: dict[str, Any]) -> None:
    """The case as a few lines of text."""
    print(f"\n{case['n']:,} Gaussians, {case['preset']}: {case['ratio']:.2f} times smaller than the PLY")
    print(f"{'':24}" + "".join(f"{tool:>18}" for tool in case["cpu_s"]))
    for name in ("cpu_s", "process_cpu_s", "wall_s", "bytes", *ERRORS):
        cells = ("–" if value is None else f"{value:,.6g}" for value in case[name].values())
        print(f"{name:24}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"{'peak_rss_mb':24}{case['peak_rss_mb']:>18,.0f}")
    for tool, reason in case["null"].items():
        print(f"{tool}: {reason}")
    sys.stdout.flush()


def show_alike(rows: list[dict[str, Any]]) -> None:
    """How many of our files both readers decode alike, and which not."""
    identical = sum(row["identical"] for row in rows)
    print(f"splat-transform decodes {identical} of {len(rows)} files of ours to exactly what we decode")
    for row in rows:
        if not row["identical"]:
            print("differs:", ", ".join(f"{name} {value}" for name, value in row.items()))
    sys.stdout.flush()


def cpu_seconds(who: int = resource.RUSAGE_SELF) -> float:
    """User and system time of this process, or of its children that have ended."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
