"""Sixteen float32 numbers as one value inside a numba kernel, or as many as suit the machine's registers.

LLVM's own vector types: on AVX-512 a value of sixteen is one register, on AVX2 two, on NEON four. Nothing
here needs a particular processor; where AVX-512 has one instruction for what takes several elsewhere
(`exp2`, `reciprocal`), the features of the machine that numba compiles for decide.

Where a loop needs more values at once than sixteen registers hold in pairs, it goes through `narrow` vectors
of WIDTH lanes: sixteen with AVX-512 and its 32 registers, else eight. Whatever works on vectors works on
both; what makes them (`splat`, `load` and the like) has a second form, `splat_narrow`, `load_narrow`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
F32, I1, I8, I16, I32, I64 = ir.FloatType(), *(ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
VF, VI, VM, VL = (ir.VectorType(element, LANES) for element in (F32, I32, I1, I64))
# A product may be fused into a sum; nothing is reordered. Where two kernels must get the same bits, the code
# spells out its `fma`s, so that there is nothing left to fuse.
FLAGS = ("contract", "nsz")


def has_feature(context: Any, feature: str) -> bool:
    """Whether the machine compiled for has it, by LLVM's name; NUMBA_CPU_FEATURES counts."""
    features = context.codegen().magic_tuple()[2]
    return f"+{feature}" in features.split(",")


WIDTH = LANES if has_feature(cpu_target.target_context, "avx512f") else 8
"""Lanes of a narrow vector."""


class Vector(types.Type):
    """Lanes of one kind side by side."""

    kind = ""

    def __init__(self, lanes: int = LANES) -> None:
        self.lanes = lanes
        super().__init__(name=f"{self.kind}{lanes}")


class Floats(Vector):
    """float32."""

    kind = "floats"


class Ints(Vector):
    """int32."""

    kind = "ints"


class Mask(Vector):
    """Truth values."""

    kind = "mask"


floats, ints, mask = Floats(), Ints(), Mask()
narrow = Floats(WIDTH)


def _model(value_type: type, element: ir.Type) -> None:
    @register_model(value_type)
    class Model(models.PrimitiveModel):
        def __init__(self, manager: Any, fe_type: Any) -> None:
            super().__init__(manager, fe_type, ir.VectorType(element, fe_type.lanes))


_model(Floats, F32)
_model(Ints, I32)
_model(Mask, I1)


def constant(value: float, lanes: int = LANES) -> ir.Constant:
    return ir.Constant(ir.VectorType(F32, lanes), [float(value)] * lanes)


def constant_int(value: int, lanes: int = LANES) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, lanes), [int(value)] * lanes)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, args: list) -> Any:
    """Call an LLVM intrinsic by name."""
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def lanewise(builder: ir.IRBuilder, name: str, *values: Any) -> Any:
    """Call an LLVM intrinsic that exists for float vectors of every width."""
    kind = values[0].type
    return call(builder, f"llvm.{name}.v{kind.count}f32", kind, list(values))


