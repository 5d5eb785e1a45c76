"""python -m benchmarks.sog: it runs, its figures are of the files it made, and what is missing is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("figures")
    command = [
        sys.executable, "-m", "benchmarks.sog", "--sizes", "3000", "--skip", "splat_transform",
        "--sketch", str(folder / "nowhere"), "--json", str(folder / "figures.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "3,000 Gaussians, quality" in done.stdout
    return json.loads((folder / "figures.json").read_text())


def test_every_case_has_the_figures_others_read(figures: dict) -> None:
    assert [(case["n"], case["sh_degree"], case["preset"]) for case in figures["cases"]] == [
        (3000, 3, "quality"), (3000, 3, "balanced"),
    ]  # fmt: skip
    for case in figures["cases"]:
        for name in (
            "cpu_s",
            "bytes",
            "position_mae_extent",
            "quat_deg",
            "log_scale_mae",
            "log_scale_max",
            "shN_rmse",
        ):
            assert case[name]["ours"] > 0, name
        assert 50 < case["peak_rss_mb"] < 2000
        assert case["ratio"] == pytest.approx(3000 * 62 * 4 / case["bytes"]["ours"], rel=0.02)
        assert case["position_mae_extent"]["ours"] < 1e-5
        assert case["quat_deg"]["ours"] < 0.4
    quality, balanced = figures["cases"]
    assert quality["bytes"]["ours"] > balanced["bytes"]["ours"]
    assert quality["shN_rmse"]["ours"] < 0.5 * balanced["shN_rmse"]["ours"]
    assert figures["machine"]["cores"] == os.cpu_count()


def test_what_was_left_out_is_said(figures: dict) -> None:
    assert figures["notes"] == [
        "sketch left out: no sog_proto.py in nowhere",
        "splat_transform left out: asked for",
    ]
    assert figures["input"] == "benchmarks.scene"
    assert list(figures["cases"][0]["cpu_s"]) == ["ours"]
