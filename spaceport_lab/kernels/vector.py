"""Sixteen float32 numbers as one value inside a numba kernel.

LLVM's own vector types: on AVX-512 a value is one register, on AVX2 two, on NEON four. Nothing here needs a
particular processor; where AVX-512 has one instruction for what takes several elsewhere (`exp2`,
`reciprocal`), the features of the machine that numba compiles for decide.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
F32, I1, I8, I16, I32, I64 = ir.FloatType(), *(ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
VF, VI, VM, VL = (ir.VectorType(element, LANES) for element in (F32, I32, I1, I64))
# A product may be fused into a sum; nothing is reordered. Where two kernels must get the same bits, the code
# spells out its `fma`s, so that there is nothing left to fuse.
FLAGS = ("contract", "nsz")


class Floats(types.Type):
    """Sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="floats16")


class Ints(types.Type):
    """Sixteen int32."""

    def __init__(self) -> None:
        super().__init__(name="ints16")


class Mask(types.Type):
    """Sixteen truth values."""

    def __init__(self) -> None:
        super().__init__(name="mask16")


floats, ints, mask = Floats(), Ints(), Mask()


def _model(value_type: type, llvm_type: ir.Type) -> None:
    @register_model(value_type)
    class Model(models.PrimitiveModel):
        def __init__(self, manager: Any, fe_type: Any) -> None:
            super().__init__(manager, fe_type, llvm_type)


_model(Floats, VF)
_model(Ints, VI)
_model(Mask, VM)


def constant(value: float) -> ir.Constant:
    return ir.Constant(VF, [float(value)] * LANES)


def constant_int(value: int) -> ir.Constant:
    return ir.Constant(VI, [int(value)] * LANES)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, args: list) -> Any:
    """Call an LLVM intrinsic by name."""
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def spread(builder: ir.IRBuilder, scalar: Any, vector_type: ir.VectorType) -> Any:
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, constant_int(0))


def as_floats(context: Any, builder: ir.IRBuilder, value_type: types.Type, value: Any) -> Any:
    """A vector as it is; a number spread over all lanes."""
    if value_type == floats:
        return value
    return spread(builder, context.cast(builder, value, value_type, types.float32), VF)


def as_ints(context: Any, builder: ir.IRBuilder, value_type: types.Type, value: Any) -> Any:
    if value_type == ints:
        return value
    return spread(builder, context.cast(builder, value, value_type, types.int32), VI)


def _is_number(value_type: types.Type) -> bool:
    return isinstance(value_type, (types.Float, types.Integer))


def _operator(op: Callable, operand: types.Type, result: types.Type, widen: Callable, emit: Callable) -> None:
    """Teach numba `vector op vector`, `vector op number` and `number op vector`."""

    class Template(AbstractTemplate):
        key = op

        def generic(self, args: tuple, kws: dict) -> Any:
            fits = len(args) == 2 and operand in args
            if fits and not kws and all(arg == operand or _is_number(arg) for arg in args):
                return signature(result, *args)
            return None

    infer_global(op)(Template)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        left, right = (widen(context, builder, t, v) for t, v in zip(sig.args, args, strict=True))
        return emit(builder, left, right)

    lower_builtin(op, operand, operand)(lower)
    for number in (types.Float, types.Integer):
        lower_builtin(op, operand, number)(lower)
        lower_builtin(op, number, operand)(lower)


_operator(operator.add, floats, floats, as_floats, lambda b, x, y: b.fadd(x, y, flags=FLAGS))
_operator(operator.sub, floats, floats, as_floats, lambda b, x, y: b.fsub(x, y, flags=FLAGS))
_operator(operator.mul, floats, floats, as_floats, lambda b, x, y: b.fmul(x, y, flags=FLAGS))
_operator(operator.truediv, floats, floats, as_floats, lambda b, x, y: b.fdiv(x, y, flags=FLAGS))
_operator(operator.ge, floats, mask, as_floats, lambda b, x, y: b.fcmp_ordered(">=", x, y))
_operator(operator.gt, floats, mask, as_floats, lambda b, x, y: b.fcmp_ordered(">", x, y))
_operator(operator.le, floats, mask, as_floats, lambda b, x, y: b.fcmp_ordered("<=", x, y))
_operator(operator.lt, floats, mask, as_floats, lambda b, x, y: b.fcmp_ordered("<", x, y))
_operator(operator.add, ints, ints, as_ints, lambda b, x, y: b.add(x, y))
_operator(operator.sub, ints, ints, as_ints, lambda b, x, y: b.sub(x, y))
_operator(operator.and_, ints, ints, as_ints, lambda b, x, y: b.and_(x, y))
_operator(operator.or_, ints, ints, as_ints, lambda b, x, y: b.or_(x, y))
_operator(operator.lshift, ints, ints, as_ints, lambda b, x, y: b.shl(x, y))
_operator(operator.rshift, ints, ints, as_ints, lambda b, x, y: b.ashr(x, y))
_operator(operator.lt, ints, mask, as_ints, lambda b, x, y: b.icmp_signed("<", x, y))
_operator(operator.gt, ints, mask, as_ints, lambda b, x, y: b.icmp_signed(">", x, y))
_operator(operator.and_, mask, mask, lambda c, b, t, v: v, lambda b, x, y: b.and_(x, y))
_operator(operator.or_, mask, mask, lambda c, b, t, v: v, lambda b, x, y: b.or_(x, y))


