"""python -m benchmarks.sog: it runs, its figures are of the files it made, and what is missing is said."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from spaceport_lab.sog import SETTINGS, read_sog

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def sog_alike(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Of this repository's folder, which is no installed package."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.sog_alike")


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
    assert figures["decoded_alike"] == []


def test_what_is_alike_and_what_is_not(sog_alike: ModuleType, tmp_path: Path) -> None:
    rows = sog_alike.rows(tmp_path, sizes=(5,), degrees=(1,), large=400)
    assert [row["form"] for row in rows].count("streamed") == 3
    assert {row["what"] for row in rows} >= {"degree 1", "constant axes", *SETTINGS, "level 2"}
    assert all(row["identical"] for row in rows)
    path = tmp_path / "0_bundled" / "splat.sog"
    splat = read_sog(path)
    nearly = replace(splat, means=np.nextafter(splat.means, np.float32(np.inf)))
    for other in (nearly, splat.with_sh_degree(0), splat.subset(slice(4))):
        assert not sog_alike.same(other, path, tmp_path)