def fused(builder: ir.IRBuilder, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once where the machine can."""
    return lanewise(builder, "fmuladd", x, y, z)


def spread(builder: ir.IRBuilder, scalar: Any, vector_type: ir.VectorType) -> Any:
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, constant_int(0, vector_type.count))


def as_floats(
    context: Any, builder: ir.IRBuilder, value_type: types.Type, value: Any, lanes: int = LANES
) -> Any:
    """A vector as it is; a number spread over all lanes."""
    if isinstance(value_type, Floats):
        return value
    number = context.cast(builder, value, value_type, types.float32)
    return spread(builder, number, ir.VectorType(F32, lanes))


def as_ints(
    context: Any, builder: ir.IRBuilder, value_type: types.Type, value: Any, lanes: int = LANES
) -> Any:
    if isinstance(value_type, Ints):
        return value
    number = context.cast(builder, value, value_type, types.int32)
    return spread(builder, number, ir.VectorType(I32, lanes))


def _lanes(kinds: tuple) -> int:
    """Lanes of the vectors among the types.

    Raises:
        TypeError: they are not all of one width; numba shows it as a typing error.
    """
    found = {kind.lanes for kind in kinds if isinstance(kind, Vector)}
    if len(found) > 1:
        raise TypeError(f"vectors of different widths: {', '.join(str(kind) for kind in kinds)}")
    return found.pop() if found else LANES


def _is_number(value_type: types.Type) -> bool:
    return isinstance(value_type, (types.Float, types.Integer))


def _operator(op: Callable, operand: type, result: type, widen: Callable, emit: Callable) -> None:
    """Teach numba `vector op vector`, `vector op number` and `number op vector`."""

    class Template(AbstractTemplate):
        key = op

        def generic(self, args: tuple, kws: dict) -> Any:
            fits = len(args) == 2 and any(isinstance(arg, operand) for arg in args)
            if fits and not kws and all(isinstance(arg, operand) or _is_number(arg) for arg in args):
                return signature(result(_lanes(args)), *args)
            return None

    infer_global(op)(Template)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        lanes = _lanes(sig.args)
        left, right = (widen(context, builder, t, v, lanes) for t, v in zip(sig.args, args, strict=True))
        return emit(builder, left, right)

    lower_builtin(op, operand, operand)(lower)
    for number in (types.Float, types.Integer):
        lower_builtin(op, operand, number)(lower)
        lower_builtin(op, number, operand)(lower)


_operator(operator.add, Floats, Floats, as_floats, lambda b, x, y: b.fadd(x, y, flags=FLAGS))
_operator(operator.sub, Floats, Floats, as_floats, lambda b, x, y: b.fsub(x, y, flags=FLAGS))
_operator(operator.mul, Floats, Floats, as_floats, lambda b, x, y: b.fmul(x, y, flags=FLAGS))
_operator(operator.truediv, Floats, Floats, as_floats, lambda b, x, y: b.fdiv(x, y, flags=FLAGS))
_operator(operator.ge, Floats, Mask, as_floats, lambda b, x, y: b.fcmp_ordered(">=", x, y))
_operator(operator.gt, Floats, Mask, as_floats, lambda b, x, y: b.fcmp_ordered(">", x, y))
_operator(operator.le, Floats, Mask, as_floats, lambda b, x, y: b.fcmp_ordered("<=", x, y))
_operator(operator.lt, Floats, Mask, as_floats, lambda b, x, y: b.fcmp_ordered("<", x, y))
_operator(operator.add, Ints, Ints, as_ints, lambda b, x, y: b.add(x, y))
_operator(operator.sub, Ints, Ints, as_ints, lambda b, x, y: b.sub(x, y))
_operator(operator.and_, Ints, Ints, as_ints, lambda b, x, y: b.and_(x, y))
_operator(operator.or_, Ints, Ints, as_ints, lambda b, x, y: b.or_(x, y))
_operator(operator.lshift, Ints, Ints, as_ints, lambda b, x, y: b.shl(x, y))
_operator(operator.rshift, Ints, Ints, as_ints, lambda b, x, y: b.ashr(x, y))
_operator(operator.lt, Ints, Mask, as_ints, lambda b, x, y: b.icmp_signed("<", x, y))
_operator(operator.gt, Ints, Mask, as_ints, lambda b, x, y: b.icmp_signed(">", x, y))
_operator(operator.and_, Mask, Mask, lambda c, b, t, v, n: v, lambda b, x, y: b.and_(x, y))
_operator(operator.or_, Mask, Mask, lambda c, b, t, v, n: v, lambda b, x, y: b.or_(x, y))


class _Negative(AbstractTemplate):
    key = operator.neg

    def generic(self, args: tuple, kws: dict) -> Any:
        return signature(args[0], args[0]) if len(args) == 1 and isinstance(args[0], Floats) else None


infer_global(operator.neg)(_Negative)
lower_builtin(operator.neg, Floats)(lambda context, builder, sig, args: builder.fneg(args[0]))


def _of_floats(emit: Callable) -> Any:
    """An intrinsic body for functions of vectors or numbers that are widened first."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        lanes = sig.return_type.lanes
        values = (as_floats(context, builder, t, v, lanes) for t, v in zip(sig.args, args, strict=True))
        return emit(builder, *values)

    return generate


def _like(*kinds: types.Type) -> Floats:
    """The type of a function's result: floats, as many as its arguments."""
    return Floats(_lanes(kinds))


@intrinsic
def splat(typing_context: Any, number: Any) -> Any:
    """The same number in every lane."""
    return floats(number), _of_floats(lambda b, x: x)


@intrinsic
def splat_narrow(typing_context: Any, number: Any) -> Any:
    """The same number in every lane of a narrow vector."""
    return narrow(number), _of_floats(lambda b, x: x)


# For each machine, widest first: a feature, the float32 lanes of its registers, LLVM's letter for them.
_REGISTERS = {
    "x86_64": (("avx512f", 16, "v"), ("avx", 8, "x"), ("sse", 4, "x")),
    "aarch64": (("neon", 4, "w"),),
    "arm64": (("neon", 4, "w"),),
}


def kept(context: Any, builder: ir.IRBuilder, number: Any) -> Any:
    """A number in all lanes, as a value that the compiler cannot work out again.

    Where registers are scarce, constants would be loaded anew in every round of a loop, two instructions
    each; what comes out of a piece of assembly, even an empty one, stays where it is.
    """
    machine = context.codegen().magic_tuple()[0].partition("-")[0]
    kinds = [kind for kind in _REGISTERS.get(machine, ()) if has_feature(context, kind[0])]
    if not kinds:
        return spread(builder, number, VF)
    _, register, place = kinds[0]
    value = spread(builder, number, ir.VectorType(F32, register))
    kind = ir.FunctionType(value.type, [value.type])
    value = builder.asm(kind, "", f"={place},0", [value], side_effect=False)
    repeated = ir.Constant(VI, [lane % register for lane in range(LANES)])
    return builder.shuffle_vector(value, value, repeated)


@intrinsic
def keep(typing_context: Any, number: Any) -> Any:
    """`splat` of a constant, to be had before a loop and kept in a register throughout."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        return kept(context, builder, context.cast(builder, args[0], number, types.float32))

    return floats(number), generate


@intrinsic
def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, rounded once where the machine can."""
    return _like(x, y, z)(x, y, z), _of_floats(fused)


@intrinsic
def fnma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """z - x * y, rounded once where the machine can."""
    return _like(x, y, z)(x, y, z), _of_floats(lambda b, x, y, z: fused(b, b.fneg(x), y, z))


@intrinsic
def minimum(typing_context: Any, x: Any, y: Any) -> Any:
    """The smaller one; y where x is NaN."""
    return _like(x, y)(x, y), _of_floats(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))


