"""Read a SOG of version 1 or 2: a .sog file, or the folder or the meta.json of an unbundled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import N_COEFFS, Gaussians
from spaceport_lab.sog import pack, v1
from spaceport_lab.sog.container import Source
from spaceport_lab.sog.meta import PALETTE_COLUMNS, MetaReader, ShMeta, decode_meta, open_meta
from spaceport_lab.sog.texture import check_memory, join_bytes, palette_labels, read_image, read_pixels


def read_sog(path: Path | str) -> Gaussians:
    """Decode a SOG of version 2 or 1; Gaussians come in the order of the file.

    Safe on hostile input: nothing is written, nothing outside the file or its folder is read, and sizes are
    checked before memory is taken.

    Raises:
        SplatFormatError: missing, damaged, of another version, or contradicting itself.
    """
    with Source(path) as source:
        reader = _open(source)
        if sog_version(reader) == 1:
            return v1.decode(source, v1.decode_meta_v1(reader))
        return _decode(source, reader)


def read_antialias(path: Path | str) -> bool:
    """Whether a SOG says that it was trained with antialiasing; version 1 cannot say so.

    Raises:
        SplatFormatError: as `read_sog`.
    """
    with Source(path) as source:
        reader = _open(source)
        return sog_version(reader) != 1 and decode_meta(reader).antialias


def read_version(path: Path | str) -> int | None:
    """1 or 2; None for a version this program does not read.

    Raises:
        SplatFormatError: missing, or its meta.json is no JSON object.
    """
    with Source(path) as source:
        return sog_version(_open(source))


def sog_version(reader: MetaReader) -> int | None:
    """1 or 2; None for what this program does not read."""
    version = reader.root.get("version")
    if version is None:
        return 1
    return 2 if type(version) is int and version == 2 else None


def _open(source: Source) -> MetaReader:
    return open_meta(source.meta(), f"meta.json of {source.path.name}")


def _decode(source: Source, reader: MetaReader) -> Gaussians:
    meta = decode_meta(reader)
    check_memory(meta.count, meta.sh.bands if meta.sh else 0)
    n = meta.count
    low, high = (read_pixels(source, name, n) for name in meta.means)
    means = pack.unpack_means(join_bytes(low, high), meta.mins, meta.maxs)
    quats = pack.unpack_quats(read_pixels(source, meta.quats, n))
    scales = _look_up(read_pixels(source, meta.scales, n)[:, :3], meta.scales_codebook, meta.scales)
    sh0 = read_pixels(source, meta.sh0, n)
    return Gaussians(
        means=means,
        quats=quats,
        scales=scales,
        opacities=pack.unpack_opacities(sh0[:, 3]),
        sh0=_look_up(sh0[:, :3], meta.sh0_codebook, meta.sh0)[:, None],
        shN=_decode_sh(source, meta.sh, n) if meta.sh else np.zeros((n, 0, 3), np.float32),
    )


def _look_up(
    indices: UInt8[np.ndarray, "*shape"], codebook: Float[np.ndarray, "M"], name: str
) -> Float[np.ndarray, "*shape"]:
    if len(codebook) < 256 and int(indices.max(initial=0)) >= len(codebook):
        raise SplatFormatError(
            f"{name} points outside its codebook",
            got=f"index {indices.max()}",
            expected=f"below {len(codebook)}",
        )
    return codebook.astype(np.float32)[indices]


def _decode_sh(source: Source, sh: ShMeta, n: int) -> Float[np.ndarray, "N K 3"]:
    coefficients = N_COEFFS[sh.bands]
    rows = -(-sh.count // PALETTE_COLUMNS)
    width = PALETTE_COLUMNS * coefficients
    image = read_image(source, sh.centroids, width, rows * width)
    entries = image.reshape(-1, coefficients, 4)[: sh.count, :, :3]
    return _look_up(entries, sh.codebook, sh.centroids)[palette_labels(source, sh.labels, n, sh.count)]
