"""PLY in and out: the plain one of 3DGS in any encoding, and PlayCanvas' compressed one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from spaceport_lab import files
from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians.fields import N_COEFFS, Gaussians, empty
from spaceport_lab.gaussians.header import Header, ply_fields, read_header, splat_element
from spaceport_lab.gaussians.packed import read_packed
from spaceport_lab.gaussians.rows import BLOCK, check_length, read_rows


def write_ply(path: Path | str, gaussians: Gaussians, *, antialias: bool = False) -> None:
    """Write the PLY every splat tool reads: binary little-endian float32, normals zero, f_rest by channel.

    Args:
        path: of the file.
        gaussians: what is written.
        antialias: note, as Brush does, that the splat was trained with antialiasing.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    fields = ply_fields(gaussians.sh_degree)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {gaussians.n}"]
    if antialias:
        header.insert(2, "comment SplatRenderMode: mip")
    header += [f"property float {name}" for name in fields] + ["end_header\n"]
    with files.atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode())
        for start in range(0, gaussians.n, BLOCK):
            part = gaussians.subset(slice(start, start + BLOCK))
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
        path: PLY with splat fields as float or double, binary or text; further properties are passed over.
            PlayCanvas' compressed PLY is unpacked.
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


def read_ply_valid(path: Path | str, sh_degree: int = 3) -> tuple[Gaussians, Dropped]:
    """Read a PLY, leaving out rows with NaN or Inf, and say how many and in which fields.

    Args:
        path: as of `read_ply`.
        sh_degree: SH bands above this one are not read, nor looked at for NaN.

    Raises:
        SplatFormatError: as `read_ply`, and when no row is left.
    """
    path = Path(path)
    header = read_header(path)
    vertex = header.element("vertex")
    if vertex is not None and "packed_position" in vertex.names:
        gaussians, invalid, counts = read_packed(header)
        gaussians = gaussians.with_sh_degree(sh_degree)
    else:
        gaussians, invalid, counts = _read_plain(header, sh_degree)
    dropped = Dropped(int(invalid.sum()), gaussians.n, counts)
    if dropped.n == gaussians.n:
        raise SplatFormatError(f"{path.name} holds no usable splat", got=str(dropped))
    return (gaussians.subset(~invalid) if dropped.n else gaussians), dropped


def read_ply_antialias(path: Path | str) -> bool:
    """Whether a PLY says that it was trained with antialiasing.

    Raises:
        SplatFormatError: it is no PLY.
    """
    return read_header(Path(path)).antialias


def _read_plain(header: Header, sh_degree: int) -> tuple[Gaussians, Bool[np.ndarray, " N"], dict[str, int]]:
    """All rows; which of them hold NaN or Inf; and how often, by field."""
    vertex, degree = splat_element(header)
    check_length(header, vertex)
    gaussians = empty(vertex.count, min(degree, sh_degree))
    columns = _columns(gaussians, N_COEFFS[degree])
    invalid, counts = np.zeros(vertex.count, bool), {}
    for start, block in read_rows(header, vertex):
        part = slice(start, start + len(block))
        for name, column in columns.items():
            with np.errstate(over="ignore", invalid="ignore"):  # a double may be too large: then it is Inf
                column[part] = block[name]
            bad = ~np.isfinite(column[part])
            if bad.any():
                counts[name] = counts.get(name, 0) + int(bad.sum())
                invalid[part] |= bad
    return gaussians, invalid, {name: counts[name] for name in columns if name in counts}


def _columns(g: Gaussians, rest: int) -> dict[str, Float[np.ndarray, " N"]]:
    """Views of a splat's arrays by the names of PLY; f_rest runs channel by channel, `rest` each."""
    columns = {name: g.means[:, i] for i, name in enumerate("xyz")}
    columns |= {f"rot_{i}": g.quats[:, i] for i in range(4)}
    columns |= {f"scale_{i}": g.scales[:, i] for i in range(3)}
    columns["opacity"] = g.opacities
    columns |= {f"f_dc_{i}": g.sh0[:, 0, i] for i in range(3)}
    kept = range(g.shN.shape[1])
    return columns | {f"f_rest_{c * rest + j}": g.shN[:, j, c] for c in range(3) for j in kept}
