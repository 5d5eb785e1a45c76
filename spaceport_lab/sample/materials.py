"""How surfaces that stand on the ground look: painted steel, corrugated sheet, walls with windows, leaves.

Each material is a function of a point in its object's own frame (metres), the normal there, the footprint of
the sample and the object's row; it gives a linear reflectance and a gloss.
"""

from __future__ import annotations

import math

import numpy as np

from spaceport_lab.sample import builder
from spaceport_lab.sample.compiling import helper
from spaceport_lab.sample.markings import dim, mix
from spaceport_lab.sample.noise import cover, dice, fractal, fractal3, smooth, stripes

# Copies, because numba freezes a module's own globals.
_PLAIN, _CORRUGATED, _WALL, _ROCKET, _TANK = (
    builder.PLAIN,
    builder.CORRUGATED,
    builder.WALL,
    builder.ROCKET,
    builder.TANK,
)
_FOLIAGE, _CONCRETE, _VEHICLE, _GLASS, _CONTAINER = (
    builder.FOLIAGE,
    builder.CONCRETE,
    builder.VEHICLE,
    builder.GLASS,
    builder.CONTAINER,
)


_STROKE, _NAME_TOP = 0.235, 21.0
_GLYPHS = {
    "S": ".####|#....|#....|.###.|....#|....#|####.",
    "P": "####.|#...#|#...#|####.|#....|#....|#....",
    "A": ".###.|#...#|#...#|#####|#...#|#...#|#...#",
    "C": ".####|#....|#....|#....|#....|#....|.####",
    "E": "#####|#....|#....|####.|#....|#....|#####",
    "O": ".###.|#...#|#...#|#...#|#...#|#...#|.###.",
    "R": "####.|#...#|#...#|####.|#.#..|#..#.|#...#",
    "T": "#####|..#..|..#..|..#..|..#..|..#..|..#..",
}
_LETTERS = np.array([[[dot == "#" for dot in line] for line in _GLYPHS[c].split("|")] for c in "SPACEPORT"])


@helper
def _along(x: float, y: float, nx: float, ny: float) -> float:
    """The horizontal coordinate along a wall of the object's box."""
    return y if abs(nx) > abs(ny) else x


@helper
def _streaks(u: float, z: float, foot: float, seed: int) -> float:
    """Dirt that rain has drawn down a wall, about -1 to 1."""
    return fractal(u, 0.12 * z, 1.3, 4, 0.65, foot, seed)


@helper
def _corrugated(x, y, z, nx, ny, nz, foot, row):
    colour = (row[9], row[10], row[11])
    seed = int(row[15])
    roof = row[7] > 0.5
    u = y if roof else _along(x, y, nx, ny)
    v = x if roof else z
    pitch = row[6]
    tone = 1.0 - 0.34 * stripes(u, pitch, 0.36 * pitch, foot)
    sheet = dice(math.floor(u / 3.2), math.floor((v + 40.0) / 4.1), 131 + seed)
    tone *= 0.90 + 0.20 * sheet
    tone *= 1.0 - 0.35 * stripes(v, 4.1, 0.12, foot)
    dirt = _streaks(u, z if not roof else abs(x), foot, 132 + seed)
    tone *= 1.0 + 0.16 * dirt
    rust = smooth(0.12, 0.55, fractal(u, 0.35 * v, 3.1, 5, 0.62, foot, 133 + seed) + 0.25 * dirt)
    return mix(dim(colour, tone), (0.20, 0.095, 0.05), 0.62 * rust), 0.22 * (1.0 - rust)


