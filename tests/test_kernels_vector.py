"""Sixteen lanes against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from spaceport_lab.kernels import (
    vector,
    vector_choice,
    vector_math,
    vector_memory,
    vector_rows,
    vector_tuples,
)
from spaceport_lab.kernels.compiling import kernel

FOUR = (0, 0, 0, 0)


@kernel()
def unary(which, source, out):
    for i in range(0, source.shape[0], 16):
        x = vector_memory.load(source, i)
        if which == 0:
            vector_memory.store(out, i, vector_math.exp2(x))
        elif which == 1:
            vector_memory.store(out, i, vector_math.log2(x))
        elif which == 2:
            vector_memory.store(out, i, vector_math.reciprocal(x))
        elif which == 3:
            vector_memory.store(out, i, vector.square_root(x))
        elif which == 4:
            vector_memory.store(out, i, vector.floor(x))
        elif which == 5:
            vector_memory.store(out, i, vector.ceiling(x))
        elif which == 6:
            vector_memory.store(out, i, vector.absolute(x))
        else:
            vector_memory.store(out, i, vector.minus_absolute(x))


def through(which: int, values: np.ndarray) -> np.ndarray:
    source = np.resize(values.astype(np.float32), -(-len(values) // 16) * 16)
    out = np.empty_like(source)
    unary(which, source, out)
    return out[: len(values)]


def test_exp2() -> None:
    x = np.linspace(-30, 8, 40_001).astype(np.float32)
    assert np.abs(through(0, x) / np.exp2(x.astype(np.float64)) - 1).max() < 4e-7
    assert (through(0, np.array([-200.0, -1e4, -1e30, -np.inf])) < 1e-29).all()


def test_log2() -> None:
    x = np.exp(np.random.default_rng(0).uniform(-20, 5, 40_000)).astype(np.float32)
    exact = np.log2(x.astype(np.float64))
    assert (np.abs(through(1, x) - exact) / np.maximum(1, np.abs(exact))).max() < 3e-7
    assert through(1, np.array([1.0]))[0] == 0


def test_reciprocal() -> None:
    x = np.exp(np.random.default_rng(0).uniform(-7, 7, 40_000)).astype(np.float32)
    assert np.abs(through(2, x) * x.astype(np.float64) - 1).max() < 3e-7


@pytest.mark.parametrize(
    ("which", "exact"),
    [(3, np.sqrt), (4, np.floor), (5, np.ceil), (6, np.abs), (7, lambda x: -np.abs(x))],
)
def test_exact_functions(which: int, exact) -> None:
    x = np.random.default_rng(0).normal(0, 100, 4000).astype(np.float32)
    x = np.abs(x) if which == 3 else x
    assert np.array_equal(through(which, x), exact(x))


@kernel()
def rearrange(source, columns, records, sums, first):
    four = vector_rows.load_columns(source, 0, FOUR)
    vector_rows.store_columns(columns, 0, four)
    vector_rows.store_records(records, 0, 16, four)
    fields = vector_rows.load_records(records, 0, 16)
    vector_memory.store(columns, 64, fields[2])
    vector_memory.store(sums, 0, vector_tuples.sums_of(four))
    sums[16] = vector.sum_lanes(four[1])
    vector_memory.store_first(first, 0, vector_memory.load_first(source, 60, 4) + np.float32(1), 3)


def test_rows_columns_and_sums() -> None:
    source = np.random.default_rng(0).normal(0, 1, 64).astype(np.float32)
    columns, records, sums, first = (np.zeros(n, np.float32) for n in (80, 256, 17, 16))
    rearrange(source, columns, records, sums, first)
    rows = source.reshape(16, 4)
    assert np.array_equal(columns[:64], source)
    assert np.array_equal(records.reshape(16, 16)[:, :4], rows)
    assert not records.reshape(16, 16)[:, 4:].any()
    assert np.array_equal(columns[64:], rows[:, 2])
    assert np.allclose(sums[:4], rows.sum(0), atol=1e-5)
    assert not sums[4:16].any()
    assert abs(sums[16] - rows[:, 1].sum()) < 1e-5
    assert np.array_equal(first[:4], np.append(source[60:63] + 1, 0))


def test_at_most_sixteen_sums() -> None:
    @kernel()
    def too_many(source, channels):
        return vector.sum_lanes(vector_tuples.sums_of(vector_tuples.zeros(channels)))

    with pytest.raises(Exception, match="at most 16 vectors"):
        too_many(np.zeros(16, np.float32), (0,) * 17)


WEIGHTS = tuple(np.float32(weight) for weight in (0.1, 0.2, 0.4))
SIX, SEVEN = (0,) * 6, (0,) * 7


@kernel()
def slide_over(source, out):
    vector_tuples.store_each(
        out, 0, 16, vector_tuples.slide(vector_tuples.load_each(source, 0, 16, SEVEN), WEIGHTS)
    )


def test_slide() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (7, 16)).astype(np.float32)
    out = np.zeros((3, 16), np.float32)
    slide_over(rows.reshape(-1), out.reshape(-1))
    kernel_rows = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
    expected = [(kernel_rows[:, None] * rows[k : k + 5]).sum(0) for k in range(3)]
    assert np.allclose(out, expected, atol=1e-6)


@kernel()
def choose(values, out, counts, limit):
    chosen = vector_memory.load_ints(values, 0) > limit
    vector_choice.store_chosen(out, 0, vector_memory.load_ints(values, 0), chosen)
    counts[0] = vector.count_lanes(chosen)
    counts[1] = vector.true_lanes(chosen)
    counts[2] = vector.lowest_bit(vector.true_lanes(chosen))


@pytest.mark.parametrize("limit", [-200, -50, 0, 50, 200])
def test_chosen_lanes_come_first_and_zeros_after(limit: int) -> None:
    values = np.random.default_rng(limit + 200).integers(-100, 100, 16).astype(np.int32)
    out, counts = np.full(16, 7, np.int32), np.zeros(3, np.int64)
    choose(values, out, counts, limit)
    picked = values[values > limit]
    assert np.array_equal(out, np.concatenate([picked, np.zeros(16 - len(picked), np.int32)]))
    assert counts[0] == len(picked)
    assert counts[1] == sum(1 << lane for lane in np.flatnonzero(values > limit))
    assert counts[2] == (np.flatnonzero(values > limit)[0] if len(picked) else 64)


@kernel()
def copy_block(image, out, at, stride, rows, count, channels):
    block = vector_rows.load_block(image, at, stride, rows, count, channels)
    vector_rows.store_block(out, at, stride, rows, count, block)
    return vector.sum_lanes(block[len(channels) - 1])


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 4), (4, 1), (1, 3), (0, 4), (-3, 4)])
def test_blocks_of_an_image(channels: int, rows: int, columns: int) -> None:
    width = 9
    image = np.random.default_rng(0).normal(0, 1, (6, width, channels)).astype(np.float32)
    out, at = np.zeros_like(image), (width * 1 + 2) * channels
    total = copy_block(
        image.reshape(-1), out.reshape(-1), at, width * channels, rows, columns * channels, (0,) * channels
    )
    expected = np.zeros_like(image)
    inside = slice(1, 1 + max(rows, 0)), slice(2, 2 + columns)
    expected[inside] = image[inside]
    assert np.array_equal(out, expected)
    assert abs(total - image[inside][..., -1].sum()) < 1e-5


@kernel()
def harmonic_tools(source, records, out, live, count):
    fields = vector_rows.load_records_first(source, 0, 6, 5)
    vector_rows.store_records_first(records, 0, 20, fields, live, count)
    two = vector_tuples.part_of(fields, 1, TWO)
    vector_tuples.store_each(out, 0, 16, vector_rows.products(two, two))
    vector_tuples.store_each(
        out, 64, 16, vector_rows.combine(two, (fields[0], fields[1], fields[2], fields[3]), two)
    )


TWO = (0, 0)


def test_fields_of_records() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (16, 6)).astype(np.float32)
    records, out = np.full((16, 20), 9, np.float32), np.zeros((6, 16), np.float32)
    harmonic_tools(rows.reshape(-1), records.reshape(-1), out.reshape(-1), 3, 7)
    assert np.array_equal(records[:, :3], rows[:, :3])
    assert not records[:, 3:7].any()
    assert (records[:, 7:] == 9).all()
    f, a, b = rows.T, rows[:, 1], rows[:, 2]
    assert np.allclose(out[:4], [a * a, a * b, b * a, b * b], atol=1e-6)
    assert np.allclose(out[4:], [a + a * f[0] + b * f[2], b + a * f[1] + b * f[3]], atol=1e-6)


@kernel()
def in_parts(source, out, sums):
    """The same of sixteen lanes at once and of narrow vectors."""
    x, y = vector_memory.load(source, 0), vector_memory.load(source, 16)
    vector_memory.store(out, 0, work_on(x, y))
    for part in range(0, 16, vector.WIDTH):
        x = vector_memory.load_narrow(source, part)
        y = vector_memory.load_narrow(source, 16 + part)
        vector_memory.store(out, 16 + part, work_on(x, y))
    vectors = vector_tuples.load_narrow_each(source, 0, vector.WIDTH, ELEVEN)
    vector_memory.store(sums, 0, vector_tuples.sums_of(vectors))


@kernel(inline=True)
def work_on(x, y):
    a = vector.fnma(x, y, vector_math.exp2(x)) * vector_math.reciprocal(vector.absolute(y) + 1.0)
    b = vector.select((x > y) & (y > -1.0), vector.minimum(a, x), -vector.square_root(vector.absolute(a)))
    return vector.maximum(b, vector.floor(x)) - vector.minus_absolute(y)


ELEVEN = (0,) * 11


def test_narrow_vectors_do_the_same() -> None:
    source = np.random.default_rng(0).normal(0, 2, 11 * 16).astype(np.float32)
    out, sums = np.zeros(32, np.float32), np.zeros(16, np.float32)
    in_parts(source, out, sums)
    assert np.array_equal(out[:16], out[16:])
    assert len(set(out[:16])) == 16
    rows = source[: 11 * vector.WIDTH].reshape(11, vector.WIDTH)
    assert np.allclose(sums[:11], rows.sum(1), atol=1e-5)
    assert not sums[11:].any()


@kernel()
def loop_tools(source, out, sums):
    x, constants, ten = vector_memory.load(source, 0), vector_math.exp2_constants(), vector.keep(10.0)
    vector_memory.store(out, 0, vector_math.exp2_normal(x, constants) * ten)
    vector_memory.store(out, 16, vector_memory.load_repeated(source, 3))
    for part in range(0, 16, vector.WIDTH):
        vector_memory.store(out, 32 + part, vector_memory.load_narrow_repeated(source, 3))
    y = vector_memory.load(source, 16)
    vector_memory.store(sums, 0, vector_tuples.fold(x))
    total = vector_memory.load_narrow(source, 32)
    vector_memory.store(sums, 16, vector_tuples.fold_fma(x, y, total))
    first, second = vector_tuples.fold_fma_each(x, (y, x), (total, total))
    vector_memory.store(sums, 32, first)
    vector_memory.store(sums, 48, second)


def test_what_loops_of_tiles_are_made_of() -> None:
    source = np.random.default_rng(0).uniform(-8, 0, 48).astype(np.float32)
    out, sums = np.zeros(48, np.float32), np.zeros((4, 16), np.float32)
    loop_tools(source, out, sums.reshape(-1))
    x, y, width = source[:16].astype(np.float64), source[16:32].astype(np.float64), vector.WIDTH
    assert np.abs(out[:16] / (10 * np.exp2(x)) - 1).max() < 4e-7
    assert np.array_equal(out[16:32], np.tile(source[3:7], 4))
    assert np.array_equal(out[32:], np.tile(source[3:7], 4))
    total = source[32 : 32 + width]
    expected = [x, x * y, x * y, x * x]
    folded = [values.reshape(-1, width).sum(0) for values in expected]
    folded[1:] = [values + total for values in folded[1:]]
    assert np.allclose(sums[:, :width], folded, rtol=1e-6)


@kernel()
def any_above(values, limit):
    return vector.any_lane(vector_memory.load(values, 0) > limit)


def test_any_lane() -> None:
    for lane in range(16):
        values = np.zeros(16, np.float32)
        values[lane] = 1
        assert any_above(values, np.float32(0.5))
        assert not any_above(values, np.float32(1.5))


def test_vectors_of_two_widths_do_not_mix() -> None:
    with pytest.raises(TypeError, match="vectors of different widths: floats8, floats16"):
        vector._lanes((vector.Floats(8), vector.Floats(16)))


@kernel()
def turn_bits(words, out):
    found = vector_choice.lanes_with_bits(vector_memory.load_ints(words, 0))
    for bit in range(16):
        out[bit] = found[bit]


def test_bits_to_lanes() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 16, 16).astype(np.int32)
    out = np.zeros(16, np.int64)
    turn_bits(words, out)
    assert [[out[bit] >> lane & 1 for bit in range(16)] for lane in range(16)] == [
        [word >> bit & 1 for bit in range(16)] for word in words.tolist()
    ]


@kernel()
def copy_some(source, out, count):
    vector_memory.store_some(out, 0, vector_memory.load_some(source, 0, count), count)


@pytest.mark.parametrize("count", [0, 1, 9, 15, 16])
def test_some_lanes(count: int) -> None:
    source, out = np.arange(1, 17, dtype=np.float32), np.zeros(16, np.float32)
    copy_some(source[:count] if count < 16 else source, out, count)
    assert np.array_equal(out, np.where(np.arange(16) < count, source, 0))
