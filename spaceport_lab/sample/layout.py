"""The plan of the spaceport: where things stand, in local east-north-up metres.

One place for the positions that both the geometry and the painted ground must agree on.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from spaceport_lab.sample.compiling import helper, kernel
from spaceport_lab.sample.noise import fractal, smooth

ORIGIN = {"lat": -30.9585, "lon": 136.5042, "alt": 165.0}
"""Where (0, 0, 0) of the site lies: WGS84 degrees and metres above the ellipsoid, in a semi-arid plain."""

_SUN = np.array([-0.50, 0.46, 0.73])
SUN: Float[np.ndarray, "3"] = _SUN / np.linalg.norm(_SUN)
"""Direction to the sun: in the north-west, as on a southern afternoon."""

PADS: Float[np.ndarray, "3 4"] = np.array(
    [(4.0, 24.0, 21.0, 1.0), (56.0, 36.0, 14.5, 0.7), (-46.0, 52.0, 12.0, 0.7)]
)
"""Launch pad, landing pad, test pad: east, north, apothem of the octagon, height of the slab."""

ROCKET_BASE = 3.2
ROCKET_HEIGHT = 40.0
TOWER = (-8.0, 24.0)

RUNWAY = (-118.0, 118.0, -62.0, 10.0)
"""West end, east end, north of the centre line, half width."""

APRON = (-80.0, -18.0, -36.0, -14.0)
PARKING = (62.0, 92.0, -32.0, -8.0)
YARD = (6.0, 34.0, -42.0, -24.0)
TANK_FARM = (-24.0, 6.0, 58.0, 80.0)
"""Rectangles: west, east, south, north."""

ROADS: tuple[tuple[float, tuple[tuple[float, float], ...]], ...] = (
    (
        3.6,
        (
            (420.0, -30.0),
            (200.0, -24.0),
            (120.0, -19.0),
            (62.0, -19.0),
            (36.0, -19.0),
            (8.0, -10.0),
            (4.0, 4.0),
        ),
    ),
    (3.2, ((-19.0, -25.0), (-4.0, -20.0), (8.0, -10.0), (30.0, 2.0), (48.0, 14.0), (55.0, 24.0))),
    (3.0, ((-14.0, 34.0), (-22.0, 43.0), (-36.0, 50.0))),
    (3.0, ((6.0, 44.0), (4.0, 52.0), (-8.0, 60.0))),
)
"""Asphalt: half width and the points of the centre line."""

TAXIWAYS: tuple[tuple[float, tuple[tuple[float, float], ...]], ...] = (
    (6.0, ((-50.0, -35.0), (-50.0, -53.0))),
    (6.0, ((-30.0, -35.0), (-14.0, -44.0), (0.0, -53.0))),
)

CRAWLERWAY: tuple[tuple[float, float], ...] = ((-27.0, -15.0), (-18.0, -2.0), (-10.0, 7.0), (-1.0, 11.0))
"""Centre line of the two gravel lanes on which rockets are rolled out."""

TRACKS: tuple[tuple[tuple[float, float], ...], ...] = (
    (
        (-140.0, -84.0),
        (-40.0, -88.0),
        (60.0, -84.0),
        (104.0, -70.0),
        (112.0, -10.0),
        (104.0, 60.0),
        (70.0, 92.0),
        (0.0, 98.0),
        (-70.0, 94.0),
        (-104.0, 60.0),
        (-108.0, 0.0),
        (-118.0, -44.0),
        (-210.0, -90.0),
    ),
    ((112.0, -10.0), (92.0, 8.0), (78.0, 16.0), (66.0, 26.0)),
    ((-104.0, 60.0), (-80.0, 40.0), (-60.0, 48.0)),
    ((0.0, 98.0), (20.0, 150.0), (10.0, 260.0), (60.0, 420.0)),
    ((-92.0, -18.0), (-98.0, 14.0), (-82.0, 22.0), (-72.0, 20.0)),
)
"""Unpaved tracks, as two ruts."""

CONTROL_POINTS: dict[str, tuple[float, float]] = {
    "GCP-1": (-24.5, -46.5),
    "GCP-2": (46.0, -38.0),
    "GCP-3": (31.0, 28.0),
    "GCP-4": (-70.5, 36.0),
    "GCP-5": (24.0, 66.0),
}
"""Black and white survey targets of 1.6 m on the ground, as surveyors lay them out before a flight."""

TARGET_SIZE = 1.6
KNOWN_DISTANCE = ("GCP-1", "GCP-2")

CORE = 112.0
"""Half extent of the site proper; beyond it there is only country."""

HALF_EXTENT = 430.0

_PADS = PADS


@helper
def octagon(x: float, y: float, apothem: float) -> float:
    """Signed distance (exact inside, near enough outside) to a regular octagon around the origin."""
    ax, ay = abs(x), abs(y)
    return max(max(ax, ay), (ax + ay) * 0.7071067811865476) - apothem


@kernel
def terrain_height(x: float, y: float) -> float:
    """Height of the bare ground in metres: nearly level on the site, rolling country around it."""
    distance = math.sqrt(x * x + 1.2 * y * y)
    hills = fractal(x + 300.0, y - 170.0, 210.0, 4, 0.42, 0.5, 11)
    gentle = fractal(x, y, 75.0, 3, 0.4, 0.5, 12)
    wild = smooth(95.0, 300.0, distance)
    return 0.8 * gentle + wild * (7.0 + 26.0 * hills)


@kernel
def ground_height(x: float, y: float) -> float:
    """Height of what one stands on: the ground, or the slab of a launch pad."""
    for k in range(_PADS.shape[0]):
        if octagon(x - _PADS[k, 0], y - _PADS[k, 1], _PADS[k, 2]) <= 0.0:
            return terrain_height(_PADS[k, 0], _PADS[k, 1]) + _PADS[k, 3]
    return terrain_height(x, y)


@kernel
def ground_heights(xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """[len(xs), len(ys)] heights of what one stands on."""
    out = np.empty((len(xs), len(ys)))
    for i in range(len(xs)):
        for j in range(len(ys)):
            out[i, j] = ground_height(xs[i], ys[j])
    return out


@kernel
def terrain_heights(xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """[len(xs), len(ys)] heights of the bare ground."""
    out = np.empty((len(xs), len(ys)))
    for i in range(len(xs)):
        for j in range(len(ys)):
            out[i, j] = terrain_height(xs[i], ys[j])
    return out


def known_points() -> dict[str, list[float]]:
    """Named points of the site, east-north-up metres: the survey targets and the rocket's tip."""
    points = {
        name: [east, north, float(ground_height(east, north))]
        for name, (east, north) in CONTROL_POINTS.items()
    }
    east, north = PADS[0, :2]
    tip = float(ground_height(east, north)) + ROCKET_BASE + ROCKET_HEIGHT
    return {**points, "rocket tip": [float(east), float(north), tip]}
