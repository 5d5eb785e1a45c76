"""Small scenes with a known answer: Gaussians rendered into photographs, written as a COLMAP folder."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from spaceport_lab import evaluation
from spaceport_lab.cameras import Cameras
from spaceport_lab.gaussians import SH_C0, Gaussians
from spaceport_lab.workspace import StageRun

PINHOLE = 1
"""COLMAP's number of the PINHOLE camera model: fx, fy, cx, cy."""


def make_colmap_scene(
    folder: Path,
    n_views: int = 12,
    width: int = 64,
    height: int = 48,
    n_gaussians: int = 300,
    seed: int = 0,
    n_points: int | None = None,
) -> Gaussians:
    """Write `images/` and `sparse/` (a PINHOLE model) of a colourful mound seen from a half circle.

    Args:
        folder: where `images/` and `sparse/` go; made when missing.
        n_views: photographs.
        width, height: their size in pixels.
        n_gaussians: of the true splat.
        seed: of everything random.
        n_points: sparse points, drawn from the true centres; all of them when None.

    Returns:
        The splat the photographs show.
    """
    rng = np.random.default_rng(seed)
    truth = make_gaussians(n_gaussians, rng)
    cameras = make_cameras(n_views, width, height)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, render in zip(cameras.names, evaluation.render_views(truth, cameras), strict=True):
        Image.fromarray((render * 255).round().astype(np.uint8)).save(folder / "images" / name)
    chosen = rng.permutation(n_gaussians)[: n_points or n_gaussians]
    points = truth.means[chosen] + rng.normal(0, 0.01, (len(chosen), 3))
    write_colmap(folder / "sparse", cameras, points, np.clip(truth.colors[chosen] * 255, 0, 255))
    return truth


def make_run(root: Path, **scene) -> StageRun:
    """A run folder whose sfm stage made `make_colmap_scene(**scene)`; returns its train stage."""
    folder = root / "02_sfm"
    make_colmap_scene(folder, **scene)
    (folder / "stage.json").write_text(
        json.dumps({"stage": "sfm", "outputs": {"sparse": "0", "images": "0"}})
    )
    return open_run(root)


def open_run(root: Path, stage: str = "train") -> StageRun:
    """A stage of a run folder, as `notebook.start` opens it."""
    run = StageRun(root, stage)
    run.dir.mkdir(parents=True, exist_ok=True)
    return run


def make_gaussians(n: int, rng: np.random.Generator) -> Gaussians:
    """Opaque, flat Gaussians on a mound of radius 2 around the origin, +Z up."""
    xy = rng.uniform(-2, 2, (n, 2))
    z = np.exp(-(xy**2).sum(axis=1)) + rng.normal(0, 0.02, n)
    colors = 0.5 + 0.4 * np.sin(
        np.stack([3 * xy[:, 0], 3 * xy[:, 1], 5 * z], axis=1) + rng.normal(0, 0.3, (n, 3))
    )
    quats = rng.normal(0, 0.05, (n, 4))
    quats[:, 0] = 1
    scales = np.log(rng.uniform(0.1, 0.25, (n, 3)) * [1, 1, 0.3])
    return Gaussians(
        means=np.column_stack([xy, z]).astype(np.float32),
        quats=quats.astype(np.float32),
        scales=scales.astype(np.float32),
        opacities=np.full(n, 2.5, np.float32),
        sh0=((colors - 0.5) / SH_C0).astype(np.float32)[:, None],
        shN=np.zeros((n, 15, 3), np.float32),
    )


def make_cameras(n: int, width: int, height: int) -> Cameras:
    """Pinhole cameras on a half circle of radius 5 at height 4, looking at the origin."""
    viewmats, angles = [], np.linspace(0, np.pi, n)
    for angle in angles:
        center = np.array([5 * np.cos(angle), 5 * np.sin(angle), 4.0])
        forward = -center / np.linalg.norm(center)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ center
        viewmats.append(viewmat)
    K = np.array([[1.2 * width, 0, width / 2], [0, 1.2 * width, height / 2], [0, 0, 1]])
    return Cameras(
        names=tuple(f"view_{i:03d}.png" for i in range(n)),
        viewmats=np.array(viewmats),
        Ks=np.repeat(K[None], n, axis=0),
        sizes=np.repeat(np.array([[width, height]]), n, axis=0),
    )


def write_colmap(folder: Path, cameras: Cameras, points: np.ndarray, colors: np.ndarray) -> None:
    """Write cameras.bin, images.bin and points3D.bin; every point is seen by every image.

    Args:
        folder: made when missing.
        cameras: C views.
        points: [P, 3] world coordinates.
        colors: [P, 3] 0 to 255.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "cameras.bin", "wb") as file:
        file.write(struct.pack("<Q", len(cameras)))
        for i, (K, (width, height)) in enumerate(zip(cameras.Ks, cameras.sizes, strict=True)):
            file.write(
                struct.pack("<iiQQ4d", i + 1, PINHOLE, width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
            )
    with open(folder / "images.bin", "wb") as file:
        file.write(struct.pack("<Q", len(cameras)))
        for i, (name, viewmat, K) in enumerate(zip(cameras.names, cameras.viewmats, cameras.Ks, strict=True)):
            file.write(struct.pack("<i7di", i + 1, *quaternion(viewmat[:3, :3]), *viewmat[:3, 3], i + 1))
            file.write(name.encode() + b"\0" + struct.pack("<Q", len(points)))
            seen = (points @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
            for j, (x, y) in enumerate(seen[:, :2] / seen[:, 2:]):
                file.write(struct.pack("<ddq", x, y, j + 1))
    with open(folder / "points3D.bin", "wb") as file:
        file.write(struct.pack("<Q", len(points)))
        for j, (point, color) in enumerate(zip(points, colors, strict=True)):
            file.write(struct.pack("<Q3d3Bd", j + 1, *point, *color.astype(int).tolist(), 0.5))
            track = [value for i in range(len(cameras)) for value in (i + 1, j)]
            file.write(struct.pack(f"<Q{len(track)}i", len(cameras), *track))


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion w, x, y, z of a rotation matrix [3, 3] (the eigenvector of Bar-Itzhack 2000)."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    vector = np.linalg.eigh(k / 3, UPLO="L")[1][:, -1]
    return vector[[3, 0, 1, 2]]
