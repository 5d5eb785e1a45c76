"""Adam (Kingma and Ba 2015) on the rows that a step needs; the others catch up when they are needed.

Adam moves a row on for a while after its last gradient, on what its moments remember. For a row whose
gradients are zero from step s on that has a closed form, so nothing need be done until the row is looked at
again:

    first, second  ->  beta1^k first, beta2^k second            after k = t - s steps
    value          ->  value - rate * first / sqrt(second) * sum over j = 1 … k of b(s + j) r^j

with r = beta1 / sqrt(beta2) and b(t) = sqrt(1 - beta2^t) / (1 - beta1^t), the correction of the moments'
bias.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import LANES
from spaceport_lab.kernels.vector import fma, splat, square_root, sum_lanes
from spaceport_lab.kernels.vector_memory import claim, load, store

CHUNK = 512
"""Rows that a thread claims at a time."""

REMEMBERED = 320
"""Steps after which a gradient's momentum is spent: r to that power is below 1e-14."""

LONGEST = 1 << 14
"""Steps without a gradient after which the second moment is spent, in single precision."""

ZERO, ONE = np.float32(0), np.float32(1)


@functools.lru_cache(maxsize=4)
def fading(beta1: float, beta2: float) -> tuple[np.ndarray, np.ndarray]:
    """What is left of first and second moments after 0 … LONGEST steps; [LONGEST + 1] float32 each."""
    steps = np.arange(LONGEST + 1, dtype=np.float64)
    return (beta1**steps).astype(np.float32), (beta2**steps).astype(np.float32)


@functools.lru_cache(maxsize=8)
def recent_sums(step: int, beta1: float, beta2: float) -> np.ndarray:
    """The sum above at `step` for rows last stepped 0 … REMEMBERED steps ago; [REMEMBERED + 1] float32."""
    falling, rising = _powers(beta1 / np.sqrt(beta2))
    latest = np.arange(step, max(0, step - REMEMBERED), -1)
    b = np.zeros(REMEMBERED)
    b[: len(latest)] = _bias(latest, beta1, beta2)
    sums = np.zeros(REMEMBERED + 1, np.float32)
    sums[1:] = falling * np.cumsum(b * rising)
    return sums


@functools.lru_cache(maxsize=4)
def _powers(r: float) -> tuple[np.ndarray, np.ndarray]:
    """r^(k + 1) and r^-k for k = 0 … REMEMBERED - 1."""
    k = np.arange(REMEMBERED)
    return r ** (k + 1), r ** -k.astype(np.float64)


@functools.lru_cache(maxsize=4)
def whole_sums(n_steps: int, beta1: float, beta2: float) -> np.ndarray:
    """The sum above to its end for rows last stepped at step 0 … n_steps - 1; [n_steps] float32."""
    r = beta1 / np.sqrt(beta2)
    b = _bias(np.arange(1, n_steps + REMEMBERED), beta1, beta2)
    weights = r ** np.arange(1, REMEMBERED + 1)
    return np.correlate(b, weights, "valid")[:n_steps].astype(np.float32)


def bias(step: int, beta1: float, beta2: float) -> float:
    """b(step), by which a step's rate is multiplied; steps count from 1."""
    return math.sqrt(-math.expm1(step * math.log(beta2))) / -math.expm1(step * math.log(beta1))


def _bias(steps: np.ndarray, beta1: float, beta2: float) -> np.ndarray:
    return np.sqrt(-np.expm1(steps * np.log(beta2))) / -np.expm1(steps * np.log(beta1))


@kernel(inline=True)
def settle_lanes(values, first, second, at, drift, keep1, keep2, eps):
    """Sixteen numbers from `at` on, brought up to date."""
    mean, square = load(first, at), load(second, at)
    store(values, at, load(values, at) - drift * mean / (square_root(square) + eps))
    store(first, at, mean * keep1)
    store(second, at, square * keep2)


@kernel(inline=True)
def step_lanes(gradients, g, values, first, second, at, rate, rest1, rest2, eps):
    """One step of sixteen numbers from `at` on, their gradients from `g` on; rest1, rest2 are 1 - beta.

    Returns them.
    """
    slope, mean, square = load(gradients, g), load(first, at), load(second, at)
    mean, square = fma(slope - mean, rest1, mean), fma(slope * slope - square, rest2, square)
    store(first, at, mean)
    store(second, at, square)
    value = load(values, at) - rate * mean / (square_root(square) + eps)
    store(values, at, value)
    return value


@kernel(inline=True)
def rest_of_row():
    """Room for the last few numbers, fewer than a vector holds."""
    return np.zeros(LANES, np.float32)


@kernel(inline=True)
def copy(source, at, target, to, count):
    """A few numbers from one array to another; without AVX-512 masked stores cost more than that."""
    for j in range(count):
        target[to + j] = source[at + j]


