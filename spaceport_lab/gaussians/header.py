"""The header of a PLY: what the file says that it holds, and whether that is a splat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians.fields import N_COEFFS

ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
"""Encodings of a PLY: numpy's byte order, none for text."""

_LIMIT = 1 << 16
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_REAL = ("float", "float32", "double", "float64")


@dataclass(frozen=True)
class Element:
    """One table of a PLY.

    Attributes:
        name: such as vertex.
        count: rows.
        properties: (PLY type, name) of each column; the type is "list" for lists.
    """

    name: str
    count: int
    properties: list[tuple[str, str]]

    @property
    def names(self) -> set[str]:
        """Of its columns."""
        return {name for _, name in self.properties}

    @property
    def has_lists(self) -> bool:
        """Whether rows may differ in length."""
        return any(kind == "list" for kind, _ in self.properties)


@dataclass(frozen=True)
class Header:
    """What a PLY says that it holds.

    Attributes:
        path: of the file.
        encoding: a key of `ORDERS`.
        elements: its tables, in the order of the file.
        offset: bytes before the data.
        comments: lines that somebody wrote into it.
    """

    path: Path
    encoding: str
    elements: list[Element]
    offset: int
    comments: list[str]

    @property
    def antialias(self) -> bool:
        """Whether a comment says so, in the words of Brush or of Postshot; the last one counts."""
        said = False
        for comment in self.comments:
            key, _, value = comment.partition(" ")
            if key == "SplatRenderMode:" or (key == "antialiased" and value in ("0", "1")):
                said = value.strip() in ("mip", "1")
        return said

    def element(self, name: str) -> Element | None:
        """The table of that name, if there is one."""
        return next((element for element in self.elements if element.name == name), None)

    def dtype(self, element: Element) -> np.dtype:
        """A row of a table as a numpy structure.

        Raises:
            SplatFormatError: a type nobody knows, a list, or a name twice.
        """
        for kind, name in element.properties:
            if kind not in _TYPES:
                raise SplatFormatError(
                    f"property {name} of {self.path.name} has a type that is not usable here",
                    got=kind,
                    expected=", ".join(_TYPES),
                )
        names = [name for _, name in element.properties]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise SplatFormatError(f"properties of {self.path.name} occur twice", got=", ".join(twice))
        order = ORDERS[self.encoding]
        return np.dtype([(name, order + _TYPES[kind]) for kind, name in element.properties])


def ply_fields(sh_degree: int, normals: bool = True) -> list[str]:
    """Property names in the order of the reference implementation."""
    return [
        *"xyz",
        *(["nx", "ny", "nz"] if normals else []),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(3 * N_COEFFS[sh_degree])),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def read_header(path: Path) -> Header:
    """Read and understand the header of any PLY.

    Raises:
        SplatFormatError: the file cannot be read, is no PLY, or its header makes no sense.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_LIMIT)
    except OSError as error:
        raise SplatFormatError(f"cannot read {path}", got=error.strerror) from error
    if not start.startswith((b"ply\n", b"ply\r\n")):
        raise SplatFormatError(
            f"{path.name} is not a PLY file", got=repr(start[:16]) if start else "an empty file",
            expected="a file that begins with 'ply'",
        )  # fmt: skip
    end = start.find(b"end_header")
    newline = start.find(b"\n", end)
    if end < 0 or newline < 0:
        raise SplatFormatError(
            f"the header of {path.name} has no end", expected=f"end_header within {_LIMIT:,} bytes"
        )
    elements: list[Element] = []
    encoding, comments = "", []
    for line in start[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if words and words[0] == "format":
            encoding = " ".join(words[1:2])
        elif words and words[0] == "comment":
            comments.append(" ".join(words[1:]))
        elif words and words[0] in ("element", "property"):
            _read_line(path, words, elements)
    if encoding not in ORDERS:
        raise SplatFormatError(
            f"{path.name} is stored as {encoding or 'nothing known'}",
            expected=", ".join(ORDERS),
            hint="export it again as binary PLY",
        )
    return Header(path, encoding, elements, newline + 1, comments)


def _read_line(path: Path, words: list[str], elements: list[Element]) -> None:
    """Add one `element` or `property` line of the header to `elements`."""
    if words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
        elements.append(Element(words[1], int(words[2][:18]), []))
    elif words[0] == "property" and len(words) == (5 if words[1:2] == ["list"] else 3) and elements:
        elements[-1].properties.append((words[1], words[-1]))
    else:
        raise SplatFormatError(f"the header of {path.name} cannot be understood", got=" ".join(words)[:120])


def splat_element(header: Header) -> tuple[Element, int]:
    """The table of splats, and the SH degree.

    Raises:
        SplatFormatError: it is another thing called PLY, which the message names, or lacks fields.
    """
    vertex, name = header.element("vertex"), header.path.name
    names = vertex.names if vertex else set()
    if not any(n.startswith(("f_dc_", "scale_", "rot_")) or n == "opacity" for n in names):
        faces = sum(e.count for e in header.elements if e.name in ("face", "tristrips"))
        what = (
            f"a mesh with {faces:,} faces" if faces else "a point cloud" if vertex else "another kind of PLY"
        )
        raise SplatFormatError(
            f"{name} is {what}, no splat",
            got=f"properties {', '.join(sorted(names)) or 'none'}",
            expected="a 3DGS PLY with x, y, z, f_dc_*, opacity, scale_*, rot_*",
        )
    kinds = {n: kind for kind, n in vertex.properties}
    rest = sum(n.startswith("f_rest_") for n in kinds)
    degree = N_COEFFS.index(rest // 3) if rest % 3 == 0 and rest // 3 in N_COEFFS else None
    needed = ply_fields(degree or 0, normals=False)
    missing = [n for n in needed if n not in kinds]
    if missing:
        raise SplatFormatError(
            f"{name} lacks {len(missing)} of the fields of a splat",
            got=f"no {', '.join(missing)}",
            expected="x, y, z, f_dc_0 to 2, opacity, scale_0 to 2, rot_0 to 3",
        )
    if degree is None:
        raise SplatFormatError(
            f"{name} has {rest} properties f_rest_*",
            expected="0, 9, 24 or 45 of them, for SH degree 0 to 3",
        )
    check_kinds(header, vertex, needed, _REAL, "property float")
    if vertex.count == 0:
        raise SplatFormatError(f"{name} holds zero splats", expected="at least one")
    return vertex, degree


def check_kinds(
    header: Header, element: Element, names: list[str], kinds: tuple[str, ...], expected: str
) -> None:
    """Check that columns are there and of one of `kinds`.

    Raises:
        SplatFormatError: they are not.
    """
    found = {name: kind for kind, name in element.properties}
    other = [f"{name} {found.get(name, 'missing')}" for name in names if found.get(name) not in kinds]
    if other:
        raise SplatFormatError(
            f"{len(other)} fields of {header.path.name} are not {kinds[0]}",
            got=", ".join(other[:6]),
            expected=expected,
            hint="export it again with single precision",
        )