class _Negative(AbstractTemplate):
    key = operator.neg

    def generic(self, args: tuple, kws: dict) -> Any:
        return signature(floats, floats) if tuple(args) == (floats,) else None


infer_global(operator.neg)(_Negative)
lower_builtin(operator.neg, floats)(lambda context, builder, sig, args: builder.fneg(args[0]))


def _of_floats(emit: Callable) -> Any:
    """An intrinsic body for functions of vectors or numbers that are widened first."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return emit(
            builder, *(as_floats(context, builder, t, v) for t, v in zip(sig.args, args, strict=True))
        )

    return generate


@intrinsic
def splat(typing_context: Any, number: Any) -> Any:
    """The same number in every lane."""
    return floats(number), _of_floats(lambda b, x: x)


@intrinsic
def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once where the machine can."""
    return floats(x, y, z), _of_floats(lambda b, x, y, z: call(b, "llvm.fmuladd.v16f32", VF, [x, y, z]))


@intrinsic
def fnma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """z - x * y, rounded once where the machine can."""
    return floats(x, y, z), _of_floats(
        lambda b, x, y, z: call(b, "llvm.fmuladd.v16f32", VF, [b.fneg(x), y, z])
    )


@intrinsic
def minimum(typing_context: Any, x: Any, y: Any) -> Any:
    """The smaller one; y where x is NaN."""
    return floats(x, y), _of_floats(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))


@intrinsic
def maximum(typing_context: Any, x: Any, y: Any) -> Any:
    """The larger one; y where x is NaN."""
    return floats(x, y), _of_floats(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


@intrinsic
def select(typing_context: Any, condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, y elsewhere."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        widen = as_ints if ints in sig.args else as_floats
        left, right = (widen(context, builder, sig.args[i], args[i]) for i in (1, 2))
        return builder.select(args[0], left, right)

    return (ints if ints in (x, y) else floats)(condition, x, y), generate


def _with_bits(change: Callable) -> Callable:
    def emit(builder: ir.IRBuilder, x: Any) -> Any:
        return builder.bitcast(change(builder, builder.bitcast(x, VI)), VF)

    return emit


@intrinsic
def absolute(typing_context: Any, x: Any) -> Any:
    return floats(x), _of_floats(_with_bits(lambda b, bits: b.and_(bits, constant_int(0x7FFFFFFF))))


@intrinsic
def minus_absolute(typing_context: Any, x: Any) -> Any:
    return floats(x), _of_floats(_with_bits(lambda b, bits: b.or_(bits, constant_int(0x80000000))))


def _function(name: str) -> Any:
    @intrinsic
    def function(typing_context: Any, x: Any) -> Any:
        return floats(x), _of_floats(lambda b, x: call(b, f"llvm.{name}.v16f32", VF, [x]))

    return function


square_root, floor, ceiling, nearest = (_function(name) for name in ("sqrt", "floor", "ceil", "rint"))


@intrinsic
def lane_indices(typing_context: Any) -> Any:
    """0, 1, … 15 as integers."""
    return ints(), lambda context, builder, sig, args: ir.Constant(VI, list(range(LANES)))


@intrinsic
def to_ints(typing_context: Any, x: Any) -> Any:
    """Towards zero; the caller has made sure that the value fits."""
    return ints(floats), lambda context, builder, sig, args: builder.fptosi(args[0], VI)


@intrinsic
def shift_left(typing_context: Any, x: Any, amount: Any) -> Any:
    """x << amount, both per lane; the caller keeps the amount within 0 … 31."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        left, right = (as_ints(context, builder, t, v) for t, v in zip(sig.args, args, strict=True))
        return builder.shl(left, right)

    return ints(x, amount), generate


@intrinsic
def any_lane(typing_context: Any, condition: Any) -> Any:
    """Whether the condition holds in at least one lane."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(condition), generate


@intrinsic
def true_lanes(typing_context: Any, condition: Any) -> Any:
    """A 16-bit word: bit k tells whether the condition holds in lane k."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), I64)

    return types.int64(condition), generate


@intrinsic
def count_lanes(typing_context: Any, condition: Any) -> Any:
    """In how many lanes the condition holds."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        word = builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), I64)
        return call(builder, "llvm.ctpop.i64", I64, [word])

    return types.int64(condition), generate


@intrinsic
def sum_lanes(typing_context: Any, x: Any) -> Any:
    """The sum of all lanes, always added up in the same order."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        total, width = args[0], LANES
        while width > 1:
            width //= 2
            folded = [i + width if i < width else i for i in range(LANES)]
            undefined = ir.Constant(VF, ir.Undefined)
            total = builder.fadd(
                total, builder.shuffle_vector(total, undefined, ir.Constant(VI, folded)), flags=("nsz",)
            )
        return builder.extract_element(total, ir.Constant(I32, 0))

    return types.float32(x), generate


@intrinsic
def float_bits(typing_context: Any, x: Any) -> Any:
    """The bits of each lane as an int32; for positive numbers in the same order as the numbers."""
    return ints(floats), lambda context, builder, sig, args: builder.bitcast(args[0], VI)


@intrinsic
def lowest_bit(typing_context: Any, bits: Any) -> Any:
    """The index of the lowest bit set; 64 where there is none."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        word = context.cast(builder, args[0], sig.args[0], types.int64)
        return call(builder, "llvm.cttz.i64", I64, [word, ir.Constant(I1, 0)])

    return types.int64(bits), generate
