"""Trees and bushes: lumpy closed crowns, a few models of each kind to be placed many times."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.sample.shapes import Soup, indexed, lathe, merge, moved


@lru_cache(maxsize=4)
def _icosphere(level: int) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """A unit sphere of nearly equal triangles: an icosahedron split `level` times."""
    g = (1 + 5**0.5) / 2
    corners = [(s * a, t * b, 0.0) for a, b in ((1.0, g),) for s in (-1, 1) for t in (-1, 1)]
    vertices = np.array([np.roll(c, k) for k in range(3) for c in corners])
    # An icosahedron's faces are its corner triples at edge length (2 here) from one another.
    near = np.abs(np.linalg.norm(vertices[:, None] - vertices[None], axis=2) - 2.0) < 1e-6
    triples = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    faces = np.array(triples)
    for _ in range(level):
        middles: dict[tuple[int, int], int] = {}
        points = list(vertices)

        def middle(a: int, b: int, points=points, middles=middles) -> int:
            edge = (min(a, b), max(a, b))
            if edge not in middles:
                middles[edge] = len(points)
                points.append((points[a] + points[b]) / 2)
            return middles[edge]

        faces = np.array(
            [
                triangle
                for a, b, c in faces.tolist()
                for ab, bc, ca in [(middle(a, b), middle(b, c), middle(c, a))]
                for triangle in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))
            ]
        )
        vertices = np.array(points)
    vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    inward = np.einsum("fi,fi->f", np.cross(b - a, c - a), a) < 0
    faces[inward] = faces[inward][:, ::-1]
    return vertices, faces


def blob(rng: np.random.Generator, level: int, roughness: float, squash: float = 1.0) -> Soup:
    """A lumpy ball of about unit radius: leaves seen from a drone's distance."""
    vertices, faces = _icosphere(level)
    waves = rng.normal(0.0, 1.0, (14, 3)) * np.linspace(1.2, 6.0, 14)[:, None]
    phase = rng.uniform(0, 2 * math.pi, 14)
    weight = 1.0 / np.sqrt(np.linspace(1.0, 6.0, 14))
    lumps = (np.sin(vertices @ waves.T + phase) * weight).sum(axis=1) / 2.2
    jitter = rng.normal(0.0, 0.35, len(vertices))
    radius = 1.0 + roughness * (lumps + jitter)
    return indexed(vertices * radius[:, None] * [1.0, 1.0, squash], faces, smooth=True)


def broadleaf(rng: np.random.Generator) -> tuple[Soup, Soup]:
    """Crown and trunk of a round tree, about 7 m tall at scale 1."""
    crown = [moved(blob(rng, 2, 0.16, 0.85), (0.0, 0.0, 4.6), 0.0, 1.9)]
    for k in range(6):
        angle = 2 * math.pi * k / 6 + rng.uniform(-0.4, 0.4)
        reach, up = rng.uniform(1.0, 1.9), rng.uniform(3.2, 5.8)
        size = rng.uniform(0.9, 1.45)
        crown.append(
            moved(blob(rng, 2, 0.18), (reach * math.cos(angle), reach * math.sin(angle), up), 0, size)
        )
    return merge(crown), lathe([(0.28, -0.6), (0.2, 2.0), (0.15, 4.0)], 7)


def umbrella(rng: np.random.Generator) -> tuple[Soup, Soup]:
    """A flat-topped tree as savannas have, about 6 m tall, 9 m wide."""
    crown = []
    for k in range(9):
        angle, reach = 2.4 * k, 3.1 * math.sqrt(k / 9)
        at = (
            reach * math.cos(angle),
            reach * math.sin(angle),
            4.9 - 0.06 * reach**2 + rng.uniform(-0.2, 0.3),
        )
        crown.append(moved(blob(rng, 2, 0.2, 0.55), at, 0, rng.uniform(1.1, 1.6)))
    return merge(crown), lathe([(0.3, -0.6), (0.2, 1.8), (0.35, 4.4)], 7)


def conifer(rng: np.random.Generator) -> tuple[Soup, Soup]:
    """A slim evergreen of ragged tiers, about 9 m tall."""
    tiers = []
    for k in range(6):
        low = 0.9 + 1.25 * k
        radius = 2.0 * (1 - k / 6.6)
        profile = [(radius, 0.0), (radius * 0.72, 0.55), (0.1, 2.1)]
        tier = lathe(profile, 13, smooth=False)
        push = 1.0 + 0.22 * np.sin(
            7 * np.arctan2(tier.points[..., 1], tier.points[..., 0]) + rng.uniform(0, 6)
        )
        points = tier.points * np.stack([push, push, np.ones_like(push)], axis=-1)
        tiers.append(moved(Soup(points, tier.normals), (0.0, 0.0, low), rng.uniform(0, 6)))
    return merge(tiers), lathe([(0.22, -0.6), (0.18, 2.0)], 7)


def bush(rng: np.random.Generator) -> Soup:
    """A shrub of three clumps, about 1 m tall."""
    clumps = []
    for _ in range(3):
        at = (*rng.uniform(-0.7, 0.7, 2), rng.uniform(0.15, 0.4))
        clumps.append(moved(blob(rng, 1, 0.2, 0.75), at, 0, rng.uniform(0.5, 0.95)))
    return merge(clumps)
