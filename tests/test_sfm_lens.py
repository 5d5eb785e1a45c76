"""The camera model: as rich as the photographs support, and no richer over flat ground."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import zlib, sys, json
import numpy as np, pycolmap
from spaceport_lab.sfm import lens, shapes

def made(kind, params, parallel=False):
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 14, 500
    options.camera_model_id = getattr(pycolmap.CameraModelId, kind)
    options.camera_params = params
    model = pycolmap.synthesize_dataset(options)
    noise = pycolmap.SyntheticNoiseOptions()
    noise.point2D_stddev = 0.3
    pycolmap.synthesize_noise(noise, model)
    for camera in model.cameras.values():
        camera.model = pycolmap.CameraModelId.SIMPLE_RADIAL
        camera.params = [params[0], 512, 384, 0.05]
    settings = pycolmap.BundleAdjustmentOptions()
    settings.ceres.use_gpu = False
    pycolmap.bundle_adjustment(model, settings)
    model.update_point_3d_errors()
    return model

answers = {}
for kind, params in json.loads(sys.argv[1]).items():
    model = made(kind, params)
    before = model.compute_mean_reprojection_error()
    why = lens.settle(model, 1)
    (camera,) = model.cameras.values()
    seen = shapes.image_figures(model)
    answers[kind] = {"why": why, "model": camera.model_name, "params": camera.params.tolist(),
                     "before": before, "after": model.compute_mean_reprojection_error(),
                     "each": float(np.mean([f["reprojection_error_px"] for f in seen.values()]))}
lens.LEAST_SPREAD_DEG = 180.0
answers["parallel"] = lens.settle(made("OPENCV", [600, 600, 512, 384, 0.05, 0.02, 0.01, -0.01]), 1)
print(json.dumps(answers))
"""

LENSES = {
    "SIMPLE_RADIAL": [600, 512, 384, 0.05],
    "RADIAL": [1500, 512, 384, 0.05, 3.0],
    "OPENCV": [600, 600, 512, 384, 0.05, 0.02, 0.01, -0.01],
}


@pytest.fixture(scope="module")
def answers() -> dict:
    """In a process of its own, as all of COLMAP is."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(LENSES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", LENSES)
def test_the_lens_that_made_the_pictures_is_found(kind: str, answers: dict) -> None:
    found = answers[kind]
    assert found["model"] == kind
    assert found["why"].startswith(kind)
    assert found["after"] == pytest.approx(0.3 * 1.2533, rel=0.06)
    assert found["each"] == pytest.approx(found["after"], rel=0.05), "the poses belong to the lens"
    if kind != "SIMPLE_RADIAL":
        assert found["after"] < 0.99 * found["before"]
        at = 4 if kind == "RADIAL" else slice(6, 8)
        assert found["params"][at] == pytest.approx(LENSES[kind][at], rel=0.1)


def test_parallel_views_keep_the_plain_one_whatever_fits_better(answers: dict) -> None:
    assert answers["parallel"].startswith("SIMPLE_RADIAL: directions of view deviate by")
