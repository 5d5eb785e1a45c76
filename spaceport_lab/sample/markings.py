"""What the ground is made of and what is painted on it: soil, grass, gravel, asphalt, concrete, lines, soot.

Colours are linear reflectances. Every function gets `foot`, the metres one sample covers.
"""

from __future__ import annotations

import math

import numpy as np

from spaceport_lab.sample import layout
from spaceport_lab.sample.compiling import helper
from spaceport_lab.sample.noise import (
    cover,
    dice,
    fractal,
    gradient_noise,
    ridge,
    smooth,
    stripes,
)
from spaceport_lab.sample.paving import rectangle

_SUN = layout.SUN
_PADS = layout.PADS
_RUNWAY = np.array(layout.RUNWAY)
_APRON = np.array(layout.APRON)
_PARKING = np.array(layout.PARKING)
_TARGETS = np.array(list(layout.CONTROL_POINTS.values()))
_TARGET_HALF = layout.TARGET_SIZE / 2

# Seven-segment strokes of the runway's numbers: x0, x1, y0, y1 in a cell of 2 by 4.
_SEGMENTS = np.array(
    [(0.0, 2.0, 3.5, 4.0), (0.0, 0.5, 2.0, 4.0), (1.5, 2.0, 2.0, 4.0), (0.0, 2.0, 1.75, 2.25),
     (0.0, 0.5, 0.0, 2.0), (1.5, 2.0, 0.0, 2.0), (0.0, 2.0, 0.0, 0.5)]
)  # fmt: skip
_DIGITS = np.array(
    [(1, 1, 1, 0, 1, 1, 1), (0, 0, 1, 0, 0, 1, 0), (1, 0, 1, 1, 1, 0, 1), (1, 0, 1, 1, 0, 1, 1),
     (0, 1, 1, 1, 0, 1, 0), (1, 1, 0, 1, 0, 1, 1), (1, 1, 0, 1, 1, 1, 1), (1, 0, 1, 0, 0, 1, 0),
     (1, 1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 0, 1, 1)]
)  # fmt: skip


