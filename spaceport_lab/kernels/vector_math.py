"""Functions of vectors: powers of two, logarithms, reciprocals."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from spaceport_lab.kernels.vector import (
    F32,
    FLAGS,
    I16,
    I32,
    LANES,
    VF,
    VI,
    call,
    constant,
    constant_int,
    floats,
    fused,
    has_feature,
    kept,
)
from spaceport_lab.kernels.vector_tuples import tuple_items, tuple_of, tuple_type

# 2**f as a polynomial of least largest relative error: for f in [0, 1], where the whole number below is taken
# out, and for f in [-1/2, 1/2], where the nearest one is (1.8e-7 and 2.2e-7 as they are evaluated).
EXP2_ABOVE_FLOOR = (
    0.999999925063623,
    0.6931530731948589,
    0.2401536170902721,
    0.05582631791744963,
    0.008989340252358433,
    0.0018775766083149836,
)
EXP2_AROUND_NEAREST = (
    1.0000000716546849,
    0.6931469670647603,
    0.2402211972383998,
    0.05550713273497929,
    0.009675541334454401,
    0.001327647199258419,
)
# Below this exponent the result is as good as zero and its bits could no longer be composed by hand.
EXP2_FLOOR = -100.0
# Added to a small number it leaves the nearest whole one in the lowest bits, nothing else in the lowest nine.
TO_NEAREST = 1.5 * 2.0**23


def _exp2(context: Any, builder: ir.IRBuilder, power: Any, constants: list) -> Any:
    """2**power; meaningless below -126. The constants are those of `_exp2_numbers`."""
    whole_type, (result, *coefficients, to_nearest) = ir.VectorType(I32, power.type.count), constants
    if _can_scale(context, power.type.count):
        part = _by_512(builder, "reduce", power, ir.Constant(I32, 1))
    else:
        marked = builder.fadd(power, to_nearest)
        part = builder.fsub(power, builder.fsub(marked, to_nearest))
    for coefficient in coefficients:
        result = fused(builder, result, part, coefficient)
    if _can_scale(context, power.type.count):
        return _by_512(builder, "scalef", result, power)
    exponent = builder.shl(builder.bitcast(marked, whole_type), constant_int(23, power.type.count))
    return builder.bitcast(builder.add(builder.bitcast(result, whole_type), exponent), power.type)


def _can_scale(context: Any, lanes: int) -> bool:
    """Whether one instruction takes off the whole number below, and one multiplies by 2**floor(x)."""
    return lanes == LANES and has_feature(context, "avx512dq")


def _by_512(builder: ir.IRBuilder, name: str, x: Any, y: Any) -> Any:
    arguments = [x, y, constant(0.0), ir.Constant(I16, -1), ir.Constant(I32, 4)]
    return call(builder, f"llvm.x86.avx512.mask.{name}.ps.512", VF, arguments)


def _exp2_numbers(context: Any, lanes: int) -> tuple:
    coefficients = EXP2_ABOVE_FLOOR if _can_scale(context, lanes) else EXP2_AROUND_NEAREST
    return (*coefficients[::-1], TO_NEAREST)


@intrinsic
def exp2(typing_context: Any, x: Any) -> Any:
    """2**x in each lane; exactly zero or as good as zero below x = -100."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        floor = constant(EXP2_FLOOR, x.lanes)
        power = builder.select(builder.fcmp_ordered(">", args[0], floor), args[0], floor)
        constants = [constant(number, x.lanes) for number in _exp2_numbers(context, x.lanes)]
        return _exp2(context, builder, power, constants)

    return x(x), generate


@intrinsic
def exp2_constants(typing_context: Any) -> Any:
    """What `exp2_normal` needs, to be had before a loop and kept in registers throughout."""
    result = tuple_type(len(EXP2_ABOVE_FLOOR) + 1)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        numbers = [ir.Constant(F32, number) for number in _exp2_numbers(context, LANES)]
        return tuple_of(builder, context, result, [kept(context, builder, number) for number in numbers])

    return result(), generate


@intrinsic
def exp2_normal(typing_context: Any, x: Any, constants: Any) -> Any:
    """2**x in each lane; meaningless below x = -126, for the caller to leave out."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return _exp2(context, builder, args[0], tuple_items(builder, args[1], len(constants)))

    return x(x, constants), generate


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
