"""Shapes as triangle soups: corner positions and corner normals, metres."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Soup:
    """F triangles that share nothing.

    Attributes:
        points: [F, 3, 3] corners.
        normals: [F, 3, 3] unit normals at the corners; smooth shapes share them, flat ones do not.
    """

    points: Float[np.ndarray, "F 3 3"]
    normals: Float[np.ndarray, "F 3 3"]

    def __len__(self) -> int:
        return len(self.points)


def merge(soups: Sequence[Soup]) -> Soup:
    """All triangles of several soups."""
    return Soup(np.concatenate([s.points for s in soups]), np.concatenate([s.normals for s in soups]))


def turn(yaw: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about the vertical, radians counter-clockwise seen from above."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def moved(soup: Soup, at: Sequence[float], yaw: float = 0.0, scale: float = 1.0) -> Soup:
    """The soup scaled, turned about the vertical and put at `at`."""
    rotation = turn(yaw).T
    return Soup(soup.points @ rotation * scale + np.asarray(at, float), soup.normals @ rotation)


def flat(points: Float[np.ndarray, "F 3 3"]) -> Soup:
    """Flat triangles; the normal follows the right-hand rule."""
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    return Soup(points, np.repeat(normals[:, None], 3, axis=1))


def indexed(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], smooth: bool) -> Soup:
    """A soup from an indexed mesh; smooth normals are the area-weighted means of the faces around."""
    points = vertices[faces]
    if not smooth:
        return flat(points)
    face_normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    return Soup(points, normals[faces])


def surface(grid: Float[np.ndarray, "M N 3"], smooth: bool = True) -> Soup:
    """A soup over a grid of points; its outside is where (d/drow) x (d/dcolumn) points."""
    rows, columns = grid.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (q.ravel() for q in (index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]))
    faces = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
    points = grid.reshape(-1, 3)
    corners = points[faces]
    double_area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    return indexed(points, faces[double_area > 1e-9], smooth)


def box(size: Sequence[float], at: Sequence[float] = (0.0, 0.0, 0.0), yaw: float = 0.0) -> Soup:
    """A box standing on `at` (the middle of its floor)."""
    hx, hy, hz = size[0] / 2, size[1] / 2, size[2]
    polygon = [(-hx, -hy), (hx, -hy), (hx, hy), (-hx, hy)]
    return moved(prism(polygon, 0.0, hz), at, yaw)


def prism(polygon: Sequence[tuple[float, float]], bottom: float, top: float) -> Soup:
    """A convex polygon (counter-clockwise) raised from `bottom` to `top`, with its lid."""
    ring = np.asarray(polygon, float)
    n = len(ring)
    low = np.column_stack([ring, np.full(n, bottom)])
    high = np.column_stack([ring, np.full(n, top)])
    after = np.roll(np.arange(n), -1)
    sides = [np.stack([low, low[after], high[after]], 1), np.stack([low, high[after], high], 1)]
    lid = np.stack([np.repeat(high[:1], n - 2, 0), high[1:-1], high[2:]], 1)
    return flat(np.concatenate([*sides, lid]))


def lathe(
    profile: Sequence[tuple[float, float]], segments: int = 24, smooth: bool = True, arc: float = 2 * math.pi
) -> Soup:
    """A profile of (radius, height), listed upwards, turned about the vertical."""
    angles = np.linspace(0.0, arc, segments + 1)
    radius, height = np.asarray(profile, float).T
    grid = np.stack(
        [
            radius[None] * np.cos(angles)[:, None],
            radius[None] * np.sin(angles)[:, None],
            np.broadcast_to(height[None], (segments + 1, len(height))),
        ],
        axis=-1,
    )
    return surface(grid, smooth)


def dome(radius: float, rings: int = 7) -> list[tuple[float, float]]:
    """Profile of a hemisphere from its rim (height 0) to its top."""
    return [(radius * math.cos(a), radius * math.sin(a)) for a in np.linspace(0.0, math.pi / 2, rings)]


def ball(radius: float, segments: int = 24) -> Soup:
    """A sphere around the origin."""
    return lathe(
        [(radius * math.cos(a), radius * math.sin(a)) for a in np.linspace(-math.pi / 2, math.pi / 2, 15)],
        segments,
    )


def beam(start: Sequence[float], end: Sequence[float], width: float) -> Soup:
    """A square bar between two points."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    along = (b - a) / np.linalg.norm(b - a)
    helper = np.array([1.0, 0.0, 0.0]) if abs(along[2]) > 0.9 else np.array([0.0, 0.0, 1.0])
    side = np.cross(along, helper)
    side /= np.linalg.norm(side)
    unit = box((width, width, np.linalg.norm(b - a)))
    basis = np.stack([side, np.cross(along, side), along], axis=1)
    return Soup(unit.points @ basis.T + a, unit.normals @ basis.T)


