"""Where a person first looks at a splat from, and which way is up."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from spaceport_lab.cameras import Cameras
from spaceport_lab.gaussians import Gaussians

SAMPLE = 20_000
"""At most this many Gaussians are projected to judge a camera; more would not change the choice."""

OVERVIEW_AZIMUTH, OVERVIEW_ELEVATION, OVERVIEW_FOV = 215.0, 30.0, 50.0
"""Degrees: how a splat is seen that came without cameras."""

ELEVATIONS = (5.0, 52.0)
"""Degrees above the horizon the first view keeps within: straight down there is nothing to turn around."""

AERIAL = 30.0
"""Degrees below the horizon: cameras that look down more than this on the whole are a flight."""


@dataclass(frozen=True)
class Viewpoint:
    """A camera by what it looks at, in world coordinates.

    Attributes:
        position: [3] of the camera.
        target: [3] point in the middle of the picture, which an orbit turns around.
        up: [3] unit vector towards the sky.
        fov: field of view along the longer side of the picture, degrees.
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    fov: float

    def json(self) -> dict[str, Any]:
        """As kept in viewer.json."""
        return asdict(self)

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Viewpoint:
        """The inverse of `json`."""
        return Viewpoint(tuple(entry["position"]), tuple(entry["target"]), tuple(entry["up"]), entry["fov"])

    def camera(self, width: int, height: int) -> Cameras:
        """One pinhole camera with this view, `width` by `height` pixels."""
        position, target, up = (np.array(v, dtype=float) for v in (self.position, self.target, self.up))
        forward = _unit(target - position)
        right = _unit(np.cross(forward, up))
        viewmat = np.eye(4)
        viewmat[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        viewmat[:3, 3] = -viewmat[:3, :3] @ position
        focal = max(width, height) / (2 * math.tan(math.radians(self.fov) / 2))
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return Cameras(("first view",), viewmat[None], K[None], np.array([[width, height]]))


def up_direction(cameras: Cameras | None, georeferenced: bool) -> Float[np.ndarray, "3"]:
    """Unit vector towards the sky.

    A georeferenced world has +Z up. Otherwise photographers decide: they hold their cameras level, so the sky
    lies across all the pictures' horizontal axes. Without cameras -Y is up, as 3DGS files have it.
    """
    if georeferenced:
        return np.array([0.0, 0.0, 1.0])
    if cameras is None or len(cameras) == 0:
        return np.array([0.0, -1.0, 0.0])
    right, down, forward = (cameras.viewmats[:, row, :3] for row in range(3))
    values, vectors = np.linalg.eigh(right.T @ right / len(cameras))
    if values[1] < 0.02:  # all of one heading: any axis across would do, so as the pictures show it
        axis = -down.mean(axis=0)
        return _unit(axis) if np.linalg.norm(axis) > 1e-6 else np.array([0.0, -1.0, 0.0])
    # Pictures taken on the ground tell the sky by their tops, flights that look down by their backs.
    towards = -(down + forward).mean(axis=0)
    return _unit(vectors[:, 0] if vectors[:, 0] @ towards >= 0 else -vectors[:, 0])


def first_view(gaussians: Gaussians, cameras: Cameras | None, up: Float[np.ndarray, "3"]) -> Viewpoint:
    """From where a real camera stood, or from outside where there are none.

    Near real cameras a splat looks as it was trained to, so the one nearest to the middle of where all stand
    and look is taken. A flight is seen from further back and from the side, to show the whole of it.
    """
    sample = _sample(gaussians)
    aims = None if cameras is None else _aims(sample.means.astype(float), cameras)
    if aims is None:
        return _overview(sample, up)
    off_middle = [np.linalg.norm(x - np.median(x, axis=0), axis=1) for x in (aims, cameras.centers)]
    index = int(np.argmin(off_middle[0] + 0.5 * off_middle[1]))
    rotation, target = cameras.viewmats[index, :3, :3], aims[index]
    offset = cameras.centers[index] - target
    fov = _long_fov(cameras, index)
    offset = _within_elevations(offset, -rotation[1], up)
    if float(np.mean(-cameras.viewmats[:, 2, :3] @ up)) > math.sin(math.radians(AERIAL)):
        offset = _whole_flight(offset, aims - target, fov, up)
    return Viewpoint(_tuple(target + offset), _tuple(target), _tuple(up), fov)


def _whole_flight(
    offset: Float[np.ndarray, "3"], aims: Float[np.ndarray, "C 3"], fov: float, up: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """`offset` from target to camera, further back, turned so that a long flight lies across the picture."""
    distance, half_angle = float(np.linalg.norm(offset)), math.tan(math.radians(fov) / 2)
    level = aims - np.outer(aims @ up, up)
    strengths, axes = np.linalg.eigh(level.T @ level / len(level))
    side = np.cross(up, axes[:, 2])
    height = float(offset @ up)
    sideways = offset - height * up
    if strengths[2] > 2 * strengths[1] and np.linalg.norm(sideways) > 0:
        side *= 1 if side @ sideways >= 0 else -1
        offset = height * up + np.linalg.norm(sideways) * _unit(side)
    reach = float(np.quantile(np.linalg.norm(level, axis=1), 0.8)) + 0.5 * distance * half_angle
    return offset * float(np.clip(0.8 * reach / half_angle / distance, 1.25, 3))


def robust_bounds(
    gaussians: Gaussians, share: float = 0.01
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Corners of the box that leaves out `share` of the visible Gaussians on each side of each axis."""
    visible = gaussians.alphas > 0.1
    means = gaussians.means[visible] if visible.any() else gaussians.means
    low, high = np.quantile(means.astype(float), [share, 1 - share], axis=0)
    return low, high


def level_axes(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "2 3"]:
    """Two directions that are level, a map's right and top: east and north where +Z is up."""
    ahead = np.array([0.0, 1.0, 0.0]) if abs(up[1]) < 0.9 else np.array([0.0, 0.0, 1.0])
    east = _unit(np.cross(ahead, up))
    return np.stack([east, np.cross(up, east)])


def _overview(gaussians: Gaussians, up: Float[np.ndarray, "3"]) -> Viewpoint:
    low, high = robust_bounds(gaussians, 0.05)
    center, radius = (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1e-3)
    distance = 0.8 * radius / math.sin(math.radians(OVERVIEW_FOV) / 2)
    east, north = level_axes(up)
    azimuth, elevation = math.radians(OVERVIEW_AZIMUTH), math.radians(OVERVIEW_ELEVATION)
    sideways = math.sin(azimuth) * east + math.cos(azimuth) * north
    offset = distance * (math.cos(elevation) * sideways + math.sin(elevation) * up)
    return Viewpoint(_tuple(center + offset), _tuple(center), _tuple(up), OVERVIEW_FOV)


def _within_elevations(
    offset: Float[np.ndarray, "3"], picture_up: Float[np.ndarray, "3"], up: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"]:
    """`offset` from target to camera, of the same length, brought within ELEVATIONS."""
    distance = float(np.linalg.norm(offset))
    elevation = math.degrees(math.asin(float(np.clip(offset @ up / distance, -1, 1))))
    wanted = math.radians(float(np.clip(elevation, *ELEVATIONS)))
    sideways = offset - (offset @ up) * up
    if np.linalg.norm(sideways) < 0.1 * distance:  # straight down: what is up in the picture is ahead
        sideways = (picture_up @ up) * up - picture_up
    if np.linalg.norm(sideways) < 1e-6:
        sideways = level_axes(up)[1]
    return distance * (math.cos(wanted) * _unit(sideways) + math.sin(wanted) * up)


def _aims(means: Float[np.ndarray, "N 3"], cameras: Cameras) -> Float[np.ndarray, "C 3"] | None:
    """The point each camera looks at, as deep as the middle of its picture; None where none sees anything."""
    depths = np.full(len(cameras), np.nan)
    for i, (viewmat, K, size) in enumerate(zip(cameras.viewmats, cameras.Ks, cameras.sizes, strict=True)):
        seen = means @ viewmat[:3, :3].T + viewmat[:3, 3]
        ahead = seen[:, 2] > 1e-6
        pixels = (seen @ K.T)[:, :2] / np.where(ahead, seen[:, 2], 1.0)[:, None]
        central = ahead & (np.abs(pixels - size / 2) <= size / 4).all(axis=1)
        if central.any():
            depths[i] = np.median(seen[central, 2])
    if np.isnan(depths).all():
        return None
    depths = np.where(np.isnan(depths), np.nanmedian(depths), depths)
    return cameras.centers + depths[:, None] * cameras.viewmats[:, 2, :3]


def _long_fov(cameras: Cameras, index: int) -> float:
    """Degrees along the longer side, within what looks natural."""
    width, height = (float(side) for side in cameras.sizes[index])
    focal = cameras.Ks[index, 0, 0] if width >= height else cameras.Ks[index, 1, 1]
    return float(np.clip(math.degrees(2 * math.atan(max(width, height) / (2 * focal))), 35, 80))


def _sample(gaussians: Gaussians) -> Gaussians:
    step = -(-gaussians.n // SAMPLE)
    return gaussians.subset(slice(None, None, step))


def _unit(vector: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return vector / np.linalg.norm(vector)


def _tuple(vector: Float[np.ndarray, "3"]) -> tuple[float, float, float]:
    return tuple(float(x) for x in vector)  # type: ignore[return-value]
