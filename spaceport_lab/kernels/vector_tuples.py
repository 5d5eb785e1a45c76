"""Tuples of vectors: one for each colour channel, say.

How many there are is part of a tuple's type, so the same source is compiled once for each count that is used,
with its loops unrolled.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from spaceport_lab.kernels.vector import (
    F32,
    I32,
    LANES,
    VI,
    WIDTH,
    Floats,
    as_floats,
    constant,
    floats,
    fused,
    narrow,
    spread,
)
from spaceport_lab.kernels.vector_memory import element_pointer, load_floats


def tuple_of(builder: ir.IRBuilder, context: Any, tuple_type: types.UniTuple, values: list) -> Any:
    return context.make_tuple(builder, tuple_type, values)


def tuple_items(builder: ir.IRBuilder, value: Any, count: int) -> list:
    return [builder.extract_value(value, i) for i in range(count)]


def tuple_type(count: int, kind: Floats = floats) -> types.UniTuple:
    return types.UniTuple(kind, count)


def _zeros(kind: Floats, channels: Any) -> Any:
    result = tuple_type(len(channels), kind)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return tuple_of(builder, context, result, [constant(0.0, kind.lanes)] * len(channels))

    return result(channels), generate


@intrinsic
def zeros(typing_context: Any, channels: Any) -> Any:
    """As many zero vectors as the tuple `channels` is long."""
    return _zeros(floats, channels)


@intrinsic
def zeros_narrow(typing_context: Any, channels: Any) -> Any:
    """`zeros` as narrow vectors."""
    return _zeros(narrow, channels)


def _load_each(kind: Floats, scalar: bool, array: Any, index: Any, stride: Any, channels: Any) -> Any:
    count = len(channels)
    result, vector = tuple_type(count, kind), ir.VectorType(F32, kind.lanes)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        values = []
        for pointer in strided_pointers(context, builder, sig, args, count, 1 if scalar else kind.lanes):
            if scalar:
                values.append(spread(builder, builder.load(pointer), vector))
            else:
                values.append(load_floats(builder, sig.args[0], pointer, kind.lanes))
        return tuple_of(builder, context, result, values)

    return result(array, index, stride, channels), generate


def strided_pointers(
    context: Any, builder: ir.IRBuilder, sig: Any, args: Any, count: int, width: Any
) -> list:
    """Pointers to array[index + k * stride] for k < count."""
    index = context.cast(builder, args[1], sig.args[1], types.intp)
    stride = context.cast(builder, args[2], sig.args[2], types.intp)
    pointers = []
    for _ in range(count):
        pointers.append(
            element_pointer(
                context, builder, types.void(sig.args[0], types.intp), [args[0], index], count=width
            )
        )
        index = builder.add(index, stride)
    return pointers


@intrinsic
def splat_each(typing_context: Any, array: Any, index: Any, stride: Any, channels: Any) -> Any:
    """For each channel k the number array[index + k * stride] in all lanes."""
    return _load_each(floats, True, array, index, stride, channels)


@intrinsic
def load_each(typing_context: Any, array: Any, index: Any, stride: Any, channels: Any) -> Any:
    """For each channel k the vector at array[index + k * stride]."""
    return _load_each(floats, False, array, index, stride, channels)


@intrinsic
def load_narrow_each(typing_context: Any, array: Any, index: Any, stride: Any, channels: Any) -> Any:
    """`load_each` as narrow vectors."""
    return _load_each(narrow, False, array, index, stride, channels)


@intrinsic
def store_each(typing_context: Any, array: Any, index: Any, stride: Any, values: Any) -> Any:
    """values[k] to the vector at array[index + k * stride] for each channel k."""
    count = len(values)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointers = strided_pointers(context, builder, sig, args, count, values.dtype.lanes)
        for pointer, value in zip(pointers, tuple_items(builder, args[3], count), strict=True):
            builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, stride, values), generate


@intrinsic
def fma_each(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z for each of a tuple's vectors; arguments that are no tuples serve for all of them."""
    result = next(kind for kind in (x, y, z) if isinstance(kind, types.UniTuple))

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        columns = [
            tuple_items(builder, arg, len(result))
            if isinstance(kind, types.UniTuple)
            else [arg] * len(result)
            for kind, arg in zip(sig.args, args, strict=True)
        ]
        values = [fused(builder, *values) for values in zip(*columns, strict=True)]
        return tuple_of(builder, context, result, values)

    return result(x, y, z), generate


@intrinsic(prefer_literal=True)
def part_of(typing_context: Any, vectors: Any, first: Any, channels: Any) -> Any:
    """vectors[first], vectors[first + 1] … as many as `channels` is long; zeros past the end."""
    start, result = first.literal_value, tuple_type(len(channels))

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        values = tuple_items(builder, args[0], len(vectors)) + [constant(0.0)] * len(channels)
        return tuple_of(builder, context, result, values[start : start + len(channels)])

    return result(vectors, first, channels), generate


@intrinsic
def slide(typing_context: Any, vectors: Any, weights: Any) -> Any:
    """Weighted sums of each vector and its neighbours in the tuple.

    The weights are symmetric and given from the outermost to the one in the middle: with w of them, result k
    is the sum over vectors[k] … vectors[k + 2 * w - 2]; there are 2 * w - 2 results fewer than vectors.
    """
    count, reach = len(vectors), len(weights) - 1
    result = tuple_type(count - 2 * reach, vectors.dtype)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        rows, lanes = tuple_items(builder, args[0], count), vectors.dtype.lanes
        factors = [
            as_floats(context, builder, types.float32, builder.extract_value(args[1], k), lanes)
            for k in range(reach + 1)
        ]
        sums = (_slide_by_result if lanes == LANES else _slide_by_row)(builder, rows, factors)
        return tuple_of(builder, context, result, sums)

    return result(vectors, weights), generate


