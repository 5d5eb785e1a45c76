"""How well the cameras' inner parameters are known. Only the worker imports this."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pycolmap

MOST_IMAGES = 1000
"""Beyond these the covariance of all poses would take gigabytes."""

_MEAN_OF_RAYLEIGH = 1.2533
"""Mean length of a 2-vector whose parts are normal with deviation 1."""


def describe(model: pycolmap.Reconstruction) -> list[dict[str, Any]]:
    """One row a camera: model, size, focal length in pixels, distortion, with standard deviations.

    Those come from the diagonal of the inverse normal matrix of bundle adjustment (Triggs et al., "Bundle
    Adjustment – A Modern Synthesis", 2000), times the noise of the keypoints as the reprojection errors show
    it; None where the photographs do not settle them at all.
    """
    used = Counter(model.image(i).camera_id for i in model.reg_image_ids())
    deviations = _deviations(model) if len(used) and model.num_reg_images() <= MOST_IMAGES else {}
    rows = []
    for camera_id, n_images in sorted(used.items()):
        camera = model.camera(camera_id)
        focal, extra = list(camera.focal_length_idxs()), list(camera.extra_params_idxs())
        known = deviations.get(camera_id)
        first, rest = (known[: len(focal)], known[len(focal) :]) if known is not None else (None, None)
        rows.append(
            {
                "camera": camera_id,
                "model": camera.model_name,
                "size": [camera.width, camera.height],
                "n_images": n_images,
                "focal_px": camera.params[focal].tolist(),
                "focal_sd_px": None if first is None else first.tolist(),
                "distortion": camera.params[extra].tolist(),
                "distortion_sd": None if rest is None else rest.tolist(),
            }
        )
    return rows


def _deviations(model: pycolmap.Reconstruction) -> dict[int, np.ndarray]:
    """Camera → standard deviations of its focal lengths and distortion, in COLMAP's order."""
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions()
    options.ceres.use_gpu = False
    try:
        adjuster = pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
        covariance = pycolmap.estimate_ba_covariance(pycolmap.BACovarianceOptions(), model, adjuster)
    except (RuntimeError, ValueError):
        return {}
    if covariance is None:
        return {}
    noise = model.compute_mean_reprojection_error() / _MEAN_OF_RAYLEIGH
    found = {}
    for camera_id, camera in model.cameras.items():
        block = covariance.get_other_params_cov(camera.params)
        wanted = len(camera.focal_length_idxs()) + len(camera.extra_params_idxs())
        if block is not None and len(block) == wanted and (np.diag(block) >= 0).all():
            found[camera_id] = noise * np.sqrt(np.diag(block))
    return found
