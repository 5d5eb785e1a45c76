"""Arrays of short rows: sixteen records as vectors of their fields, blocks of pixels as vectors of channels.

A vector's lanes are sixteen Gaussians (or the sixteen pixels of a block); in memory the numbers of one
Gaussian (or pixel) lie side by side. Everything here goes from the one to the other, by shuffles between
registers, or works with such fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

from spaceport_lab.kernels.vector import F32, I32, LANES, VF, VI, WIDTH, call, constant, fused, spread
from spaceport_lab.kernels.vector_memory import check_bounds, element_pointer, first_lanes
from spaceport_lab.kernels.vector_tuples import strided_pointers, tuple_items, tuple_of, tuple_type


def _merge(
    builder: ir.IRBuilder, vectors: list, source: Callable[[int], tuple[int, int]], lanes: int = LANES
) -> Any:
    """The vector whose lane l is lane source(l)[1] of vectors[source(l)[0]]."""
    kind, merged = ir.VectorType(I32, lanes), vectors[0]
    chosen = [source(lane)[1] if source(lane)[0] == 0 else 0 for lane in range(lanes)]
    merged = builder.shuffle_vector(merged, merged, ir.Constant(kind, chosen))
    for number, vector in enumerate(vectors[1:], start=1):
        chosen = [lanes + source(lane)[1] if source(lane)[0] == number else lane for lane in range(lanes)]
        merged = builder.shuffle_vector(merged, vector, ir.Constant(kind, chosen))
    return merged


@intrinsic
def load_columns(typing_context: Any, array: Any, index: Any, columns: Any) -> Any:
    """Columns of 16 rows of as many floats as `columns` has: lane l of vector c is row l's number c."""
    count = len(columns)
    result = tuple_type(count)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, count=LANES * count)
        place = builder.bitcast(pointer, VF.as_pointer())
        read = [builder.load(builder.gep(place, [ir.Constant(I32, k)]), align=4) for k in range(count)]
        values = [
            _merge(builder, read, lambda lane, c=c: divmod(lane * count + c, LANES)) for c in range(count)
        ]
        return tuple_of(builder, context, result, values)

    return result(array, index, columns), generate


@intrinsic
def store_columns(typing_context: Any, array: Any, index: Any, values: Any) -> Any:
    """The reverse of `load_columns`; float32 or int32 as the values are."""
    count = len(values)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointer = element_pointer(context, builder, sig, args, count=LANES * count)
        columns = tuple_items(builder, args[2], count)
        place = builder.bitcast(pointer, columns[0].type.as_pointer())
        for k in range(count):
            merged = _merge(builder, columns, lambda lane, k=k: divmod(LANES * k + lane, count)[::-1])
            builder.store(merged, builder.gep(place, [ir.Constant(I32, k)]), align=4)
        return context.get_dummy_value()

    return types.void(array, index, values), generate


def _block_masks(context: Any, builder: ir.IRBuilder, sig: Any, args: Any, parts: int) -> list:
    """For each of four rows and each vector of a row: which lanes are among `count` floats of `rows` rows."""
    rows, count = (context.cast(builder, args[i], sig.args[i], types.int32) for i in (3, 4))
    masks = []
    for row in range(4):
        exists = builder.icmp_signed(">", rows, ir.Constant(I32, row))
        live = builder.select(exists, count, ir.Constant(I32, 0))
        for part in range(parts):
            numbers = ir.Constant(VI, [part * LANES + lane for lane in range(LANES)])
            masks.append(builder.icmp_signed("<", numbers, spread(builder, live, VI)))
    return masks


def _block_pointers(context: Any, builder: ir.IRBuilder, sig: Any, args: Any, parts: int) -> list:
    """Where each vector of a block's four rows lies; it is only touched where its mask says so."""
    array = context.make_array(sig.args[0])(context, builder, args[0])
    index, stride = (context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 2))
    if config.BOUNDSCHECK:
        rows, count = (context.cast(builder, args[i], sig.args[i], types.intp) for i in (3, 4))
        one, nothing = (ir.Constant(index.type, number) for number in (1, 0))
        last = builder.add(builder.mul(builder.sub(rows, one), stride), count)
        some = builder.and_(builder.icmp_signed(">", rows, nothing), builder.icmp_signed(">", count, nothing))
        with builder.if_then(some):
            check_bounds(context, builder, array, index, builder.select(some, last, nothing))
    pointers = []
    for row in range(4):
        start = builder.add(index, builder.mul(stride, ir.Constant(stride.type, row)))
        for part in range(parts):
            place = builder.add(start, ir.Constant(start.type, part * LANES))
            pointers.append(builder.bitcast(builder.gep(array.data, [place]), VF.as_pointer()))
    return pointers


