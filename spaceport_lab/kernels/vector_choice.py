"""Lanes chosen by a mask, and the bits of lanes: lists made shorter, words turned on their side."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from spaceport_lab.kernels.vector import (
    I8,
    I32,
    I64,
    LANES,
    VI,
    call,
    constant_int,
    has_feature,
    spread,
)
from spaceport_lab.kernels.vector_memory import element_pointer


def _packings(builder: ir.IRBuilder) -> ir.GlobalVariable:
    """For each of the 256 choices among eight lanes: the chosen ones first, one byte each."""
    name = "spaceport_lab_packings"
    if name in builder.module.globals:
        return builder.module.globals[name]
    rows = [[lane for lane in range(8) if choice >> lane & 1] for choice in range(256)]
    kind = ir.ArrayType(ir.VectorType(I8, 8), 256)
    table = ir.GlobalVariable(builder.module, kind, name)
    table.linkage, table.global_constant = "internal", True
    table.initializer = ir.Constant(
        kind, [ir.Constant(kind.element, row + [0] * (8 - len(row))) for row in rows]
    )
    return table


def _store_packed(builder: ir.IRBuilder, pointer: Any, value: Any, chosen: Any) -> None:
    """Eight lanes at a time, permuted by what a table says of their choice."""
    eight, table = ir.VectorType(I32, 8), _packings(builder)
    builder.store(constant_int(0), builder.bitcast(pointer, VI.as_pointer()), align=4)
    for first in range(0, LANES, 8):
        lanes = ir.Constant(eight, list(range(first, first + 8)))
        part, mask = (builder.shuffle_vector(x, x, lanes) for x in (value, chosen))
        bits = builder.zext(builder.bitcast(mask, I8), I64)
        order = builder.zext(builder.load(builder.gep(table, [ir.Constant(I64, 0), bits])), eight)
        packed = call(builder, "llvm.x86.avx2.permd", eight, [part, order])
        count = call(builder, "llvm.ctpop.i64", I64, [bits])
        full = builder.icmp_signed(
            "<", ir.Constant(eight, list(range(8))), spread(builder, builder.trunc(count, I32), eight)
        )
        packed = builder.select(full, packed, constant_int(0, 8))
        builder.store(packed, builder.bitcast(pointer, eight.as_pointer()), align=4)
        pointer = builder.gep(pointer, [count])


@intrinsic
def store_chosen(typing_context: Any, array: Any, index: Any, value: Any, chosen: Any) -> Any:
    """The lanes in which `chosen` holds, one after the other from array[index] on; int32.

    Sixteen numbers are written: those after the chosen ones are zero.
    """

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args)
        if has_feature(context, "avx512f"):
            packed = call(
                builder, "llvm.x86.avx512.mask.compress.v16i32", VI, [args[2], constant_int(0), args[3]]
            )
            builder.store(packed, builder.bitcast(pointer, VI.as_pointer()), align=4)
            return context.get_dummy_value()
        if has_feature(context, "avx2"):
            _store_packed(builder, pointer, args[2], args[3])
            return context.get_dummy_value()
        values, place = builder.select(args[3], args[2], constant_int(0)), ir.Constant(I32, 0)
        for lane in range(LANES):
            number = ir.Constant(I32, lane)
            builder.store(builder.extract_element(values, number), builder.gep(pointer, [place]))
            place = builder.add(place, builder.zext(builder.extract_element(args[3], number), I32))
        return context.get_dummy_value()

    return types.void(array, index, value, chosen), generate


@intrinsic
def lanes_with_bits(typing_context: Any, words: Any) -> Any:
    """For each of the lowest sixteen bits: in which lanes it is set, as the bits of an int64."""
    count = 16

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        # One byte to a lane, the low bytes and then the high ones: the sign of a byte is a lane's bit.
        narrow_words = ir.VectorType(I8, LANES)
        low = builder.trunc(args[0], narrow_words)
        high = builder.trunc(builder.lshr(args[0], constant_int(8)), narrow_words)
        both = ir.VectorType(I32, 2 * LANES)
        octets = builder.shuffle_vector(low, high, ir.Constant(both, list(range(2 * LANES))))
        found = [None] * count
        for bit in range(7, -1, -1):
            signs = builder.icmp_signed("<", octets, ir.Constant(octets.type, [0] * 2 * LANES))
            lanes = builder.zext(builder.bitcast(signs, I32), I64)
            found[bit] = builder.and_(lanes, ir.Constant(I64, (1 << LANES) - 1))
            found[8 + bit] = builder.lshr(lanes, ir.Constant(I64, LANES))
            octets = builder.add(octets, octets)
        return context.make_tuple(builder, types.UniTuple(types.int64, count), found)

    return types.UniTuple(types.int64, count)(words), generate