def lattice(width: float, height: float, bay: float, leg: float, brace: float) -> Soup:
    """A square lattice mast: four legs, a ring and one diagonal a side at every bay."""
    half = width / 2
    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    parts = [beam((x, y, 0.0), (x, y, height), leg) for x, y in corners]
    levels = np.linspace(0.0, height, round(height / bay) + 1)
    for level, (low, high) in enumerate(pairwise(levels)):
        for k in range(4):
            (ax, ay), (bx, by) = corners[k], corners[(k + 1) % 4]
            parts.append(beam((ax, ay, high), (bx, by, high), brace))
            ends = ((ax, ay, low), (bx, by, high)) if (level + k) % 2 else ((ax, ay, high), (bx, by, low))
            parts.append(beam(*ends, brace))
    return merge(parts)


def barrel_roof(width: float, length: float, eaves: float, rise: float) -> Soup:
    """The curved shell of a hangar along y, from the eaves over the ridge, with an overhang."""
    angles = np.linspace(math.pi, 0.0, 19)
    x, z = (width / 2 + 0.4) * np.cos(angles), eaves + rise * np.sin(angles)
    y = np.array([-length / 2 - 0.5, length / 2 + 0.5])
    grid = np.stack(
        [
            np.broadcast_to(x[:, None], (19, 2)),
            np.broadcast_to(y[None], (19, 2)),
            np.broadcast_to(z[:, None], (19, 2)),
        ],
        axis=-1,
    )
    return surface(grid)


def barrel_body(width: float, length: float, eaves: float, rise: float) -> Soup:
    """Walls under a barrel roof: two straight sides and two gables with an arched top."""
    angles = np.linspace(0.0, math.pi, 19)
    arch = [(width / 2 * math.cos(a), eaves + rise * math.sin(a)) for a in angles]
    outline = np.array([(width / 2, -1.0), *arch, (-width / 2, -1.0)])
    triangles = []
    for sign in (-1.0, 1.0):
        gable = np.column_stack([outline[:, 0], np.full(len(outline), sign * length / 2), outline[:, 1]])
        middle = np.array([0.0, sign * length / 2, eaves / 2])
        for p, q in zip(gable, np.roll(gable, -1, axis=0), strict=True):
            triangles.append([middle, p, q] if sign < 0 else [middle, q, p])
    walls = [box((0.2, length, eaves + 1.0), (side * (width / 2 - 0.1), 0.0, -1.0)) for side in (-1, 1)]
    return merge([flat(np.array(triangles)), *walls])


def fin(root: float, tip: float, height: float, reach: float, thickness: float) -> Soup:
    """A swept fin in the x-z plane, from x = 0 outwards."""
    outline = np.array([(0.0, 0.0), (reach, 0.0), (reach, tip), (0.0, height)])
    outline[1:3, 1] -= root
    soups = []
    for sign in (-1.0, 1.0):
        side = np.column_stack([outline[:, 0], np.full(4, sign * thickness / 2), outline[:, 1]])
        order = [0, 1, 2, 3] if sign < 0 else [0, 3, 2, 1]
        p = side[order]
        soups.append(flat(np.array([[p[0], p[1], p[2]], [p[0], p[2], p[3]]])))
    for k in range(4):
        (ax, az), (bx, bz) = outline[k], outline[(k + 1) % 4]
        h = thickness / 2
        quad = np.array([(ax, h, az), (bx, h, bz), (bx, -h, bz), (ax, -h, az)])[::-1]
        soups.append(flat(np.array([[quad[0], quad[1], quad[2]], [quad[0], quad[2], quad[3]]])))
    return merge(soups)
