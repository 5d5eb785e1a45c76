"""Functions of vectors: powers of two, reciprocals, tuples of vectors (one for each colour channel).

How many channels there are is part of a tuple's type, so the same source is compiled once for each count
that is used, with its loops unrolled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from spaceport_lab.kernels.vector import (
    F32,
    FLAGS,
    I16,
    I32,
    LANES,
    VF,
    VI,
    WIDTH,
    Floats,
    as_floats,
    call,
    constant,
    constant_int,
    floats,
    fused,
    has_feature,
    lanewise,
    narrow,
    spread,
)
from spaceport_lab.kernels.vector_memory import element_pointer

# 2**f for f in [0, 1], a polynomial of least largest relative error (1.8e-7 as it is evaluated).
EXP2_COEFFICIENTS = (
    0.999999925063623,
    0.6931530731948589,
    0.2401536170902721,
    0.05582631791744963,
    0.008989340252358433,
    0.0018775766083149836,
)
# Below this exponent the result is as good as zero and its bits could no longer be composed by hand.
EXP2_FLOOR = -100.0


def _exp2(context: Any, builder: ir.IRBuilder, powers: list) -> list:
    """2**x of several vectors, step by step for all of them: their steps do not wait for each other."""
    lanes = powers[0].type.count
    scalef = has_feature(context, "avx512dq") and lanes == LANES
    everywhere, rounding = ir.Constant(I16, -1), ir.Constant(I32, 4)
    if scalef:
        # what is above the next whole number below, in one instruction
        parts = [
            call(
                builder, "llvm.x86.avx512.mask.reduce.ps.512", VF,
                [x, ir.Constant(I32, 1), constant(0.0), everywhere, rounding],
            )
            for x in powers
        ]  # fmt: skip
    else:
        floor = constant(EXP2_FLOOR, lanes)
        powers = [builder.select(builder.fcmp_ordered(">", x, floor), x, floor) for x in powers]
        wholes = [lanewise(builder, "floor", x) for x in powers]
        parts = [builder.fsub(x, whole) for x, whole in zip(powers, wholes, strict=True)]
    results = [constant(EXP2_COEFFICIENTS[-1], lanes)] * len(powers)
    for coefficient in EXP2_COEFFICIENTS[-2::-1]:
        results = [
            fused(builder, result, part, constant(coefficient, lanes))
            for result, part in zip(results, parts, strict=True)
        ]
    if scalef:
        # multiplies by two to the whole number below x
        return [
            call(
                builder, "llvm.x86.avx512.mask.scalef.ps.512", VF,
                [result, x, constant(0.0), everywhere, rounding],
            )
            for result, x in zip(results, powers, strict=True)
        ]  # fmt: skip
    whole_type, kind = ir.VectorType(I32, lanes), powers[0].type
    exponents = [builder.shl(builder.fptosi(whole, whole_type), constant_int(23, lanes)) for whole in wholes]
    return [
        builder.bitcast(builder.add(builder.bitcast(result, whole_type), exponent), kind)
        for result, exponent in zip(results, exponents, strict=True)
    ]


@intrinsic
def exp2(typing_context: Any, x: Any) -> Any:
    """2**x in each lane; exactly zero or as good as zero below x = -100."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _exp2(context, builder, [args[0]])[0]

    return x(x), generate