def _masked_rows(context: Any, builder: ir.IRBuilder, sig: Any, args: Any, n: int) -> list:
    """A block's rows by loads under masks, to one vector for each channel."""
    parts = -(-4 * n // LANES)
    pointers = _block_pointers(context, builder, sig, args, parts)
    masks = _block_masks(context, builder, sig, args, parts)
    read = [
        call(
            builder, "llvm.masked.load.v16f32.p0", VF,
            [pointer, ir.Constant(I32, 4), mask, constant(0.0)],
        )
        for pointer, mask in zip(pointers, masks, strict=True)
    ]  # fmt: skip

    def source(lane: int, channel: int) -> tuple[int, int]:
        part, place = divmod(lane // 4 * n + channel, LANES)
        return lane % 4 * parts + part, place

    return [_merge(builder, read, lambda lane, c=c: source(lane, c)) for c in range(n)]


def _store_masked_rows(
    context: Any, builder: ir.IRBuilder, sig: Any, args: Any, columns: list, n: int
) -> None:
    """The reverse of `_masked_rows`."""
    parts = -(-4 * n // LANES)
    pointers = _block_pointers(context, builder, sig, args, parts)
    masks = _block_masks(context, builder, sig, args, parts)
    for k, (pointer, mask) in enumerate(zip(pointers, masks, strict=True)):
        row, part = divmod(k, parts)

        def source(lane: int, row: int = row, part: int = part) -> tuple[int, int]:
            pixel, channel = divmod(min(part * LANES + lane, 4 * n - 1), n)
            return channel, 4 * pixel + row

        arguments = [_merge(builder, columns, source), pointer, ir.Constant(I32, 4), mask]
        call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), arguments)


def _is_whole(context: Any, builder: ir.IRBuilder, sig: Any, args: Any, n: int) -> Any:
    """Whether all of a block is inside, on machines where a mask costs more than a branch."""
    if WIDTH == LANES:
        return ir.Constant(ir.IntType(1), 0)
    rows, count = (context.cast(builder, args[i], sig.args[i], types.int32) for i in (3, 4))
    return builder.and_(
        builder.icmp_signed(">=", rows, ir.Constant(I32, 4)),
        builder.icmp_signed(">=", count, ir.Constant(I32, 4 * n)),
    )


def _whole_rows(context: Any, builder: ir.IRBuilder, sig: Any, args: Any, n: int) -> list:
    """A block's rows as they are, four floats at a time, to one vector for each channel."""
    quads = []
    for pointer in _quad_pointers(context, builder, sig, args, n):
        row = [builder.load(builder.gep(pointer, [ir.Constant(I32, k)]), align=4) for k in range(n)]
        quads.append([_merge(builder, row, lambda lane, c=c: divmod(lane * n + c, 4), 4) for c in range(n)])
    return [_joined(builder, [quads[row][c] for row in range(4)]) for c in range(n)]


def _store_whole_rows(
    context: Any, builder: ir.IRBuilder, sig: Any, args: Any, columns: list, n: int
) -> None:
    """The reverse of `_whole_rows`."""
    for row, pointer in enumerate(_quad_pointers(context, builder, sig, args, n)):
        chosen = ir.Constant(ir.VectorType(I32, 4), list(range(row, LANES, 4)))
        quads = [builder.shuffle_vector(column, column, chosen) for column in columns]
        for k in range(n):
            mixed = _merge(builder, quads, lambda lane, k=k: divmod(4 * k + lane, n)[::-1], 4)
            builder.store(mixed, builder.gep(pointer, [ir.Constant(I32, k)]), align=4)


def _quad_pointers(context: Any, builder: ir.IRBuilder, sig: Any, args: Any, n: int) -> list:
    """The beginning of each of a block's four rows, as vectors of four floats."""
    index, stride = (context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 2))
    pointers = []
    for row in range(4):
        start = builder.add(index, builder.mul(stride, ir.Constant(stride.type, row)))
        place = types.void(sig.args[0], types.intp)
        pointer = element_pointer(context, builder, place, [args[0], start], count=4 * n)
        pointers.append(builder.bitcast(pointer, ir.VectorType(F32, 4).as_pointer()))
    return pointers


