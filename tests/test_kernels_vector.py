"""Sixteen lanes against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from spaceport_lab.kernels import vector, vector_math, vector_memory, vector_rows
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
    vector_memory.store(sums, 0, vector_math.sums_of(four))
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
        return vector.sum_lanes(vector_math.sums_of(vector_math.zeros(channels)))

    with pytest.raises(Exception, match="at most 16 vectors"):
        too_many(np.zeros(16, np.float32), (0,) * 17)
