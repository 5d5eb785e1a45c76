"""L1 + SSIM and its gradient in one pass over the image.

SSIM (Wang et al. 2004) with the 11 x 11 Gaussian window of 3D Gaussian Splatting (sigma 1.5, zeros beyond
the border). With B the blur by that window, x the render and y the target:

    mx = B x,  my = B y,  s = B(x x + y y),  p = B(x y)
    ssim = (2 mx my + C1) (2 (p - mx my) + C2) / ((mx mx + my my + C1) (s - mx mx - my my + C2))

B is symmetric, so with D_m, D_s, D_p the derivatives of the sum of ssim by the blurred images at each pixel,
the gradient is B D_m + 2 x B D_s + y B D_p.

An image is a matrix of rows of W * channels floats; a blur along a row takes every channels-th number. Rows
stream through two rings of eleven: rows blurred sideways on the way to ssim, and derivatives blurred sideways
on the way to the gradient. Bands of rows are shared out among threads, strips of columns keep the rings
inside a core's cache; both overlap by what the window needs, and every number is computed alike whichever
band or strip it falls into.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels import threads
from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector import absolute, fma, fnma, select, splat, sum_lanes
from spaceport_lab.kernels.vector_memory import claim, load, load_first, store, store_first

LANES = 16
WINDOW, HALF_WINDOW = 11, 5
SIGMA = 1.5
C1, C2 = np.float32(0.01**2), np.float32(0.03**2)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
BAND = 96  # rows
STRIP = 960  # floats; both rings of a strip this wide take 300 kB


def _weights() -> np.ndarray:
    offsets = np.arange(WINDOW) - HALF_WINDOW
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    return (weights / weights.sum()).astype(np.float32)


WEIGHTS = _weights()


@kernel(inline=True)
def read_row(images, target, row, start, count, length, rows):
    """Columns from `start` on of x, y, x x + y y and x y, zero beyond the image, to the rows of `rows`."""
    for i in range(0, count, LANES):
        column = start + i
        x, y = splat(ZERO), splat(ZERO)
        if column >= 0 and column + LANES <= length:
            x, y = load(images, row * length + column), load(target, row * length + column)
        elif 0 <= column < length:
            x = load_first(images, row * length + column, length - column)
            y = load_first(target, row * length + column, length - column)
        store(rows, i, x)
        store(rows, count + i, y)
        store(rows, 2 * count + i, fma(x, x, y * y))
        store(rows, 3 * count + i, x * y)


@kernel(inline=True)
def blur_sideways(source, at, step, out, to, count):
    """out[to + i] = sum of weights[k] * source[at + i + (k - 5) * step] for i < count."""
    first = at - HALF_WINDOW * step
    for i in range(0, count, LANES):
        total = load(source, first + i) * WEIGHTS[0]
        for k in range(1, WINDOW):
            total = fma(load(source, first + i + k * step), WEIGHTS[k], total)
        store(out, to + i, total)


@kernel(inline=True)
def blur_down(ring, at, row_size, row):
    """Sum over the eleven rows around `row` of the ring, at position `at` of each."""
    total = load(ring, ((row - HALF_WINDOW) % WINDOW) * row_size + at) * WEIGHTS[0]
    for k in range(1, WINDOW):
        total = fma(load(ring, ((row + k - HALF_WINDOW) % WINDOW) * row_size + at), WEIGHTS[k], total)
    return total


@kernel(inline=True)
def clear(ring, at, count):
    for i in range(at, at + count, LANES):
        store(ring, i, splat(ZERO))


@kernel(inline=True)
def similarity_row(ring, row, count, inside, derivatives):
    """Derivatives of one row's SSIM by mx, s and p, then SSIM itself, to the four rows of `derivatives`."""
    for i in range(0, count, LANES):
        mx, my = blur_down(ring, i, 4 * count, row), blur_down(ring, count + i, 4 * count, row)
        s, p = blur_down(ring, 2 * count + i, 4 * count, row), blur_down(ring, 3 * count + i, 4 * count, row)
        product = mx * my
        squares = fma(mx, mx, my * my)
        a, b = fma(product, TWO, C1), fma(p - product, TWO, C2)
        c, d = squares + C1, s - squares + C2
        shown = load(inside, i)
        inverse = shown / (c * d)
        value = a * b * inverse
        d_s = -(value * c * inverse)  # shown is 0 or 1, so multiplying twice is harmless
        d_p = TWO * a * inverse
        d_m = TWO * (my * (b * inverse) - mx * (value * d * inverse) - mx * d_s) - my * d_p
        store(derivatives, i, d_m)
        store(derivatives, count + i, d_s)
        store(derivatives, 2 * count + i, d_p)
        store(derivatives, 3 * count + i, value)


@kernel(inline=True)
def row_sums(images, target, row, start, count, length, similarity, at, sums, place):
    """Sum |x - y| and ssim over one row of a strip."""
    l1, ssim = splat(ZERO), splat(ZERO)
    for i in range(0, count, LANES):
        column = row * length + start + i
        left = min(LANES, count - i)
        l1 = l1 + absolute(load_first(images, column, left) - load_first(target, column, left))
        ssim = ssim + load(similarity, at + i)
    sums[place, 0] = sum_lanes(l1)
    sums[place, 1] = sum_lanes(ssim)


