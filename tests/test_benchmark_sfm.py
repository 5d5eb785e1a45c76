"""python -m benchmarks.sfm: it runs both sides on the same photographs, and its figures are those of each."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Of this repository's folder, which is no installed package."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.sfm")


def test_both_sides_in_one_run(tiny_flight: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sfm", str(tiny_flight), "--json", str(out), "--profiles", "fast"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (case,) = json.loads(out.read_text())["cases"]
    assert (case["set"], case["profile"], case["n_images"]) == (tiny_flight.name, "fast", 12)
    assert case["null"] == {}
    for side in ("ours", "automatic"):
        assert case["n_registered"][side] == 12
        assert case["n_points"][side] > 300
        assert 0 < case["reprojection_error_px"][side] < 1
        assert 0.3 < case["wall_s"][side] < 300
        assert case["cpu_s"][side] > 0.5  # of the worker process as well
    assert case["times_less_wall"] == pytest.approx(case["wall_s"]["automatic"] / case["wall_s"]["ours"])
    # Fast leaves the global mapper out where the incremental one has placed everything.
    assert case["seconds"][0].keys() == {"features", "matches", "incremental"}
    assert "12 registered" in done.stdout


def test_a_side_that_fails_is_said_and_does_not_end_the_rest(benchmark: ModuleType, tmp_path: Path) -> None:
    failed = benchmark.child("ours", tmp_path / "nothing", 60, profile="fast")
    assert failed.keys() == {"null"}
    late = benchmark.child("automatic", tmp_path / "nothing", 0.01)
    assert late == {"null": "not finished in 0.01 s"}
    case = benchmark.summary("a", "fast", 3, failed, late)
    assert case["null"].keys() == {"ours", "automatic"}
    assert case["wall_s"] == {"ours": None, "automatic": None}
    benchmark.show(case)
    with pytest.raises(RuntimeError, match="ingest failed"):
        benchmark.child("ingest", tmp_path / "x", 60, source=str(tmp_path))
