"""The ground as an orthophoto: painted and lit once, looked up by every photograph through a mip pyramid."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from spaceport_lab.sample import layout, paving
from spaceport_lab.sample.compiling import helper, kernel
from spaceport_lab.sample.markings import paint
from spaceport_lab.sample.site import Site, sky_share

SUN_LIGHT = np.array([2.55, 2.36, 2.05])
SKY_LIGHT = np.array([0.50, 0.61, 0.80])
"""Irradiance of the sun on a surface that faces it, and of the whole sky, in units of the exposure."""

_SUN = layout.SUN
_PADS = layout.PADS
_PAD_TOPS = np.array([layout.ground_height(east, north) for east, north, _, _ in layout.PADS])
_OPENNESS_CELL = 1.0
_BAND = 64


@dataclass(frozen=True)
class GroundMap:
    """The lit ground over a square, with its mip pyramid in one array.

    Attributes:
        half: half extent in metres.
        texels: [T, 3] radiance, level after level, each row-major with x first.
        starts: [L] where each level begins in `texels`.
        sizes: [L] texels per side of each level.
    """

    half: float
    texels: Float[np.ndarray, "T 3"]
    starts: Int[np.ndarray, "L"]
    sizes: Int[np.ndarray, "L"]


def paint_ground(site: Site, texel: float, workers: int) -> tuple[GroundMap, GroundMap]:
    """The site in full detail and the country around it, as maps of radiance.

    Args:
        texel: metres per texel on the site; about the photographs' ground sampling distance.
    """
    openness = _ground_openness(site)
    inner = _lit_map(site, 0.5, openness, layout.CORE, texel, 0.0, workers)
    outer = _lit_map(site, 2.0, openness, layout.HALF_EXTENT, 5.5 * texel, layout.CORE - 8.0, workers)
    return inner, outer


def _ground_openness(site: Site) -> Float[np.ndarray, "N N"]:
    """Share of the sky seen from the ground of the site, on a coarse grid."""
    axis = np.arange(-layout.CORE - 2, layout.CORE + 2.1, _OPENNESS_CELL)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    heights = layout.ground_heights(axis, axis)
    points = np.stack([x, y, heights + 0.25], axis=-1).reshape(-1, 3)
    up = np.broadcast_to([0.0, 0.0, 1.0], points.shape)
    return sky_share(site, points, up, 20).reshape(x.shape)


def _lit_map(
    site: Site, cell: float, openness: np.ndarray, half: float, texel: float, hole: float, workers: int
) -> GroundMap:
    """Paint and light a square in bands of rows; texels within `hole` metres of the centre are left black."""
    size = 64 * math.ceil(half / texel / 32)
    texel = 2 * half / size
    distances = paving.raster(half + 2 * cell, cell)
    axis = np.linspace(-half - 2 * cell, half + 2 * cell, distances.shape[0])
    heights = layout.terrain_heights(axis, axis)
    image = np.zeros((size, size, 3), np.float32)
    sunlit = np.empty((size, size), np.float32)
    rows = range(0, size, _BAND)

    def shadow(row: int) -> None:
        stop = min(size, row + _BAND)
        rays = np.empty(((stop - row) * size, 6), np.float32)
        aim_at_sun(row, stop, size, half, texel, heights, cell, rays)
        sunlit[row:stop] = ~site.blocked(rays).reshape(-1, size)

    def work(row: int) -> None:
        light(
            row, min(size, row + _BAND), half, texel, hole, distances, heights, cell, openness, sunlit, image
        )

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(shadow, rows))
        list(pool.map(work, rows))
    return _pyramid(image, half)


def _pyramid(image: Float[np.ndarray, "N N 3"], half: float) -> GroundMap:
    levels = [image]
    while levels[-1].shape[0] % 2 == 0 and levels[-1].shape[0] > 16:
        a = levels[-1]
        levels.append((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) * np.float32(0.25))
    sizes = np.array([a.shape[0] for a in levels])
    starts = np.concatenate([[0], np.cumsum(sizes**2)[:-1]])
    return GroundMap(half, np.concatenate([a.reshape(-1, 3) for a in levels]), starts, sizes)


@kernel
def aim_at_sun(
    row: int,
    stop: int,
    size: int,
    half: float,
    texel: float,
    heights: np.ndarray,
    cell: float,
    rays: np.ndarray,
) -> None:
    """A shadow ray for each texel, to one of nine places on the sun's disc; neighbours take the other eight,
    so that the mean of any 3 x 3 texels has seen the whole disc."""
    at = 0
    for i in range(row, stop):
        x = -half + (i + 0.5) * texel
        for j in range(size):
            y = -half + (j + 0.5) * texel
            height = _bilinear(heights, (x + half) / cell + 2.0, (y + half) / cell + 2.0)
            for k in range(_PADS.shape[0]):
                if layout.octagon(x - _PADS[k, 0], y - _PADS[k, 1], _PADS[k, 2]) < texel:
                    height = _PAD_TOPS[k]
            far = max(abs(x), abs(y)) > 130.0  # the country's mesh is coarser than its heights
            rays[at, 0] = x
            rays[at, 1] = y
            rays[at, 2] = height + (2.5 if far else 0.08)
            rays[at, 3] = _SUN[0] + 0.0032 * (i % 3 - 1)
            rays[at, 4] = _SUN[1] + 0.0032 * (j % 3 - 1)
            rays[at, 5] = _SUN[2]
            at += 1


@helper
def _mean_around(grid: np.ndarray, i: int, j: int) -> float:
    """Mean of the 3 x 3 values around one."""
    i = min(max(i, 1), grid.shape[0] - 2)
    j = min(max(j, 1), grid.shape[1] - 2)
    total = 0.0
    for a in range(i - 1, i + 2):
        for b in range(j - 1, j + 2):
            total += grid[a, b]
    return total / 9.0


@helper
def _bilinear(grid: np.ndarray, x: float, y: float) -> float:
    n = grid.shape[0]
    x = min(max(x, 0.0), n - 1.001)
    y = min(max(y, 0.0), n - 1.001)
    i, j = int(x), int(y)
    u, v = x - i, y - j
    a = grid[i, j] * (1 - v) + grid[i, j + 1] * v
    b = grid[i + 1, j] * (1 - v) + grid[i + 1, j + 1] * v
    return a * (1 - u) + b * u


@kernel
def light(
    row: int,
    stop: int,
    half: float,
    texel: float,
    hole: float,
    distances: np.ndarray,
    heights: np.ndarray,
    cell: float,
    openness: np.ndarray,
    sunlit: np.ndarray,
    image: np.ndarray,
) -> None:
    """Paint the rows' texels and light them: sun where nothing blocks it, sky by its openness."""
    size = image.shape[1]
    layers = np.empty(distances.shape[2])
    edge = 0.5 * (openness.shape[0] - 1) * _OPENNESS_CELL
    for i in range(row, stop):
        x = -half + (i + 0.5) * texel
        for j in range(size):
            y = -half + (j + 0.5) * texel
            if max(abs(x), abs(y)) < hole:
                continue
            for k in range(layers.shape[0]):
                layers[k] = _bilinear(distances[:, :, k], (x + half) / cell + 2.0, (y + half) / cell + 2.0)
            red, green, blue = paint(x, y, texel, layers)
            slab = 1.0
            for k in range(_PADS.shape[0]):
                slab = min(slab, layout.octagon(x - _PADS[k, 0], y - _PADS[k, 1], _PADS[k, 2]))
            gx, gy = (x + half) / cell + 2.0, (y + half) / cell + 2.0
            dzdx = 0.5 * (_bilinear(heights, gx + 1.0, gy) - _bilinear(heights, gx - 1.0, gy)) / cell
            dzdy = 0.5 * (_bilinear(heights, gx, gy + 1.0) - _bilinear(heights, gx, gy - 1.0)) / cell
            if slab < 0.0:
                dzdx, dzdy = 0.0, 0.0
            facing = (_SUN[2] - dzdx * _SUN[0] - dzdy * _SUN[1]) / math.sqrt(1 + dzdx * dzdx + dzdy * dzdy)
            sun = max(0.0, facing) * _mean_around(sunlit, i, j)
            sky = 1.0
            if max(abs(x), abs(y)) < edge:
                sky = _bilinear(openness, (x + edge) / _OPENNESS_CELL, (y + edge) / _OPENNESS_CELL)
            image[i, j, 0] = red * (SUN_LIGHT[0] * sun + SKY_LIGHT[0] * sky)
            image[i, j, 1] = green * (SUN_LIGHT[1] * sun + SKY_LIGHT[1] * sky)
            image[i, j, 2] = blue * (SUN_LIGHT[2] * sun + SKY_LIGHT[2] * sky)