def _slide_by_result(builder: ir.IRBuilder, rows: list, factors: list) -> list:
    """All rows in registers: those of one weight are added before they are multiplied."""
    reach, sums = len(factors) - 1, []
    for k in range(len(rows) - 2 * reach):
        total = builder.fmul(rows[k + reach], factors[reach])
        for j in range(reach):
            pair = builder.fadd(rows[k + j], rows[k + 2 * reach - j])
            total = fused(builder, pair, factors[j], total)
        sums.append(total)
    return sums


def _slide_by_row(builder: ir.IRBuilder, rows: list, factors: list) -> list:
    """All results in registers: each row is added to those it belongs to, and not needed again."""
    reach = len(factors) - 1
    sums: list = [None] * (len(rows) - 2 * reach)
    for j, row in enumerate(rows):
        for k in range(max(0, j - 2 * reach), min(len(sums), j + 1)):
            factor = factors[reach - abs(j - k - reach)]
            sums[k] = builder.fmul(row, factor) if j == k else fused(builder, row, factor, sums[k])
    return sums


def _parts(builder: ir.IRBuilder, value: Any) -> list:
    """The narrow vectors that sixteen lanes consist of."""
    kind, parts = ir.VectorType(I32, WIDTH), range(0, LANES, WIDTH)
    return [
        builder.shuffle_vector(value, value, ir.Constant(kind, list(range(first, first + WIDTH))))
        for first in parts
    ]


def _add_products(builder: ir.IRBuilder, x: Any, y: Any, total: Any) -> Any:
    for left, right in zip(_parts(builder, x), _parts(builder, y), strict=True):
        total = fused(builder, left, right, total)
    return total


@intrinsic
def fold(typing_context: Any, x: Any) -> Any:
    """Sixteen lanes added up to a narrow vector: its lane k is the sum of lanes k, k + WIDTH …"""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        total, *others = _parts(builder, args[0])
        for part in others:
            total = builder.fadd(total, part, flags=("nsz",))
        return total

    return narrow(x), generate


@intrinsic
def fold_fma(typing_context: Any, x: Any, y: Any, total: Any) -> Any:
    """total + fold(x * y), one narrow vector after the other."""
    return narrow(x, y, total), lambda context, builder, sig, args: _add_products(builder, *args)


@intrinsic
def fold_fma_each(typing_context: Any, x: Any, ys: Any, totals: Any) -> Any:
    """`fold_fma` of x and each of a tuple's vectors."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        columns = (tuple_items(builder, arg, len(ys)) for arg in args[1:])
        sums = [_add_products(builder, args[0], y, total) for y, total in zip(*columns, strict=True)]
        return tuple_of(builder, context, totals, sums)

    return totals(x, ys, totals), generate


@intrinsic
def dot_each(typing_context: Any, left: Any, right: Any) -> Any:
    """The sum over channels of left[k] * right[k]."""
    count = len(left)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        lefts, rights = (tuple_items(builder, arg, count) for arg in args)
        total = builder.fmul(lefts[0], rights[0])
        for x, y in zip(lefts[1:], rights[1:], strict=True):
            total = fused(builder, x, y, total)
        return total

    return left.dtype(left, right), generate


def _fold(builder: ir.IRBuilder, left: Any, right: Any, half: int) -> Any:
    """Halve two vectors' groups of 2 * half lanes by adding; left and right groups then lie side by side."""
    lanes, low, high = left.type.count, [], []
    for start in range(0, lanes, 2 * half):
        low += [*range(start, start + half), *range(lanes + start, lanes + start + half)]
        high += [
            *range(start + half, start + 2 * half),
            *range(lanes + start + half, lanes + start + 2 * half),
        ]
    low_part, high_part = (
        builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(I32, lanes), chosen))
        for chosen in (low, high)
    )
    return builder.fadd(low_part, high_part, flags=("nsz",))


def _sums(builder: ir.IRBuilder, rows: list, lanes: int) -> Any:
    """A vector whose lane k is the sum of rows[k]; as many rows as lanes, or fewer."""
    zero = constant(0.0, lanes)
    rows, half = rows + [zero] * (lanes - len(rows)), lanes // 2
    while len(rows) > 1:
        middle = len(rows) // 2
        rows = [
            zero
            if rows[i] is zero and rows[i + middle] is zero
            else _fold(builder, rows[i], rows[i + middle], half)
            for i in range(middle)
        ]
        half //= 2
    return rows[0]


@intrinsic
def sums_of(typing_context: Any, vectors: Any) -> Any:
    """Sixteen lanes of which lane k is the sum of all lanes of vectors[k], always in one order."""
    count, lanes = len(vectors), vectors.dtype.lanes
    if count > LANES:
        raise ValueError(f"at most {LANES} vectors can be summed at once, got {count}")

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        rows = tuple_items(builder, args[0], count)
        if lanes == LANES:
            return _sums(builder, rows, lanes)
        first, second = _sums(builder, rows[:lanes], lanes), _sums(builder, rows[lanes:], lanes)
        return builder.shuffle_vector(first, second, ir.Constant(VI, list(range(LANES))))

    return floats(vectors), generate
