"""Where the site is paved: signed distances (metres, negative inside) to asphalt, gravel and tracks."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from spaceport_lab.sample import layout
from spaceport_lab.sample.compiling import helper, kernel

ASPHALT, TAXIWAY, GRAVEL, TRACK, LATERAL, ALONG = range(6)
"""Layers of the distance raster. LATERAL and ALONG locate a point relative to the nearest road: metres
to the left of its centre line and metres along it. LATERAL is far off where roads meet: no line there."""

_CLEARINGS = np.array(
    [(-62.0, 3.0, 24.0), (-36.0, -1.0, 18.0), (46.0, -4.0, 19.0), (84.0, 2.0, 9.0), (-90.0, -24.0, 12.0),
     (-88.0, 10.0, 9.0), (86.0, 16.0, 9.0), (36.5, 55.0, 6.0), (-34.0, 66.0, 6.0), (-62.0, 40.0, 6.0),
     (-58.0, 61.0, 6.0), (34.0, 56.0, 4.0)]
)  # fmt: skip
"""Circles (east, north, radius) kept free of plants around buildings that stand on unpaved ground."""


def smooth_curve(points: tuple[tuple[float, float], ...]) -> Float[np.ndarray, "M 2"]:
    """A Catmull-Rom curve through the points, six pieces a span."""
    p = np.asarray(points, float)
    p = np.concatenate([[2 * p[0] - p[1]], p, [2 * p[-1] - p[-2]]])
    t = np.linspace(0.0, 1.0, 7)[:-1, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    return np.concatenate([*pieces, p[-2:-1]])


def _segments() -> Float[np.ndarray, "S 8"]:
    """Rows: start xy, end xy, half width, metres along at the start, layer, number of the line."""
    lines = [(ASPHALT, half, points) for half, points in layout.ROADS]
    lines += [(TAXIWAY, half, points) for half, points in layout.TAXIWAYS]
    lines += [(TRACK, 0.0, points) for points in layout.TRACKS]
    rows = []
    for number, (layer, half, points) in enumerate(lines):
        curve, along = smooth_curve(points), 0.0
        for (ax, ay), (bx, by) in pairwise(curve):
            rows.append((ax, ay, bx, by, half, along, layer, number))
            along += math.hypot(bx - ax, by - ay)
    lane = smooth_curve(layout.CRAWLERWAY)
    step = np.gradient(lane, axis=0)
    aside = np.column_stack([-step[:, 1], step[:, 0]]) / np.linalg.norm(step, axis=1, keepdims=True)
    for side in (-3.6, 3.6):
        curve = lane + side * aside
        rows += [(*a, *b, 2.3, 0.0, GRAVEL, len(lines)) for a, b in pairwise(curve)]
    return np.array(rows)


_SEGMENTS = _segments()
_PARKING, _YARD, _TANKS, _APRON = (
    np.array(r) for r in (layout.PARKING, layout.YARD, layout.TANK_FARM, layout.APRON)
)
_PADS = layout.PADS
_RUNWAY = np.array(layout.RUNWAY)


@helper
def rectangle(x: float, y: float, edges: np.ndarray) -> float:
    """Signed distance to a rectangle given as west, east, south, north."""
    dx = abs(x - 0.5 * (edges[0] + edges[1])) - 0.5 * (edges[1] - edges[0])
    dy = abs(y - 0.5 * (edges[2] + edges[3])) - 0.5 * (edges[3] - edges[2])
    outside = math.sqrt(max(dx, 0.0) ** 2 + max(dy, 0.0) ** 2)
    return outside + min(max(dx, dy), 0.0)


@helper
def locate(x: float, y: float, out: np.ndarray) -> None:
    """Fill the six layers for one point."""
    for k in range(4):
        out[k] = 1e3
    best, second, number = 1e6, 1e6, -1.0
    for k in range(_SEGMENTS.shape[0]):
        ax, ay = _SEGMENTS[k, 0], _SEGMENTS[k, 1]
        ex, ey = _SEGMENTS[k, 2] - ax, _SEGMENTS[k, 3] - ay
        square = ex * ex + ey * ey
        t = min(1.0, max(0.0, ((x - ax) * ex + (y - ay) * ey) / square))
        dx, dy = x - ax - t * ex, y - ay - t * ey
        distance = math.sqrt(dx * dx + dy * dy)
        layer = int(_SEGMENTS[k, 6])
        out[layer] = min(out[layer], distance - _SEGMENTS[k, 4])
        if layer > 1:
            continue
        margin = distance - _SEGMENTS[k, 4]
        if _SEGMENTS[k, 7] == number:
            best = min(best, margin)
        elif margin < best:
            best, second, number = margin, best, _SEGMENTS[k, 7]
        else:
            second = min(second, margin)
        if margin == best and layer == 0:
            out[4] = distance if ex * dy - ey * dx > 0.0 else -distance
            out[5] = _SEGMENTS[k, 5] + t * math.sqrt(square)
    if second < 1.5:
        out[4] = 99.0
    out[0] = min(out[0], rectangle(x, y, _PARKING))
    out[2] = min(out[2], min(rectangle(x, y, _YARD), rectangle(x, y, _TANKS)))


@kernel
def raster(half: float, cell: float) -> np.ndarray:
    """[N, N, 6] layers over a square of half extent `half`, sampled every `cell` metres."""
    n = int(2 * half / cell) + 1
    out = np.empty((n, n, 6), np.float32)
    layers = np.empty(6)
    for i in range(n):
        for j in range(n):
            locate(-half + i * cell, -half + j * cell, layers)
            for k in range(6):
                out[i, j, k] = layers[k]
    return out


@kernel
def built_distance(x: float, y: float) -> float:
    """Metres to the nearest thing plants must keep clear of: paving, tracks, pads, buildings."""
    layers = np.empty(6)
    locate(x, y, layers)
    nearest = min(min(layers[0], layers[1]), min(layers[2], layers[3] - 1.5))
    nearest = min(nearest, rectangle(x, y, _APRON))
    ends = np.array((_RUNWAY[0] - 30.0, _RUNWAY[1] + 30.0, _RUNWAY[2] - _RUNWAY[3], _RUNWAY[2] + _RUNWAY[3]))
    nearest = min(nearest, rectangle(x, y, ends) - 4.0)
    for k in range(_PADS.shape[0]):
        nearest = min(nearest, layout.octagon(x - _PADS[k, 0], y - _PADS[k, 1], _PADS[k, 2]) - 5.0)
    for k in range(_CLEARINGS.shape[0]):
        dx, dy = x - _CLEARINGS[k, 0], y - _CLEARINGS[k, 1]
        nearest = min(nearest, math.sqrt(dx * dx + dy * dy) - _CLEARINGS[k, 2])
    return nearest
