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
    FLAGS,
    I16,
    I32,
    LANES,
    VF,
    VI,
    as_floats,
    call,
    constant,
    constant_int,
    floats,
)
from spaceport_lab.kernels.vector_memory import element_pointer

# 2**f for f in [-1/2, 1/2], a polynomial of least largest relative error (1.8e-7).
EXP2_COEFFICIENTS = (
    1.0000000716546578,
    0.6931469670638657,
    0.2402211972393407,
    0.05550713274961828,
    0.009675541330677745,
    0.001327647151936763,
)
# Below this exponent the result is as good as zero and its bits could no longer be composed by hand.
EXP2_FLOOR = -100.0


def has_feature(context: Any, feature: str) -> bool:
    """Whether the machine compiled for has it, by LLVM's name; NUMBA_CPU_FEATURES counts."""
    features = context.codegen().magic_tuple()[2]
    return f"+{feature}" in features.split(",")


@intrinsic
def exp2(typing_context: Any, x: Any) -> Any:
    """2**x in each lane; exactly zero or as good as zero below x = -100."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        scalef = has_feature(context, "avx512f")
        power = args[0]
        if not scalef:
            floor = constant(EXP2_FLOOR)
            power = builder.select(builder.fcmp_ordered(">", power, floor), power, floor)
        whole = call(builder, "llvm.rint.v16f32", VF, [power])
        part = builder.fsub(power, whole)
        result = constant(EXP2_COEFFICIENTS[-1])
        for coefficient in EXP2_COEFFICIENTS[-2::-1]:
            result = call(builder, "llvm.fmuladd.v16f32", VF, [result, part, constant(coefficient)])
        if scalef:
            everywhere, round_nearest = ir.Constant(I16, -1), ir.Constant(I32, 4)
            arguments = [result, whole, constant(0.0), everywhere, round_nearest]
            return call(builder, "llvm.x86.avx512.mask.scalef.ps.512", VF, arguments)
        exponent = builder.shl(builder.fptosi(whole, VI), constant_int(23))
        return builder.bitcast(builder.add(builder.bitcast(result, VI), exponent), VF)

    return floats(floats), generate


@intrinsic
def reciprocal(typing_context: Any, x: Any) -> Any:
    """1 / x for normal numbers: an estimate and a Newton step where the machine has one, else a division."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if not has_feature(context, "avx512f"):
            return builder.fdiv(constant(1.0), args[0], flags=FLAGS)
        everywhere = ir.Constant(I16, -1)
        estimate = call(builder, "llvm.x86.avx512.rcp14.ps.512", VF, [args[0], args[0], everywhere])
        correction = call(
            builder, "llvm.fmuladd.v16f32", VF, [builder.fneg(args[0]), estimate, constant(2.0)]
        )
        return builder.fmul(estimate, correction)

    return floats(floats), generate


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
            series = call(
                builder, "llvm.fmuladd.v16f32", VF, [series, square, constant(2 / math.log(2) / power)]
            )
        whole = builder.sitofp(exponent, VF)
        return call(builder, "llvm.fmuladd.v16f32", VF, [s, series, whole])

    return floats(floats), generate


_TWO_THIRDS = 0x3F2AAAAB  # the bits of 2/3 as float32


# ---- tuples of vectors
# -------------------------------------------------------------------------------------------


def _tuple_of(builder: ir.IRBuilder, context: Any, tuple_type: types.UniTuple, values: list) -> Any:
    return context.make_tuple(builder, tuple_type, values)


def _items(builder: ir.IRBuilder, value: Any, count: int) -> list:
    return [builder.extract_value(value, i) for i in range(count)]


def _vectors(count: int) -> types.UniTuple:
    return types.UniTuple(floats, count)


@intrinsic
def zeros(typing_context: Any, channels: Any) -> Any:
    """As many zero vectors as the tuple `channels` is long."""
    result = _vectors(len(channels))

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _tuple_of(builder, context, result, [constant(0.0)] * len(channels))

    return result(channels), generate


