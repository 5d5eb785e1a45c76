"""Many synthetic cameras through mapping and export: all of them placed, in bounded memory."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_MB_A_CAMERA = 4.0
"""500 cameras then take 2 GB at the most above what the libraries take."""


@pytest.mark.parametrize("n", [60, pytest.param(500, marks=pytest.mark.slow)], ids=["sixty", "five hundred"])
def test_many_cameras_go_through_mapping_and_export(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    made = importlib.import_module("benchmarks.sfm_scale").child(what="cameras", n=n, mapper="incremental")
    assert made["n_registered"] == made["n"] == n
    assert made["n_points"] > 500
    assert made["pose_rmse"] < 0.005, "of the cameras' spread"
    # Half a pixel along each axis is 0.63 px of mean length.
    assert made["reprojection_error_px"] == pytest.approx(0.5 * np.sqrt(np.pi / 2), rel=0.1)
    assert made["peak_mb"] - made["peak_before_mb"] < MOST_MB_A_CAMERA * n
