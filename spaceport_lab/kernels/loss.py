"""L1 + SSIM and its gradient in one pass over the image.

SSIM (Wang et al. 2004) with the 11 x 11 Gaussian window of 3D Gaussian Splatting (sigma 1.5, zeros beyond
the border). With B the blur by that window, x the render and y the target:

    mx = B x,  my = B y,  s = B(x x + y y),  p = B(x y)
    ssim = (2 mx my + C1) (2 (p - mx my) + C2) / ((mx mx + my my + C1) (s - mx mx - my my + C2))

B is symmetric, so with D_m, D_s, D_p the derivatives of the sum of ssim by the blurred images at each pixel,
the gradient is B D_m + 2 x B D_s + y B D_p.

A blur along vectors, not across their lanes, needs no unaligned loads, and eighteen vectors in registers give
eight results (`slide`). So the image goes through in groups of sixteen rows and, within them, spans of
sixteen pixels: down the columns, then transposed (a vector is now one column of the group), along the
rows to ssim and its derivatives, along the rows again, transposed back, and down the columns to the gradient.
What a blur needs of the span or group before lies in the other one of two *pages*, so nothing is computed
twice. Results lag five pixels or rows behind at each blur.

Bands of rows and strips of columns are shared out among threads; both overlap by what the window needs, and
every number is computed alike whichever band or strip it falls into.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels import threads
from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.layout import LANES, aligned_empty
from spaceport_lab.kernels.vector import (
    WIDTH,
    absolute,
    fma,
    fnma,
    lane_indices,
    select,
    splat,
    splat_narrow,
    sum_lanes,
)
from spaceport_lab.kernels.vector_memory import (
    claim,
    load,
    load_first,
    load_narrow,
    load_some,
    prefetch,
    store,
    store_first,
    store_some,
)
from spaceport_lab.kernels.vector_rows import load_records
from spaceport_lab.kernels.vector_tuples import fma_each, load_narrow_each, slide, store_each

WINDOW, REACH = 11, 5
SIGMA = 1.5
C1, C2 = np.float32(0.01**2), np.float32(0.03**2)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
MAPS, SLOPES = 4, 3  # blurred images (mx, my, s, p); derivatives by mx, s and p
AROUND = LANES + 2 * REACH  # vectors that sixteen blurred ones are made of
BEFORE = 2 * REACH  # how many of them are of the page before
HALF = LANES // 2  # blurred vectors that are worked out at once
PAGE = LANES * LANES  # floats of one map of a block of sixteen columns
CACHE_LINE = 64  # bytes
AHEAD = 3  # spans or blocks between asking for memory and its use
STRIP = 640  # pixels; wider images are cut, so that a group's derivatives stay in a core's cache
BAND = 15 * LANES  # rows, at most
TWO_VECTORS, EIGHT_VECTORS, TEN_VECTORS = (0,) * 2, (0,) * 8, (0,) * 10
SIXTEEN_VECTORS, EIGHTEEN_VECTORS = (0,) * 16, (0,) * 18


def _weights() -> tuple[np.float32, ...]:
    """The window's weights from its edge to its middle."""
    offsets = np.arange(WINDOW) - REACH
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    return tuple(np.float32(weight) for weight in (weights / weights.sum())[: REACH + 1])


WEIGHTS = _weights()


@kernel(inline=True)
def blur_pages(source, before, after, stride, out, to, out_stride):
    """Sixteen blurred vectors from two pages of sixteen, the last ten of `before` and all of `after`.

    Vectors of a page lie `stride` floats apart, results `out_stride`. Result k is centred five before
    vector k of `after`.
    """
    for part in range(0, LANES, WIDTH):
        tail = load_narrow_each(source, before + part + (LANES - BEFORE) * stride, stride, TEN_VECTORS)
        first = slide(tail + load_narrow_each(source, after + part, stride, EIGHT_VECTORS), WEIGHTS)
        store_each(out, to + part, out_stride, first)
        tail = load_narrow_each(source, before + part + (LANES - 2) * stride, stride, TWO_VECTORS)
        second = slide(tail + load_narrow_each(source, after + part, stride, SIXTEEN_VECTORS), WEIGHTS)
        store_each(out, to + part + HALF * out_stride, out_stride, second)


@kernel(inline=True)
def rows_of(image, start, stride):
    """A narrow vector of each of eighteen rows."""
    return load_narrow_each(image, start, stride, EIGHTEEN_VECTORS)


