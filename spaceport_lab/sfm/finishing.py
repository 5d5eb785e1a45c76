"""A model to what the stage hands on: world, undistorted images, files. Only the worker imports this."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from jaxtyping import Float
from PIL import Image

from spaceport_lab import files
from spaceport_lab.cameras import Similarity, gps_to_enu
from spaceport_lab.errors import ReconstructionError
from spaceport_lab.sfm import masks
from spaceport_lab.sfm.georeference import GpsFit, fit_gps, normalisation, upright
from spaceport_lab.sfm.reporter import Reporter


def local_gps(
    photos: Sequence[dict[str, Any]],
) -> tuple[Float[np.ndarray, "3"] | None, Float[np.ndarray, "N 3"]]:
    """GPS of the photographs as east, north, up in metres (NaN where there is none), and the origin.

    The origin is near the middle and rounded, to 0.0001° and whole metres: it stays the same when a
    photograph comes or goes or strays.
    """
    known = [photo["gps"] for photo in photos if photo["gps"]]
    if not known:
        return None, np.full((len(photos), 3), np.nan)
    heights = [gps["alt"] for gps in known if gps["alt"] is not None]
    usual = float(np.median(heights)) if heights else 0.0
    rows = np.full((len(photos), 3), np.nan)
    for row, photo in zip(rows, photos, strict=True):
        if photo["gps"]:
            gps = photo["gps"]
            row[:] = gps["lat"], gps["lon"], usual if gps["alt"] is None else gps["alt"]
    lat, lon, height = np.nanmedian(rows, axis=0)
    origin = np.array([round(lat, 4), round(lon, 4), round(height)])
    return origin, gps_to_enu(rows, origin)


def fit_to_gps(
    model: pycolmap.Reconstruction, names: Sequence[str], gps: np.ndarray, params: dict[str, Any]
) -> GpsFit | str:
    """The model on GPS, residuals in the order of its registered photographs that have GPS; or why not."""
    if not params["georeference"]:
        return "sfm.georeference is off"
    if not np.isfinite(gps).any():
        return "the photographs have no GPS"
    placed, rotations, centers = poses(model)
    position = dict(zip(names, gps, strict=True))
    chosen = [i for i, name in enumerate(placed) if np.isfinite(position[name]).all()]
    up = upright(rotations, centers, np.median(point_positions(model), axis=0))
    targets = np.array([position[placed[i]] for i in chosen]).reshape(-1, 3)
    return fit_gps(centers[chosen], targets, up, params["seed"])


def poses(
    model: pycolmap.Reconstruction,
) -> tuple[list[str], Float[np.ndarray, "C 3 3"], Float[np.ndarray, "C 3"]]:
    """Names, world-to-camera rotations and centres of the registered images, sorted by name."""
    images = sorted((model.image(i) for i in model.reg_image_ids()), key=lambda image: image.name)
    rotations = np.array([image.cam_from_world().rotation.matrix() for image in images])
    centers = np.array([image.projection_center() for image in images])
    return [image.name for image in images], rotations.reshape(-1, 3, 3), centers.reshape(-1, 3)


def point_positions(model: pycolmap.Reconstruction) -> Float[np.ndarray, "P 3"]:
    """[P, 3] of the model's points."""
    return np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)


def image_figures(model: pycolmap.Reconstruction) -> dict[str, dict[str, Any]]:
    """Registered image → how many points it sees and their mean reprojection error in pixels."""
    figures = {}
    positions = {point_id: point.xyz for point_id, point in model.points3D.items()}
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        seen = image.get_observation_points2D()
        world = np.array([positions[point.point3D_id] for point in seen]).reshape(-1, 3)
        measured = np.array([point.xy for point in seen]).reshape(-1, 2)
        pose = image.cam_from_world()
        local = world @ pose.rotation.matrix().T + pose.translation
        front = local[:, 2] > 0
        predicted = np.asarray(image.camera.img_from_cam(local[front])).reshape(-1, 2)
        errors = np.linalg.norm(predicted - measured[front], axis=1)
        figures[image.name] = {
            "n_points": len(seen),
            "reprojection_error_px": float(errors.mean()) if len(errors) else None,
        }
    return figures


def badly_placed(figures: dict[str, dict[str, Any]]) -> list[str]:
    """Images whose mean reprojection error is over a pixel and three times the median image's."""
    errors = {name: entry["reprojection_error_px"] for name, entry in figures.items()}
    known = [error for error in errors.values() if error is not None]
    limit = max(1.0, 3 * float(np.median(known))) if known else 0.0
    return sorted(name for name, error in errors.items() if error is None or error > limit)