@intrinsic
def maximum(typing_context: Any, x: Any, y: Any) -> Any:
    """The larger one; y where x is NaN."""
    return _like(x, y)(x, y), _of_floats(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


@intrinsic
def select(typing_context: Any, condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, y elsewhere."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        left, right = (widen(context, builder, sig.args[i], args[i], condition.lanes) for i in (1, 2))
        return builder.select(args[0], left, right)

    whole = any(isinstance(kind, Ints) for kind in (x, y))
    widen = as_ints if whole else as_floats
    return (Ints if whole else Floats)(_lanes((condition, x, y)))(condition, x, y), generate


def _with_bits(change: Callable, number: int) -> Callable:
    def emit(builder: ir.IRBuilder, x: Any) -> Any:
        bits = constant_int(number, x.type.count)
        return builder.bitcast(change(builder, builder.bitcast(x, bits.type), bits), x.type)

    return emit


@intrinsic
def absolute(typing_context: Any, x: Any) -> Any:
    return _like(x)(x), _of_floats(_with_bits(lambda b, bits, mask: b.and_(bits, mask), 0x7FFFFFFF))


@intrinsic
def minus_absolute(typing_context: Any, x: Any) -> Any:
    return _like(x)(x), _of_floats(_with_bits(lambda b, bits, mask: b.or_(bits, mask), 0x80000000))


def _function(name: str) -> Any:
    @intrinsic
    def function(typing_context: Any, x: Any) -> Any:
        return _like(x)(x), _of_floats(lambda b, x: lanewise(b, name, x))

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
        found, lanes = args[0], condition.lanes
        while lanes > WIDTH:
            lanes //= 2
            halves = ([*range(lanes)], [*range(lanes, 2 * lanes)])
            found = builder.or_(
                *(
                    builder.shuffle_vector(found, found, ir.Constant(ir.VectorType(I32, lanes), half))
                    for half in halves
                )
            )
        bits = builder.bitcast(found, ir.IntType(lanes))
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