@kernel(inline=True)
def blur_down(images, target, at, stride, block):
    """Blur sixteen columns of x, y, x x + y y and x y down sixteen rows; `at` is five rows above them."""
    for half in range(0, LANES, HALF):
        for part in range(0, LANES, WIDTH):
            start, to = at + part + half * stride, half * LANES + part
            # Each is loaded anew for each map: more than one map's rows do not stay in registers.
            store_each(block, to, LANES, slide(rows_of(images, start, stride), WEIGHTS))
            store_each(block, PAGE + to, LANES, slide(rows_of(target, start, stride), WEIGHTS))
            x, y = rows_of(images, start, stride), rows_of(target, start, stride)
            squares = fma_each(x, x, fma_each(y, y, splat_narrow(ZERO)))
            store_each(block, 2 * PAGE + to, LANES, slide(squares, WEIGHTS))
            x, y = rows_of(images, start, stride), rows_of(target, start, stride)
            product = fma_each(x, y, splat_narrow(ZERO))
            store_each(block, 3 * PAGE + to, LANES, slide(product, WEIGHTS))


@kernel(inline=True)
def copy_edge(image, row, column, height, length, out):
    """AROUND rows of sixteen columns from (row, column) on; zero beyond the image."""
    for k in range(AROUND):
        store(out, k * LANES, splat(ZERO))
        at = (row + k) * length + column
        if row + k < 0 or row + k >= height or column >= length or column <= -LANES:
            continue
        if column >= 0:
            store(out, k * LANES, load_first(image, at, min(LANES, length - column)))
        else:
            for lane in range(-column, min(LANES, length - column)):
                store_first(out, k * LANES + lane, load_first(image, at + lane, 1), 1)


