"""A small run that went through its stages for real, on photographs of a known splat."""

from __future__ import annotations

import json
from pathlib import Path

from scenes import make_colmap_scene

from spaceport_lab import compress, ingest, inspection, runcard, train
from spaceport_lab.params import SCHEMAS, resolve
from spaceport_lab.workspace import StageRun, folder_name, write_manifest

PARAMS = {
    "ingest": {},
    "train": {"max_steps": 40, "sh_degree": 1, "backend": "cpu"},
    "compress": {"sh_palette": 32, "iterations": 2, "min_ratio": 0.0, "max_psnr_loss": 60.0},
    "inspect": {"picture_size": 320},
}
MODULES = {"train": train, "compress": compress, "inspect": inspection}


def make_run(data: Path, flight: Path | None = None) -> Path:
    """Run folder data/mound/runs/mound-1 of nine photographs of a mound; georeferenced, so that +Z is up.

    The sfm stage is taken over from elsewhere, as with `--steps 3dgs`, and so is not on the card. With
    `flight`, a scene with photographs, ingest looks at those.
    """
    root = data / "mound" / "runs" / "mound-1"
    cameras = root / folder_name("sfm")
    make_colmap_scene(cameras, n_views=9, width=160, height=120, n_gaussians=400)
    (cameras / "georeference.json").write_text("{}")
    manifest = {"stage": "sfm", "outputs": {"sparse": "0", "images": "0"}}
    (cameras / "stage.json").write_text(json.dumps(manifest))
    runcard.update(root, lambda card: card.update(params=resolve().card(), status="succeeded"))
    if flight is not None:
        finish(root, "ingest", ingest, source=str(flight / "images"))
    for stage, module in MODULES.items():
        finish(root, stage, module)
    return root


def finish(root: Path, stage: str, module, **params) -> None:
    """Run a stage to its end and put it on the card, as its notebook does."""
    run, p = StageRun(root, stage), SCHEMAS[stage](**PARAMS[stage], **params)
    run.dir.mkdir(parents=True, exist_ok=True)
    for _ in module.run(run, p):
        pass
    write_manifest(run, p)
    figures = {"metrics": run.metrics, "warnings": run.warnings, "seconds": 2.5, "peak_rss_mb": 700.0}
    runcard.update_stage(root, stage, status="succeeded", **figures)
