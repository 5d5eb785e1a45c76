"""Vectors from and to memory.

With NUMBA_BOUNDSCHECK=1 every load, store, gather and prefetch is checked like numba's own indexing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector import (
    F32,
    I8,
    I32,
    I64,
    LANES,
    VF,
    VI,
    VL,
    VM,
    Floats,
    as_ints,
    call,
    constant,
    floats,
    ints,
    narrow,
    spread,
)


def check_bounds(context: Any, builder: ir.IRBuilder, array: Any, index: Any, count: Any) -> None:
    """Raise IndexError unless index … index + count - 1 are inside; count is a number or an LLVM value."""
    end = builder.add(index, ir.Constant(index.type, count) if isinstance(count, int) else count)
    outside = builder.or_(
        builder.icmp_signed("<", index, ir.Constant(index.type, 0)),
        builder.icmp_signed(">", end, array.nitems),
    )
    with builder.if_then(outside, likely=False):
        context.call_conv.return_user_exc(builder, IndexError, ("vector index is out of bounds",))


def element_pointer(
    context: Any, builder: ir.IRBuilder, sig: Any, args: Any, at: int = 0, count: Any = LANES
) -> Any:
    """Pointer to element args[at + 1] of the flat array args[at]; checked if numba checks bounds."""
    array = context.make_array(sig.args[at])(context, builder, args[at])
    index = context.cast(builder, args[at + 1], sig.args[at + 1], types.intp)
    if config.BOUNDSCHECK:
        check_bounds(context, builder, array, index, count)
    return builder.gep(array.data, [index])


def load_floats(builder: ir.IRBuilder, array: types.Array, pointer: Any, lanes: int) -> Any:
    """A vector from a pointer into `array`; of bytes 255 is 1."""
    if array.dtype == types.uint8:
        bytes_type = ir.VectorType(I8, lanes)
        return of_bytes(builder, builder.load(builder.bitcast(pointer, bytes_type.as_pointer()), align=1))
    return builder.load(builder.bitcast(pointer, ir.VectorType(F32, lanes).as_pointer()), align=4)


def of_bytes(builder: ir.IRBuilder, values: Any) -> Any:
    """A vector of bytes as numbers from 0 to 1."""
    lanes = values.type.count
    whole = builder.zext(values, ir.VectorType(I32, lanes))
    numbers = builder.sitofp(whole, ir.VectorType(F32, lanes))
    return builder.fmul(numbers, constant(float(np.float32(1 / 255)), lanes))


def _load(kind: Floats, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, count=kind.lanes)
        return load_floats(builder, sig.args[0], pointer, kind.lanes)

    return kind(array, index), generate


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16] of a flat float32 array; of bytes as numbers from 0 to 1."""
    return _load(floats, array, index)


@intrinsic
def load_narrow(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index : index + WIDTH] of a flat float32 array; of bytes as numbers from 0 to 1."""
    return _load(narrow, array, index)


def _repeated(kind: Floats, array: Any, index: Any) -> Any:
    lanes = ir.Constant(ir.VectorType(I32, kind.lanes), [lane % 4 for lane in range(kind.lanes)])

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, count=4)
        value = builder.load(builder.bitcast(pointer, ir.VectorType(F32, 4).as_pointer()), align=4)
        return builder.shuffle_vector(value, value, lanes)

    return kind(array, index), generate


@intrinsic
def load_repeated(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index : index + 4] four times over; most machines do it while they load."""
    return _repeated(floats, array, index)


@intrinsic
def load_narrow_repeated(typing_context: Any, array: Any, index: Any) -> Any:
    """`load_repeated` as a narrow vector."""
    return _repeated(narrow, array, index)


@intrinsic
def load_ints(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16] of a flat int32 array."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args)
        return builder.load(builder.bitcast(pointer, VI.as_pointer()), align=4)

    return ints(array, index), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + lanes] = value, float32 or int32 as the value is."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, count=value.lanes)
        builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), generate


def first_lanes(context: Any, builder: ir.IRBuilder, count: Any, count_type: Any) -> Any:
    """A mask of the first `count` lanes."""
    spread = as_ints(context, builder, count_type, count)
    return builder.icmp_signed("<", ir.Constant(VI, list(range(LANES))), spread)