@helper
def _wall(x, y, z, nx, ny, nz, foot, row):
    seed = int(row[15])
    if nz > 0.5:
        tone = 1.0 + 0.20 * fractal(x, y, 4.0, 4, 0.6, foot, 141 + seed)
        tone += 0.14 * fractal(x, y, 0.7, 3, 0.7, foot, 142 + seed)
        tone *= 1.0 - 0.30 * stripes(x, 2.4, 0.12, foot)
        puddle = smooth(0.15, 0.4, fractal(x, y, 5.5, 3, 0.5, foot, 143 + seed))
        return dim((row[12], row[13], row[14]), tone * (1.0 - 0.28 * puddle)), 0.05
    u = _along(x, y, nx, ny)
    pitch, storey = row[6], row[7]
    colour = dim((row[9], row[10], row[11]), 1.0 + 0.13 * _streaks(u, z, foot, 144 + seed))
    colour = dim(colour, 1.0 - 0.22 * (1.0 - smooth(0.0, 1.4, z)))
    column, level = math.floor(u / pitch + 0.5), math.floor(z / storey)
    du, dv = abs(u - pitch * column), abs(z - storey * level - 0.56 * storey)
    if z < storey * math.floor(row[8] / storey + 0.1):
        frame = cover(max(du - 0.36 * pitch, dv - 0.29 * storey), foot)
        pane = cover(max(du - 0.31 * pitch, dv - 0.24 * storey), foot)
        blind = dice(int(column), int(level), 145 + seed)
        glass = (0.05, 0.06, 0.07) if blind < 0.7 else (0.34, 0.33, 0.30)
        colour = mix(mix(colour, (0.66, 0.65, 0.62), frame), glass, pane)
        return colour, 0.05 + 0.55 * pane
    return colour, 0.05


@helper
def _lettering(angle: float, radius: float, z: float) -> float:
    """The name down a rocket's side, letters above one another, 1 where there is paint."""
    column = math.floor(angle * radius / _STROKE + 2.5)
    row = math.floor((_NAME_TOP - z) / _STROKE)
    letter = row // 8
    if not (0 <= column < 5 and 0 <= letter < _LETTERS.shape[0]):
        return 0.0
    return 1.0 if row - 8 * letter < 7 and _LETTERS[int(letter), int(row - 8 * letter), int(column)] else 0.0


@helper
def _rocket(x, y, z, foot, row):
    radius, height = row[6], row[8]
    white, second = (row[9], row[10], row[11]), (row[12], row[13], row[14])
    angle = math.atan2(y, x)
    around = angle * radius
    part = z / height
    tone = 1.0 + 0.07 * fractal(
        3.0 * math.cos(angle), 3.0 * math.sin(angle) + 0.25 * z, 1.2, 4, 0.6, 0.4 * foot, 151
    )
    tone *= 1.0 - 0.24 * stripes(z, 3.05, 0.10, foot)
    tone *= 1.0 - 0.16 * stripes(around, radius * math.pi / 3, 0.09, foot)
    colour = dim(white, tone)
    dark = cover(abs(part - 0.565) * height - 1.25, foot)
    dark = max(dark, cover(z - 0.035 * height, foot))
    dark = max(dark, cover(abs(part - 0.735) * height - 0.35, foot))
    quarter = 1.0 if (angle > 0.0) == (math.cos(angle) > 0.0) else 0.0
    dark = max(dark, quarter * cover(abs(part - 0.105) * height - 0.055 * height, foot))
    dark = max(dark, (1.0 - quarter) * cover(abs(part - 0.68) * height - 0.045 * height, foot))
    dark = max(dark, cover(0.955 * height - z, foot))
    if height > 30.0:
        colour = mix(
            colour, (0.05, 0.10, 0.28), 0.9 * _lettering(angle - math.copysign(1.6, angle), radius, z)
        )
    soot = (
        0.6 * smooth(0.22, 0.0, part + 0.05 * fractal(around, z, 1.6, 4, 0.6, foot, 153))
        if radius < 2.0
        else 0.0
    )
    return dim(mix(colour, dim(second, tone), dark), 1.0 - soot), 0.35


@helper
def _tank(x, y, z, nx, ny, nz, foot, row):
    seed = int(row[15])
    around = math.atan2(y, x) * row[6]
    tone = 1.0 - 0.20 * stripes(z, row[7], 0.10, foot) - 0.14 * stripes(around, 2.2, 0.09, foot)
    tone += 0.08 * fractal3(x, y, z, 1.8, 3, 0.6, foot, 161 + seed)
    stain = smooth(0.1, 0.55, fractal(around, 0.18 * z, 1.5, 4, 0.62, foot, 162 + seed) - 0.25 * nz)
    return mix(dim((row[9], row[10], row[11]), tone), (0.26, 0.17, 0.11), 0.55 * stain), 0.3


