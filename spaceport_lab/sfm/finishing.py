"""A model to what the stage hands on: world, undistorted images, files. Only the worker imports this."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from PIL import Image

from spaceport_lab import files
from spaceport_lab.errors import ReconstructionError
from spaceport_lab.sfm import intrinsics, masks, placing
from spaceport_lab.sfm.placing import Placement
from spaceport_lab.sfm.reporter import Reporter


def finish(
    job: dict[str, Any],
    model: pycolmap.Reconstruction,
    place: Placement | None,
    card: dict[str, Any],
    reporter: Reporter,
    *,
    keep_world: bool = False,
) -> dict[str, Any]:
    """Move the model into its world, write it, undistort the images, write the records.

    Args:
        job: with `out`, `work`, `images` and the params.
        model: to hand on; changed in place.
        place: on Earth, or None.
        card: what goes into registration.json; `photographs` gets its GPS columns here.
        reporter: told of progress.
        keep_world: leave the world as it is when it has no place.

    Returns:
        The figures the stage reports.
    """
    out = Path(job["out"])
    error_px = model.compute_mean_reprojection_error()
    card["histograms"] = _histograms(model)
    card["cameras"] = intrinsics.describe(model)
    control_rmse = None
    if place is not None:
        record = placing.georeference(out, model, place, card)
        control_rmse = record["control_points"] and record["control_points"].get("rmse_m")
    elif not keep_world:
        placing.normalise(out, model)
    model_dir = out / "model"
    model_dir.mkdir(parents=True, exist_ok=True)
    model.write_binary(model_dir)
    of_masks = undistort(job, model_dir, reporter)
    files.write_json(out / "registration.json", card)
    return of_masks | {
        "n_registered": model.num_reg_images(),
        "n_points": model.num_points3D(),
        "reprojection_error_px": error_px,
        "gps_rmse_m": place.gps.rmse if place and place.gps else None,
        "control_rmse_m": control_rmse,
    }


def _histograms(model: pycolmap.Reconstruction) -> dict[str, Any]:
    """How many points have which reprojection error, and how many are seen in how many photographs."""
    errors = np.array([point.error for point in model.points3D.values()])
    lengths = np.array([point.track.length() for point in model.points3D.values()], dtype=int)
    counts, edges = np.histogram(np.clip(errors, 0, 4), bins=40, range=(0, 4))
    return {
        "error_px": {"edges": edges, "counts": counts},
        "track_length": np.bincount(lengths).tolist() if len(lengths) else [],
    }


def undistort(job: dict[str, Any], model_dir: Path, reporter: Reporter) -> dict[str, Any]:
    """Make images/ and sparse/ of pinhole cameras, at most `train_size` on the longer side.

    COLMAP undistorts at up to twice that and each final pixel is the mean of the area it covers: COLMAP's own
    reduction between one half and one samples single points, which leaves aliasing that no splat can follow.

    Returns:
        Figures of the masks, where there are masks.
    """
    params, out = job["params"], Path(job["out"])
    dense = Path(job["work"]) / "undistorted"
    shutil.rmtree(dense, ignore_errors=True)
    dense.mkdir(parents=True)
    options = pycolmap.UndistortCameraOptions()
    options.max_image_size = 2 * params["train_size"]
    total = len(pycolmap.Reconstruction(model_dir).reg_image_ids())
    with reporter.counting(r"Undistorting image \[", total, "undistorting photographs"):
        pycolmap.undistort_images(
            dense, model_dir, job["images"], undistort_options=options, num_threads=job["threads"]
        )
    model = pycolmap.Reconstruction(dense / "sparse")
    names = [model.image(i).name for i in model.reg_image_ids()]
    missing = [name for name in names if not (dense / "images" / name).is_file()]
    if missing:
        raise ReconstructionError(
            "photographs could not be undistorted",
            got=", ".join(sorted(missing)[:5]),
            hint="are they readable, and of the size their camera says?",
        )
    for name in ("images", "sparse"):
        shutil.rmtree(out / name, ignore_errors=True)
    _reduce(
        model, dense / "images", out / "images", params["train_size"], params["jpeg_quality"], job["threads"]
    )
    (out / "sparse").mkdir()
    model.write_binary(out / "sparse")
    return _undistort_masks(job, pycolmap.Reconstruction(model_dir), model)


def _undistort_masks(
    job: dict[str, Any], before: pycolmap.Reconstruction, after: pycolmap.Reconstruction
) -> dict[str, Any]:
    """Make masks/ where there are masks; those of a model to import lie beside its images, as everywhere."""
    out = Path(job["out"]) / "masks"
    shutil.rmtree(out, ignore_errors=True)
    folder = job.get("masks")
    if not folder and job["import_path"]:
        folder = Path(job["images"]).parent / "masks"
    if not folder or not Path(folder).is_dir():
        return {}
    n_masks, left = masks.undistort(before, after, Path(folder), out, job["threads"])
    return {"n_masks": n_masks, "masks_left": left}


def _reduce(
    model: pycolmap.Reconstruction, source: Path, target: Path, longest: int, quality: int, threads: int
) -> None:
    """Bring images and their cameras to `longest` pixels on the longer side, where they are larger."""
    sizes = {}
    for camera in model.cameras.values():
        old = np.array([camera.width, camera.height])
        new = np.maximum(1, np.round(old * min(1.0, longest / old.max()))).astype(int)
        sizes[camera.camera_id] = (int(new[0]), int(new[1])), new / old
        camera.rescale(*sizes[camera.camera_id][0])

    def one(job: tuple[str, int]) -> None:
        name, camera_id = job
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(source / name) as image:
            small = image.resize(sizes[camera_id][0], Image.Resampling.BOX)
            settings = {"quality": quality, "subsampling": 0} if image.format == "JPEG" else {}
            small.save(target / name, exif=_exif(image), **settings)

    images = [model.image(i) for i in model.reg_image_ids()]
    for image in images:
        for point in image.points2D:
            point.xy = point.xy * sizes[image.camera_id][1]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, [(image.name, image.camera_id) for image in images]))


def _exif(image: Image.Image) -> bytes:
    try:
        return image.getexif().tobytes()
    except Exception:  # a camera's odd tags are no reason to lose its photograph
        return b""


def write_text(job: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Write the model in `job["model"]` to the folder `job["target"]` as text."""
    reporter.progress(0, "writing the model as text")
    model = pycolmap.Reconstruction(job["model"])
    model.write_text(job["target"])
    return {"n_images": model.num_reg_images()}