def _joined(builder: ir.IRBuilder, rows: list) -> Any:
    """Four rows of four lanes as one vector of sixteen, column after column."""
    eight, sixteen = (ir.VectorType(I32, n) for n in (8, 16))
    upper, lower = (
        builder.shuffle_vector(*rows[k : k + 2], ir.Constant(eight, list(range(8)))) for k in (0, 2)
    )
    columns = [8 * (lane % 4 // 2) + 4 * (lane % 2) + lane // 4 for lane in range(LANES)]
    return builder.shuffle_vector(upper, lower, ir.Constant(sixteen, columns))


@intrinsic
def load_block(
    typing_context: Any, array: Any, index: Any, stride: Any, rows: Any, count: Any, channels: Any
) -> Any:
    """A block of 4 x 4 pixels of an image with interleaved channels, one vector for each channel.

    Lanes are pixels, column after column. Rows lie `stride` floats apart; only `count` floats of `rows` rows
    are read, the others are zero.
    """
    n = len(channels)
    result = tuple_type(n)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        with builder.if_else(_is_whole(context, builder, sig, args, n)) as (whole, partial):
            with whole:
                rows = _whole_rows(context, builder, sig, args, n)
                after_whole = builder.block
            with partial:
                masked = _masked_rows(context, builder, sig, args, n)
                after_partial = builder.block
        values = []
        for left, right in zip(rows, masked, strict=True):
            value = builder.phi(VF)
            value.add_incoming(left, after_whole)
            value.add_incoming(right, after_partial)
            values.append(value)
        return tuple_of(builder, context, result, values)

    return result(array, index, stride, rows, count, channels), generate


@intrinsic
def store_block(
    typing_context: Any, array: Any, index: Any, stride: Any, rows: Any, count: Any, values: Any
) -> Any:
    """The reverse of `load_block`."""
    n = len(values)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        columns = tuple_items(builder, args[5], n)
        with builder.if_else(_is_whole(context, builder, sig, args, n)) as (whole, partial):
            with whole:
                _store_whole_rows(context, builder, sig, args, columns, n)
            with partial:
                _store_masked_rows(context, builder, sig, args, columns, n)
        return context.get_dummy_value()

    return types.void(array, index, stride, rows, count, values), generate


def _transpose(builder: ir.IRBuilder, rows: list) -> list:
    """Sixteen rows of sixteen lanes to columns."""
    return _transpose_at_once(builder, rows) if WIDTH == LANES else _transpose_by_quarters(builder, rows)


def _transpose_at_once(builder: ir.IRBuilder, rows: list) -> list:
    """Four rounds of exchanging halves of ever smaller squares."""
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


def _transpose_by_quarters(builder: ir.IRBuilder, rows: list) -> list:
    """Four squares of eight, one after the other: as much as sixteen registers of eight lanes hold."""

    def shuffle(left: Any, right: Any, lanes: list[int]) -> Any:
        return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

    columns = []
    for first in (0, 8):
        halves = []
        for start in (0, 8):
            square = [shuffle(row, row, list(range(first, first + 8))) for row in rows[start : start + 8]]
            halves.append(_transpose_eight(shuffle, square))
        columns += [shuffle(*pair, list(range(LANES))) for pair in zip(*halves, strict=True)]
    return columns


def _transpose_eight(shuffle: Callable, rows: list) -> list:
    """Eight rows of eight lanes, by what AVX2 has instructions for: twice within halves, once across."""
    numbers, pairs = [], []
    for k in range(0, 8, 2):
        for lanes in ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]):
            numbers.append(shuffle(rows[k], rows[k + 1], lanes))
    for k in (0, 1, 4, 5):
        for lanes in ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]):
            pairs.append(shuffle(numbers[k], numbers[k + 2], lanes))
    halves = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])
    return [shuffle(pairs[k], pairs[k + 4], lanes) for lanes in halves for k in range(4)]


