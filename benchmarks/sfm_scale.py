"""How structure from motion grows: synthetic cameras through mapping and export, photographs through SIFT.

    python -m benchmarks.sfm_scale --cameras 500 --json FILE
    python -m benchmarks.sfm_scale --scene FOLDER --json FILE

Cameras come from COLMAP's own generator, straight into a database of verified matches, with half a pixel of
noise; each set is measured in a process of its own, memory as that process' peak. Of a folder of photographs
the first quarter, half and all are searched for features; the exponent is fitted to CPU seconds over their
number.
"""

from __future__ import annotations

# Before pycolmap, whose wheel exports zlib symbols of its own.
import zlib  # noqa: F401  isort: skip

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from benchmarks.sfm import ROOT, images_of
from benchmarks.sfm_tasks import Cost

N_POINTS, PARTNERS = 600, 25
"""Points, all seen by all cameras, and how many others each camera is matched with. Tracks are longer than
those of any flight, and the observations as many: 600 a camera."""

NOISE_PX = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cameras", type=int, nargs="*", default=[], help="synthetic sets of so many cameras"
    )
    parser.add_argument("--scene", type=Path, help="folder of photographs whose features are found")
    parser.add_argument("--mapper", default="incremental", choices=("incremental", "global"))
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.task:
        print(json.dumps(_TASKS[(task := json.loads(a.task)).pop("what")](**task)))
        return
    figures: dict[str, Any] = {"machine": machine(), "cameras": [], "extraction": None}
    for n in a.cameras:
        figures["cameras"].append(child(what="cameras", n=n, mapper=a.mapper))
        print(figures["cameras"][-1], flush=True)
    if a.scene:
        figures["extraction"] = extraction(images_of(a.scene))
        print(figures["extraction"], flush=True)
    if a.json:
        a.json.write_text(json.dumps(figures, indent=1))


def child(**task: Any) -> dict[str, Any]:
    """One task in a process of its own.

    Raises:
        RuntimeError: it failed, with its last lines.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sfm_scale", "--task", json.dumps(task)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.splitlines()[-12:]))
    return json.loads(done.stdout.splitlines()[-1])


def extraction(images: Path) -> dict[str, Any]:
    """CPU seconds of SIFT for a quarter, half and all of the photographs, and the exponent of growth."""
    names = sorted(p.name for p in images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    counts = [len(names) // 4, len(names) // 2, len(names)]
    # The first once more before it counts: afterwards all files are in memory and all libraries loaded.
    child(what="features", images=str(images), names=names[: counts[0]])
    rows = [child(what="features", images=str(images), names=names[:n]) for n in counts]
    exponent = np.polyfit(np.log(counts), np.log([row["cpu_s"] for row in rows]), 1)[0]
    return {"set": images.parent.name, "n": counts, "runs": rows, "exponent": float(exponent)}


def find_features(images: str, names: list[str]) -> dict[str, Any]:
    """Our extraction with the balanced profile, nothing cached."""
    from PIL import Image

    from spaceport_lab.sfm import features

    with tempfile.TemporaryDirectory() as folder:
        job = _job(Path(folder), Path(images))
        for name in names:
            with Image.open(Path(images) / name) as image:
                width, height = image.size
            job["photos"].append(
                {"name": name, "group": f"{width}x{height}", "width": width, "height": height}
            )
        with Cost() as cost:
            features.extract(job, _attempt(), _reporter(Path(folder)))
    return vars(cost) | {"n": len(names), "peak_mb": _peak_mb()}


def map_cameras(n: int, mapper: str) -> dict[str, Any]:
    """Synthetic matches of n cameras through our mapper, and the model out through our export."""
    import pycolmap

    from spaceport_lab.cameras import read_scene
    from spaceport_lab.sfm import exporting, features, mapping, shapes

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage = folder / "02_sfm"
        (stage / "images").mkdir(parents=True)
        job, attempt = _job(folder, stage / "images"), _attempt()
        pycolmap.set_random_seed(0)
        with closing(pycolmap.Database.open(features.database_path(job, attempt))) as database:
            truth = _synthesize(n, database)
        before = _peak_mb()
        with Cost() as mapped:
            models = mapping.MAPPERS[mapper](job, attempt, n, True, _reporter(folder))
            best = mapping.largest(models, attempt, mapper)
        _, _, centers = shapes.poses(best.model)
        for image_id in best.model.reg_image_ids():
            path = stage / "images" / best.model.image(image_id).name
            path.touch()  # the export links them, and looks into none
        (stage / "sparse").mkdir()
        best.model.write_binary(stage / "sparse")
        with Cost() as exported:
            exporting.export(stage, folder / "out", "nerfstudio")
        peak = _peak_mb()
        frames = len(json.loads((folder / "out" / "transforms.json").read_text())["frames"])
        assert frames == len(read_scene(stage).cameras) == len(centers)
        return {
            "n": n, "mapper": mapper,
            "n_registered": best.n_registered, "n_points": best.model.num_points3D(),
            "reprojection_error_px": best.error_px, "mapping": vars(mapped), "export": vars(exported),
            "pose_rmse": _against(truth, best.model), "peak_mb": peak, "peak_before_mb": before,
        }  # fmt: skip


def _synthesize(n: int, database: Any) -> Any:
    """Pinholes, so that nothing has to be undistorted; returns the true model."""
    import pycolmap

    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig = 1, n
    options.num_points3D = N_POINTS
    options.match_config = pycolmap.SyntheticDatasetMatchConfig.SPARSE
    options.match_sparsity = max(0.0, 1 - PARTNERS / n)
    options.camera_model_id, options.camera_params = pycolmap.CameraModelId.PINHOLE, [1280, 1280, 512, 384]
    options.camera_has_prior_focal_length = True
    truth = pycolmap.synthesize_dataset(options, database)
    noise = pycolmap.SyntheticNoiseOptions()
    noise.point2D_stddev = NOISE_PX
    pycolmap.synthesize_noise(noise, truth, database)
    return truth


def _against(truth: Any, model: Any) -> float:
    """RMSE of camera centres after the best similarity, over the true cameras' spread."""
    from spaceport_lab.cameras import fit_similarity
    from spaceport_lab.sfm import shapes

    true = dict(zip(*(shapes.poses(truth)[k] for k in (0, 2)), strict=True))
    names, _, centers = shapes.poses(model)
    target = np.array([true[name] for name in names])
    errors = fit_similarity(centers, target)(centers) - target
    return float(np.sqrt((errors**2).sum(axis=1).mean()) / target.std(axis=0).max())


def _job(folder: Path, images: Path) -> dict[str, Any]:
    from spaceport_lab.params import SfmParams
    from spaceport_lab.runcard import usable_cores

    params = SfmParams(cache_gb=0).model_dump()
    return {"work": folder, "images": images, "photos": [], "params": params, "threads": usable_cores()}


def _attempt() -> Any:
    from spaceport_lab.sfm.features import Attempt
    from spaceport_lab.sfm.profiles import PROFILES

    return Attempt(1, PROFILES["balanced"], "exhaustive", "features1.db")


def _reporter(folder: Path) -> Any:
    from spaceport_lab.sfm.reporter import Reporter

    log = folder / "colmap.log"
    log.touch()
    return Reporter(os.open(os.devnull, os.O_WRONLY), log)


def _peak_mb() -> float:
    kilo = 1024 if sys.platform == "linux" else 1024**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / kilo


_TASKS = {"cameras": map_cameras, "features": find_features}

if __name__ == "__main__":
    main()