def _load_each(scalar: bool) -> Callable:
    def typed(typing_context: Any, array: Any, index: Any, stride: Any, channels: Any) -> Any:
        count = len(channels)
        result = _vectors(count)

        def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
            values = []
            for pointer in _strided(context, builder, sig, args, count, 1 if scalar else LANES):
                if scalar:
                    values.append(as_floats(context, builder, types.float32, builder.load(pointer)))
                else:
                    values.append(builder.load(builder.bitcast(pointer, VF.as_pointer()), align=4))
            return _tuple_of(builder, context, result, values)

        return result(array, index, stride, channels), generate

    return typed


def _strided(context: Any, builder: ir.IRBuilder, sig: Any, args: Any, count: int, width: int) -> list:
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
    return _load_each(scalar=True)(typing_context, array, index, stride, channels)


@intrinsic
def load_each(typing_context: Any, array: Any, index: Any, stride: Any, channels: Any) -> Any:
    """For each channel k the vector at array[index + k * stride]."""
    return _load_each(scalar=False)(typing_context, array, index, stride, channels)


@intrinsic
def add_to_each(typing_context: Any, array: Any, index: Any, stride: Any, weight: Any, values: Any) -> Any:
    """The vector at array[index + k * stride] += weight * values[k] for each channel k."""
    count = len(values)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointers = _strided(context, builder, sig, args, count, LANES)
        for pointer, value in zip(pointers, _items(builder, args[4], count), strict=True):
            place = builder.bitcast(pointer, VF.as_pointer())
            before = builder.load(place, align=4)
            builder.store(call(builder, "llvm.fmuladd.v16f32", VF, [args[3], value, before]), place, align=4)
        return context.get_dummy_value()

    return types.void(array, index, stride, weight, values), generate


@intrinsic
def fma_each(typing_context: Any, weight: Any, values: Any, sums: Any) -> Any:
    """weight * values[k] + sums[k] for each channel k."""
    count = len(values)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pairs = zip(_items(builder, args[1], count), _items(builder, args[2], count), strict=True)
        results = [call(builder, "llvm.fmuladd.v16f32", VF, [args[0], v, s]) for v, s in pairs]
        return _tuple_of(builder, context, sums, results)

    return sums(weight, values, sums), generate


@intrinsic
def dot_each(typing_context: Any, left: Any, right: Any) -> Any:
    """The sum over channels of left[k] * right[k]."""
    count = len(left)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        lefts, rights = (_items(builder, arg, count) for arg in args)
        total = builder.fmul(lefts[0], rights[0])
        for x, y in zip(lefts[1:], rights[1:], strict=True):
            total = call(builder, "llvm.fmuladd.v16f32", VF, [x, y, total])
        return total

    return floats(left, right), generate


def _fold(builder: ir.IRBuilder, left: Any, right: Any, half: int) -> Any:
    """Halve two vectors' groups of 2 * half lanes by adding; left and right groups then lie side by side."""
    low, high = [], []
    for start in range(0, LANES, 2 * half):
        low += [*range(start, start + half), *range(LANES + start, LANES + start + half)]
        high += [
            *range(start + half, start + 2 * half),
            *range(LANES + start + half, LANES + start + 2 * half),
        ]
    low_part = builder.shuffle_vector(left, right, ir.Constant(VI, low))
    high_part = builder.shuffle_vector(left, right, ir.Constant(VI, high))
    return builder.fadd(low_part, high_part, flags=("nsz",))


@intrinsic
def sums_of(typing_context: Any, vectors: Any) -> Any:
    """A vector whose lane k is the sum of all lanes of vectors[k], at most sixteen, always in one order."""
    count = len(vectors)
    if count > LANES:
        raise ValueError(f"at most {LANES} vectors can be summed at once, got {count}")

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        zero = constant(0.0)
        rows = _items(builder, args[0], count) + [zero] * (LANES - count)
        half = LANES // 2
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

    return floats(vectors), generate


