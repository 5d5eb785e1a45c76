"""What `benchmarks.sfm` has done in processes of their own: one task each; the last line is its answer."""

from __future__ import annotations

# Before pycolmap, whose wheel exports zlib symbols of its own.
import zlib  # noqa: F401  isort: skip

import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spaceport_lab import ingest, sfm
from spaceport_lab.params import IngestParams, SfmParams
from spaceport_lab.workspace import StageRun, write_manifest


def main() -> None:
    task = json.loads(sys.argv[1])
    print(json.dumps(TASKS[task["what"]](task)))


def take_in(task: dict[str, Any]) -> dict[str, Any]:
    """Ingest the photographs, all of them that can be read."""
    run = StageRun(Path(task["run"]), "ingest")
    run.dir.mkdir(parents=True)
    params = IngestParams(source=task["source"], min_side=64)
    for _ in ingest.run(run, params):
        pass
    write_manifest(run, params)
    return {"n_images": len(sfm.read_photos(StageRun(run.root, "sfm")))}


def ours(task: dict[str, Any]) -> dict[str, Any]:
    """The stage with one profile, nothing cached."""
    run = StageRun(Path(task["run"]), "sfm")
    shutil.rmtree(run.dir, ignore_errors=True)
    run.dir.mkdir()
    params = SfmParams(profile=task["profile"], cache_gb=0, min_points=1)
    with Cost() as cost:
        for _ in sfm.run(run, params):
            pass
    names = ("n_registered", "n_points", "n_points_of_two", "reprojection_error_px", "gps_rmse_m")
    seconds = [attempt["seconds"] for attempt in sfm.read_registration(run)["attempts"]]
    return vars(cost) | {name: run.metrics[name] for name in names} | {"seconds": seconds}


def automatic(task: dict[str, Any]) -> dict[str, Any]:
    """COLMAP's automatic reconstructor at quality HIGH up to the sparse model, as of version 4.2."""
    import pycolmap

    images = Path(task["run"]) / "01_ingest" / "images"
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.use_gpu, extraction.max_image_size = False, 2400
    extraction.sift.max_num_features, extraction.sift.estimate_affine_shape = 8192, True
    matching = pycolmap.FeatureMatchingOptions()
    matching.use_gpu, matching.guided_matching = False, True
    mapping = pycolmap.IncrementalPipelineOptions()
    mapping.ba_local_max_num_iterations, mapping.ba_local_max_refinements = 30, 3
    mapping.ba_global_max_num_iterations = 75
    with tempfile.TemporaryDirectory() as folder, Cost() as cost:
        database = Path(folder) / "database.db"
        pycolmap.extract_features(
            database, images, camera_mode=pycolmap.CameraMode.AUTO, extraction_options=extraction
        )
        pycolmap.match_exhaustive(database, matching_options=matching)
        models = pycolmap.incremental_mapping(database, images, folder, mapping)
    if not models:
        raise SystemExit("no model")
    best = max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    return vars(cost) | {
        "n_registered": best.num_reg_images(),
        "n_points": best.num_points3D(),
        "n_points_of_two": sum(point.track.length() == 2 for point in best.points3D.values()),
        "reprojection_error_px": best.compute_mean_reprojection_error(),
    }


class Cost:
    """Wall seconds, and CPU seconds of this process and its children, between entering and leaving."""

    def __enter__(self) -> Cost:
        self._wall, self._cpu = time.perf_counter(), _cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self._wall, _cpu_s() - self._cpu
        del self._wall, self._cpu
        self.wall_s, self.cpu_s = wall, cpu


def _cpu_s() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


TASKS = {"ingest": take_in, "ours": ours, "automatic": automatic}

if __name__ == "__main__":
    main()
