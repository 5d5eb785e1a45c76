"""PlayCanvas' compressed PLY: 256 splats share their bounds; 16 bytes a splat, a byte a coefficient.

Arithmetic follows PlayCanvas' reader operation by operation in double precision, so that both give the same
float32.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, UInt32

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians.fields import N_COEFFS, SH_C0, Gaussians, empty
from spaceport_lab.gaussians.header import Element, Header, check_kinds
from spaceport_lab.gaussians.rows import check_length, open_rows, read_rows

CHUNK = 256
"""Splats that share their bounds."""

_PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_BOUNDS = {
    "means": ("x", "y", "z"),
    "scales": ("scale_x", "scale_y", "scale_z"),
    "colors": ("r", "g", "b"),
}
_FIELDS = {"means": "position", "quats": "rotation", "scales": "scale", "sh0": "color", "shN": "sh"}
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


def read_packed(header: Header) -> tuple[Gaussians, Bool[np.ndarray, " N"], dict[str, int]]:
    """All splats; which of them hold NaN or Inf; and how often, by field.

    An opacity byte of 0 or 255, which stands for an infinite logit, becomes 1e-6 from the end, as in SOG.

    Raises:
        SplatFormatError: a table is missing, truncated or of other types.
    """
    vertex, chunk, sh = _tables(header)
    degree = N_COEFFS.index(len(sh.properties) // 3) if sh else 0
    out = empty(vertex.count, degree)
    bounds = {
        field: (_stack(header, chunk, "min_", names), _stack(header, chunk, "max_", names))
        for field, names in _BOUNDS.items()
        if f"min_{names[0]}" in chunk.names
    }
    for start, block in read_rows(header, vertex):
        part = slice(start, start + len(block))
        which = np.arange(start, start + len(block)) // CHUNK
        position, rotation, scale, color = (block[name].astype(np.uint32) for name in _PACKED)
        with np.errstate(all="ignore"):  # bounds may be NaN or huge; the result is looked at below
            out.means[part] = _within(bounds["means"], which, _three(position))
            out.scales[part] = _within(bounds["scales"], which, _three(scale))
            rgb = np.stack([_bits(color, shift, 8) for shift in (24, 16, 8)], axis=1)
            if "colors" in bounds:
                rgb = _within(bounds["colors"], which, rgb)
            out.sh0[part, 0] = (rgb - 0.5) / SH_C0
            alphas = np.clip(_bits(color, 0, 8), 1e-6, 1 - 1e-6)
            out.opacities[part] = -np.log(1 / alphas - 1)
            out.quats[part] = _quats(rotation)
    if sh:
        _read_sh(header, sh, out)
    invalid, counts = np.zeros(vertex.count, bool), {}
    for field, name in _FIELDS.items():
        bad = ~np.isfinite(getattr(out, field)).reshape(vertex.count, -1).all(axis=1)
        if bad.any():
            counts[name] = int(bad.sum())
            invalid |= bad
    return out, invalid, counts


def _tables(header: Header) -> tuple[Element, Element, Element | None]:
    """Splats, their bounds, their spherical harmonics if any; all checked."""
    vertex, chunk, sh = (header.element(name) for name in ("vertex", "chunk", "sh"))
    name = header.path.name
    if header.encoding == "ascii" or chunk is None:
        raise SplatFormatError(
            f"{name} is no usable compressed splat PLY",
            got="text" if header.encoding == "ascii" else "no element chunk",
            expected="binary, with elements chunk and vertex",
        )
    if vertex.count == 0:
        raise SplatFormatError(f"{name} holds zero splats", expected="at least one")
    check_kinds(header, vertex, _PACKED, ("uint", "uint32"), "property uint")
    wanted = [names for field, names in _BOUNDS.items() if field != "colors" or "min_r" in chunk.names]
    columns = [f"{end}_{axis}" for names in wanted for end in ("min", "max") for axis in names]
    check_kinds(header, chunk, columns, ("float", "float32"), "property float")
    if chunk.count < -(-vertex.count // CHUNK):
        raise SplatFormatError(
            f"{name} has too few chunks", got=f"{chunk.count:,}", expected=f"one for {CHUNK} splats each"
        )
    if sh is not None:
        rest = len(sh.properties)
        if rest % 3 or rest // 3 not in N_COEFFS[1:] or sh.count < vertex.count:
            raise SplatFormatError(
                f"{name} has an impossible element sh",
                got=f"{sh.count:,} rows of {rest}",
                expected=f"{vertex.count:,} rows of 9, 24 or 45",
            )
        check_kinds(header, sh, [f"f_rest_{i}" for i in range(rest)], ("uchar", "uint8"), "property uchar")
    for element in (chunk, vertex, *([sh] if sh else [])):
        check_length(header, element)
    return vertex, chunk, sh


def _stack(header: Header, chunk: Element, end: str, names: tuple[str, ...]) -> Float[np.ndarray, "B 3"]:
    rows = open_rows(header, chunk)
    return np.stack([rows[end + name] for name in names], axis=1).astype(np.float64)


def _bits(words: UInt32[np.ndarray, " M"], shift: int, bits: int) -> Float[np.ndarray, " M"]:
    """0 to 1 of a few bits."""
    most = (1 << bits) - 1
    return ((words >> np.uint32(shift)) & np.uint32(most)) / np.float64(most)


def _three(words: UInt32[np.ndarray, " M"]) -> Float[np.ndarray, "M 3"]:
    """11, 10 and 11 bits."""
    return np.stack([_bits(words, 21, 11), _bits(words, 11, 10), _bits(words, 0, 11)], axis=1)


def _within(
    bounds: tuple[Float[np.ndarray, "B 3"], Float[np.ndarray, "B 3"]],
    which: np.ndarray,
    share: Float[np.ndarray, "M 3"],
) -> Float[np.ndarray, "M 3"]:
    low, high = bounds
    return low[which] * (1 - share) + high[which] * share


def _quats(words: UInt32[np.ndarray, " M"]) -> Float[np.ndarray, "M 4"]:
    """Unit quaternions w, x, y, z: three components at 10 bits, the largest of the four left out."""
    others = np.stack([_bits(words, shift, 10) for shift in (20, 10, 0)], axis=1)
    others = (others - 0.5) * (1 / (np.sqrt(2) * 0.5))
    squares = others * others
    largest = np.sqrt(np.maximum(0, 1 - (squares[:, 0] + squares[:, 1] + squares[:, 2])))
    index = (words >> np.uint32(30)).astype(np.intp)
    quats = np.empty((len(words), 4))
    np.put_along_axis(quats, _OTHERS[index], others, axis=1)
    np.put_along_axis(quats, index[:, None], largest[:, None], axis=1)
    return quats


def _read_sh(header: Header, sh: Element, out: Gaussians) -> None:
    """Fill in the higher coefficients: -4 to 4 in the middles of 254 steps, and both ends."""
    steps = (np.arange(256) + 0.5) / 256
    steps[0], steps[255] = 0, 1
    values = ((steps - 0.5) * 8).astype(np.float32)
    rest = out.shN.shape[1]
    for start, block in read_rows(header, sh):
        rows = min(len(block), len(out.shN) - start)
        for c in range(3):
            for j in range(rest):
                out.shN[start : start + rows, j, c] = values[block[f"f_rest_{c * rest + j}"][:rows]]
