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

import numpy as np

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import LANES
from spaceport_lab.kernels.vector import fma, square_root
from spaceport_lab.kernels.vector_memory import claim, load_first, store_first

CHUNK = 512
"""Rows that a thread claims at a time."""

REMEMBERED = 320
"""Steps after which a gradient's momentum is spent: r to that power is below 1e-14."""

LONGEST = 1 << 14
"""Steps without a gradient after which the second moment is spent, in single precision."""

ONE = np.float32(1)


@functools.lru_cache(maxsize=4)
def fading(beta1: float, beta2: float) -> tuple[np.ndarray, np.ndarray]:
    """What is left of first and second moments after 0 … LONGEST steps; [LONGEST + 1] float32 each."""
    steps = np.arange(LONGEST + 1, dtype=np.float64)
    return (beta1**steps).astype(np.float32), (beta2**steps).astype(np.float32)


@functools.lru_cache(maxsize=8)
def recent_sums(step: int, beta1: float, beta2: float) -> np.ndarray:
    """The sum above at `step` for rows last stepped 0 … REMEMBERED steps ago; [REMEMBERED + 1] float32."""
    r = beta1 / np.sqrt(beta2)
    ago = np.arange(REMEMBERED)
    b = np.where(step - ago >= 1, _bias(np.maximum(step - ago, 1), beta1, beta2), 0.0)
    sums = r ** (ago + 1) * np.cumsum(b * r**-ago)
    return np.concatenate([[0.0], sums]).astype(np.float32)


@functools.lru_cache(maxsize=4)
def whole_sums(n_steps: int, beta1: float, beta2: float) -> np.ndarray:
    """The sum above to its end for rows last stepped at step 0 … n_steps - 1; [n_steps] float32."""
    r = beta1 / np.sqrt(beta2)
    b = _bias(np.arange(1, n_steps + REMEMBERED), beta1, beta2)
    weights = r ** np.arange(1, REMEMBERED + 1)
    return np.correlate(b, weights, "valid")[:n_steps].astype(np.float32)


def bias(step: int, beta1: float, beta2: float) -> float:
    """b(step), by which a step's rate is multiplied; steps count from 1."""
    return float(_bias(np.array(step), beta1, beta2))


def _bias(steps: np.ndarray, beta1: float, beta2: float) -> np.ndarray:
    return np.sqrt(-np.expm1(steps * np.log(beta2))) / -np.expm1(steps * np.log(beta1))


@kernel()
def settle_rows(
    counter, rows, values, first, second, last, now, width, used, rate, eps, fading1, fading2, recent, whole,
    out,
):  # fmt: skip
    """Bring `rows` up to step `now` and copy them out; run by several threads at once on one counter.

    Args:
        rows: [m] int64, each at most once.
        values, first, second: flat [n*width] float32, changed in place; first and second moments.
        last: [n] float32, the step up to which each row is settled; changed in place.
        now: finished steps.
        used: leading numbers of a row that have ever had a gradient, at most `width`.
        rate, eps: float32.
        fading1, fading2, recent, whole: of `fading`, `recent_sums` and `whole_sums`.
        out: flat [m*width] float32, takes the settled values; empty where nobody asks for them.
    """
    copies = len(out) > 0
    while True:
        start = claim(counter) * CHUNK
        if start >= len(rows):
            break
        for k in range(start, min(len(rows), start + CHUNK)):
            row = rows[k]
            before = np.int64(last[row])
            gap = now - before
            last[row] = now
            if gap > 0:
                drift = rate * (recent[gap] if gap <= REMEMBERED else whole[before])
                keep1, keep2 = fading1[min(gap, LONGEST)], fading2[min(gap, LONGEST)]
                for j in range(0, used, LANES):
                    count, v = min(LANES, used - j), row * width + j
                    mean, square = load_first(first, v, count), load_first(second, v, count)
                    moved = drift * mean / (square_root(square) + eps)
                    store_first(values, v, load_first(values, v, count) - moved, count)
                    store_first(first, v, mean * keep1, count)
                    store_first(second, v, square * keep2, count)
            if copies:
                for j in range(0, width, LANES):
                    count = min(LANES, width - j)
                    store_first(out, k * width + j, load_first(values, row * width + j, count), count)


@kernel()
def step_rows(
    counter, rows, gradients, values, first, second, last, now, width, used, rate, beta1, beta2, eps
):  # fmt: skip
    """One step on `rows`, which are settled; run by several threads at once on one counter.

    Args:
        rows: [m] int64, each at most once.
        gradients: flat [m*width] float32, of the chosen rows alone.
        values, first, second, last: as in `settle_rows`.
        now: finished steps with this one.
        used: leading numbers of a row that have gradients.
        rate: float32, the learning rate times `bias(now)`.
        beta1, beta2, eps: float32.
    """
    while True:
        start = claim(counter) * CHUNK
        if start >= len(rows):
            break
        for k in range(start, min(len(rows), start + CHUNK)):
            row = rows[k]
            last[row] = now
            for j in range(0, used, LANES):
                count, v = min(LANES, used - j), row * width + j
                slope = load_first(gradients, k * width + j, count)
                mean = load_first(first, v, count)
                mean = fma(slope - mean, ONE - beta1, mean)
                square = load_first(second, v, count)
                square = fma(slope * slope - square, ONE - beta2, square)
                store_first(first, v, mean, count)
                store_first(second, v, square, count)
                moved = rate * mean / (square_root(square) + eps)
                store_first(values, v, load_first(values, v, count) - moved, count)
