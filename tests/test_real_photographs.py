"""Whole runs on real photographs: `make test-slow PHOTOS=folder` where the folder holds one folder a scene.

The sets are public: copr (OpenDroneMap/odm_data_copr), brighton (pierotofy/drone_dataset_brighton_beach),
banana (pierotofy/dataset_banana) and lund (mapillary/OpenSfM, data/lund), resized to at most 2000 px.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def run_scene(photos: Path, scene: str, data: Path, *overrides: str) -> dict:
    """Metrics of all stages after `run --preset demo`."""
    settings = [word for override in overrides for word in ("--set", override)]
    result = subprocess.run(
        [sys.executable, "-m", "spaceport_lab.cli", "run", str(photos / scene), "--data", str(data),
         "--job", "real", "--preset", "demo", *settings],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    card = json.loads((data / scene / "runs" / "real" / "run.json").read_text())
    return {stage: entry["metrics"] for stage, entry in card["stages"].items()}


def test_copr(photos: Path, tmp_path: Path) -> None:
    metrics = run_scene(photos, "copr", tmp_path)
    assert metrics["sfm"]["n_registered"] >= 0.95 * 41
    assert metrics["sfm"]["n_points"] >= 10_000
    assert metrics["train"]["steps"] <= 2000
    assert metrics["train"]["psnr_heldout"] >= 25.5
    assert metrics["compress"]["ratio"] >= 8


@pytest.mark.parametrize(("scene", "registered"), [("brighton", 18), ("banana", 15), ("lund", 25)])
def test_other_scenes_run_to_the_end(scene: str, registered: int, photos: Path, tmp_path: Path) -> None:
    metrics = run_scene(photos, scene, tmp_path)
    assert metrics["sfm"]["n_registered"] >= registered
    assert metrics["inspect"]["psnr_heldout"] > 10