@kernel(inline=True)
def run_of_rows(rows, last, k, end):
    """How many of rows[k … end - 1] lie side by side in memory and were last stepped together."""
    row, count = rows[k], 1
    while k + count < end and rows[k + count] == row + count and last[row + count] == last[row]:
        count += 1
    return count


@kernel()
def settle_rows(
    counter, rows, values, first, second, last, now, width, used, rate, eps, fading1, fading2, recent, whole,
    out,
):  # fmt: skip
    """Bring `rows` up to step `now` and copy them out; run by several threads at once on one counter.

    Rows that lie side by side and were last stepped together are taken as one long row: then most vectors are
    full, and a row of three numbers costs three, not a vector.

    Args:
        rows: [m] int64, each at most once; rising, or no two are found side by side.
        values, first, second: flat [n*width] float32, changed in place; first and second moments.
        last: [n] float32, the step up to which each row is settled; changed in place.
        now: finished steps.
        used: leading numbers of a row that are settled and copied, at most `width`; the others have never had
            a gradient.
        rate, eps: float32.
        fading1, fading2, recent, whole: of `fading`, `recent_sums` and `whole_sums`.
        out: flat [m*used] float32, takes the settled values; empty where nobody asks for them.
    """
    copies = len(out) > 0
    value, mean, square = rest_of_row(), rest_of_row(), rest_of_row()
    while True:
        k = claim(counter) * CHUNK
        if k >= len(rows):
            break
        end = min(len(rows), k + CHUNK)
        while k < end:
            row, count = rows[k], run_of_rows(rows, last, k, end)
            pieces, length = (1, count * width) if used == width else (count, used)
            before = np.int64(last[row])
            gap = now - before
            if gap > 0:
                drift = rate * (recent[gap] if gap <= REMEMBERED else whole[before])
                keep1, keep2 = fading1[min(gap, LONGEST)], fading2[min(gap, LONGEST)]
                last[row : row + count] = now
                for piece in range(pieces):
                    at = (row + piece) * width
                    stop = at + length
                    while at + LANES <= stop:
                        settle_lanes(values, first, second, at, drift, keep1, keep2, eps)
                        at += LANES
                    if at < stop:
                        copy(values, at, value, 0, stop - at)
                        copy(first, at, mean, 0, stop - at)
                        copy(second, at, square, 0, stop - at)
                        settle_lanes(value, mean, square, 0, drift, keep1, keep2, eps)
                        copy(value, 0, values, at, stop - at)
                        copy(mean, 0, first, at, stop - at)
                        copy(square, 0, second, at, stop - at)
            if copies:
                for piece in range(pieces):
                    copy(values, (row + piece) * width, out, (k + piece) * used, length)
            k += count


@kernel()
def step_rows(
    counter, rows, gradients, values, first, second, last, now, width, used, rate, beta1, beta2, eps
):  # fmt: skip
    """One step on `rows`, which are settled; run by several threads at once on one counter.

    Args:
        rows: [m] int64, each at most once.
        gradients: flat [m*used] float32, of the chosen rows alone.
        values, first, second, last: as in `settle_rows`.
        now: finished steps with this one.
        used: leading numbers of a row that have gradients.
        rate: float32, the learning rate times `bias(now)`.
        beta1, beta2, eps: float32.

    Returns:
        whether all numbers are finite that this thread has stepped.
    """
    rest1, rest2 = ONE - beta1, ONE - beta2
    # Zero times anything that is not finite is not zero; looking costs nothing beside what is read anyway.
    found = splat(ZERO)
    slope = rest_of_row()
    last_value, mean, square = rest_of_row(), rest_of_row(), rest_of_row()
    while True:
        k = claim(counter) * CHUNK
        if k >= len(rows):
            break
        end = min(len(rows), k + CHUNK)
        while k < end:
            row, count = rows[k], run_of_rows(rows, last, k, end)
            last[row : row + count] = now
            pieces, length = (1, count * width) if used == width else (count, used)
            for piece in range(pieces):
                at, g = (row + piece) * width, (k + piece) * used
                stop = at + length
                while at + LANES <= stop:
                    value = step_lanes(gradients, g, values, first, second, at, rate, rest1, rest2, eps)
                    found = fma(value, ZERO, found)
                    at, g = at + LANES, g + LANES
                if at < stop:
                    copy(gradients, g, slope, 0, stop - at)
                    copy(values, at, last_value, 0, stop - at)
                    copy(first, at, mean, 0, stop - at)
                    copy(second, at, square, 0, stop - at)
                    value = step_lanes(slope, 0, last_value, mean, square, 0, rate, rest1, rest2, eps)
                    found = fma(value, ZERO, found)
                    copy(last_value, 0, values, at, stop - at)
                    copy(mean, 0, first, at, stop - at)
                    copy(square, 0, second, at, stop - at)
            k += count
    return sum_lanes(found) == ZERO