@helper
def mix(a: tuple[float, float, float], b: tuple[float, float, float], t: float) -> tuple[float, float, float]:
    """From a to b by t in 0..1."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


@helper
def dim(a: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    """A colour made lighter or darker."""
    return a[0] * factor, a[1] * factor, a[2] * factor


@helper
def relief(x: float, y: float, wavelength: float, octaves: int, foot: float, seed: int) -> float:
    """Light and shade on small bumps: the slope of a noise surface towards the sun."""
    step = max(0.06 * wavelength, 0.5 * foot)
    dx, dy = _SUN[0] * step, _SUN[1] * step
    here = fractal(x - dx, y - dy, wavelength, octaves, 0.6, foot, seed)
    there = fractal(x + dx, y + dy, wavelength, octaves, 0.6, foot, seed)
    return (here - there) * wavelength / (12.0 * step)


@helper
def open_country(x: float, y: float, foot: float) -> tuple[float, float, float]:
    """Dry grassland: red-brown soil, straw, greener hollows, tussocks, stones."""
    broad = fractal(x, y, 85.0, 3, 0.5, foot, 41)
    patch = fractal(x, y, 21.0, 5, 0.60, foot, 42)
    tuft = fractal(x, y, 2.6, 4, 0.70, foot, 43)
    fine = fractal(x, y, 0.62, 2, 0.7, foot, 44)
    soil = mix((0.335, 0.200, 0.120), (0.43, 0.305, 0.195), smooth(-0.3, 0.4, patch + 0.5 * tuft))
    straw = mix((0.365, 0.295, 0.150), (0.215, 0.190, 0.085), smooth(-0.28, 0.28, tuft))
    green = mix((0.105, 0.130, 0.045), (0.205, 0.205, 0.080), smooth(-0.3, 0.3, tuft - 0.6 * patch))
    grass = mix(straw, green, smooth(-0.16, 0.24, broad + 0.65 * patch + 0.30 * tuft))
    bare = smooth(0.02, 0.24, 0.75 * fractal(x, y, 34.0, 5, 0.58, foot, 45) + 0.34 * tuft - 0.30 * broad)
    colour = mix(grass, soil, bare)
    shade = 1.0 + 0.70 * (1.0 - 0.5 * bare) * tuft + 0.85 * (1.0 - 0.3 * bare) * fine
    shade += 1.15 * relief(x, y, 2.6, 4, foot, 46)
    return dim(_tussocks(x, y, foot, colour, bare), max(0.3, shade))


@helper
def _tussocks(
    x: float, y: float, foot: float, colour: tuple[float, float, float], bare: float
) -> tuple[float, float, float]:
    """Scattered clumps of spinifex with their small shadows, and stones on bare soil."""
    for k in range(2):
        cell = 2.6 if k == 0 else 1.15
        i, j = math.floor(x / cell), math.floor(y / cell)
        if dice(i, j, 51 + k) > (0.34 if k == 0 else 0.24):
            continue
        radius = cell * (0.10 + 0.13 * dice(i, j, 53 + k))
        cx = (i + 0.3 + 0.4 * dice(i, j, 55 + k)) * cell
        cy = (j + 0.3 + 0.4 * dice(i, j, 57 + k)) * cell
        wobble = 0.35 * radius * gradient_noise(x / (0.7 * radius), y / (0.7 * radius), 59)
        edge = max(foot, 0.12)
        dx, dy = x - cx + 0.55 * radius * _SUN[0], y - cy + 0.55 * radius * _SUN[1]
        dark = cover(math.sqrt(dx * dx + dy * dy) - radius + wobble, edge)
        colour = dim(colour, 1.0 - 0.42 * dark)
        body = cover(math.sqrt((x - cx) ** 2 + (y - cy) ** 2) - 0.92 * radius + wobble, edge)
        if k == 1 and dice(i, j, 60) < bare:
            tone = (0.44, 0.38, 0.31)  # a stone
        elif dice(i, j, 61) < 0.5:
            tone = (0.150, 0.155, 0.065)
        else:
            tone = (0.30, 0.265, 0.14)
        colour = mix(colour, dim(tone, 0.8 + 0.5 * dice(i, j, 62)), body)
    return colour


@helper
def gravel(x: float, y: float, foot: float) -> tuple[float, float, float]:
    """Crushed stone with wheel marks and puddle stains."""
    tone = 1.0 + 0.26 * fractal(x, y, 7.0, 4, 0.6, foot, 71) + 0.36 * fractal(x, y, 0.7, 3, 0.75, foot, 72)
    tone += 0.22 * relief(x, y, 1.1, 3, foot, 73)
    return dim((0.375, 0.345, 0.300), max(0.3, tone))


@helper
def asphalt(x: float, y: float, foot: float) -> tuple[float, float, float]:
    """Worn asphalt: mended patches, sealed cracks, oil, sand blown over it."""
    tone = 1.0 + 0.26 * fractal(x, y, 16.0, 6, 0.66, foot, 81) + 0.26 * fractal(x, y, 0.9, 3, 0.75, foot, 82)
    i, j = math.floor(x / 7.3), math.floor(y / 5.1)
    if dice(i, j, 83) < 0.16:
        px, py = x - (i + 0.5) * 7.3, y - (j + 0.5) * 5.1
        size = 0.8 + 1.4 * dice(i, j, 84)
        tone *= 1.0 - 0.30 * cover(max(abs(px) - 1.5 * size, abs(py) - 0.6 * size), foot)
    tone *= 1.0 - 0.45 * ridge(x, y, 9.0, 0.10, foot, 85) - 0.35 * ridge(x, y, 4.1, 0.07, foot, 86)
    sand = smooth(0.18, 0.55, fractal(x, y, 11.0, 5, 0.6, foot, 87))
    return mix(dim((0.150, 0.148, 0.146), max(0.3, tone)), (0.34, 0.255, 0.175), 0.45 * sand)


@helper
def concrete(x: float, y: float, foot: float, slab: float) -> tuple[float, float, float]:
    """Slabs with joints, each its own tone, stained and cracked."""
    i, j = math.floor(x / slab), math.floor(y / slab)
    tone = 0.90 + 0.20 * dice(i, j, 91)
    tone += 0.17 * fractal(x, y, 5.0, 5, 0.66, foot, 92) + 0.16 * fractal(x, y, 0.8, 3, 0.7, foot, 93)
    tone -= 0.26 * smooth(0.10, 0.6, fractal(x, y, 13.0, 5, 0.6, foot, 94))
    joint = max(stripes(x, slab, 0.12, foot), stripes(y, slab, 0.12, foot))
    tone *= 1.0 - 0.42 * joint
    if dice(i, j, 95) < 0.3:
        tone *= 1.0 - 0.38 * ridge(x, y, 6.0, 0.07, foot, 96)
    return dim((0.435, 0.415, 0.375), max(0.2, tone))


@helper
def _worn(x: float, y: float, foot: float) -> float:
    """How much of a painted line is left."""
    return 0.86 - 0.40 * smooth(0.0, 0.5, fractal(x, y, 1.7, 4, 0.65, foot, 98))


@helper
def _runway(x: float, y: float, foot: float) -> tuple[float, float, float]:
    """Asphalt with threshold bars, numbers, centre line, edge lines, and the rubber of many landings."""
    west, east, middle, half = _RUNWAY
    colour = dim(asphalt(x, y, foot), 0.92)
    v = y - middle
    inside = min(x - west, east - x)
    rubber = smooth(8.0, 30.0, inside) * (1.0 - smooth(45.0, 85.0, inside))
    streak = 0.6 + 0.6 * fractal(0.06 * x, y, 0.7, 3, 0.6, 0.25 * foot, 99)
    lanes = math.exp(-((abs(v) - 2.1) ** 2) / 1.4) + 0.35 * math.exp(-(v * v) / 9.0)
    colour = dim(colour, 1.0 - 0.62 * rubber * min(1.0, lanes) * min(1.2, max(0.0, streak)))
    line = cover(abs(abs(v) - (half - 0.9)) - 0.30, foot)
    if 4.0 < inside < 15.0:
        across = abs(v) - 1.1
        bars = stripes(across - 0.9, 1.8, 0.95, foot) if 0.0 < across < 7.2 else 0.0
        line = max(line, bars * cover(max(5.0 - inside, inside - 14.0), foot))
    line = max(line, _number(x - west - 17.5, v, 0, 9, foot))
    line = max(line, _number(east - 17.5 - x, -v, 2, 7, foot))
    if inside > 30.0:
        dash = abs(x - 14.0 * math.floor(x / 14.0) - 7.0) - 4.2
        line = max(line, cover(max(abs(v) - 0.28, dash), foot))
    if 36.0 < inside < 46.0:
        line = max(line, cover(max(abs(abs(v) - 4.2) - 0.9, abs(inside - 41.0) - 4.5), foot))
    return mix(colour, (0.66, 0.65, 0.61), line * _worn(x, y, foot))


@helper
def _number(along: float, across: float, tens: int, ones: int, foot: float) -> float:
    """Coverage of a two-digit number whose foot is at along = 0, read along the runway."""
    if along < -1.0 or along > 9.0 or abs(across) > 5.0:
        return 0.0
    ink = 0.0
    for place in range(2):
        digit = tens if place == 0 else ones
        u, v = -across / 1.55 + (2.5 if place == 0 else -0.5), along / 2.0
        for k in range(7):
            if _DIGITS[digit, k]:
                du = max(_SEGMENTS[k, 0] - u, u - _SEGMENTS[k, 1]) * 1.55
                dv = max(_SEGMENTS[k, 2] - v, v - _SEGMENTS[k, 3]) * 2.0
                ink = max(ink, cover(max(du, dv), foot))
    return ink


@helper
def _pad(k: int, dx: float, dy: float, foot: float) -> tuple[float, float, float]:
    """The top of a pad: slabs, hazard rim, rings, letters, and what exhaust has left."""
    apothem = _PADS[k, 2]
    colour = concrete(dx + 100.0 * k, dy, foot, 3.5 if k else 4.2)
    radius = math.sqrt(dx * dx + dy * dy)
    rim = -layout.octagon(dx, dy, apothem)
    white = cover(abs(radius - 0.80 * apothem) - 0.35, foot)
    yellow = cover(abs(rim - 0.8) - 0.25, foot)
    black = 0.0
    if k == 0:
        white = max(white, cover(abs(radius - 0.50 * apothem) - 0.22, foot))
        yellow = max(
            yellow, cover(max(min(abs(dx), abs(dy)) - 0.3, abs(radius - 0.65 * apothem) - 3.0), foot)
        )
    elif k == 1:
        white = max(white, cover(abs(radius - 0.52 * apothem) - 0.45, foot))
        u, v = (dx + dy) * 0.7071, (dx - dy) * 0.7071
        cross = max(min(abs(u), abs(v)) - 0.55, radius - 0.42 * apothem)
        white = max(white, cover(cross, foot))
        black = cover(abs(radius - 0.66 * apothem) - 1.1, foot)
    else:
        yellow = max(yellow, cover(abs(radius - 0.5 * apothem) - 0.3, foot))
        white = max(white, cover(max(abs(abs(dx) - 2.2) - 0.4, abs(dy) - 4.2), foot))
        white = max(white, cover(max(abs(dx) - 2.2, abs(dy) - 0.4), foot))
    worn = _worn(dx, dy, foot)
    colour = mix(colour, (0.07, 0.07, 0.07), 0.55 * black * worn)
    colour = mix(colour, (0.68, 0.67, 0.63), white * worn)
    colour = mix(colour, (0.58, 0.40, 0.06), yellow * worn)
    return dim(colour, 1.0 - _scorch(k, dx, dy, radius, foot))


@helper
def _scorch(k: int, dx: float, dy: float, radius: float, foot: float) -> float:
    """Soot from engines: dense at the centre, rays outwards, and along the flame trench of the launch pad."""
    angle = math.atan2(dy, dx)
    blur = max(foot, 0.3)
    rays = fractal(
        3.0 * math.cos(angle) + 7 * k, 3.0 * math.sin(angle) + 0.05 * radius, 0.9, 4, 0.6, 0.1, 111
    )
    mottle = fractal(dx, dy, 2.4, 4, 0.6, blur, 112)
    reach = (8.5 if k == 0 else 5.5) * (1.0 + 0.55 * rays)
    soot = 0.78 * (1.0 - smooth(0.15 * reach, 1.25 * reach, radius + 1.6 * mottle))
    if k == 0:  # the trench blows to the east-south-east
        u, v = 0.94 * dx - 0.34 * dy, 0.34 * dx + 0.94 * dy
        plume = math.exp(-((v / (1.9 + 0.13 * max(u, 0.0))) ** 2)) * smooth(0.0, 4.0, u)
        soot = max(soot, 0.75 * plume * (0.75 + 0.5 * mottle))
    return min(0.85, max(0.0, soot))


@helper
def _road_lines(lateral: float, along: float, foot: float) -> float:
    dash = abs(along - 7.0 * math.floor(along / 7.0) - 3.5) - 1.7
    return cover(max(abs(lateral) - 0.10, dash), max(foot, 0.1)) * min(1.0, 0.3 / foot)


@helper
def _parking(x: float, y: float, foot: float) -> float:
    if rectangle(x, y, _PARKING) > -0.4:
        return 0.0
    ink = 0.0
    for row in range(3):
        middle = _PARKING[2] + 3.4 if row == 0 else (_PARKING[2] + 8.6 if row == 1 else _PARKING[3] - 3.4)
        if abs(y - middle) < 2.6:
            ink = stripes(x - _PARKING[0] - 1.15, 2.9, 0.14, foot)
    return ink


@helper
def paint(x: float, y: float, foot: float, layers: np.ndarray) -> tuple[float, float, float]:
    """Reflectance of the ground at (x, y); `layers` are paving.locate's distances there."""
    for k in range(_PADS.shape[0]):
        dx, dy = x - _PADS[k, 0], y - _PADS[k, 1]
        if layout.octagon(dx, dy, _PADS[k, 2]) < 0.3:
            return _pad(k, dx, dy, foot)
    runway = max(max(_RUNWAY[0] - x, x - _RUNWAY[1]), abs(y - _RUNWAY[2]) - _RUNWAY[3])
    if runway < -0.5:
        return _runway(x, y, foot)
    apron = rectangle(x, y, _APRON)
    if apron < -0.5:
        return _apron(x, y, foot)
    ragged = 0.55 * fractal(x, y, 3.0, 4, 0.6, foot, 121)
    taxi, road = cover(layers[1] + 0.1 * ragged, foot), cover(layers[0] + 0.12 * ragged, foot)
    colour = (0.0, 0.0, 0.0)
    if max(taxi, road) < 1.0:
        colour = _unpaved(x, y, foot, layers, min(apron, runway), ragged)
    if max(taxi, road) > 0.0:
        tar = asphalt(x, y, foot)
        if taxi < 1.0:
            line = max(_road_lines(layers[4], layers[5], foot), _parking(x, y, foot))
            tar = mix(tar, (0.62, 0.61, 0.57), line * _worn(x, y, foot))
        colour = mix(colour, tar, max(taxi, road))
    if runway < foot:
        colour = mix(colour, _runway(x, y, foot), cover(runway, foot))
    if apron < foot:
        colour = mix(colour, _apron(x, y, foot), cover(apron, foot))
    for k in range(_PADS.shape[0]):
        dx, dy = x - _PADS[k, 0], y - _PADS[k, 1]
        if layout.octagon(dx, dy, _PADS[k, 2]) < 9.0:
            colour = dim(colour, 1.0 - 0.5 * _scorch(k, dx, dy, math.sqrt(dx * dx + dy * dy), foot))
    return _targets(x, y, foot, colour)


