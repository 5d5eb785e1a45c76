"""Photographs of the site: rays through Open3D's ray caster, lit by the sun and the sky, on the CPU."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from spaceport_lab.sample import layout
from spaceport_lab.sample.builder import FOLIAGE
from spaceport_lab.sample.compiling import helper, kernel
from spaceport_lab.sample.ground import SKY_LIGHT, SUN_LIGHT, GroundMap, look_up, paint_ground
from spaceport_lab.sample.materials import reflectance
from spaceport_lab.sample.site import Site, build_site

_SUN = layout.SUN
_SUN_LIGHT, _SKY_LIGHT = SUN_LIGHT, SKY_LIGHT
_FOLIAGE = float(FOLIAGE)
_BOUNCE = np.array([0.62, 0.46, 0.31])
_HAZE = np.array([0.80, 0.86, 0.95])
_VISIBILITY = 3200.0
_SUBPIXELS = np.array([(0.125, 0.625), (0.375, 0.125), (0.625, 0.875), (0.875, 0.375)])
"""Four samples a pixel on a turned grid: better edges than 2 x 2 at the same cost."""

_BAND = 50


@dataclass(frozen=True)
class Stage:
    """All that photographs are made from: geometry and the lit ground."""

    site: Site
    inner: GroundMap
    outer: GroundMap


def set_stage(seed: int, texel: float, progress: Callable[[str], None] = lambda message: None) -> Stage:
    """Build the site and paint its ground at `texel` metres a texel."""
    progress("building the spaceport")
    site = build_site(seed)
    progress("painting the ground")
    return Stage(site, *paint_ground(site, texel, _workers()))


def photograph(
    stage: Stage,
    center: Float[np.ndarray, "3"],
    rotation: Float[np.ndarray, "3 3"],
    focal: float,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "H W 3"]:
    """One photograph by a pinhole camera whose principal point is the image's centre.

    Args:
        center: camera position, east-north-up metres.
        rotation: world to camera, OpenCV axes.
        focal: focal length in pixels.
        rng: for the sensor's noise only.
    """
    image = np.empty((height, width, 3))

    def band(top: int) -> None:
        stop = min(height, top + _BAND)
        image[top:stop] = _radiance(stage, center, rotation, focal, width, height, top, stop)

    with ThreadPoolExecutor(_workers()) as pool:
        list(pool.map(band, range(0, height, _BAND)))
    return develop(image, rng)


def develop(radiance: Float[np.ndarray, "H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Exposure, a film-like shoulder, gamma, a little sensor noise, eight bits."""
    exposed = 1.0 - np.exp(-0.9 * radiance)
    encoded = exposed ** (1 / 2.2)
    encoded = encoded + 0.36 * (encoded - 0.5) * (1.0 - np.abs(2.0 * encoded - 1.0))
    noise = rng.normal(0.0, 1.0, radiance.shape[:2])[..., None] * 0.0045
    noise = noise + rng.normal(0.0, 0.0025, radiance.shape)
    return np.clip(np.rint(255.0 * (encoded + noise)), 0, 255).astype(np.uint8)


def camera_rays(
    center: Float[np.ndarray, "3"],
    rotation: Float[np.ndarray, "3 3"],
    focal: float,
    width: int,
    height: int,
    top: int,
    stop: int,
) -> Float[np.ndarray, "R 6"]:
    """Rays of rows `top` to `stop`, four a pixel; their length is one metre along the optical axis."""
    rows, columns, _ = np.meshgrid(np.arange(top, stop), np.arange(width), np.arange(4), indexing="ij")
    u = (columns + _SUBPIXELS[:, 0] - width / 2) / focal
    v = (rows + _SUBPIXELS[:, 1] - height / 2) / focal
    directions = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ rotation
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3], rays[:, 3:] = center, directions
    return rays


def _radiance(
    stage: Stage, center, rotation, focal: float, width: int, height: int, top: int, stop: int
) -> Float[np.ndarray, "R W 3"]:
    site = stage.site
    rays = camera_rays(center, rotation, focal, width, height, top, stop)
    depth, triangle, uv = site.cast(rays)
    points = np.empty((len(rays), 3), np.float32)
    normals = np.empty((len(rays), 3), np.float32)
    openness = np.empty(len(rays), np.float32)
    owner = np.empty(len(rays), np.int32)
    gather(rays, depth, triangle, uv, site.normals, site.openness, site.owner,
           points, normals, openness, owner)  # fmt: skip
    standing = np.flatnonzero(owner > 0)
    shadow_rays = np.empty((len(standing), 6), np.float32)
    shadow_rays[:, :3] = points[standing] + 0.05 * normals[standing]
    shadow_rays[:, 3:] = layout.SUN
    lit = np.ones(len(rays), np.float32)
    lit[standing] = ~site.blocked(shadow_rays)
    out = np.zeros((len(rays), 3), np.float32)
    inner, outer = stage.inner, stage.outer
    shade(rays, depth, points, normals, openness, owner, lit, focal, site.objects,
          inner.half, inner.texels, inner.starts, inner.sizes,
          outer.half, outer.texels, outer.starts, outer.sizes, out)  # fmt: skip
    return out.reshape(stop - top, width, 4, 3).mean(axis=2)


