"""What benchmarks.sog does in processes of their own; prints one line of JSON."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sog import cpu_seconds


def main() -> None:
    task = json.loads(sys.argv[1])
    tasks = (make, ours, sketch, peer, errors, alike)
    what = {function.__name__: function for function in tasks} | {"splat_transform": peer}
    print(json.dumps(what[task["what"]](task)))


def make(task: dict[str, Any]) -> dict[str, Any]:
    """The input: a PLY of 62 float32 a Gaussian, as 3DGS itself writes it."""
    if (Path(task["sketch"]) / "make_ply.py").exists():
        sys.path.insert(0, task["sketch"])
        import make_ply

        make_ply.write_ply(task["ply"], make_ply.make(task["n"]), normals=True)
    else:
        from benchmarks.scene import make_scene
        from spaceport_lab.gaussians import write_ply

        write_ply(task["ply"], make_scene(task["n"]))
    return {}


def ours(task: dict[str, Any]) -> dict[str, Any]:
    """Read the PLY and write the .sog."""
    from spaceport_lab import gaussians, sog

    def work() -> None:
        options = sog.SETTINGS[task["preset"]]
        splat, _ = gaussians.read_ply_valid(task["ply"], options.sh_degree)
        encoded = sog.write_sog(task["out"], splat, options)
        np.save(task["out"] + ".npy", encoded.order)

    return _measured(work, task)


def sketch(task: dict[str, Any]) -> dict[str, Any]:
    """The same with the sketch, its own palette rule and k-means."""
    sys.path.insert(0, task["sketch"])
    import km
    import sog_proto

    def work() -> None:
        splat = sog_proto.read_ply(task["ply"])
        if task["preset"] == "no-sh":
            splat.pop("rest", None)
        order, _ = sog_proto.write_sog(task["out"], splat, km.kmeans_ivf)
        np.save(task["out"] + ".npy", order)

    return _measured(work, task)


def alike(task: dict[str, Any]) -> dict[str, Any]:
    """Whether splat-transform decodes our files as we do."""
    from benchmarks import sog_alike

    with tempfile.TemporaryDirectory() as folder:
        return {"rows": sog_alike.rows(Path(folder), large=task["n"])}


def _measured(work: Callable[[], None], task: dict[str, Any]) -> dict[str, Any]:
    cpu, wall = cpu_seconds(), time.perf_counter()
    work()
    return {
        "cpu_s": cpu_seconds() - cpu,
        "process_cpu_s": cpu_seconds(),
        "wall_s": time.perf_counter() - wall,
        "bytes": Path(task["out"]).stat().st_size,
        "peak_rss_mb": _peak_rss_mb(),
    }


def _peak_rss_mb() -> float:
    """Of this process since it began; unlike getrusage not that of the process which started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def peer(task: dict[str, Any]) -> dict[str, Any]:
    """The same with splat-transform on the processor."""
    from tests.splat_transform import splat_transform

    bands = ["-H", "0"] if task["preset"] == "no-sh" else []
    splat_transform("--version")  # installs it where it is missing
    cpu, wall = cpu_seconds(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        splat_transform("-q", "-w", "-g", "cpu", task["ply"], *bands, task["out"], timeout=task["limit"])
    except subprocess.TimeoutExpired:
        return {"null": f"not finished in {task['limit']:g} s"}
    used = cpu_seconds(resource.RUSAGE_CHILDREN) - cpu
    took, size = time.perf_counter() - wall, Path(task["out"]).stat().st_size
    return {"cpu_s": used, "process_cpu_s": used, "wall_s": took, "bytes": size}


def errors(task: dict[str, Any]) -> dict[str, Any]:
    """Errors of what a file decodes to, with our reader."""
    from spaceport_lab import gaussians, sog

    splat, _ = gaussians.read_ply_valid(task["ply"])
    decoded = sog.read_sog(task["out"])
    known = Path(task["out"] + ".npy")
    order = np.load(known) if known.exists() else _matched(splat, decoded)
    found = sog.field_errors(splat, decoded, order, values=False)
    low, high = np.percentile(splat.means, (0.5, 99.5), axis=0)
    distance = np.abs(splat.means[order].astype(np.float64) - decoded.means).mean()
    return {
        "position_mae_extent": float(distance / (high - low).max()),
        "quat_deg": found["rotation"].mean,
        "log_scale_mae": found["log_scale"].mean,
        "log_scale_max": found["log_scale"].max,
        "alpha_255": found["opacity"].mean,
        "color_255": found["color"].mean,
        "shN_rmse": found["shN"].rms if task["preset"] != "no-sh" else None,
    }


def _matched(splat: Any, decoded: Any) -> np.ndarray:
    """Which Gaussian each decoded one was: of the nearest eight the most alike."""
    from scipy.spatial import cKDTree

    def looks(g: Any) -> np.ndarray:
        return np.column_stack([255 * g.alphas, 255 * g.colors, 100 * np.sort(g.scales, axis=1)])

    distance, near = cKDTree(splat.means).query(decoded.means, k=min(8, splat.n))
    step = np.abs(decoded.means).max(axis=1, keepdims=True) * 2e-4 + 2e-4
    before, after = looks(splat), looks(decoded)
    best, order = np.full(splat.n, np.inf), np.zeros(splat.n, np.intp)
    for column in range(near.shape[1]):
        unlike = ((before[near[:, column]] - after) ** 2).sum(axis=1) + (
            distance[:, column] / step[:, 0]
        ) ** 2
        order = np.where(unlike < best, near[:, column], order)
        best = np.minimum(unlike, best)
    return order


if __name__ == "__main__":
    main()
