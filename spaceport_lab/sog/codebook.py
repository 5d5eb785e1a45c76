"""Codebooks of 256 numbers for scales, base colours and spherical harmonics."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt8

from spaceport_lab.kernels.compiling import kernel

SIZE = 256
MAX_LOG_SCALE = 0.18
"""Error of a log scale that none shall exceed: a fifth more or less of a standard deviation."""

_BINS = 1 << 16
_SMOOTH = 129  # bins; a histogram this fine is noise without it
_REACH = 1025  # bins around a value that share in the floor
_FLOOR = 0.2  # share of the codewords spent evenly on whatever range holds any value at all


def companded_codebook(
    values: Float[np.ndarray, "*shape"], size: int = SIZE, most: float | None = None
) -> Float[np.ndarray, "256"]:
    """256 ascending values with small mean and bounded largest error; only the first `size` differ.

    Codewords are first spread by the cube root of the density (Panter and Dite 1951), then improved by
    Lloyd's iteration on a fine histogram. That alone starves the tails, where a single step would span
    orders of magnitude: a floor under the density keeps part of the codewords for them.
    Few distinct values are kept exactly.

    Args:
        values: what will be quantised, any shape.
        size: how many codewords differ.
        most: error that no value shall exceed, as far as a quarter of the codewords can see to it.
    """
    flat = values.ravel()
    distinct = np.unique(flat if flat.size <= _BINS else flat[:: flat.size // _BINS + 1])
    if distinct.size <= size:
        distinct = np.unique(flat)
        if distinct.size <= size:
            return np.pad(distinct, (0, SIZE - distinct.size), mode="edge").astype(np.float32)
    low, high = float(flat.min()), float(flat.max())
    counts, edges = np.histogram(flat, bins=_BINS, range=(low, high))
    smooth = np.convolve(counts, np.full(_SMOOTH, 1 / _SMOOTH), "same")
    density = _floored(smooth, np.convolve(counts > 0, np.ones(_REACH), "same") > 0.5)
    centers = (edges[1:] + edges[:-1]) / 2
    spread = np.cumsum(np.cbrt(density))
    codebook = np.interp((np.arange(size) + 0.5) / size, spread / spread[-1], centers)
    codebook = _lloyd(codebook, centers, density)
    if most is not None:
        codebook = _bounded(codebook, centers[counts > 0], most - (high - low) / _BINS)
    return np.pad(codebook, (0, SIZE - size), mode="edge")


def _bounded(
    codebook: Float[np.ndarray, "K"], occupied: Float[np.ndarray, "B"], most: float
) -> Float[np.ndarray, "K"]:
    """Put codewords where values are too far from any, taking those that have the closest neighbours."""
    codebook = codebook.copy()
    for _ in range(len(codebook) // 4):
        above = np.searchsorted(codebook, occupied).clip(1, len(codebook) - 1)
        errors = np.minimum(np.abs(occupied - codebook[above - 1]), np.abs(occupied - codebook[above]))
        worst = int(errors.argmax())
        if errors[worst] <= most:
            break
        codebook[int((codebook[2:] - codebook[:-2]).argmin()) + 1] = occupied[worst]
        codebook.sort()
    return codebook


def _floored(density: Float[np.ndarray, "B"], near: Bool[np.ndarray, "B"]) -> Float[np.ndarray, "B"]:
    """Raise the density where values are near, so that the floor alone draws `_FLOOR` of the codewords."""
    level = 0.0
    for _ in range(20):  # a fixed point: raising the floor raises the total it is a share of
        raised = np.where(near, np.maximum(density, level), density)
        level = (_FLOOR * np.cbrt(raised).sum() / near.sum()) ** 3
    return raised


def _lloyd(
    codebook: Float[np.ndarray, "K"],
    centers: Float[np.ndarray, "B"],
    density: Float[np.ndarray, "B"],
    iterations: int = 30,
) -> Float[np.ndarray, "K"]:
    """Lloyd's iteration in one dimension, by running sums over the histogram."""
    mass = np.concatenate([[0], np.cumsum(density)])
    moment = np.concatenate([[0], np.cumsum(density * centers)])
    for _ in range(iterations):
        cuts = np.searchsorted(centers, (codebook[1:] + codebook[:-1]) / 2)
        cuts = np.concatenate([[0], cuts, [len(centers)]])
        weight = np.diff(mass[cuts])
        means = np.diff(moment[cuts]) / np.where(weight > 0, weight, 1)
        codebook = np.sort(np.where(weight > 0, means, codebook))
    return codebook.astype(np.float32)


def uniform_codebook(
    values: Float[np.ndarray, "*shape"], mean_square: float, share: float = 0.2
) -> Float[np.ndarray, "256"]:
    """256 ascending values with one step around zero, wider only in the tails.

    Values that are already off by a mean square error gain nothing from fine codewords: a step whose own
    error, step²/12, is `share` of it costs little, and even steps leave far fewer bytes to the lossless
    image (entropy-constrained quantisation: Gish and Pierce 1968).

    Args:
        values: what will be quantised, any shape.
        mean_square: error the values already have; 0 gives the companded codebook.
        share: of that error which quantisation may add.
    """
    flat = np.sort(values.ravel())
    low, high = float(flat[0]), float(flat[-1])
    step = float(np.sqrt(12 * share * mean_square))
    tail = max(1, flat.size // 10_000)
    reach = max(abs(float(flat[tail - 1])), abs(float(flat[-tail])))
    few = np.count_nonzero(np.diff(flat)) < SIZE
    if step * (SIZE // 2 - 16) < reach or few:
        return companded_codebook(values)  # steps this small would not span the values
    half = int(np.ceil(reach / step))
    core = np.arange(-half, half + 1) * step
    core = core[(core >= low - step) & (core <= high + step)]
    if core.size == 0 or core.size > SIZE:
        return companded_codebook(values)
    left = (SIZE - core.size) // 2
    right = SIZE - core.size - left
    below = np.linspace(min(low, core[0]), core[0], left, endpoint=False)
    above = np.linspace(core[-1], max(high, core[-1]), right + 1)[1:]
    return np.concatenate([below, core, above]).astype(np.float32)


def nearest(
    values: Float[np.ndarray, "*shape"], codebook: Float[np.ndarray, "256"]
) -> UInt8[np.ndarray, "*shape"]:
    """Index of the nearest codeword for every value."""
    middles = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    indices = np.empty(values.shape, np.uint8)
    _search(np.ascontiguousarray(values).reshape(-1), middles, indices.reshape(-1))
    return indices


@kernel()
def _search(values, middles, indices):
    """How many middles lie below each value, by halving: 255 of them in eight steps."""
    for i in range(len(values)):
        value, place = np.float64(values[i]), 0
        for bit in range(7, -1, -1):
            half = 1 << bit
            place += half * (middles[place + half - 1] < value)  # no branch, which would be a coin's toss
        indices[i] = place
