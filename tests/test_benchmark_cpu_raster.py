"""The benchmark runs without the sketch, says so, and writes the figures that others read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_a_small_case(tmp_path: Path) -> None:
    figures, nowhere = tmp_path / "figures.json", tmp_path / "nowhere"
    command = [sys.executable, "-m", "benchmarks.cpu_raster", "--quick", "--seconds", "0.2"]
    done = subprocess.run(
        [*command, "--sketch", str(nowhere), "--json", str(figures)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "The sketch is left out" in done.stdout
    written = json.loads(figures.read_text())
    assert set(written) == {"machine", "cases", "threads_speedup", "fma_share", "exponent"}
    assert set(written["exponent"]) == {"n", "pixels"}
    # Kernel and peak are measured one after the other: on a busy machine the peak may come out too low.
    assert 0 < written["fma_share"] < 2
    (case,) = written["cases"]
    assert (case["width"], case["height"], case["n_gaussians"]) == (160, 120, 2000)
    for kind in ("step_cpu_ms", "step_wall_ms"):
        assert case[kind]["ours"] > 0
        assert case[kind]["sketch"] is None
    assert 0 < case["render_cpu_ms"]["ours"] < case["step_cpu_ms"]["ours"]
    assert case["forward_cpu_ms"]["ours"] > 0
    assert case["evaluated_pixels"] > 160 * 120
