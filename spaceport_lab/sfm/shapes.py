"""What a model of COLMAP's holds, as arrays and figures. Only the worker imports this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycolmap
from jaxtyping import Float
from scipy.sparse import csr_array

from spaceport_lab.sfm import ties


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


def seen(model: pycolmap.Reconstruction, ids: Sequence[int]) -> csr_array:
    """`ties.incidence` of the model's points and these images, in this order."""
    place = {image_id: k for k, image_id in enumerate(ids)}
    rows = [
        (number, place[element.image_id])
        for number, point in enumerate(model.points3D.values())
        for element in point.track.elements
        if element.image_id in place
    ]
    points, images = np.array(rows, np.int64).reshape(-1, 2).T
    return ties.incidence(points, images, len(ids))


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
