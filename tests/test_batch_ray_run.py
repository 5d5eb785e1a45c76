"""The real pipeline on two nodes of Ray: a node or its raylet dies in the middle of training."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray_cluster import Cluster
from scenes import make_colmap_scene
from waiting import until

from spaceport_lab.pipeline.holding import HOLDER

# Several minutes: with a stand-in for the pipeline the same is shown by test_batch_ray.py.
pytestmark = pytest.mark.slow

SMALLEST = [
    "sfm.min_points=50", "train.backend=cpu", "train.max_steps=300", "train.checkpoint_every=25",
    "train.eval_every=1000", "train.sh_degree=0", "train.timelapse=false", "compress.max_psnr_loss=90",
    "compress.min_ratio=0", "inspect.max_views=1", "inspect.picture_size=64",
]  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        return json.loads(path.read_text())
    return {}


@pytest.mark.parametrize("dies", ["the node", "its raylet alone"])
def test_a_scene_moves_in_mid_training(dies: str, cluster: Cluster, tmp_path: Path) -> None:
    make_colmap_scene(tmp_path / "mound", n_views=9, width=64, height=48)
    defaults = {"steps": "3dgs", "overrides": SMALLEST}
    (tmp_path / "may.yaml").write_text(yaml.safe_dump({"scenes": ["mound"], "defaults": defaults}))
    root = tmp_path / "data" / "mound" / "runs" / "may-mound"
    command = [sys.executable, "-m", "spaceport_lab.cli", "batch", str(tmp_path / "may.yaml")]
    command += ["--data", str(tmp_path / "data"), "--on", "ray"]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cluster.environment
    )
    try:
        until(lambda: (root / "03_train" / "checkpoint.pt").exists(), 240)
        (first,) = read(root / "run.json")["attempts"]
        raylet = cluster.raylet(first["node"])
        held = read(root / HOLDER)
        family = [psutil.Process(held["pid"]), *psutil.Process(held["pid"]).children(recursive=True)]
        sfm_before = (root / "02_sfm" / "stage.json").stat().st_mtime
        if dies == "the node":
            cluster.kill(first["node"])
        else:
            raylet.kill()
        until(lambda: read(root / HOLDER).get("token") == 2, 120)
        assert not psutil.wait_procs(family, timeout=0)[1], "the older one lives, and the later one has begun"
        said = driver.communicate(timeout=300)[0]
        assert driver.returncode == 0, said
    finally:
        driver.kill()
        driver.communicate()
        cluster.add()  # for the test that comes
    assert len(family) >= 3, "the pipeline, a stage and its kernel were there to be watched"
    one, two = read(root / "run.json")["attempts"]
    assert [(a["number"], a["state"]) for a in (one, two)] == [(1, "lost"), (2, "succeeded")]
    assert one["node"] != two["node"]
    assert read(root / "run.json")["status"] == "succeeded"
    assert (root / "report.html").exists()
    assert (root / "02_sfm" / "stage.json").stat().st_mtime == sfm_before, "SfM was not run again"
    steps = [json.loads(line)["step"] for line in (root / "03_train/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps), "training went on from its checkpoint"
