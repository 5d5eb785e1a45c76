"""The six fields of a splat: values, activations, first guess from points, PLY in and out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from spaceport_lab import files
from spaceport_lab.errors import SplatFormatError

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic: colour = 0.5 + SH_C0 · sh0."""

N_COEFFS = (0, 3, 8, 15)
"""Coefficients per channel above the constant one, by SH degree."""

_BLOCK = 1 << 16  # rows gathered at a time, so that a 10M-row PLY is read column-wise out of the cache
_HEADER_LIMIT = 1 << 16
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians, raw as optimised and as stored in PLY; all float32.

    Attributes:
        means: [N, 3] centres in world coordinates.
        quats: [N, 4] rotations w, x, y, z; not normalised.
        scales: [N, 3] natural logarithm of the standard deviations.
        opacities: [N] logit of the opacity.
        sh0: [N, 1, 3] constant spherical harmonic, RGB.
        shN: [N, K-1, 3] the higher ones; K = (degree + 1)², none for degree 0.

    Raises:
        SplatFormatError: shapes that do not belong together, or a dtype other than float32.
    """

    means: Float[np.ndarray, "N 3"]
    quats: Float[np.ndarray, "N 4"]
    scales: Float[np.ndarray, "N 3"]
    opacities: Float[np.ndarray, " N"]
    sh0: Float[np.ndarray, "N 1 3"]
    shN: Float[np.ndarray, "N K 3"]

    def __post_init__(self) -> None:
        n = len(self.means)
        expected = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh0": (n, 1, 3)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise SplatFormatError(
                    f"{name} has the wrong shape", got=getattr(self, name).shape, expected=shape
                )
        if self.shN.ndim != 3 or self.shN.shape[::2] != (n, 3) or self.shN.shape[1] not in N_COEFFS:
            raise SplatFormatError(
                "shN has the wrong shape", got=self.shN.shape, expected=f"({n}, 0 or 3 or 8 or 15, 3)"
            )
        for name in (*expected, "shN"):
            if getattr(self, name).dtype != np.float32:
                raise SplatFormatError(
                    f"{name} has the wrong type", got=getattr(self, name).dtype, expected="float32"
                )

    @property
    def n(self) -> int:
        """How many Gaussians."""
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return N_COEFFS.index(self.shN.shape[1])

    @property
    def sigmas(self) -> Float[np.ndarray, "N 3"]:
        """Standard deviations along the Gaussian's own axes, in world units."""
        return np.exp(self.scales)

    @property
    def alphas(self) -> Float[np.ndarray, " N"]:
        """Opacities, 0 to 1."""
        return sigmoid(self.opacities)

    @property
    def rotations(self) -> Float[np.ndarray, "N 4"]:
        """Unit quaternions w, x, y, z; the identity where the raw one is zero."""
        return normalize_quats(self.quats)

    @property
    def colors(self) -> Float[np.ndarray, "N 3"]:
        """View-independent RGB; 0 to 1 is displayable, values outside occur."""
        return 0.5 + SH_C0 * self.sh0[:, 0]

    @property
    def sh(self) -> Float[np.ndarray, "N K 3"]:
        """All SH coefficients, the constant one first."""
        return np.concatenate([self.sh0, self.shN], axis=1)

    def subset(self, index: Int[np.ndarray, " M"] | np.ndarray | slice) -> Gaussians:
        """The Gaussians at `index` (numbers, a mask or a slice)."""
        return Gaussians(
            self.means[index], self.quats[index], self.scales[index],
            self.opacities[index], self.sh0[index], self.shN[index],
        )  # fmt: skip

    def with_sh_degree(self, degree: int) -> Gaussians:
        """The same Gaussians without the SH bands above `degree`; missing bands are not invented."""
        keep = N_COEFFS[min(degree, self.sh_degree)]
        shN = np.ascontiguousarray(self.shN[:, :keep])
        return Gaussians(self.means, self.quats, self.scales, self.opacities, self.sh0, shN)


