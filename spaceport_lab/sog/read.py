"""Read a SOG: a .sog file, or the folder or the meta.json of an unbundled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
from jaxtyping import Float, UInt8

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import N_COEFFS, Gaussians
from spaceport_lab.sog import pack
from spaceport_lab.sog.container import Source, decode_image
from spaceport_lab.sog.meta import PALETTE_COLUMNS, Meta, ShMeta, decode_meta


def read_sog(path: Path | str) -> Gaussians:
    """Decode a SOG of version 2; Gaussians come in the order of the file.

    Safe on hostile input: nothing is written, nothing outside the file or its folder is read, and sizes are
    checked before memory is taken.

    Raises:
        SplatFormatError: missing, damaged, of another version, or contradicting itself.
    """
    with Source(path) as source:
        meta = decode_meta(source.meta(), f"meta.json of {Path(path).name}")
        _check_memory(meta)
        n = meta.count
        means = _decode_means(source, meta)
        quats = pack.unpack_quats(_pixels(source, meta.quats, n))
        scales = _look_up(_pixels(source, meta.scales, n)[:, :3], meta.scales_codebook, meta.scales)
        sh0 = _pixels(source, meta.sh0, n)
        shN = _decode_sh(source, meta.sh, n) if meta.sh else np.zeros((n, 0, 3), np.float32)
        return Gaussians(
            means=means,
            quats=quats,
            scales=scales,
            opacities=pack.unpack_opacities(sh0[:, 3]),
            sh0=_look_up(sh0[:, :3], meta.sh0_codebook, meta.sh0)[:, None],
            shN=shN,
        )


def read_antialias(path: Path | str) -> bool:
    """Whether a SOG says that it was trained with antialiasing.

    Raises:
        SplatFormatError: as `read_sog`.
    """
    with Source(path) as source:
        return decode_meta(source.meta(), f"meta.json of {Path(path).name}").antialias


def _check_memory(meta: Meta) -> None:
    coefficients = N_COEFFS[meta.sh.bands] if meta.sh else 0
    needed = meta.count * (4 * (14 + 3 * coefficients) + 64)  # the result, and images while they are open
    available = psutil.virtual_memory().available
    if needed > available:
        raise SplatFormatError(
            "a SOG of this size does not fit into memory",
            got=f"{meta.count:,} Gaussians, {needed / 1e9:,.1f} GB",
            expected=f"at most {available / 1e9:.1f} GB, which is free",
        )


def _pixels(source: Source, name: str, count: int) -> UInt8[np.ndarray, "N 4"]:
    """The first `count` pixels of an image that holds one Gaussian in each."""
    return _image(source, name, 0, count).reshape(-1, 4)[:count]


def _image(source: Source, name: str, width: int, pixels: int) -> UInt8[np.ndarray, "H W 4"]:
    # Writers pad to whole rows, some to more; four times is beyond any of them.
    most = 4 * pixels + 4096
    return decode_image(source.read(name, 5 * most + 65536), name, (width, pixels), most)


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


def _decode_means(source: Source, meta: Meta) -> Float[np.ndarray, "N 3"]:
    low, high = (_pixels(source, name, meta.count)[:, :3] for name in meta.means)
    return pack.unpack_means(low | high.astype(np.uint16) << 8, meta.mins, meta.maxs)


def _decode_sh(source: Source, sh: ShMeta, n: int) -> Float[np.ndarray, "N K 3"]:
    coefficients = N_COEFFS[sh.bands]
    rows = -(-sh.count // PALETTE_COLUMNS)
    width = PALETTE_COLUMNS * coefficients
    image = _image(source, sh.centroids, width, rows * width)
    entries = image.reshape(-1, coefficients, 4)[: sh.count, :, :3]
    labels = _pixels(source, sh.labels, n)
    index = labels[:, 0] | labels[:, 1].astype(np.uint16) << 8
    outside = int((index >= sh.count).sum())
    if outside:
        raise SplatFormatError(
            f"{sh.labels} points outside the palette",
            got=f"{outside:,} of {n:,} labels, the largest {index.max()}",
            expected=f"below {sh.count}",
        )
    return _look_up(entries, sh.codebook, sh.centroids)[index]
