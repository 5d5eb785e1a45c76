"""Gradient noise for textures: numba scalars in, scalars out, the same on every thread and machine.

Every function takes the footprint of one sample in metres and leaves out what is finer: texture that a camera
cannot resolve would alias, and aliasing cannot be reconstructed from other views.
"""

from __future__ import annotations

import math

import numpy as np

from spaceport_lab.sample.compiling import helper, kernel

_DIRECTIONS = np.array(
    [(math.cos(2 * math.pi * k / 16), math.sin(2 * math.pi * k / 16)) for k in range(16)], dtype=np.float64
)


_TURN_COS, _TURN_SIN = math.cos(0.6) / 0.49, math.sin(0.6) / 0.49


@helper
def smooth(low: float, high: float, value: float) -> float:
    """0 below `low`, 1 above `high`, an S between."""
    t = min(1.0, max(0.0, (value - low) / (high - low)))
    return t * t * (3.0 - 2.0 * t)


@helper
def cover(distance: float, footprint: float) -> float:
    """How much of a sample lies inside a shape whose signed distance (negative inside) is `distance`."""
    return min(1.0, max(0.0, 0.5 - distance / footprint))


@helper
def scramble(x: int, y: int, seed: int) -> int:
    """A 32-bit hash of two lattice coordinates."""
    h = (x * 374761393 + y * 668265263 + seed * 1442695041) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 3266489917) & 0xFFFFFFFF
    return h ^ (h >> 16)


@helper
def dice(x: int, y: int, seed: int) -> float:
    """A number in [0, 1) for a lattice cell."""
    return scramble(x, y, seed) / 4294967296.0


@helper
def _slope(x: int, y: int, seed: int, dx: float, dy: float) -> float:
    k = scramble(x, y, seed) & 15
    return _DIRECTIONS[k, 0] * dx + _DIRECTIONS[k, 1] * dy


@helper
def gradient_noise(x: float, y: float, seed: int) -> float:
    """Perlin's gradient noise (SIGGRAPH 2002) of unit wavelength, about -1 to 1."""
    ix, iy = math.floor(x), math.floor(y)
    u, v = x - ix, y - iy
    a = _slope(ix, iy, seed, u, v)
    b = _slope(ix + 1, iy, seed, u - 1.0, v)
    c = _slope(ix, iy + 1, seed, u, v - 1.0)
    d = _slope(ix + 1, iy + 1, seed, u - 1.0, v - 1.0)
    su = u * u * u * (u * (u * 6.0 - 15.0) + 10.0)
    sv = v * v * v * (v * (v * 6.0 - 15.0) + 10.0)
    low, high = a + (b - a) * su, c + (d - c) * su
    return 1.5 * (low + (high - low) * sv)


@kernel
def fractal(
    x: float, y: float, wavelength: float, octaves: int, gain: float, footprint: float, seed: int
) -> float:
    """Octaves of gradient noise from `wavelength` (metres) down; those under two footprints fade out."""
    total, amplitude, norm = 0.0, 1.0, 0.0
    x, y = x / wavelength, y / wavelength
    size = wavelength / footprint
    for k in range(octaves):
        norm += amplitude
        if size > 3.2:
            total += amplitude * gradient_noise(x, y, seed + 17 * k)
        elif size > 1.6:
            total += amplitude * smooth(1.6, 3.2, size) * gradient_noise(x, y, seed + 17 * k)
        amplitude *= gain
        size *= 0.49
        # Each octave is turned, otherwise the lattices line up and show.
        x, y = _TURN_COS * x - _TURN_SIN * y, _TURN_SIN * x + _TURN_COS * y
    return total / norm


@helper
def fractal3(
    x: float, y: float, z: float, wavelength: float, octaves: int, gain: float, footprint: float, seed: int
) -> float:
    """Noise on a solid: the mean of three planes' noise, enough for leaves and stains."""
    return 0.6 * (
        fractal(x, y, wavelength, octaves, gain, footprint, seed)
        + fractal(y, z, wavelength, octaves, gain, footprint, seed + 101)
        + fractal(z, x, wavelength, octaves, gain, footprint, seed + 202)
    )


@helper
def ridge(x: float, y: float, wavelength: float, width: float, footprint: float, seed: int) -> float:
    """Thin wandering lines (cracks, seams) of `width` metres, 1 on the line; they pale when too fine."""
    value = abs(gradient_noise(x / wavelength, y / wavelength, seed)) * wavelength * 0.6
    return cover(value - 0.5 * width, max(width, footprint)) * min(1.0, width / footprint)


@helper
def stripes(value: float, pitch: float, width: float, footprint: float) -> float:
    """Coverage of lines of `width` repeated every `pitch` metres, fading to their mean when too fine."""
    if footprint > pitch:
        return width / pitch
    nearest = abs(value - pitch * math.floor(value / pitch + 0.5))
    if footprint > width:
        return cover(nearest - 0.5 * width, footprint) * width / footprint
    return cover(nearest - 0.5 * width, footprint)