def finish(
    job: dict[str, Any],
    model: pycolmap.Reconstruction,
    fit: tuple[GpsFit, np.ndarray] | None,
    card: dict[str, Any],
    reporter: Reporter,
    *,
    keep_world: bool = False,
) -> dict[str, Any]:
    """Move the model into its world, write it, undistort the images, write the records.

    Args:
        job: with `out`, `work`, `images` and the params.
        model: to hand on; changed in place.
        fit: onto GPS with the origin (latitude, longitude, height), or None.
        card: what goes into registration.json; `photographs` gets its GPS columns here.
        reporter: told of progress.
        keep_world: leave the world as it is when there is no fit.

    Returns:
        The figures the stage reports.
    """
    out = Path(job["out"])
    error_px = model.compute_mean_reprojection_error()
    card["histograms"] = _histograms(model)
    if fit is not None:
        _georeference(out, model, *fit, card)
    elif not keep_world:
        _normalise(out, model)
    model_dir = out / "model"
    model_dir.mkdir(parents=True, exist_ok=True)
    model.write_binary(model_dir)
    of_masks = undistort(job, model_dir, reporter)
    files.write_json(out / "registration.json", card)
    return of_masks | {
        "n_registered": model.num_reg_images(),
        "n_points": model.num_points3D(),
        "reprojection_error_px": error_px,
        "gps_rmse_m": fit[0].rmse if fit else None,
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


def _georeference(
    out: Path, model: pycolmap.Reconstruction, fit: GpsFit, origin: np.ndarray, card: dict[str, Any]
) -> None:
    _transform(model, fit.similarity)
    # Up is counted from the ground, in whole metres: then the origin means something on site.
    ground = float(np.round(np.median(point_positions(model)[:, 2])))
    lift = Similarity(1.0, np.eye(3), np.array([0.0, 0.0, -ground]))
    _transform(model, lift)
    origin = origin + np.array([0.0, 0.0, ground])
    for row in card["photographs"]:
        if row["gps_enu_m"] is not None:
            row["gps_enu_m"] = [*row["gps_enu_m"][:2], row["gps_enu_m"][2] - ground]
    rows = {row["name"]: row for row in card["photographs"]}
    placed = [name for name in poses(model)[0] if rows[name]["gps_enu_m"] is not None]
    for name, residual, inlier in zip(placed, fit.residuals, fit.inliers, strict=True):
        rows[name] |= {"gps_residual_m": residual.tolist(), "gps_inlier": bool(inlier)}
    parts = fit.residuals[fit.inliers]
    strays = [
        {"name": name, "distance_m": float(np.linalg.norm(residual))}
        for name, residual, inlier in zip(placed, fit.residuals, fit.inliers, strict=True)
        if not inlier
    ]
    files.write_json(
        out / "georeference.json",
        {
            "world": "local east, north, up in metres; the plane touches WGS84 at the origin",
            "origin": {"lat": origin[0], "lon": origin[1], "alt": origin[2]},
            "transform": lift.matrix @ fit.similarity.matrix,
            "scale": fit.similarity.scale,
            "n_positions": len(placed),
            "n_inliers": int(fit.inliers.sum()),
            "strays": strays,
            "rmse_m": fit.rmse,
            "rmse_horizontal_m": float(np.sqrt((parts[:, :2] ** 2).sum(axis=1).mean())),
            "rmse_vertical_m": float(np.sqrt((parts[:, 2] ** 2).mean())),
            "tilt_from_gps": fit.tilt_from_gps,
        },
    )


def _normalise(out: Path, model: pycolmap.Reconstruction) -> None:
    _, rotations, centers = poses(model)
    similarity = normalisation(rotations, centers, point_positions(model))
    _transform(model, similarity)
    files.write_json(
        out / "normalisation.json",
        {
            "world": "no GPS, so not metric: +Z up judging by the cameras, origin at the median point, "
            "1 unit is the median distance of a camera from it",
            "transform": similarity.matrix,
            "scale": similarity.scale,
        },
    )


def _transform(model: pycolmap.Reconstruction, similarity: Similarity) -> None:
    rotation = pycolmap.Rotation3d(similarity.rotation)
    model.transform(pycolmap.Sim3d(similarity.scale, rotation, similarity.translation))