@kernel
def gather(
    rays,
    depth,
    triangle,
    uv,
    corner_normals,
    corner_openness,
    owners,
    points,
    normals,
    openness,
    owner,
):
    """Fill in what each ray met: point, normal towards the camera, openness, and its object (0 for
    the ground, -1 for nothing)."""
    for r in range(len(depth)):
        if not math.isfinite(depth[r]):
            owner[r] = -1
            continue
        f = triangle[r]
        for k in range(3):
            points[r, k] = rays[r, k] + depth[r] * rays[r, 3 + k]
        owner[r] = owners[f]
        if owner[r] == 0:
            continue
        b, c = uv[r, 0], uv[r, 1]
        a = 1.0 - b - c
        openness[r] = a * corner_openness[f, 0] + b * corner_openness[f, 1] + c * corner_openness[f, 2]
        length, towards = 0.0, 0.0
        for k in range(3):
            normals[r, k] = (
                a * corner_normals[f, 0, k] + b * corner_normals[f, 1, k] + c * corner_normals[f, 2, k]
            )
            length += normals[r, k] ** 2
            towards += normals[r, k] * rays[r, 3 + k]
        scale = (-1.0 if towards > 0.0 else 1.0) / math.sqrt(max(length, 1e-12))
        for k in range(3):
            normals[r, k] *= scale


@kernel
def shade(rays, depth, points, normals, openness, owner, lit, focal, objects,
          half, texels, starts, sizes, far_half, far_texels, far_starts, far_sizes, out):  # fmt: skip
    """Radiance along each ray, through the haze."""
    colour = np.zeros(3)
    for r in range(len(depth)):
        reach = 0.0
        for k in range(3):
            reach += rays[r, 3 + k] ** 2
        reach = math.sqrt(reach)
        if owner[r] < 0:
            for k in range(3):
                out[r, k] = _HAZE[k]
            continue
        distance = depth[r] * reach
        foot = 0.62 * distance / (focal * reach)
        colour[:] = 0.0
        if owner[r] == 0:
            # The footprint is an ellipse stretched away from the camera: two round samples along it.
            flat = math.sqrt(rays[r, 3] ** 2 + rays[r, 4] ** 2) + 1e-9
            stretch = min(4.0, reach / max(0.05, abs(rays[r, 5])))
            shift = 0.25 * foot * (stretch - 1.0)
            for side in (-1.0, 1.0):
                x = points[r, 0] + side * shift * rays[r, 3] / flat
                y = points[r, 1] + side * shift * rays[r, 4] / flat
                wide = 0.5 * foot * (1.0 + stretch)
                if max(abs(x), abs(y)) < half - 3.0 * wide:
                    look_up(x, y, wide, half, texels, starts, sizes, colour, 0.5)
                else:
                    look_up(x, y, wide, far_half, far_texels, far_starts, far_sizes, colour, 0.5)
        else:
            _light(r, points, normals, openness, lit, foot, rays, reach, objects[owner[r]], colour)
        clear = math.exp(-distance / _VISIBILITY)
        for k in range(3):
            out[r, k] = colour[k] * clear + _HAZE[k] * (1.0 - clear)


@helper
def _light(r, points, normals, openness, lit, foot, rays, reach, row, colour):
    """Sun, sky, light from the ground below, and a mild reflection of the sun and the sky."""
    nx, ny, nz = normals[r, 0], normals[r, 1], normals[r, 2]
    albedo, gloss = reflectance(points[r, 0], points[r, 1], points[r, 2], nx, ny, nz, foot, row)
    facing = nx * _SUN[0] + ny * _SUN[1] + nz * _SUN[2]
    if row[0] == _FOLIAGE:
        facing = 0.25 + 0.75 * facing  # leaves let light through
    sun = max(0.0, facing) * lit[r]
    up = 0.5 + 0.5 * nz
    vx, vy, vz = -rays[r, 3] / reach, -rays[r, 4] / reach, -rays[r, 5] / reach
    grazing = 1.0 - max(0.0, nx * vx + ny * vy + nz * vz)
    mirror = gloss * (0.06 + 0.5 * grazing**5)
    hx, hy, hz = vx + _SUN[0], vy + _SUN[1], vz + _SUN[2]
    length = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
    glint = gloss * 0.55 * max(0.0, (nx * hx + ny * hy + nz * hz) / length) ** 48 * lit[r]
    for k in range(3):
        light = _SUN_LIGHT[k] * sun + openness[r] * (_SKY_LIGHT[k] * up + _BOUNCE[k] * (1.0 - up))
        colour[k] = albedo[k] * light * (1.0 - mirror) + mirror * _HAZE[k] + glint * _SUN_LIGHT[k]


def _workers() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