@intrinsic
def load_first(typing_context: Any, array: Any, index: Any, count: Any) -> Any:
    """`load`, but only the first `count` lanes are read from memory; the others are zero."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        count = context.cast(builder, args[2], sig.args[2], types.intp)
        pointer = element_pointer(context, builder, sig, args, count=count)
        lanes = first_lanes(context, builder, args[2], sig.args[2])
        if sig.args[0].dtype == types.uint8:
            kind = ir.VectorType(I8, LANES)
            place, zeros = builder.bitcast(pointer, kind.as_pointer()), ir.Constant(kind, [0] * LANES)
            arguments = [place, ir.Constant(I32, 1), lanes, zeros]
            return of_bytes(builder, call(builder, "llvm.masked.load.v16i8.p0", kind, arguments))
        arguments = [builder.bitcast(pointer, VF.as_pointer()), ir.Constant(I32, 4), lanes, constant(0.0)]
        return call(builder, "llvm.masked.load.v16f32.p0", VF, arguments)

    return floats(array, index, count), generate


@intrinsic
def store_first(typing_context: Any, array: Any, index: Any, value: Any, count: Any) -> Any:
    """`store`, but only the first `count` lanes are written."""
    suffix = "v16i32" if value == ints else "v16f32"

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        count = context.cast(builder, args[3], sig.args[3], types.intp)
        pointer = element_pointer(context, builder, sig, args, count=count)
        lanes = first_lanes(context, builder, args[3], sig.args[3])
        place = builder.bitcast(pointer, args[2].type.as_pointer())
        arguments = [args[2], place, ir.Constant(I32, 4), lanes]
        call(builder, f"llvm.masked.store.{suffix}.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, index, value, count), generate


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index]; a hint without effect on results."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = builder.bitcast(element_pointer(context, builder, sig, args, count=0), I8.as_pointer())
        read, keep, data = (ir.Constant(I32, number) for number in (0, 3, 1))
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, read, keep, data])
        return context.get_dummy_value()

    return types.void(array, index), generate


@intrinsic
def claim(typing_context: Any, counter: Any) -> Any:
    """Take the next number from counter[0] (int64), so that threads share out work: 0, 1, 2, …"""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        array = context.make_array(sig.args[0])(context, builder, args[0])
        return builder.atomic_rmw("add", array.data, ir.Constant(I64, 1), "monotonic")

    return types.int64(counter), generate


@intrinsic
def gather(typing_context: Any, array: Any, indices: Any, first: Any, stride: Any, offset: Any) -> Any:
    """In lane k: array[indices[first + k] * stride + offset]; indices is an int32 array."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, at=1)
        rows = builder.sext(builder.load(builder.bitcast(pointer, VI.as_pointer()), align=4), VL)
        stride, offset = (
            spread(builder, context.cast(builder, args[i], sig.args[i], types.int64), VL) for i in (3, 4)
        )
        places = builder.add(builder.mul(rows, stride), offset)
        source = context.make_array(sig.args[0])(context, builder, args[0])
        if config.BOUNDSCHECK:
            for lane in range(LANES):
                place = builder.extract_element(places, ir.Constant(I32, lane))
                check_bounds(context, builder, source, place, 1)
        start = spread(builder, builder.ptrtoint(source.data, I64), VL)
        addresses = builder.add(start, builder.shl(places, ir.Constant(VL, [2] * LANES)))
        pointers = builder.inttoptr(addresses, ir.VectorType(F32.as_pointer(), LANES))
        everywhere = ir.Constant(VM, [1] * LANES)
        arguments = [pointers, ir.Constant(I32, 4), everywhere, constant(0.0)]
        return call(builder, "llvm.masked.gather.v16f32.v16p0", VF, arguments)

    return floats(array, indices, first, stride, offset), generate


@kernel(inline=True)
def last_rows(source, columns, first, n):
    """Rows first … n - 1 of a flat array in an array of sixteen rows, the others zero."""
    rows = np.zeros(LANES * columns, np.float32)
    for k in range((n - first) * columns):
        rows[k] = source[first * columns + k]
    return rows


@kernel(inline=True)
def load_some(array, index, count):
    """`load_first`; where all sixteen lanes are wanted without a mask, which costs more on some machines."""
    return load(array, index) if count == LANES else load_first(array, index, count)


@kernel(inline=True)
def store_some(array, index, value, count):
    """`store_first`; where all sixteen lanes are wanted without a mask, which costs more on some machines."""
    if count == LANES:
        store(array, index, value)
    else:
        store_first(array, index, value, count)
