"""The numbers of a PLY, block by block, whatever their encoding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians.header import Element, Header

BLOCK = 1 << 16
"""Rows gathered at a time, so that a file of 10 million is read column-wise out of the cache."""

_SHORTEST_ROW = 2  # bytes of a row of text


def read_rows(header: Header, element: Element) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, structured rows) of a table, `BLOCK` rows at a time; the file's length is checked first.

    Raises:
        SplatFormatError: the file is truncated, or a row of text cannot be understood.
    """
    check_length(header, element)
    if header.encoding == "ascii":
        yield from _read_text(header, element)
        return
    rows = open_rows(header, element)
    for start in range(0, len(rows), BLOCK):
        yield start, np.array(rows[start : start + BLOCK])


def check_length(header: Header, element: Element) -> None:
    """Check before any work that the file is long enough for what it claims.

    Raises:
        SplatFormatError: it is not, or lists make its layout unknown.
    """
    path = header.path
    there = path.stat().st_size
    if header.encoding == "ascii":
        header.dtype(element)
        needed = header.offset + _SHORTEST_ROW * element.count * len(element.properties) - 1
        whole = "fewer"
    else:
        offset, itemsize = _offset(header, element), header.dtype(element).itemsize
        needed = offset + element.count * itemsize
        whole = f"{max(0, there - offset) // itemsize:,}" if itemsize else "no"
    if there < needed:
        what = "splats" if element.name == "vertex" else f"rows of {element.name}"
        raise SplatFormatError(
            f"{path.name} is truncated",
            got=f"{there:,} bytes, {whole} whole {what}",
            expected=f"{needed:,} bytes{' at least' if header.encoding == 'ascii' else ''}, "
            f"{element.count:,} {what}",
            hint="copy or export the file again",
        )


def open_rows(header: Header, element: Element) -> np.ndarray:
    """A binary table as a memory-mapped structured array; its length has been checked."""
    dtype = header.dtype(element)
    return np.memmap(header.path, dtype, "r", _offset(header, element), (element.count,))


def _offset(header: Header, element: Element) -> int:
    """Bytes before a binary table."""
    offset = header.offset
    for before in header.elements[: header.elements.index(element)]:
        if before.has_lists:
            raise SplatFormatError(
                f"{header.path.name} has element {before.name} with lists before its splats",
                hint="save it again as a plain 3DGS PLY",
            )
        offset += before.count * header.dtype(before).itemsize
    return offset


def _read_text(header: Header, element: Element) -> Iterator[tuple[int, np.ndarray]]:
    path, names = header.path, [name for _, name in element.properties]
    dtype = np.dtype([(name, "f8") for name in names])
    with open(path, "rb") as binary:
        binary.seek(header.offset)
        lines = (line.decode("latin-1") for line in binary if not line.isspace())
        for before in header.elements[: header.elements.index(element)]:
            for _ in range(before.count):
                if next(lines, None) is None:
                    break
        for start in range(0, element.count, BLOCK):
            wanted = min(BLOCK, element.count - start)
            table = _text_block(path, lines, wanted, len(names), start)
            yield start, np.ascontiguousarray(table).view(dtype)[:, 0]


def _text_block(path: Path, lines: Iterator[str], wanted: int, columns: int, start: int) -> np.ndarray:
    """[wanted, columns] float64 of the next rows of text."""
    block = list(itertools.islice(lines, wanted))
    if len(block) < wanted:
        raise SplatFormatError(
            f"{path.name} is truncated",
            got=f"{start + len(block):,} whole splats",
            expected=f"{start + wanted:,} splats or more",
            hint="copy or export the file again",
        )
    try:
        table = np.loadtxt(block, dtype=np.float64, comments=None, ndmin=2)
    except ValueError as error:
        raise SplatFormatError(
            f"a row of {path.name} cannot be understood",
            got=f"{str(error)[:120]} (counted from splat {start:,})",
            expected=f"{columns} numbers a row",
        ) from error
    if table.shape[1] != columns:
        raise SplatFormatError(
            f"rows of {path.name} do not fit its header",
            got=f"{table.shape[1]} numbers a row",
            expected=f"{columns}",
        )
    return table