@kernel(inline=True)
def prefetch_rows(image, row, height, at, count, length):
    """Ask for `count` numbers from `at` on of sixteen rows: more streams than the machine foresees itself."""
    for k in range(max(row, 0), min(row + LANES, height)):
        for start in range(max(at, 0), min(at + count, length), CACHE_LINE // image.itemsize):
            prefetch(image, k * length + start)


@kernel(inline=True)
def span_of_maps(images, target, height, length, row, column, step, page, edges, block, maps):
    """Blur a span of a group down its columns, to a page of `maps`: [map, page, pixel, channel, row]."""
    ahead, new_rows = column + AHEAD * LANES * step, row + REACH
    prefetch_rows(images, new_rows, height, ahead, LANES * step, length)
    prefetch_rows(target, new_rows, height, ahead, LANES * step, length)
    for start in range(0, LANES * step, LANES):
        c = column + start
        if row >= REACH and row + LANES + REACH <= height and c >= 0 and c + LANES <= length:
            blur_down(images, target, (row - REACH) * length + c, length, block)
        else:
            x, y = edges[: AROUND * LANES], edges[AROUND * LANES :]
            copy_edge(images, row - REACH, c, height, length, x)
            copy_edge(target, row - REACH, c, height, length, y)
            blur_down(x, y, 0, LANES, block)
        for k in range(MAPS):
            columns = load_records(block, k * PAGE, LANES)
            store_each(maps, (2 * k + page) * PAGE * step + start * LANES, LANES, columns)


@kernel(inline=True)
def derivatives(blurred, at, inside):
    """Derivatives of ssim by mx, s and p, then ssim itself, for one column of a group."""
    mx, my = load_narrow(blurred, at), load_narrow(blurred, PAGE + at)
    s, p = load_narrow(blurred, 2 * PAGE + at), load_narrow(blurred, 3 * PAGE + at)
    product = mx * my
    squares = fma(mx, mx, my * my)
    a, b = fma(product, TWO, C1), fma(p - product, TWO, C2)
    c, d = squares + C1, s - squares + C2
    inverse = inside / (c * d)
    value = a * b * inverse
    d_s = -(value * c * inverse)  # inside is 0 or 1, so multiplying twice is harmless
    d_p = TWO * a * inverse
    d_m = TWO * (my * (b * inverse) - mx * (value * d * inverse) - mx * d_s) - my * d_p
    return d_m, d_s, d_p, value


@kernel(inline=True)
def span_of_slopes(maps, step, page, inside, pixel, width, first, last, blurred, slopes, ssim_rows):
    """Blur a span along its rows and derive ssim: to a page of `slopes`, laid out like `maps`.

    The span begins at `pixel`; inside [16] is 1 for rows in the image, else 0. Pixels first … last - 1 are
    added to ssim_rows [16] float64.
    """
    for channel in range(step):
        for k in range(MAPS):
            before, after = (2 * k + 1 - page) * PAGE * step, (2 * k + page) * PAGE * step
            at = channel * LANES
            blur_pages(maps, before + at, after + at, step * LANES, blurred, k * PAGE, LANES)
        for part in range(0, LANES, WIDTH):
            total = splat_narrow(ZERO)
            for i in range(LANES):
                shown = load_narrow(inside, part) if 0 <= pixel + i < width else splat_narrow(ZERO)
                d_m, d_s, d_p, value = derivatives(blurred, i * LANES + part, shown)
                if first <= pixel + i < last:
                    total = total + value
                at = page * PAGE * step + (i * step + channel) * LANES + part
                store(slopes, at, d_m)
                store(slopes, 2 * PAGE * step + at, d_s)
                store(slopes, 4 * PAGE * step + at, d_p)
            store(blurred, part, total)
        for lane in range(LANES):
            ssim_rows[lane] += blurred[lane]


@kernel(inline=True)
def span_of_rows(slopes, step, page, columns, rows, row_page, pitch, at):
    """Blur a span's derivatives along its rows and transpose them back, to column `at` of a page of rows."""
    for k in range(SLOPES):
        before, after = (2 * k + 1 - page) * PAGE * step, (2 * k + page) * PAGE * step
        for channel in range(step):
            blur_pages(
                slopes, before + channel * LANES, after + channel * LANES, step * LANES, columns,
                channel * LANES, step * LANES,
            )  # fmt: skip
        for start in range(0, LANES * step, LANES):
            place = (2 * k + row_page) * LANES * pitch + at + start
            store_each(rows, place, pitch, load_records(columns, start * LANES, LANES))


@kernel(inline=True)
def gradient_rows(
    images, target, length, row, count, column, left, rows, row_page, pitch, at, l1_weight, ssim_weight,
    with_gradient, blurred, l1_rows, out,
):  # fmt: skip
    """Gradient of `left` (at most sixteen) columns of `count` (at most sixteen) rows, and sums of |x - y|."""
    if with_gradient:
        for k in range(SLOPES):
            before, after = (2 * k + 1 - row_page) * LANES * pitch, (2 * k + row_page) * LANES * pitch
            blur_pages(rows, before + at, after + at, pitch, blurred, k * PAGE, LANES)
    if with_gradient:
        prefetch_rows(out, row, row + count, column + AHEAD * LANES, LANES, length)
    for i in range(count):
        place = (row + i) * length + column
        x, y = load_some(images, place, left), load_some(target, place, left)
        store(l1_rows, i * LANES, load(l1_rows, i * LANES) + absolute(x - y))
        if with_gradient:
            d_m, d_s = load(blurred, i * LANES), load(blurred, PAGE + i * LANES)
            ssim = fma(y, load(blurred, 2 * PAGE + i * LANES), fma(x * TWO, d_s, d_m))
            sign = select(x > y, splat(l1_weight), select(x < y, splat(-l1_weight), splat(ZERO)))
            store_some(out, place, fnma(ssim, ssim_weight, sign), left)


@kernel(inline=True)
def rows_inside(row, height, inside):
    """1 in the lanes of a group whose rows are in the image, 0 in the others."""
    numbers = lane_indices() + row
    store(inside, 0, select((numbers > -1) & (numbers < height), splat(ONE), splat(ZERO)))


@kernel()
def band_of_strip(
    images, target, height, width, step, first_row, last_row, first, last, l1_weight, ssim_weight,
    with_gradient, scratch, rows, sums, sum_place, sum_stride, out,
):  # fmt: skip
    """Loss sums and gradient of rows first_row … last_row - 1, pixels first … last - 1."""
    maps = scratch[: 2 * MAPS * PAGE * step]
    slopes = scratch[maps.shape[0] : maps.shape[0] + 2 * SLOPES * PAGE * step]
    small = scratch[maps.shape[0] + slopes.shape[0] :]
    columns, block = small[: PAGE * step], small[PAGE * step : PAGE * (step + MAPS)]
    edges = small[PAGE * (step + MAPS) : PAGE * (step + MAPS) + 2 * AROUND * LANES]
    l1_rows = small[PAGE * (step + MAPS) + 2 * AROUND * LANES :]
    ssim_rows, inside = np.zeros(LANES), np.zeros(LANES, np.float32)
    length = width * step
    spans = (last - first + REACH - 1 + LANES - 1) // LANES + 1
    pitch = spans * LANES * step
    for group in range((last_row - first_row + LANES - 1) // LANES + 1):
        row = first_row + REACH + LANES * (group - 1)
        rows_inside(row, height, inside)
        row_page = group & 1
        ssim_rows[:] = 0.0
        maps[:] = ZERO
        slopes[:] = ZERO
        for span in range(spans):
            pixel, page = first - 2 * REACH + LANES * span, span & 1
            span_of_maps(images, target, height, length, row, pixel * step, step, page, edges, block, maps)
            span_of_slopes(
                maps, step, page, inside, pixel - REACH, width, first, last, block, slopes, ssim_rows
            )
            if with_gradient:
                span_of_rows(slopes, step, page, columns, rows, row_page, pitch, span * LANES * step)
        for lane in range(LANES):
            if first_row <= row + lane < last_row:
                sums[(row + lane) * sum_stride + sum_place, 1] = ssim_rows[lane]
        if group == 0:
            continue
        row = first_row + LANES * (group - 1)
        count = min(LANES, last_row - row)
        l1_rows[:PAGE] = ZERO
        for column in range(first * step, last * step, LANES):
            gradient_rows(
                images, target, length, row, count, column, min(LANES, last * step - column), rows, row_page,
                pitch, 4 * REACH * step + column - first * step, l1_weight, ssim_weight, with_gradient, block,
                l1_rows, out,
            )  # fmt: skip
        for i in range(count):
            sums[(row + i) * sum_stride + sum_place, 0] = sum_lanes(load(l1_rows, i * LANES))


@kernel()
def l1_ssim(
    counter, images, target, height, width, step, bands, strips, l1_weight, ssim_weight, with_gradient,
    scratch, rows, sums, out,
):  # fmt: skip
    """All bands and strips of one image; run by several threads at once on one counter.

    images, target [height * width * step] float32, step the channels, or target of bytes; scratch and rows:
    room for one thread; sums [height * strips, 2] float64 of |x - y| and ssim; out, like images, the gradient
    of l1_weight * sum |x - y| - ssim_weight * sum ssim, if with_gradient.
    """
    while True:
        share = claim(counter)
        if share >= bands * strips:
            break
        band, strip = share // strips, share % strips
        groups = (height + LANES - 1) // LANES
        first_row, last_row = groups * band // bands * LANES, groups * (band + 1) // bands * LANES
        band_of_strip(
            images, target, height, width, step, first_row, min(height, last_row), width * strip // strips,
            width * (strip + 1) // strips, l1_weight, ssim_weight, with_gradient, scratch, rows, sums, strip,
            strips, out,
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
        image: flat float32 [H*W*channels].
        target: likewise, or as bytes, of which 255 is 1.
        shape: H, W, channels.
        count: numbers that the loss is the mean over (more than one image's, for a batch).

    Returns:
        sum of (1 - lambda) |x - y| + lambda (1 - ssim) over the image divided by `count`, and its gradient
        [H*W*channels] (empty if not wanted).
    """
    height, width, step = shape
    strips, groups = -(-width // STRIP), -(-height // LANES)
    # Every thread gets as many as the others: each band costs a group of rows more than it has.
    n_threads = threads.thread_count()
    rounds = -(-height * strips // (n_threads * BAND))
    bands = min(groups, -(-n_threads * rounds // strips))
    sums = np.zeros((height * strips, 2))
    out = np.empty(height * width * step if with_gradient else 0, np.float32)
    l1_weight, ssim_weight = np.float32((1 - ssim_lambda) / count), np.float32(ssim_lambda / count)
    widest = -(-width // strips)
    pitch = (-(-(widest + REACH - 1) // LANES) + 1) * LANES * step

    def work(counter: np.ndarray) -> None:
        scratch = aligned_empty((2 * (MAPS + SLOPES) * step + step + MAPS + 5) * PAGE)
        # The last vector of the last row may reach past its end.
        rows = aligned_empty(2 * SLOPES * LANES * pitch + LANES if with_gradient else 0)
        l1_ssim(
            counter, image, target, height, width, step, bands, strips, l1_weight, ssim_weight, with_gradient,
            scratch, rows, sums, out,
        )  # fmt: skip

    threads.on_all(work, bands * strips)
    l1, ssim = sums.sum(0)
    return ((1 - ssim_lambda) * l1 + ssim_lambda * (height * width * step - ssim)) / count, out