@intrinsic
def reciprocal(typing_context: Any, x: Any) -> Any:
    """1 / x for normal numbers: an estimate and a Newton step where the machine has one, else a division."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if not has_feature(context, "avx512f") or x.lanes != LANES:
            return builder.fdiv(constant(1.0, x.lanes), args[0], flags=FLAGS)
        everywhere = ir.Constant(I16, -1)
        estimate = call(builder, "llvm.x86.avx512.rcp14.ps.512", VF, [args[0], args[0], everywhere])
        correction = fused(builder, builder.fneg(args[0]), estimate, constant(2.0))
        return builder.fmul(estimate, correction)

    return x(x), generate


@intrinsic
def log2(typing_context: Any, x: Any) -> Any:
    """Logarithm to base 2 of positive normal numbers, to about 1e-7 of the larger of 1 and the result."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], VI)
        # x = 2^e m with m in [2/3, 4/3), by taking the exponent of x * 3/2.
        shifted = builder.sub(bits, constant_int(_TWO_THIRDS))
        exponent = builder.ashr(shifted, constant_int(23))
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, constant_int(23))), VF)
        # log m = 2 atanh s with s = (m - 1) / (m + 1), |s| <= 1/5
        one = constant(1.0)
        s = builder.fdiv(builder.fsub(mantissa, one), builder.fadd(mantissa, one))
        square = builder.fmul(s, s)
        series = constant(2 / math.log(2) / 9)
        for power in (7, 5, 3, 1):
            series = fused(builder, series, square, constant(2 / math.log(2) / power))
        whole = builder.sitofp(exponent, VF)
        return fused(builder, s, series, whole)

    return floats(floats), generate


_TWO_THIRDS = 0x3F2AAAAB  # the bits of 2/3 as float32


# ---- tuples of vectors
# -------------------------------------------------------------------------------------------


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
                values.append(builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4))
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
def splat_narrow_each(typing_context: Any, array: Any, index: Any, stride: Any, channels: Any) -> Any:
    """`splat_each` as narrow vectors."""
    return _load_each(narrow, True, array, index, stride, channels)


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


def _for_each(operation: Callable) -> Any:
    """An intrinsic of three arguments, each a tuple of vectors or one vector that serves for all of them."""

    def typed(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
        result = next(kind for kind in (x, y, z) if isinstance(kind, types.UniTuple))

        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
            columns = [
                tuple_items(builder, arg, len(result))
                if isinstance(kind, types.UniTuple)
                else [arg] * len(result)
                for kind, arg in zip(sig.args, args, strict=True)
            ]
            values = [operation(builder, *values) for values in zip(*columns, strict=True)]
            return tuple_of(builder, context, result, values)

        return result(x, y, z), generate

    return typed


@intrinsic
def fma_each(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z for each of a tuple's vectors; arguments that are no tuples serve for all of them."""
    multiply = _for_each(fused)
    return multiply(typing_context, x, y, z)


@intrinsic
def fnma_each(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """z - x * y for each of a tuple's vectors; arguments that are no tuples serve for all of them."""
    multiply = _for_each(lambda b, x, y, z: fused(b, b.fneg(x), y, z))
    return multiply(typing_context, x, y, z)


@intrinsic
def exp2_each(typing_context: Any, x: Any) -> Any:
    """`exp2` for each of a tuple's vectors."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        values = _exp2(context, builder, tuple_items(builder, args[0], len(x)))
        return tuple_of(builder, context, x, values)

    return x(x), generate


@intrinsic(prefer_literal=True)
def part_of(typing_context: Any, vectors: Any, first: Any, channels: Any) -> Any:
    """vectors[first], vectors[first + 1] … as many as `channels` is long; zeros past the end."""
    start, result = first.literal_value, tuple_type(len(channels))

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        values = tuple_items(builder, args[0], len(vectors)) + [constant(0.0)] * len(channels)
        return tuple_of(builder, context, result, values[start : start + len(channels)])

    return result(vectors, first, channels), generate


@intrinsic
def splat_narrow_at(typing_context: Any, array: Any, first: Any, places: Any) -> Any:
    """For each of a tuple of places the number array[first + place] in all lanes of a narrow vector."""
    result = tuple_type(len(places), narrow)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        first = context.cast(builder, args[1], sig.args[1], types.intp)
        one = types.void(sig.args[0], types.intp)
        values = []
        for k in range(len(places)):
            place = builder.extract_value(args[2], k)
            place = builder.add(first, context.cast(builder, place, sig.args[2][k], types.intp))
            pointer = element_pointer(context, builder, one, [args[0], place], count=1)
            values.append(spread(builder, builder.load(pointer), ir.VectorType(F32, WIDTH)))
        return tuple_of(builder, context, result, values)

    return result(array, first, places), generate


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
