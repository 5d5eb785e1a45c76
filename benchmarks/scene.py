"""A splat like a trained one, of any size: ground, walls, trees and sky, in clusters that look alike."""

from __future__ import annotations

import numpy as np

from spaceport_lab.gaussians import N_COEFFS, SH_C0, Gaussians

_BAND_SIZE = np.repeat([0.055, 0.032, 0.021], [3, 5, 7])


def make_scene(n: int, sh_degree: int = 3, seed: int = 0) -> Gaussians:
    """n Gaussians, unsorted as a checkpoint is; about six stem from one point, as after densification.

    View-dependent colour has a smooth part, a part that clusters share, and one of each Gaussian's own with
    Laplace tails: how well it compresses depends on that mixture.
    """
    rng = np.random.default_rng(seed)
    seeds = max(64, n // 6)
    points, normals, kind = _surfaces(rng, seeds)
    parent = rng.integers(0, seeds, n)
    radius = np.array([0.05, 0.05, 0.07, 3.0])[kind[parent]] * (1e6 / n) ** 0.33 * 0.6
    offset = rng.normal(size=(n, 3))
    offset -= 0.9 * (offset * normals[parent]).sum(axis=1, keepdims=True) * normals[parent]
    means = points[parent] + radius[:, None] * offset
    field = _Field(rng, means)
    base = np.log(0.55 * radius)[:, None] + 0.25 * field(1) + 0.35 * rng.normal(size=(seeds, 1))[parent]
    scales = base + 0.4 * rng.normal(size=(n, 1)) + 0.55 * rng.normal(size=(n, 3))
    scales[:, 2] = base[:, 0] - np.abs(1.6 + 0.7 * rng.normal(size=n))
    opaque = rng.random(n) < 0.62
    opacities = np.where(opaque, rng.normal(3.2, 2, n), rng.normal(-2.6, 1.3, n)) + 0.7 * field(1)[:, 0]
    rgb = np.array([[0.36, 0.33, 0.24], [0.5, 0.48, 0.45], [0.16, 0.3, 0.12], [0.55, 0.68, 0.85]])[
        kind[parent]
    ]
    rgb = (
        rgb * np.exp(0.28 * field(1))
        + 0.05 * rng.normal(size=(seeds, 1))[parent]
        + 0.05 * rng.normal(size=(n, 3))
    )
    return Gaussians(
        means=means.astype(np.float32),
        quats=_facing(rng, normals[parent]),
        scales=scales.astype(np.float32),
        opacities=opacities.clip(-5.3, 14).astype(np.float32),
        sh0=((rgb - 0.5) / SH_C0).astype(np.float32)[:, None],
        shN=_view_dependence(rng, field, parent, seeds, N_COEFFS[sh_degree]),
    )


class _Field:
    """Smooth functions of position: sums of cosines over four octaves."""

    def __init__(self, rng: np.random.Generator, means: np.ndarray) -> None:
        self.rng, self.means = rng, means.astype(np.float32)

    def __call__(self, channels: int) -> np.ndarray:
        waves = np.concatenate([self.rng.normal(size=(6, 3)) * 2 * f for f in (0.08, 0.25, 0.8, 2.5)])
        size = np.repeat(0.6 ** np.arange(4) / 6**0.5, 6)[:, None]
        mix = (self.rng.normal(size=(24, channels)) * size).astype(np.float32)
        phase = self.rng.uniform(0, 2 * np.pi, 24).astype(np.float32)
        return np.cos(self.means @ waves.T.astype(np.float32) + phase) @ mix


def _surfaces(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [P, 3] and their normals on ground, walls, tree crowns and sky, and which [P] it is."""
    kind = rng.choice(4, count, p=[0.36, 0.33, 0.26, 0.05])
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ground = rng.uniform(-20, 20, (count, 3))
    ground[:, 2] = np.sin(ground[:, 0] / 4) + 0.7 * np.cos(ground[:, 1] / 3)
    house = rng.uniform(-17, 17, (60, 3))[rng.integers(0, 60, count)] * (1, 1, 0)
    side = np.eye(3)[rng.integers(0, 2, count)] * rng.choice([-1, 1], (count, 1))
    wall = house + 2 * side + rng.uniform(-2, 2, (count, 3)) * (1 - np.abs(side)) + (0, 0, 2)
    tree = rng.uniform(-19, 19, (200, 3))[rng.integers(0, 200, count)] * (1, 1, 0) + (0, 0, 2) + direction
    sky = np.abs(direction) ** (0, 0, 1) * direction * np.exp(rng.normal(4.2, 0.35, count))[:, None]
    pick = kind[:, None]
    points = np.choose(pick, [ground, wall, tree, sky])
    normals = np.choose(pick, [np.tile((0.0, 0, 1), (count, 1)), side, direction, -direction])
    return points, normals, kind


def _facing(rng: np.random.Generator, normals: np.ndarray) -> np.ndarray:
    """Quaternions [N, 4] that turn the flat third axis towards the normals, a little off, of any length."""
    n = normals + 0.12 * rng.normal(size=normals.shape)
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    half = rng.normal(size=len(n)) * 0.9
    w, x, y = 1 + n[:, 2], -n[:, 1], n[:, 0]
    cos, sin = np.cos(half), np.sin(half)
    quats = np.column_stack([w * cos, x * cos + y * sin, y * cos - x * sin, w * sin])
    quats[w < 1e-6] = (0, 1, 0, 0)
    return (quats * np.exp(0.25 * rng.normal(size=(len(n), 1)))).astype(np.float32)


def _view_dependence(
    rng: np.random.Generator, field: _Field, parent: np.ndarray, seeds: int, coefficients: int
) -> np.ndarray:
    n, amplitude = len(parent), _BAND_SIZE[:coefficients].astype(np.float32)
    out = np.empty((n, coefficients, 3), np.float32)
    gloss = np.exp(0.45 * field(1) + 0.25 * rng.normal(size=(n, 1)))[:, 0]
    gloss *= 0.85 * np.where(rng.random(n) < 0.12, 0.15, 1)
    for k in range(coefficients):
        shared = (
            0.9 * field(1) + 0.45 * rng.laplace(size=(seeds, 1))[parent] + 0.38 * rng.laplace(size=(n, 1))
        )
        own = 0.25 * field(3) + 0.15 * rng.laplace(size=(seeds, 3))[parent] + 0.13 * rng.laplace(size=(n, 3))
        out[:, k] = amplitude[k] * gloss[:, None] * (shared + own)
    return out