@intrinsic
def store_records(typing_context: Any, array: Any, index: Any, stride: Any, fields: Any) -> Any:
    """Write 16 records of 16 floats, the l-th to index + l * stride, from its fields; others are zero."""
    count = len(fields)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        rows = _transpose(builder, tuple_items(builder, args[3], count) + [constant(0.0)] * (LANES - count))
        for pointer, row in zip(
            strided_pointers(context, builder, sig, args, LANES, LANES), rows, strict=True
        ):
            builder.store(row, builder.bitcast(pointer, VF.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, index, stride, fields), generate


@intrinsic
def load_records(typing_context: Any, array: Any, index: Any, stride: Any) -> Any:
    """The reverse of `store_records`: sixteen fields of sixteen records."""
    result = tuple_type(LANES)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        pointers = strided_pointers(context, builder, sig, args, LANES, LANES)
        rows = [builder.load(builder.bitcast(pointer, VF.as_pointer()), align=4) for pointer in pointers]
        return tuple_of(builder, context, result, _transpose(builder, rows))

    return result(array, index, stride), generate


@intrinsic
def load_records_first(typing_context: Any, array: Any, index: Any, stride: Any, count: Any) -> Any:
    """`load_records`, but only the first `count` fields are read from memory; the others are zero."""
    result = tuple_type(LANES)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        lanes = first_lanes(context, builder, args[3], sig.args[3])
        rows = []
        count = context.cast(builder, args[3], sig.args[3], types.intp)
        for pointer in strided_pointers(context, builder, sig, args, LANES, count):
            place = builder.bitcast(pointer, VF.as_pointer())
            arguments = [place, ir.Constant(I32, 4), lanes, constant(0.0)]
            rows.append(call(builder, "llvm.masked.load.v16f32.p0", VF, arguments))
        return tuple_of(builder, context, result, _transpose(builder, rows))

    return result(array, index, stride, count), generate


@intrinsic
def store_records_first(
    typing_context: Any, array: Any, index: Any, stride: Any, fields: Any, live: Any, count: Any
) -> Any:
    """Write the first `count` fields of 16 records; from field `live` on they are zero."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        alive, lanes = (first_lanes(context, builder, args[i], sig.args[i]) for i in (4, 5))
        rows = tuple_items(builder, args[3], len(fields)) + [constant(0.0)] * (LANES - len(fields))
        count = context.cast(builder, args[5], sig.args[5], types.intp)
        pointers = strided_pointers(context, builder, sig, args, LANES, count)
        for pointer, row in zip(pointers, _transpose(builder, rows), strict=True):
            place = builder.bitcast(pointer, VF.as_pointer())
            value = builder.select(alive, row, constant(0.0))
            arguments = [value, place, ir.Constant(I32, 4), lanes]
            call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, index, stride, fields, live, count), generate


@intrinsic
def combine(typing_context: Any, weights: Any, fields: Any, sums: Any) -> Any:
    """sums[c] + the sum over k of weights[k] * fields[len(sums) * k + c]."""
    channels = len(sums)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        factors, values, totals = (tuple_items(builder, args[i], len(sig.args[i])) for i in range(3))
        for k, factor in enumerate(factors):
            for c in range(channels):
                totals[c] = fused(builder, factor, values[channels * k + c], totals[c])
        return tuple_of(builder, context, sums, totals)

    return sums(weights, fields, sums), generate


@intrinsic
def products(typing_context: Any, weights: Any, factors: Any) -> Any:
    """weights[k] * factors[c] for each k and, within that, each c."""
    result = tuple_type(len(weights) * len(factors))

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        left, right = tuple_items(builder, args[0], len(weights)), tuple_items(builder, args[1], len(factors))
        return tuple_of(builder, context, result, [builder.fmul(x, y) for x in left for y in right])

    return result(weights, factors), generate


@intrinsic
def gather_records(typing_context: Any, array: Any, indices: Any, first: Any, stride: Any) -> Any:
    """The first sixteen fields of the sixteen records indices[first] … indices[first + 15] (int32)."""
    result = tuple_type(LANES)

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        place = element_pointer(context, builder, sig, args, at=1)
        step = context.cast(builder, args[3], sig.args[3], types.intp)
        rows = []
        for lane in range(LANES):
            index = builder.load(builder.gep(place, [ir.Constant(I32, lane)]))
            start = builder.mul(builder.sext(index, step.type), step)
            one = types.void(sig.args[0], types.intp)
            pointer = element_pointer(context, builder, one, [args[0], start])
            rows.append(builder.load(builder.bitcast(pointer, VF.as_pointer()), align=4))
        return tuple_of(builder, context, result, _transpose(builder, rows))

    return result(array, indices, first, stride), generate