@helper
def _apron(x: float, y: float, foot: float) -> tuple[float, float, float]:
    """Concrete before the hangars: a yellow guide line, rubber and oil where machines turn."""
    colour = concrete(x, y, foot, 5.5)
    oil = smooth(0.28, 0.62, fractal(x, y, 4.2, 4, 0.55, foot, 131))
    colour = dim(colour, 1.0 - 0.45 * oil)
    turn = abs(math.sqrt((x + 40.0) ** 2 + (y + 40.0) ** 2) - 17.0)
    wheel = min(abs(turn - 1.3), abs(math.sqrt((x + 62.0) ** 2 + (y + 39.0) ** 2) - 13.6))
    colour = dim(colour, 1.0 - 0.22 * math.exp(-(wheel**2) / 0.09))
    guide = max(cover(abs(x + 50.0) - 0.16, foot) * cover(y + 28.0, foot), cover(abs(y + 28.0) - 0.16, foot))
    return mix(colour, (0.60, 0.43, 0.07), 0.8 * guide * _worn(x, y, foot))


@helper
def _unpaved(
    x: float, y: float, foot: float, layers: np.ndarray, paved: float, ragged: float
) -> tuple[float, float, float]:
    """Country with tracks through it, trodden soil along everything built, and gravel yards."""
    soil = (0.40, 0.295, 0.20)
    stones = cover(layers[2] + 0.7 * ragged, max(foot, 0.5))
    if stones >= 1.0:
        return gravel(x, y, foot)
    colour = open_country(x, y, foot)
    off = abs(layers[3])
    dust = 1.0 - smooth(1.2, 4.2, off + 1.6 * ragged)
    ruts = math.exp(-((off - 0.85) ** 2) / 0.12)
    colour = mix(colour, dim(soil, 1.0 + 0.35 * ragged), 0.62 * dust)
    colour = mix(colour, dim(soil, 0.80 + 0.3 * ragged), 0.7 * ruts)
    near = min(min(layers[0], layers[1]), min(layers[2], paved))
    colour = mix(colour, dim(soil, 0.95 + 0.4 * ragged), 0.6 * (1.0 - smooth(0.3, 3.4, near + 1.8 * ragged)))
    for k in range(_PADS.shape[0]):
        edge = layout.octagon(x - _PADS[k, 0], y - _PADS[k, 1], _PADS[k, 2])
        if edge < 9.0:
            trodden = 0.6 * (1.0 - smooth(1.0, 8.0, edge + 3.0 * ragged))
            colour = mix(colour, dim(soil, 0.9 + 0.5 * ragged), trodden)
    return mix(colour, gravel(x, y, foot), stones) if stones > 0.0 else colour


@helper
def _targets(
    x: float, y: float, foot: float, colour: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Survey targets: black and white quarters whose common corner is the surveyed point."""
    for k in range(_TARGETS.shape[0]):
        dx, dy = x - _TARGETS[k, 0], y - _TARGETS[k, 1]
        inside = cover(max(abs(dx), abs(dy)) - _TARGET_HALF, foot)
        if inside > 0.0:
            white = cover(-dx, foot) * cover(-dy, foot) + cover(dx, foot) * cover(dy, foot)
            colour = mix(colour, mix((0.03, 0.03, 0.03), (0.72, 0.72, 0.70), white), inside)
    return colour