@helper
def _texel(
    texels: np.ndarray, start: int, size: int, x: float, y: float, out: np.ndarray, weight: float
) -> None:
    """Add the bilinear sample at (x, y) in 0..1 of one level."""
    u = min(max(x * size - 0.5, 0.0), size - 1.001)
    v = min(max(y * size - 0.5, 0.0), size - 1.001)
    i, j = int(u), int(v)
    u -= i
    v -= j
    at = start + i * size + j
    a, b, c, d = (1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v
    for k in range(3):
        out[k] += weight * (
            a * texels[at, k]
            + b * texels[at + 1, k]
            + c * texels[at + size, k]
            + d * texels[at + size + 1, k]
        )


@helper
def look_up(
    x: float, y: float, footprint: float, half: float, texels: np.ndarray, starts: np.ndarray,
    sizes: np.ndarray, out: np.ndarray, weight: float,
) -> None:  # fmt: skip
    """Add `weight` times the ground's radiance at (x, y), averaged over `footprint` metres, to `out` [3]."""
    level = math.log2(max(1.0, footprint * sizes[0] / (2 * half)))
    level = min(level, sizes.shape[0] - 1.0)
    low = int(level)
    high = min(low + 1, sizes.shape[0] - 1)
    u, v = (x + half) / (2 * half), (y + half) / (2 * half)
    part = level - low
    _texel(texels, starts[low], sizes[low], u, v, out, weight * (1 - part))
    if part > 0:
        _texel(texels, starts[high], sizes[high], u, v, out, weight * part)