# ---- arrays of short rows
# ----------------------------------------------------------------------------------------


def _merge(builder: ir.IRBuilder, vectors: list, source: Callable[[int], tuple[int, int]]) -> Any:
    """The vector whose lane l is lane source(l)[1] of vectors[source(l)[0]]."""
    merged = vectors[0]
    lanes = [source(lane)[1] if source(lane)[0] == 0 else 0 for lane in range(LANES)]
    merged = builder.shuffle_vector(merged, merged, ir.Constant(VI, lanes))
    for number, vector in enumerate(vectors[1:], start=1):
        lanes = [LANES + source(lane)[1] if source(lane)[0] == number else lane for lane in range(LANES)]
        merged = builder.shuffle_vector(merged, vector, ir.Constant(VI, lanes))
    return merged


@intrinsic
def load_columns(typing_context: Any, array: Any, index: Any, columns: Any) -> Any:
    """Columns of 16 rows of as many floats as `columns` has: lane l of vector c is row l's number c."""
    count = len(columns)
    result = _vectors(count)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, count=LANES * count)
        place = builder.bitcast(pointer, VF.as_pointer())
        read = [builder.load(builder.gep(place, [ir.Constant(I32, k)]), align=4) for k in range(count)]
        values = [
            _merge(builder, read, lambda lane, c=c: divmod(lane * count + c, LANES)) for c in range(count)
        ]
        return _tuple_of(builder, context, result, values)

    return result(array, index, columns), generate


@intrinsic
def store_columns(typing_context: Any, array: Any, index: Any, values: Any) -> Any:
    """The reverse of `load_columns`; float32 or int32 as the values are."""
    count = len(values)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, count=LANES * count)
        columns = _items(builder, args[2], count)
        place = builder.bitcast(pointer, columns[0].type.as_pointer())
        for k in range(count):
            merged = _merge(builder, columns, lambda lane, k=k: divmod(LANES * k + lane, count)[::-1])
            builder.store(merged, builder.gep(place, [ir.Constant(I32, k)]), align=4)
        return context.get_dummy_value()

    return types.void(array, index, values), generate


def _transpose(builder: ir.IRBuilder, rows: list) -> list:
    """Sixteen rows of sixteen lanes to columns: four rounds of exchanging halves of ever smaller squares."""
    half = LANES // 2
    while half:
        for row in range(LANES):
            if row & half:
                continue
            low = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
            high = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
            upper, lower = rows[row], rows[row + half]
            rows[row] = builder.shuffle_vector(upper, lower, ir.Constant(VI, low))
            rows[row + half] = builder.shuffle_vector(upper, lower, ir.Constant(VI, high))
        half //= 2
    return rows


@intrinsic
def store_records(typing_context: Any, array: Any, index: Any, stride: Any, fields: Any) -> Any:
    """Write 16 records of 16 floats, the l-th to index + l * stride, from its fields; others are zero."""
    count = len(fields)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        rows = _transpose(builder, _items(builder, args[3], count) + [constant(0.0)] * (LANES - count))
        for pointer, row in zip(_strided(context, builder, sig, args, LANES, LANES), rows, strict=True):
            builder.store(row, builder.bitcast(pointer, VF.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, stride, fields), generate


@intrinsic
def load_records(typing_context: Any, array: Any, index: Any, stride: Any) -> Any:
    """The reverse of `store_records`: sixteen fields of sixteen records."""
    result = _vectors(LANES)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointers = _strided(context, builder, sig, args, LANES, LANES)
        rows = [builder.load(builder.bitcast(pointer, VF.as_pointer()), align=4) for pointer in pointers]
        return _tuple_of(builder, context, result, _transpose(builder, rows))

    return result(array, index, stride), generate
