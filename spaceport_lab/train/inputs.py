"""What training reads: cameras, sparse points, photographs, and which views are held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spaceport_lab.cameras import Cameras, Scene, heldout_split, read_scene
from spaceport_lab.errors import ReconstructionError
from spaceport_lab.gaussians import Gaussians, from_points
from spaceport_lab.params import TrainParams
from spaceport_lab.train import memory
from spaceport_lab.train.views import Photos, scene_scale
from spaceport_lab.workspace import StageRun, gather_inputs, stage_key

MIN_VIEWS_TO_SPLIT = 4
"""With fewer views all of them are trained on: two or three are too few to give one away."""


@dataclass(frozen=True)
class Views:
    """Cameras and points, and which views are held out; no pixels.

    Attributes:
        scene: all cameras and the sparse points.
        train: the views trained on.
        heldout: the views never trained on; may be empty.
        scale: radius of the camera positions, world units.
    """

    scene: Scene
    train: Cameras
    heldout: Cameras
    scale: float

    def rows(self) -> list[dict[str, Any]]:
        """What there is to train on, as a table."""
        unit = " m" if self.scene.georeferenced else ""
        sizes = sorted({f"{w} × {h}" for w, h in self.scene.cameras.sizes.tolist()})
        return [
            {"input": "training views", "value": len(self.train)},
            {"input": "held-out views", "value": len(self.heldout)},
            {"input": "image size", "value": sizes[0] if len(sizes) == 1 else f"{sizes[0]} … {sizes[-1]}"},
            {"input": "sparse points", "value": len(self.scene.points)},
            {"input": "radius of the flight", "value": f"{self.scale / 1.1:.3g}{unit}"},
        ]


@dataclass(frozen=True)
class Inputs:
    """Everything training needs, read once.

    Attributes:
        views: cameras, points and split.
        train: photographs of the training views.
        heldout: photographs of the held-out views; None where there are none.
        key: hash of the decisive parameters and of all inputs.
    """

    views: Views
    train: Photos
    heldout: Photos | None
    key: str


def split(cameras: Cameras, p: TrainParams) -> tuple[Cameras, Cameras]:
    """Training and held-out views; none is held out where there are too few to spare one."""
    if len(cameras) < MIN_VIEWS_TO_SPLIT:
        return cameras, cameras.subset([])
    train, heldout = heldout_split(cameras.names, p.test_every)
    return cameras.subset(train), cameras.subset(heldout)


def read_views(run: StageRun, p: TrainParams) -> Views:
    """Read the sfm stage's cameras and points.

    Raises:
        WorkspaceError: the sfm stage has not finished.
        ReconstructionError: its model holds no view or no points.
    """
    folder = run.input("sfm")
    scene = read_scene(folder)
    if len(scene.cameras) == 0 or len(scene.points) == 0:
        raise ReconstructionError(
            "there is nothing to train on",
            got=f"{len(scene.cameras)} views and {len(scene.points)} points in {folder}",
            expected="at least one view and one point",
            hint="run the sfm stage again, with more overlapping photographs",
        )
    train, heldout = split(scene.cameras, p)
    return Views(scene, train, heldout, scene_scale(scene.cameras, scene.points))


def read(run: StageRun, p: TrainParams) -> Inputs:
    """Read cameras, points and photographs.

    Raises:
        PhotosError: an image is missing or broken, or all do not fit in memory.
        WorkspaceError, ReconstructionError: as `read_views`.
    """
    views = read_views(run, p)
    images = run.input("sfm", "images")
    free = memory.free_bytes(torch.device("cpu"))
    return Inputs(
        views=views,
        train=Photos(views.train, images, free),
        heldout=Photos(views.heldout, images, free) if len(views.heldout) else None,
        key=stage_key("train", p, {**gather_inputs(run, p), "scene": _hash(views.scene)}),
    )


def first_gaussians(scene: Scene, p: TrainParams, cap: int) -> Gaussians:
    """One Gaussian for each sparse point, or for a random `init_points` of them; never more than `cap`."""
    points, colors = scene.points, scene.colors
    wanted = min(p.init_points or len(points), cap)
    if wanted < len(points):
        chosen = np.sort(np.random.default_rng(p.seed).choice(len(points), wanted, replace=False))
        points, colors = points[chosen], colors[chosen]
    return from_points(
        points, colors, sh_degree=p.sh_degree, opacity=p.init_opacity, scale_factor=p.init_scale
    )


def _hash(scene: Scene) -> str:
    """Of what was read: whatever a manifest says, a checkpoint must not meet other cameras or points."""
    cameras = scene.cameras
    digest = hashlib.sha256("\n".join(cameras.names).encode())
    for array in (cameras.viewmats, cameras.Ks, cameras.sizes, scene.points, scene.colors):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
