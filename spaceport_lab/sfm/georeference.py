"""From COLMAP's world, whose origin, direction and scale are arbitrary, to one that means something.

With GPS: local east-north-up metres, by a similarity fitted so that stray positions have no say. Without: an
upright world of unit depth, which does not pretend to be metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from spaceport_lab.cameras import Similarity, align, fit_similarity

MIN_POSITIONS = 4
"""Three positions fit any three cameras' triangle too well: nothing is left to notice a wrong one."""

_MEDIAN_2D, _MEDIAN_1D = 1.177, 0.674
"""Median length of a 2-vector, and of a number, whose parts are normal with deviation 1."""

_LIMIT = 4.2
"""In units of the noise; of a 3-vector 0.05 % are longer, so that what is left out really strays."""

_FLOOR_M = 0.02
"""Residuals below the precision of RTK receivers are never strays."""


@dataclass(frozen=True)
class GpsFit:
    """A model brought onto GPS.

    Attributes:
        similarity: model's world to east-north-up metres.
        inliers: [N] which positions took part.
        residuals: [N, 3] model minus GPS, metres.
        sigma: standard deviation of the residuals per axis, estimated robustly, metres.
        tilt_from_gps: False when cameras stand on a line, so that upright came from the pictures.
    """

    similarity: Similarity
    inliers: Bool[np.ndarray, "N"]
    residuals: Float[np.ndarray, "N 3"]
    sigma: float
    tilt_from_gps: bool = True

    @property
    def rmse(self) -> float:
        """Root mean square length of the residuals of inliers, metres."""
        return float(np.sqrt((self.residuals[self.inliers] ** 2).sum(axis=1).mean()))


def fit_gps(
    centers: Float[np.ndarray, "N 3"],
    gps: Float[np.ndarray, "N 3"],
    up: Float[np.ndarray, "3"],
    seed: int = 0,
) -> GpsFit | str:
    """Fit a similarity from camera centres to GPS positions that strays cannot move.

    Least median of squares over triples (Rousseeuw, 1984), then least squares over those within the noise
    found, repeated until nothing changes. Noise is measured apart for the plane and the height, in which
    receivers are two to three times worse.

    Args:
        centers: [N, 3] camera centres in the model's world.
        gps: [N, 3] east, north, up, metres, of the same cameras.
        up: [3] upright in the model's world, used where centres are on a line and GPS cannot say.
        seed: of the choice of triples.

    Returns:
        The fit, or in words why there is none.
    """
    if len(centers) < MIN_POSITIONS:
        return f"only {len(centers)} registered photographs have GPS, {MIN_POSITIONS} are needed"
    residuals = _least_median(centers, gps, seed)
    inliers = np.zeros(len(centers), dtype=bool)
    for _ in range(30):
        sigma = _noise(residuals)
        now = np.linalg.norm(residuals / np.maximum(sigma, _FLOOR_M / _LIMIT), axis=1) <= _LIMIT
        if (now == inliers).all():
            break
        inliers = now
        similarity = fit_similarity(centers[inliers], gps[inliers])
        residuals = similarity(centers) - gps
    spread = gps[inliers] - gps[inliers].mean(axis=0)
    extent = float(np.sqrt((spread**2).sum(axis=1).mean()))
    fit = GpsFit(similarity, inliers, residuals, float(np.sqrt((sigma**2).mean())))
    if fit.rmse > 0.4 * extent or similarity.scale <= 0:
        return f"GPS does not fit the cameras: {fit.rmse:.1f} m off in positions spread over {extent:.1f} m"
    return _settle_tilt(fit, centers, gps, up)


def upright(
    rotations: Float[np.ndarray, "C 3 3"],
    centers: Float[np.ndarray, "C 3"],
    middle: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "3"]:
    """Which way is up, judging by how people and gimbals hold cameras: [3], unit length.

    The pictures' horizontal edges are level, so up is the direction most nearly perpendicular to all of
    them; where those are all parallel (one flight line), it is also where centres spread the least. Its sign
    is the side the cameras are on, or where the pictures' tops point.

    Args:
        rotations: [C, 3, 3] world to camera, OpenCV axes.
        centers: [C, 3].
        middle: [3] of the points.
    """
    right, down, forward = rotations[:, 0], rotations[:, 1], rotations[:, 2]
    offsets = centers - centers.mean(axis=0)
    spread = offsets.T @ offsets / max((offsets**2).sum(), 1e-12)
    _, vectors = np.linalg.eigh(right.T @ right / len(right) + 0.1 * spread)
    axis = vectors[:, 0]
    above = centers.mean(axis=0) - middle
    votes = -down.mean(axis=0) - forward.mean(axis=0) + above / max(np.linalg.norm(above), 1e-12)
    return axis if axis @ votes >= 0 else -axis


