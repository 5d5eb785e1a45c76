"""Which camera model the photographs support. Only the worker imports this.

A richer model always fits pixels better. On a flight that looks straight down from one height, what it takes
up is the shape of the ground: on one such set OPENCV had the lower reprojection error, and its positions were
0.61 m from GPS where SIMPLE_RADIAL's were 0.43 m. So reprojection error alone never decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pycolmap

from spaceport_lab.sfm import intrinsics, shapes

START = "SIMPLE_RADIAL"
RICHER = ("RADIAL", "OPENCV")
"""From the plainer to the richer; the second is tried only where the first has been taken."""

LEAST_SPREAD_DEG = 12.0
"""Directions of view that deviate by less from their mean cannot tell distortion from the ground's shape."""

SURE = 4.0
"""A new parameter counts when it is this many of its standard deviations from doing nothing."""

LEAST_GAIN = 0.01
"""And when the reprojection error falls by this share of it."""


def settle(model: pycolmap.Reconstruction, threads: int) -> str:
    """Give the model's cameras the richest lens its photographs support; returns which and why, in words.

    In turn, each of `RICHER` is tried by bundle adjustment of a copy. It is taken when views are not all
    parallel (`LEAST_SPREAD_DEG`), a new parameter of every camera is known not to be zero (`SURE`; deviations
    from the covariance of bundle adjustment, see `intrinsics.describe`), and the error falls (`LEAST_GAIN`).

    Args:
        model: of cameras that are all `START`; changed in place when a richer one is taken.
        threads: to work with.
    """
    spread = view_spread_deg(model)
    if spread < LEAST_SPREAD_DEG:
        return (
            f"{START}: directions of view deviate by {spread:.0f}°, too little to tell a lens from the ground"
        )
    name, reasons = START, []
    for richer in RICHER:
        tried = _adjusted(model, richer, threads)
        gain = 1 - tried.compute_mean_reprojection_error() / max(
            model.compute_mean_reprojection_error(), 1e-12
        )
        certain = certainty(tried, richer)
        taken = certain >= SURE and gain >= LEAST_GAIN
        reasons.append(
            f"{richer} {'taken' if taken else 'not'}: {certain:.1f} deviations from zero, "
            f"error falls by {gain:.1%}"
        )
        if taken:
            name = richer
            _take_over(tried, model)
    return f"{name} ({'; '.join(reasons)})"


def _adjusted(model: pycolmap.Reconstruction, richer: str, threads: int) -> pycolmap.Reconstruction:
    tried = pycolmap.Reconstruction(model)
    for camera in tried.cameras.values():
        extend(camera, richer)
    options = pycolmap.BundleAdjustmentOptions()
    options.ceres.use_gpu, options.print_summary = False, False
    options.ceres.solver_options.num_threads = threads
    pycolmap.bundle_adjustment(tried, options)
    tried.update_point_3d_errors()
    return tried


def view_spread_deg(model: pycolmap.Reconstruction) -> float:
    """Root mean square angle between the directions of view and their mean, degrees."""
    _, rotations, _ = shapes.poses(model)
    forward = rotations[:, 2]
    mean = forward.mean(axis=0)
    cosine = forward @ mean / max(np.linalg.norm(mean), 1e-12)
    return float(np.degrees(np.sqrt((np.arccos(np.clip(cosine, -1, 1)) ** 2).mean())))


def extend(camera: pycolmap.Camera, richer: str) -> None:
    """The same camera in the words of a richer model, whose new parameters are zero."""
    focal, center = camera.focal_length_x, [camera.principal_point_x, camera.principal_point_y]
    radial = [float(value) for value in camera.params[list(camera.extra_params_idxs())]]
    k1, k2 = [*radial, 0.0, 0.0][:2]
    camera.model = getattr(pycolmap.CameraModelId, richer)
    camera.params = [focal, *center, k1, k2] if richer == "RADIAL" else [focal, focal, *center, k1, k2, 0, 0]


def certainty(model: pycolmap.Reconstruction, richer: str) -> float:
    """The least certain camera's most certain new parameter: distance from zero in standard deviations."""
    least = np.inf
    for row in intrinsics.describe(model):
        if row["distortion_sd"] is None:
            return 0.0
        value, deviation = np.array(row["distortion"]), np.array(row["distortion_sd"])
        new = slice(1, 2) if richer == "RADIAL" else slice(2, 4)
        least = min(least, float((np.abs(value[new]) / np.maximum(deviation[new], 1e-15)).max()))
    return least


def _take_over(source: pycolmap.Reconstruction, target: pycolmap.Reconstruction) -> None:
    """Cameras, poses and points of one model into another of the same images."""
    for camera_id, camera in source.cameras.items():
        target.cameras[camera_id].model = camera.model
        target.cameras[camera_id].params = camera.params
    for frame_id in target.reg_frame_ids():
        target.frame(frame_id).rig_from_world = source.frame(frame_id).rig_from_world
    for point_id, point in target.points3D.items():
        point.xyz = source.points3D[point_id].xyz
    target.update_point_3d_errors()


def first_model(params: dict[str, Any]) -> str:
    """The model that features and mapping begin with."""
    return START if params["camera_model"] == "auto" else params["camera_model"]