@kernel(inline=True)
def gradient_row(images, target, row, start, count, length, ring, ring_count, l1_weight, ssim_weight, out):
    """Gradient of the loss in one row of a strip."""
    for i in range(0, count, LANES):
        d_m = blur_down(ring, i, 3 * ring_count, row)
        d_s = blur_down(ring, ring_count + i, 3 * ring_count, row)
        d_p = blur_down(ring, 2 * ring_count + i, 3 * ring_count, row)
        at, left = row * length + start + i, min(LANES, count - i)
        x, y = load_first(images, at, left), load_first(target, at, left)
        ssim = fma(y, d_p, fma(x * TWO, d_s, d_m))
        sign = select(x > y, splat(l1_weight), select(x < y, splat(-l1_weight), splat(ZERO)))
        store_first(out, at, fnma(ssim, ssim_weight, sign), left)


@kernel()
def band_of_strip(
    images, target, height, length, step, first_row, last_row, start, width, l1_weight, ssim_weight,
    with_gradient, sums, sum_place, sum_stride, out,
):  # fmt: skip
    """Loss sums and gradient of rows first_row … last_row, columns start … start + width."""
    halo = -(-HALF_WINDOW * step // LANES) * LANES
    inner = -(-width // LANES) * LANES
    blurred, read = inner + 2 * halo, inner + 4 * halo  # columns of what ssim and what the rows must cover
    rows = np.zeros(4 * read, np.float32)
    ring = np.zeros(WINDOW * 4 * blurred, np.float32)
    derivatives = np.zeros(4 * blurred, np.float32)
    slopes = np.zeros(WINDOW * 3 * inner, np.float32)
    inside = np.zeros(blurred, np.float32)
    for i in range(blurred):
        if 0 <= start - halo + i < length:
            inside[i] = ONE
    for row in range(first_row - 2 * HALF_WINDOW, last_row + 2 * HALF_WINDOW):
        at = (row % WINDOW) * 4 * blurred
        if 0 <= row < height:
            read_row(images, target, row, start - 2 * halo, read, length, rows)
            for k in range(4):
                blur_sideways(rows, k * read + halo, step, ring, at + k * blurred, blurred)
        else:
            clear(ring, at, 4 * blurred)
        middle = row - HALF_WINDOW
        if middle < first_row - HALF_WINDOW:
            continue
        at = (middle % WINDOW) * 3 * inner
        if 0 <= middle < height:
            similarity_row(ring, middle, blurred, inside, derivatives)
            if first_row <= middle < last_row:
                row_sums(
                    images, target, middle, start, width, length, derivatives, 3 * blurred + halo, sums,
                    middle * sum_stride + sum_place,
                )  # fmt: skip
            if with_gradient:
                for k in range(3):
                    blur_sideways(derivatives, k * blurred + halo, step, slopes, at + k * inner, inner)
        else:
            clear(slopes, at, 3 * inner)
        done = middle - HALF_WINDOW
        if with_gradient and first_row <= done < last_row:
            gradient_row(
                images, target, done, start, width, length, slopes, inner, l1_weight, ssim_weight, out
            )


@kernel()
def l1_ssim(
    counter, images, target, height, length, step, strips, l1_weight, ssim_weight, with_gradient, sums, out
):
    """All bands and strips of one image; run by several threads at once on one counter.

    images, target [height * length] float32; step: channels; sums [height * strips, 2] float64 of |x - y|
    and ssim; out [height * length] gradient of l1_weight * sum |x - y| - ssim_weight * sum ssim, if
    with_gradient.
    """
    bands = (height + BAND - 1) // BAND
    while True:
        share = claim(counter)
        if share >= bands * strips:
            break
        band, strip = share // strips, share % strips
        start = strip * STRIP
        band_of_strip(
            images, target, height, length, step, band * BAND, min(height, band * BAND + BAND), start,
            min(STRIP, length - start), l1_weight, ssim_weight, with_gradient, sums, strip, strips, out,
        )  # fmt: skip


def loss_and_gradient(
    image: np.ndarray,
    target: np.ndarray,
    shape: tuple[int, int, int],
    ssim_lambda: float,
    count: int,
    with_gradient: bool,
) -> tuple[float, np.ndarray]:
    """One image's share of the loss, and its gradient.

    Args:
        image, target: flat float32 [H*W*channels].
        shape: H, W, channels.
        count: numbers that the loss is the mean over (more than one image's, for a batch).

    Returns:
        sum of (1 - lambda) |x - y| + lambda (1 - ssim) over the image divided by `count`, and its gradient
        [H*W*channels] (empty if not wanted).
    """
    height, width, channels = shape
    length = width * channels
    strips = -(-length // STRIP)
    sums = np.zeros((height * strips, 2))
    out = np.empty(height * length if with_gradient else 0, np.float32)
    counter = np.zeros(1, np.int64)
    l1_weight, ssim_weight = np.float32((1 - ssim_lambda) / count), np.float32(ssim_lambda / count)
    shares = -(-height // BAND) * strips
    threads.run_on_threads(
        lambda: l1_ssim(
            counter,
            image,
            target,
            height,
            length,
            channels,
            strips,
            l1_weight,
            ssim_weight,
            with_gradient,
            sums,
            out,
        ),
        min(threads.thread_count(), shares),
    )
    l1, ssim = sums.sum(0)
    return ((1 - ssim_lambda) * l1 + ssim_lambda * (height * length - ssim)) / count, out
