"""What training reads: cameras, sparse points, photographs, and which views are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaceport_lab import files
from spaceport_lab.cameras import Cameras, Scene, heldout_split, read_scene
from spaceport_lab.errors import ReconstructionError
from spaceport_lab.images import load_rgb
from spaceport_lab.params import TrainParams
from spaceport_lab.train import memory
from spaceport_lab.train.photos import Photos
from spaceport_lab.train.spectra import significance
from spaceport_lab.train.views import scene_scale
from spaceport_lab.workspace import StageRun, gather_inputs, stage_key

MIN_VIEWS_TO_SPLIT = 4
"""With fewer views all of them are trained on: two or three are too few to give one away."""

MIN_VIEWS_TO_VALIDATE = 8
"""With fewer views stopping looks at the test views: the two kinds together would take too many."""

CACHE_SHARE = 0.25
"""Of the free memory at the most for photographs; the rest is for Gaussians, and for everybody else."""

MOST_SPECTRA = 16
"""Photographs whose spectra are looked at, evenly spaced."""


@dataclass(frozen=True)
class Views:
    """Cameras and points, and which views are held out; no pixels.

    Attributes:
        scene: all cameras and the sparse points.
        train: the views trained on.
        heldout: the test views, never trained on and never decided by; may be empty.
        validation: the views that decide when to stop, never trained on; empty where nothing stops early or
            the scene is too small.
        scale: radius of the camera positions, world units.
    """

    scene: Scene
    train: Cameras
    heldout: Cameras
    validation: Cameras
    scale: float

    @property
    def deciding(self) -> str:
        """Which views stopping looks at: "validation", or "heldout" where there are no others."""
        return "validation" if len(self.validation) else "heldout"

    def rows(self) -> list[dict[str, Any]]:
        """What there is to train on, as a table."""
        unit = " m" if self.scene.georeferenced else ""
        sizes = sorted({f"{w} × {h}" for w, h in self.scene.cameras.sizes.tolist()})
        return [
            {"input": "training views", "value": len(self.train)},
            {"input": "held-out views", "value": len(self.heldout)},
            {"input": "validation views", "value": len(self.validation)},
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
        heldout, validation: photographs of those views; None where there are none.
        spectrum: see `spectra.significance`.
        key: hash of the decisive parameters and of all inputs.
    """

    views: Views
    train: Photos
    heldout: Photos | None
    validation: Photos | None
    spectrum: Mapping[float, float]
    key: str

    @property
    def deciding(self) -> Photos | None:
        """Photographs of the views that stopping looks at."""
        return self.validation or self.heldout

    def close(self) -> None:
        """Let go of the photographs and of the threads that read them."""
        for photos in (self.train, self.heldout, self.validation):
            if photos is not None:
                photos.close()


def split(cameras: Cameras, p: TrainParams) -> tuple[Cameras, Cameras, Cameras]:
    """Training, held-out and validation views.

    Every `test_every`th is held out. Validation views are half as many, midway between held-out ones, and
    only where something could stop early; a small scene has none.
    """
    if len(cameras) < MIN_VIEWS_TO_SPLIT:
        return cameras, cameras.subset([]), cameras.subset([])
    rest, heldout = heldout_split(cameras.names, p.test_every)
    validation: list[int] = []
    if may_stop_early(p) and len(cameras) >= MIN_VIEWS_TO_VALIDATE:
        order = sorted(range(len(cameras)), key=lambda i: cameras.names[i])
        validation = [i for i in order[p.test_every // 2 :: 2 * p.test_every] if i not in set(heldout)]
    train = [i for i in rest if i not in set(validation)]
    return cameras.subset(train), cameras.subset(heldout), cameras.subset(validation)


def may_stop_early(p: TrainParams) -> bool:
    """Whether anything but `max_steps` could end this training."""
    return p.target_psnr > 0 or 0 < p.patience < p.max_steps


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
    return Views(scene, *split(scene.cameras, p), scene_scale(scene.cameras, scene.points))


def read(run: StageRun, p: TrainParams) -> Inputs:
    """Read cameras and points, and open the photographs.

    Raises:
        PhotosError: an image is missing or broken.
        WorkspaceError, ReconstructionError: as `read_views`.
    """
    views = read_views(run, p)
    images, masks = run.input("sfm", "images"), run.input("sfm") / "masks"
    cache = min(p.cache_gb * 1e9, CACHE_SHARE * memory.free_bytes(torch.device("cpu")))

    def photos(cameras: Cameras) -> Photos | None:
        if not len(cameras):
            return None
        share = cache * len(cameras) / len(views.scene.cameras)
        mask_dir = masks if p.masks and masks.is_dir() else None
        return Photos(cameras, images, mask_dir=mask_dir, cache_bytes=share)

    train = photos(views.train)
    return Inputs(
        views=views,
        train=train,
        heldout=photos(views.heldout),
        validation=photos(views.validation),
        spectrum=significance(train.full(i) for i in evenly(len(views.train), MOST_SPECTRA)),
        key=stage_key("train", p, {**gather_inputs(run, p), "scene": _hash(views.scene), **_start_hash(p)}),
    )


def read_spectrum(run: StageRun, views: Views) -> Mapping[float, float]:
    """Of the training photographs alone, without the rest of `read`."""
    images, cameras = run.input("sfm", "images"), views.train
    return significance(
        load_rgb(images / cameras.names[i], tuple(cameras.sizes[i].tolist()))
        for i in evenly(len(cameras), MOST_SPECTRA)
    )


def evenly(n: int, most: int) -> list[int]:
    """Up to `most` indices of `n`, first and last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()


def _start_hash(p: TrainParams) -> dict[str, str]:
    """Of the file that training starts from, so that another one under its name starts anew."""
    path = Path(p.init_from)
    return {"init_from": files.hash_path(path)} if p.init_from and path.is_file() else {}


def _hash(scene: Scene) -> str:
    """Of what was read: whatever a manifest says, a checkpoint must not meet other cameras or points."""
    cameras = scene.cameras
    digest = hashlib.sha256("\n".join(cameras.names).encode())
    for array in (cameras.viewmats, cameras.Ks, cameras.sizes, scene.points, scene.colors):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
