"""A coarse ground under and around a flight, so that gaps and edges show ground instead of nothing.

Photographs end, the ground does not. Where no photograph looked there is nothing to train, and a render is
black: behind thin places, and all around the edge of the flight. A few hundred large, flat Gaussians with the
colours of the nearest points lie a little under the surface; where photographs show them they are trained
like all others, elsewhere they stay the blurred guess that they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from spaceport_lab.cameras import Cameras, Scene
from spaceport_lab.gaussians import SH_C0, Gaussians

CELLS = 4, 28
"""Across the longer side of the ground that the cameras see, at least and at most."""

SHARE = 0.1
"""Cells over points, about: a scene of few points gets a coarser ground."""

MARGIN = 0.4
"""Of a photograph's width on the ground, beyond what the cameras see."""

FLAT = 0.5
"""Height of the points over the height of the flight, above which a scene is no ground seen from above."""

OPACITY = 0.95
TRIM = (2.0, 98.0)
NEAR_HEIGHT, NEAR_COLOR = 8, 48
DEPTH, THICKNESS, OVERLAP = 0.2, 0.1, 0.6
"""Of a cell: how far below the surface, how thick, and the standard deviation across."""


@dataclass(frozen=True)
class Ground:
    """A plane: `axes` [3, 3] rows right, forward, up (towards the cameras) around `middle`."""

    middle: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]

    def coordinates(self, positions: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """World to right, forward, height."""
        return (positions - self.middle) @ self.axes.T


def find_ground(points: Float[np.ndarray, "P 3"], cameras: Cameras) -> Ground | None:
    """The plane of the points where the cameras fly over it; None where this is no flight."""
    if len(points) < NEAR_COLOR or len(cameras) < 3:
        return None
    kept = points
    for _ in range(4):
        middle = np.median(kept, axis=0)
        axes = np.linalg.svd(kept - middle, full_matrices=False)[2]
        heights = (points - middle) @ axes[2]
        kept = points[np.abs(heights) <= 3 * max(np.median(np.abs(heights)), 1e-12)]
    if np.median((cameras.centers - middle) @ axes[2]) < 0:
        axes = axes * np.array([[1.0], [1.0], [-1.0]])
    if np.linalg.det(axes) < 0:
        axes = axes * np.array([[-1.0], [1.0], [1.0]])
    ground = Ground(middle, axes)
    low, high = np.percentile(ground.coordinates(points)[:, 2], TRIM)
    flight = ground.coordinates(cameras.centers)[:, 2]
    looks = cameras.viewmats[:, 2, :3] @ axes[2]
    # One photograph in a hundred stands anywhere: nine tenths of them decide.
    from_above = np.quantile(looks, 0.9) < 0 and np.quantile(flight, 0.1) > high
    return ground if from_above and high - low <= FLAT * (np.median(flight) - low) else None


def backdrop(scene: Scene, cameras: Cameras, sh_degree: int) -> Gaussians | None:
    """The Gaussians of the ground that `cameras` see, and some beyond; None where there is no such ground."""
    ground = find_ground(scene.points, cameras)
    if ground is None:
        return None
    flat = ground.coordinates(scene.points)
    usual = np.median(ground.coordinates(cameras.centers)[:, 2])
    corners = np.stack([_footprint(ground, cameras, i, usual) for i in range(len(cameras))])
    margin = MARGIN * np.median(np.ptp(corners, axis=1), axis=0)
    low, high = corners.min(axis=(0, 1)) - margin, corners.max(axis=(0, 1)) + margin
    cell = float((high - low).max() / np.clip(np.sqrt(SHARE * len(scene.points)), *CELLS))
    x, y = (np.arange(a + cell / 2, b, cell) for a, b in zip(low, high, strict=True))
    nodes = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    tree = cKDTree(flat[:, :2])
    distance, near = tree.query(nodes, k=NEAR_COLOR)
    heights = np.median(flat[near[:, :NEAR_HEIGHT], 2], axis=1) - DEPTH * cell
    weights = 1 / np.maximum(distance, cell / 2)
    colors = (scene.colors[near] / 255 * weights[..., None]).sum(axis=1) / weights.sum(axis=1)[:, None]
    means = ground.middle + np.column_stack([nodes, heights]) @ ground.axes
    turn = Rotation.from_matrix(ground.axes.T).as_quat(scalar_first=True)
    n, coefficients = len(nodes), (sh_degree + 1) ** 2 - 1
    return Gaussians(
        means=means.astype(np.float32),
        quats=np.tile(turn, (n, 1)).astype(np.float32),
        scales=np.tile(np.log([OVERLAP * cell, OVERLAP * cell, THICKNESS * cell]), (n, 1)).astype(np.float32),
        opacities=np.full(n, np.log(OPACITY / (1 - OPACITY)), np.float32),
        sh0=((colors - 0.5) / SH_C0).astype(np.float32)[:, None],
        shN=np.zeros((n, coefficients, 3), np.float32),
    )


def _footprint(ground: Ground, cameras: Cameras, index: int, usual: float) -> Float[np.ndarray, "4 2"]:
    """Where the corners of a photograph meet the plane, at most twice the `usual` height away sideways.

    A camera that points up, or stands much lower or higher than usual, sees what is under it.
    """
    width, height = cameras.sizes[index]
    pixels = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=float)
    rays = pixels @ np.linalg.inv(cameras.Ks[index]).T @ cameras.viewmats[index, :3, :3] @ ground.axes.T
    eye = ground.coordinates(cameras.centers[index][None])[0]
    if not usual / 4 < eye[2] < 4 * usual or (rays[:, 2] >= 0).any():
        return np.tile(eye[:2], (4, 1))
    sideways = np.maximum(np.linalg.norm(rays[:, :2], axis=1), 1e-12)
    along = np.minimum(-eye[2] / rays[:, 2], 2 * usual / sideways)
    return eye[:2] + along[:, None] * rays[:, :2]
