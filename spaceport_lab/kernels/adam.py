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
from spaceport_lab.kernels.vector import WIDTH, fma, splat, square_root, sum_lanes
from spaceport_lab.kernels.vector_memory import claim, load, load_first, store, store_first

CHUNK = 512
"""Rows that a thread claims at a time."""

REMEMBERED = 320
"""Steps after which a gradient's momentum is spent: r to that power is below 1e-14."""

TABLED = 4096
"""Steps for which tables are made at a time."""

LONGEST = 1 << 14
"""Steps without a gradient after which the second moment is spent, in single precision."""

HAS_MASKS = WIDTH == LANES
"""Whether the machine reads and writes part of a vector as fast as all of it."""

ZERO, ONE = np.float32(0), np.float32(1)


@functools.lru_cache(maxsize=4)
def fading(beta1: float, beta2: float) -> tuple[np.ndarray, np.ndarray]:
    """What is left of first and second moments after 0 … LONGEST steps; [LONGEST + 1] float32 each."""
    steps = np.arange(LONGEST + 1, dtype=np.float64)
    return (beta1**steps).astype(np.float32), (beta2**steps).astype(np.float32)


def tabled(step: int) -> int:
    """How many steps a table is made for that must reach to `step`."""
    return -(-(step + 1) // TABLED) * TABLED


@functools.lru_cache(maxsize=8)
def recent_sums(step: int, beta1: float, beta2: float) -> np.ndarray:
    """The sum above at `step` for rows last stepped 0 … REMEMBERED steps ago; [REMEMBERED + 1] float32."""
    falling, rising = _powers(beta1 / np.sqrt(beta2))
    b = _biases(tabled(step), beta1, beta2)[step : step + REMEMBERED][::-1]
    sums = np.zeros(REMEMBERED + 1, np.float32)
    sums[1:] = falling * np.cumsum(b * rising)
    return sums


@functools.lru_cache(maxsize=4)
def _biases(n_steps: int, beta1: float, beta2: float) -> np.ndarray:
    """b of steps 1 to n_steps - 1, after a zero for each remembered step before them."""
    return np.concatenate([np.zeros(REMEMBERED), _bias(np.arange(1, n_steps), beta1, beta2)])


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
def settled(value, mean, square, drift, eps):
    """A value that has moved on what its moments remember."""
    return value - drift * mean / (square_root(square) + eps)


@kernel(inline=True)
def room():
    """Room for the last few numbers of a row, fewer than a vector holds."""
    return np.zeros(LANES, np.float32)


@kernel(inline=True)
def load_last(source, at, count, room):
    """The vector of `count` numbers from `at` on, fewer than a vector holds."""
    if HAS_MASKS:
        return load_first(source, at, count)
    # Without masks of the machine's own a few single numbers cost less.
    for j in range(count):
        room[j] = source[at + j]
    return load(room, 0)


@kernel(inline=True)
def store_last(target, at, value, count, room):
    """The first `count` lanes of a vector to `at` on."""
    if HAS_MASKS:
        store_first(target, at, value, count)
    else:
        store(room, 0, value)
        for j in range(count):
            target[at + j] = room[j]


@kernel(inline=True)
def run_of_rows(rows, last, k, end):
    """How many of rows[k … end - 1] lie side by side in memory and were last stepped together."""
    row, count = rows[k], 1
    while k + count < end and rows[k + count] == row + count and last[row + count] == last[row]:
        count += 1
    return count


@kernel(inline=True)
def neighbouring_rows(rows, k, end):
    """How many of rows[k … end - 1] lie side by side in memory."""
    row, count = rows[k], 1
    while k + count < end and rows[k + count] == row + count:
        count += 1
    return count


@kernel(inline=True)
def copy_run(values, at, out, to, length, room):
    """Some numbers from one array to another."""
    whole = length - length % LANES
    for j in range(0, whole, LANES):
        store(out, to + j, load(values, at + j))
    if whole < length:
        value = load_last(values, at + whole, length - whole, room)
        store_last(out, to + whole, value, length - whole, room)


@kernel(inline=True)
def settle_run(values, first, second, at, out, to, length, copies, drift, keep1, keep2, eps, room):
    """Some numbers brought up to date, and copied out where `copies` says so."""
    whole = length - length % LANES
    for j in range(0, whole, LANES):
        mean, square = load(first, at + j), load(second, at + j)
        value = settled(load(values, at + j), mean, square, drift, eps)
        store(values, at + j, value)
        store(first, at + j, mean * keep1)
        store(second, at + j, square * keep2)
        if copies:
            store(out, to + j, value)
    if whole < length:
        at, to, count = at + whole, to + whole, length - whole
        mean, square = load_last(first, at, count, room), load_last(second, at, count, room)
        value = settled(load_last(values, at, count, room), mean, square, drift, eps)
        store_last(values, at, value, count, room)
        store_last(first, at, mean * keep1, count, room)
        store_last(second, at, square * keep2, count, room)
        if copies:
            store_last(out, to, value, count, room)


@kernel()
def copy_rows(counter, rows, values, width, used, out):
    """Copy the leading numbers of `rows`; run by several threads at once on one counter.

    Args:
        rows, values, width, used, out: as in `settle_rows`.
    """
    space = room()
    while True:
        k = claim(counter) * CHUNK
        if k >= len(rows):
            break
        end = min(len(rows), k + CHUNK)
        while k < end:
            count = neighbouring_rows(rows, k, end)
            pieces, length = (1, count * width) if used == width else (count, used)
            for piece in range(pieces):
                copy_run(values, (rows[k] + piece) * width, out, (k + piece) * used, length, space)
            k += count


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
    copies, space = len(out) > 0, room()
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
                for i in range(row, row + count):
                    last[i] = now
                for piece in range(pieces):
                    settle_run(
                        values, first, second, (row + piece) * width, out, (k + piece) * used, length, copies,
                        drift, keep1, keep2, eps, space,
                    )  # fmt: skip
            elif copies:
                for piece in range(pieces):
                    copy_run(values, (row + piece) * width, out, (k + piece) * used, length, space)
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
    found, space = splat(ZERO), room()
    while True:
        k = claim(counter) * CHUNK
        if k >= len(rows):
            break
        end = min(len(rows), k + CHUNK)
        while k < end:
            row, count = rows[k], neighbouring_rows(rows, k, end)
            for i in range(row, row + count):
                last[i] = now
            pieces, length = (1, count * width) if used == width else (count, used)
            for piece in range(pieces):
                at, g = (row + piece) * width, (k + piece) * used
                stop = at + length
                while at + LANES <= stop:
                    slope, mean, square = load(gradients, g), load(first, at), load(second, at)
                    mean, square = fma(slope - mean, rest1, mean), fma(slope * slope - square, rest2, square)
                    value = settled(load(values, at), mean, square, rate, eps)
                    store(first, at, mean)
                    store(second, at, square)
                    store(values, at, value)
                    found = fma(value, ZERO, found)
                    at, g = at + LANES, g + LANES
                if at < stop:
                    left = stop - at
                    slope = load_last(gradients, g, left, space)
                    mean, square = load_last(first, at, left, space), load_last(second, at, left, space)
                    mean, square = fma(slope - mean, rest1, mean), fma(slope * slope - square, rest2, square)
                    value = settled(load_last(values, at, left, space), mean, square, rate, eps)
                    store_last(first, at, mean, left, space)
                    store_last(second, at, square, left, space)
                    store_last(values, at, value, left, space)
                    found = fma(value, ZERO, found)
            k += count
    return sum_lanes(found) == ZERO
