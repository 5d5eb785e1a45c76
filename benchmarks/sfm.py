"""Our profiles of structure from motion beside COLMAP's automatic reconstruction at quality HIGH.

    python -m benchmarks.sfm SCENE … --json FILE [--profiles fast balanced] [--limit SECONDS]

A scene is a folder of photographs, or one that holds images/. They are ingested once, which is not counted;
both sides then read the same files. Each side works in a process of its own, without anything cached; its
CPU seconds are those of that process and of all its children. Ours is the whole stage, with undistortion;
COLMAP's ends with the model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ("wall_s", "cpu_s", "n_registered", "n_points", "reprojection_error_px", "n_points_of_two")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of photographs")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--profiles", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--limit", type=float, default=3600, help="seconds either side may take for one case")
    parser.add_argument("--skip-automatic", action="store_true", help="ours only")
    a = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "limit_s": a.limit, "cases": []}
    for scene in a.scenes:
        with tempfile.TemporaryDirectory() as folder:
            for case in cases(scene, Path(folder), a.profiles, a.limit, a.skip_automatic):
                figures["cases"].append(case)
                show(case)
                if a.json:
                    a.json.write_text(json.dumps(figures, indent=1))


def cases(
    scene: Path, folder: Path, profiles: list[str], limit: float, skip_automatic: bool
) -> list[dict[str, Any]]:
    """One case for each profile; the peer runs once, between ours."""
    run = folder / "scene" / "runs" / "job"
    photos = child("ingest", run, limit, source=str(images_of(scene)))
    made, automatic = {}, {"null": "not asked for"}
    for number, profile in enumerate(profiles):
        made[profile] = child("ours", run, limit, profile=profile)
        if number == 0 and not skip_automatic:
            automatic = child("automatic", run, limit)
    return [
        summary(scene.name, profile, photos["n_images"], made[profile], automatic) for profile in profiles
    ]


def images_of(scene: Path) -> Path:
    """The folder of photographs."""
    return scene / "images" if (scene / "images").is_dir() else scene


def summary(
    name: str, profile: str, n_images: int, ours: dict[str, Any], automatic: dict[str, Any]
) -> dict[str, Any]:
    """One case as it stands in the JSON."""
    case: dict[str, Any] = {"set": name, "profile": profile, "n_images": n_images}
    for figure in FIGURES:
        case[figure] = {"ours": ours.get(figure), "automatic": automatic.get(figure)}
    case["gps_rmse_m"] = {"ours": ours.get("gps_rmse_m"), "automatic": None}
    case["seconds"] = ours.get("seconds")
    sides = (("ours", ours), ("automatic", automatic))
    case["null"] = {side: f["null"] for side, f in sides if "null" in f}
    if not case["null"]:
        case["times_less_wall"] = automatic["wall_s"] / ours["wall_s"]
        case["times_less_cpu"] = automatic["cpu_s"] / ours["cpu_s"]
        case["times_points"] = ours["n_points"] / automatic["n_points"]
        longer = {side: f["n_points"] - f["n_points_of_two"] for side, f in sides}
        case["times_points_of_three"] = longer["ours"] / longer["automatic"]
        case["times_error"] = ours["reprojection_error_px"] / automatic["reprojection_error_px"]
    return case


def show(case: dict[str, Any]) -> None:
    """The case as a few lines of text."""
    print(f"\n{case['set']}, {case['profile']}: {case['n_images']} photographs")
    for side in ("ours", "automatic"):
        if side in case["null"]:
            print(f"  {side:10} {case['null'][side]}")
            continue
        wall, cpu, registered, points, error, of_two = (case[figure][side] for figure in FIGURES)
        print(f"  {side:10} {wall:8.1f} s wall {cpu:8.1f} s cpu {registered:4} registered {points:7,} points "
              f"({of_two:,} seen by two photographs only) {error:.3f} px")  # fmt: skip
    if not case["null"]:
        names = {"times_less_wall": "less wall", "times_less_cpu": "less cpu", "times_points": "the points",
                 "times_points_of_three": "those of three views", "times_error": "the error"}  # fmt: skip
        print("  " + ", ".join(f"{case[name]:.3g} times {words}" for name, words in names.items()))
    sys.stdout.flush()


def child(what: str, run: Path, limit: float, **task: Any) -> dict[str, Any]:
    """Do one task in a process of its own; returns what it says, or `null` with why there is nothing.

    Raises:
        RuntimeError: ingest failed, so there is nothing to compare.
    """
    task |= {"what": what, "run": str(run)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sfm_tasks", json.dumps(task)],
            cwd=ROOT, capture_output=True, text=True, timeout=limit,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"null": f"not finished in {limit:g} s"}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        if what == "ingest":
            raise RuntimeError(f"ingest failed: {last[0]}")
        return {"null": last[0]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