@helper
def _foliage(px, py, pz, foot, row):
    seed = int(row[15])
    clump = fractal3(px, py, pz, 1.5, 3, 0.62, foot, 171 + seed)
    leaves = fractal3(px, py, pz, 0.42, 2, 0.7, foot, 172 + seed)
    colour = dim((row[9], row[10], row[11]), max(0.2, 1.0 + 0.95 * clump + 0.85 * leaves))
    return mix(colour, (0.20, 0.19, 0.07), 0.35 * smooth(0.1, 0.7, clump)), 0.02


@helper
def _vehicle(x, y, z, nx, ny, nz, foot, row):
    colour = (row[9], row[10], row[11])
    if row[8] < 0.5:  # a cabin: glass at the sides, paint on the roof
        if nz < 0.75:
            return (0.03, 0.035, 0.04), 0.6
        return colour, 0.4
    if row[8] < 2.0:  # a car's lower body
        wheel = cover(max(abs(abs(x) - 0.31 * row[6]) - 0.36, z - 0.68), foot) if nz < 0.5 else 0.0
        return mix(colour, (0.03, 0.03, 0.03), wheel), 0.4
    tone = 1.0 + 0.06 * fractal3(x, y, z, 1.2, 3, 0.6, foot, 181)
    tone *= 1.0 - 0.18 * stripes(x, 1.24, 0.08, foot)
    return dim(colour, tone), 0.2


@helper
def _container(x, y, z, nx, ny, nz, foot, row):
    seed = int(row[15])
    u = x if nz > 0.5 else _along(x, y, nx, ny)
    tone = 1.0 - 0.32 * stripes(u, row[6], 0.4 * row[6], foot)
    faded = 0.5 + 0.5 * fractal3(x, y, z, 2.6, 4, 0.6, foot, 191 + seed)
    colour = mix(
        dim((row[9], row[10], row[11]), tone), (0.42, 0.38, 0.34), 0.22 * faded * (1.5 if nz > 0.5 else 0.6)
    )
    rust = smooth(0.22, 0.6, fractal3(x, y, z, 1.1, 4, 0.65, foot, 192 + seed))
    edge = cover(2.88 - abs(x), foot)
    colour = dim(colour, 1.0 - 0.3 * edge)
    sign = cover(max(abs(u + 0.8) - 1.3, abs(z - 1.7) - 0.42), foot) if nz < 0.5 and abs(ny) > 0.5 else 0.0
    colour = mix(colour, (0.60, 0.59, 0.56), 0.75 * sign * (1.0 if dice(seed, 1, 193) < 0.6 else 0.0))
    return mix(colour, (0.22, 0.10, 0.05), 0.7 * rust), 0.1


@helper
def reflectance(
    px: float, py: float, pz: float, nx: float, ny: float, nz: float, foot: float, row: np.ndarray
) -> tuple[tuple[float, float, float], float]:
    """Linear reflectance and gloss of object `row` at world point p with world normal n."""
    c, s = row[4], row[5]
    dx, dy, z = px - row[1], py - row[2], pz - row[3]
    x, y = c * dx + s * dy, c * dy - s * dx
    mx, my = c * nx + s * ny, c * ny - s * nx
    material = int(row[0])
    if material == _CORRUGATED:
        return _corrugated(x, y, z, mx, my, nz, foot, row)
    if material == _WALL:
        return _wall(x, y, z, mx, my, nz, foot, row)
    if material == _ROCKET:
        return _rocket(x, y, z, foot, row)
    if material == _TANK:
        return _tank(x, y, z, mx, my, nz, foot, row)
    if material == _FOLIAGE:
        return _foliage(px, py, pz, foot, row)
    if material == _VEHICLE:
        return _vehicle(x, y, z, mx, my, nz, foot, row)
    if material == _CONTAINER:
        return _container(x, y, z, mx, my, nz, foot, row)
    colour = (row[9], row[10], row[11])
    if material == _GLASS:
        return dim(colour, 1.0 - 0.4 * stripes(math.atan2(y, x), 0.393, 0.05, 0.3 * foot)), 0.7
    u = _along(x, y, mx, my)
    tone = (
        1.0
        + 0.12 * fractal3(x, y, z, 1.7, 4, 0.62, foot, 201 + int(row[15]))
        + 0.10 * _streaks(u, z, foot, 202)
    )
    if material == _CONCRETE:
        return dim(colour, tone - 0.08 * stripes(z, 1.2, 0.1, foot)), 0.02
    return dim(colour, tone * (1.0 - 0.16 * stripes(z, 2.6, 0.10, foot))), 0.12
