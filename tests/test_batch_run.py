"""A batch for real: a scene through the notebooks beside one that is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from scenes import make_gaussians

from spaceport_lab import fence
from spaceport_lab.batch import Here, make_batch, run_batch
from spaceport_lab.gaussians import write_ply

SMALLEST = [
    "compress.max_psnr_loss=90", "compress.min_ratio=0", "inspect.max_views=1", "inspect.picture_size=64",
]  # fmt: skip


def test_a_real_scene_beside_one_that_is_none(tmp_path: Path) -> None:
    write_ply(tmp_path / "mound.ply", make_gaussians(300, np.random.default_rng(1)))
    (tmp_path / "empty").mkdir()
    plan = {"defaults": {"steps": "compression", "overrides": SMALLEST}, "scenes": ["mound.ply", "empty"]}
    (tmp_path / "may.yaml").write_text(yaml.safe_dump(plan))
    batch = make_batch(tmp_path / "may.yaml", tmp_path / "data")
    outcome = run_batch(batch, Here(1))
    assert [row.state for row in outcome.rows] == ["succeeded", "failed"], outcome.rows
    assert outcome.exit_code == 1
    assert (outcome.rows[0].size or 0) > 0
    assert outcome.rows[1].code == "SL-200"
    root = Path(outcome.rows[0].run_dir)
    assert (root / "report.html").exists()
    assert (root / fence.NAME).read_text() == "1"
    again = make_batch(tmp_path / "may.yaml", tmp_path / "data")
    assert [scene.is_done() for scene in again.scenes] == [True, False]