def normalisation(
    rotations: Float[np.ndarray, "C 3 3"],
    centers: Float[np.ndarray, "C 3"],
    points: Float[np.ndarray, "P 3"],
) -> Similarity:
    """The world without GPS: +Z up, origin at the median point, unit = median distance of a camera from it.

    The first camera's right edge points along +X as far as +Z allows.
    """
    middle = np.median(points, axis=0)
    up = upright(rotations, centers, middle)
    x = rotations[0, 0] - (rotations[0, 0] @ up) * up
    if np.linalg.norm(x) < 0.1:
        x = rotations[0, 2] - (rotations[0, 2] @ up) * up
    x = x / np.linalg.norm(x)
    rotation = np.stack([x, np.cross(up, x), up])
    scale = 1 / max(float(np.median(np.linalg.norm(centers - middle, axis=1))), 1e-12)
    return Similarity(scale, rotation, -scale * rotation @ middle)


def _noise(residuals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "3"]:
    """Standard deviation along east, north and up, from medians; widened where there are few residuals."""
    flat = np.median(np.linalg.norm(residuals[:, :2], axis=1)) / _MEDIAN_2D
    height = np.median(np.abs(residuals[:, 2])) / _MEDIAN_1D
    few = 1 + 5 / max(1, len(residuals) - 3)
    return few * np.array([flat, flat, max(height, flat)])


def _least_median(source: np.ndarray, target: np.ndarray, seed: int) -> Float[np.ndarray, "N 3"]:
    """Residuals of the triple whose fit leaves the smallest median residual."""
    n = len(source)
    if n <= 14:
        triples = np.array(list(combinations(range(n), 3)))
    else:
        generator = np.random.default_rng(seed)
        triples = np.array([generator.choice(n, 3, replace=False) for _ in range(800)])
    scale, rotation, translation = align(source[triples], target[triples])
    moved = np.einsum("t,tij,nj->tni", scale, rotation, source) + translation[:, None]
    lengths = np.linalg.norm(moved - target, axis=2)
    best = int(np.argmin(np.sort(lengths, axis=1)[:, min(n - 1, n // 2 + 1)]))
    return moved[best] - target


def _settle_tilt(fit: GpsFit, centers: np.ndarray, gps: np.ndarray, up: np.ndarray) -> GpsFit:
    """Turn a flight along one line about that line until `up` is up; other flights stay as they are."""
    chosen = centers[fit.inliers]
    offsets = chosen - chosen.mean(axis=0)
    _, deviations, axes = np.linalg.svd(offsets, full_matrices=False)
    across = fit.similarity.scale * deviations[1] / np.sqrt(len(chosen))
    if deviations[1] > 0.03 * deviations[0] and across > 0.7 * fit.sigma:
        return fit
    line = fit.similarity.rotation @ axes[0]
    tilted = fit.similarity.rotation @ up
    flat = tilted - (tilted @ line) * line
    wanted = np.array([0.0, 0.0, 1.0]) - line[2] * line
    angle = np.arctan2(np.cross(flat, wanted) @ line, flat @ wanted)
    rotation = _about(line, angle) @ fit.similarity.rotation
    scale = fit.similarity.scale
    shift = gps[fit.inliers].mean(axis=0) - scale * rotation @ chosen.mean(axis=0)
    similarity = Similarity(scale, rotation, shift)
    return GpsFit(similarity, fit.inliers, similarity(centers) - gps, fit.sigma, tilt_from_gps=False)


def _about(axis: Float[np.ndarray, "3"], angle: float) -> Float[np.ndarray, "3 3"]:
    """Rodrigues' rotation about a unit axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