def sigmoid(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 / (1 + e^-x) without overflow; keeps the dtype."""
    half = np.asarray(0.5, x.dtype)
    return half + half * np.tanh(half * x)


def normalize_quats(quats: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions; the identity where the length is zero. Keeps the dtype."""
    # Scaled by the largest component first: the square of a huge or tiny float32 is inf or 0.
    largest = np.abs(quats).max(axis=1, keepdims=True, initial=0)
    scaled = quats / np.where(largest > 0, largest, 1)
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    return np.where(largest > 0, unit, np.asarray([1, 0, 0, 0], quats.dtype)).astype(quats.dtype)


def from_points(
    points: Float[np.ndarray, "P 3"],
    colors: Float[np.ndarray, "P 3"],
    sh_degree: int = 3,
    opacity: float = 0.1,
    scale_factor: float = 1.0,
) -> Gaussians:
    """The first guess of 3D Gaussian Splatting (Kerbl et al. 2023, section 5.1) from sparse points.

    Round Gaussians, as large as the root mean square distance to the three nearest points.

    Args:
        points: [P, 3] world coordinates.
        colors: [P, 3] RGB, 0 to 255.
        sh_degree: 0 to 3; coefficients above the constant one start at zero.
        opacity: of every Gaussian, between 0 and 1.
        scale_factor: multiplies the standard deviations.

    Raises:
        SplatFormatError: no points, or coordinates that are not finite.
    """
    n = len(points)
    if n == 0:
        raise SplatFormatError("there are no points to start from", expected="at least one")
    bad = int((~np.isfinite(points).all(axis=1)).sum())
    if bad:
        raise SplatFormatError("points are not finite", got=f"NaN or Inf in {bad} of {n} points")
    if n > 1:
        distances = cKDTree(points).query(points, k=min(4, n), workers=-1)[0][:, 1:]
        # Twins have distance 0, whose logarithm is no number; 1e-7 is the reference implementation's floor.
        sigmas = np.sqrt(np.maximum((distances**2).mean(axis=1), 1e-7)) * scale_factor
    else:
        sigmas = np.full(1, scale_factor)
    quats = np.zeros((n, 4), np.float32)
    quats[:, 0] = 1
    return Gaussians(
        means=np.ascontiguousarray(points, dtype=np.float32),
        quats=quats,
        scales=np.repeat(np.log(sigmas)[:, None], 3, axis=1).astype(np.float32),
        opacities=np.full(n, np.log(opacity / (1 - opacity)), np.float32),
        sh0=((np.asarray(colors, np.float64) / 255 - 0.5) / SH_C0).astype(np.float32)[:, None],
        shN=np.zeros((n, N_COEFFS[sh_degree], 3), np.float32),
    )


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


def write_ply(path: Path | str, gaussians: Gaussians) -> None:
    """Write the PLY every splat tool reads: binary little-endian float32, normals zero, f_rest by channel.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    fields = ply_fields(gaussians.sh_degree)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {gaussians.n}"]
    header += [f"property float {name}" for name in fields] + ["end_header\n"]
    with files.atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode())
        for start in range(0, gaussians.n, _BLOCK):
            part = gaussians.subset(slice(start, start + _BLOCK))
            rows = np.concatenate(
                [
                    part.means, np.zeros((part.n, 3), np.float32), part.sh0[:, 0],
                    part.shN.transpose(0, 2, 1).reshape(part.n, -1), part.opacities[:, None],
                    part.scales, part.quats,
                ],
                axis=1,
            )  # fmt: skip
            file.write(rows.astype("<f4").tobytes())


def read_ply(path: Path | str, *, drop_invalid: bool = False) -> Gaussians:
    """Read any 3DGS PLY: with or without normals, SH degree 0 to 3, properties in any order.

    Args:
        path: binary little-endian PLY with float32 splat fields; further properties are passed over.
        drop_invalid: leave out rows with NaN or Inf, with a Python warning that says how many;
            `read_ply_valid` gives the counts as data.

    Raises:
        SplatFormatError: not a splat PLY, truncated, fields missing or of another type, no splats,
            NaN or Inf; the message names the field and the count.
    """
    gaussians, dropped = read_ply_valid(path)
    if dropped.n and not drop_invalid:
        raise SplatFormatError(
            f"{Path(path).name} holds values that are not finite",
            got=str(dropped),
            expected="finite numbers only",
            hint="read_ply(path, drop_invalid=True) leaves those rows out",
        )
    if dropped.n:
        warnings.warn(f"{Path(path).name}: {dropped}: left out", stacklevel=2)
    return gaussians


@dataclass(frozen=True)
class Dropped:
    """Rows of a PLY that hold NaN or Inf.

    Attributes:
        n: rows with at least one such value.
        of: rows in the file.
        fields: rows affected, by field.
    """

    n: int
    of: int
    fields: dict[str, int]

    def __str__(self) -> str:
        each = ", ".join(f"{name} {count:,}" for name, count in self.fields.items())
        return f"NaN or Inf in {self.n:,} of {self.of:,} splats ({each})"


def read_ply_valid(path: Path | str) -> tuple[Gaussians, Dropped]:
    """Read a PLY, leaving out rows with NaN or Inf, and say how many and in which fields.

    Raises:
        SplatFormatError: as `read_ply`, and when no row is left.
    """
    path = Path(path)
    rows, degree = _open_rows(path)
    n, raw = len(rows), {}
    groups = {
        "means": list("xyz"),
        "quats": [f"rot_{i}" for i in range(4)],
        "scales": [f"scale_{i}" for i in range(3)],
        "opacities": ["opacity"],
        "sh0": [f"f_dc_{i}" for i in range(3)],
        "shN": [f"f_rest_{i}" for i in range(3 * N_COEFFS[degree])],
    }
    for group, names in groups.items():
        raw[group] = np.empty((n, len(names)), np.float32)
    for start in range(0, n, _BLOCK):
        block = np.array(rows[start : start + _BLOCK])
        for group, names in groups.items():
            for column, name in enumerate(names):
                raw[group][start : start + _BLOCK, column] = block[name]
    invalid, counts = np.zeros(n, bool), {}
    for group, names in groups.items():
        finite = np.isfinite(raw[group])
        if not finite.all():
            counts |= {name: int(c) for name, c in zip(names, (~finite).sum(axis=0), strict=True) if c}
            invalid |= ~finite.all(axis=1)
    dropped = Dropped(int(invalid.sum()), n, counts)
    if dropped.n == n:
        raise SplatFormatError(f"{path.name} holds no usable splat", got=str(dropped))
    shN = raw["shN"].reshape(n, 3, -1).transpose(0, 2, 1)  # f_rest runs channel by channel
    gaussians = Gaussians(
        raw["means"], raw["quats"], raw["scales"], raw["opacities"][:, 0], raw["sh0"][:, None],
        np.ascontiguousarray(shN),
    )  # fmt: skip
    return (gaussians.subset(~invalid) if dropped.n else gaussians), dropped


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str]]  # (PLY type, name); the type is "list" for lists


def _open_rows(path: Path) -> tuple[np.ndarray, int]:
    """The splat rows as a memory-mapped structured array [N], and the SH degree."""
    elements, offset = _read_header(path)
    vertex = next((e for e in elements if e.name == "vertex"), None)
    _check_is_splat(path, elements, vertex)
    degree = _check_fields(path, vertex)
    for element in elements[: elements.index(vertex)]:
        if any(kind == "list" for kind, _ in element.properties):
            raise SplatFormatError(
                f"{path.name} has element {element.name} with lists before its splats",
                hint="save it again as a plain 3DGS PLY",
            )
        offset += element.count * _dtype(path, element).itemsize
    dtype = _dtype(path, vertex)
    needed, there = offset + vertex.count * dtype.itemsize, path.stat().st_size
    if there < needed:
        raise SplatFormatError(
            f"{path.name} is truncated",
            got=f"{there:,} bytes, {max(0, there - offset) // dtype.itemsize:,} whole splats",
            expected=f"{needed:,} bytes, {vertex.count:,} splats",
            hint="copy or export the file again",
        )
    return np.memmap(path, dtype, "r", offset, (vertex.count,)), degree


def _read_header(path: Path) -> tuple[list[_Element], int]:
    """Elements of a PLY header, and where the data begins."""
    try:
        with open(path, "rb") as file:
            start = file.read(_HEADER_LIMIT)
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
            f"the header of {path.name} has no end", expected=f"end_header within {_HEADER_LIMIT:,} bytes"
        )
    elements: list[_Element] = []
    for line in start[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if words and words[0] == "format" and words[1:2] != ["binary_little_endian"]:
            raise SplatFormatError(
                f"{path.name} is stored as {' '.join(words[1:]) or 'nothing known'}",
                expected="binary_little_endian 1.0",
                hint="export it again as binary PLY",
            )
        if words and words[0] in ("element", "property"):
            _read_line(path, words, elements)
    return elements, newline + 1


def _read_line(path: Path, words: list[str], elements: list[_Element]) -> None:
    """Add one `element` or `property` line of the header to `elements`."""
    if words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
        elements.append(_Element(words[1], int(words[2][:18]), []))
    elif words[0] == "property" and len(words) == (5 if words[1:2] == ["list"] else 3) and elements:
        elements[-1].properties.append((words[1], words[-1]))
    else:
        raise SplatFormatError(f"the header of {path.name} cannot be understood", got=" ".join(words)[:120])


def _dtype(path: Path, element: _Element) -> np.dtype:
    for kind, name in element.properties:
        if kind not in _TYPES:
            raise SplatFormatError(
                f"property {name} of {path.name} has a type that is not usable here",
                got=kind,
                expected=", ".join(_TYPES),
            )
    names = [name for _, name in element.properties]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SplatFormatError(f"properties of {path.name} occur twice", got=", ".join(twice))
    return np.dtype([(name, "<" + _TYPES[kind]) for kind, name in element.properties])


def _check_is_splat(path: Path, elements: list[_Element], vertex: _Element | None) -> None:
    """Tell the other things called PLY by name."""
    names = {name for _, name in vertex.properties} if vertex else set()
    if "packed_position" in names:
        raise SplatFormatError(
            f"{path.name} is a compressed splat PLY", expected="an uncompressed 3DGS PLY",
            hint="splat-transform in.compressed.ply out.ply unpacks it",
        )  # fmt: skip
    if not any(name.startswith(("f_dc_", "scale_", "rot_")) or name == "opacity" for name in names):
        faces = sum(e.count for e in elements if e.name in ("face", "tristrips"))
        what = (
            f"a mesh with {faces:,} faces" if faces else "a point cloud" if vertex else "another kind of PLY"
        )
        raise SplatFormatError(
            f"{path.name} is {what}, no splat",
            got=f"properties {', '.join(sorted(names)) or 'none'}",
            expected="a 3DGS PLY with x, y, z, f_dc_*, opacity, scale_*, rot_*",
        )


def _check_fields(path: Path, vertex: _Element) -> int:
    """Check that all fields are there as float32; returns the SH degree."""
    kinds = {name: kind for kind, name in vertex.properties}
    rest = sum(name.startswith("f_rest_") for name in kinds)
    degree = N_COEFFS.index(rest // 3) if rest % 3 == 0 and rest // 3 in N_COEFFS else None
    needed = ply_fields(degree or 0, normals=False)
    missing = [name for name in needed if name not in kinds]
    if missing:
        raise SplatFormatError(
            f"{path.name} lacks {len(missing)} of the fields of a splat",
            got=f"no {', '.join(missing)}",
            expected="x, y, z, f_dc_0 to 2, opacity, scale_0 to 2, rot_0 to 3",
        )
    if degree is None:
        raise SplatFormatError(
            f"{path.name} has {rest} properties f_rest_*",
            expected="0, 9, 24 or 45 of them, for SH degree 0 to 3",
        )
    other = [f"{name} {kinds[name]}" for name in needed if kinds[name] not in ("float", "float32")]
    if other:
        raise SplatFormatError(
            f"{len(other)} fields of {path.name} are not float32", got=", ".join(other[:6]),
            expected="property float", hint="export it again with single precision",
        )  # fmt: skip
    if vertex.count == 0:
        raise SplatFormatError(f"{path.name} holds zero splats", expected="at least one")
    return degree
