"""SOG version 1, as `sogs` 1.1 writes it: read, and brought to version 2.

Fields are linear between a least and a greatest value where version 2 has codebooks, and the opacity is kept
as a logit. The `sogs` 1.0.0 that PyPI serves writes an older layout still, which has lost a component of
every rotation: that one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from spaceport_lab import __version__
from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import N_COEFFS, Gaussians
from spaceport_lab.sog import pack
from spaceport_lab.sog.codebook import MAX_LOG_SCALE, SIZE, companded_codebook, nearest
from spaceport_lab.sog.container import META, Source, decode_image, encode_image
from spaceport_lab.sog.meta import (
    LARGEST_LOG,
    MAX_PALETTE,
    MAX_SIDE,
    PALETTE_COLUMNS,
    Meta,
    MetaReader,
    ShMeta,
    encode_meta,
    open_meta,
    texture_size,
)
from spaceport_lab.sog.texture import check_memory, join_bytes, palette_labels, read_pixels

_WIDTHS = {PALETTE_COLUMNS * n: bands for bands, n in enumerate(N_COEFFS) if bands}
_LIMIT = 1e30  # of any number in meta.json; differences of such numbers are still float32


@dataclass(frozen=True)
class Range:
    """What byte 0 and byte 255 of each channel stand for.

    Attributes:
        mins: [C] values of byte 0.
        maxs: [C] values of byte 255.
    """

    mins: Float[np.ndarray, " C"]
    maxs: Float[np.ndarray, " C"]

    def decode(self, pixels: UInt8[np.ndarray, "*shape C"]) -> Float[np.ndarray, "*shape C"]:
        """The values, float32."""
        return (self.mins + (self.maxs - self.mins) * (pixels / 255)).astype(np.float32)


@dataclass(frozen=True)
class MetaV1:
    """All that a version 1 meta.json holds.

    Attributes:
        count: Gaussians.
        means: range of the log coordinates.
        means_files: names of the images of low and of high bytes.
        scales: range of the log scales, by axis.
        scales_file: name of an image, as are `quats_file` and `sh0_file`.
        sh0: range of base colour coefficients and, last, of the opacity's logit.
        shN: range of all higher coefficients; None without them.
        shN_files: names of the images of palette entries and of labels; empty without them.
    """

    count: int
    means: Range
    means_files: tuple[str, ...]
    scales: Range
    scales_file: str
    quats_file: str
    sh0: Range
    sh0_file: str
    shN: Range | None
    shN_files: tuple[str, ...]


def decode_meta_v1(reader: MetaReader) -> MetaV1:
    """Check meta.json of version 1.

    Raises:
        SplatFormatError: it lacks something, says something impossible, or is of the layout of sogs 1.0.0.
    """
    shape = reader.value("means.shape")
    if not isinstance(shape, list) or not shape or type(shape[0]) is not int:
        raise reader.error("has an impossible means.shape", shape, "the number of Gaussians, and 3")
    if not 1 <= shape[0] <= MAX_SIDE**2:
        raise reader.error("has an impossible means.shape", shape, f"1 to {MAX_SIDE**2:,} Gaussians")
    _refuse_older(reader)
    has_sh = reader.root.get("shN") is not None
    return MetaV1(
        count=shape[0],
        means=_range(reader, "means", 3, LARGEST_LOG),
        means_files=reader.files("means", 2),
        scales=_range(reader, "scales", 3),
        scales_file=reader.files("scales", 1)[0],
        quats_file=reader.files("quats", 1)[0],
        sh0=_range(reader, "sh0", 4),
        sh0_file=reader.files("sh0", 1)[0],
        shN=Range(reader.number("shN.mins", _LIMIT), reader.number("shN.maxs", _LIMIT)) if has_sh else None,
        shN_files=reader.files("shN", 2) if has_sh else (),
    )


def _range(reader: MetaReader, group: str, count: int, limit: float = _LIMIT) -> Range:
    return Range(*(reader.numbers(f"{group}.{end}", count, limit=limit) for end in ("mins", "maxs")))


def _refuse_older(reader: MetaReader) -> None:
    """Tell the layout of sogs 1.0.0, whose rotations and opacities no reader can give back."""
    quats = reader.root.get("quats")
    encoding = quats.get("encoding") if isinstance(quats, Mapping) else None
    if "opacities" in reader.root or (isinstance(quats, Mapping) and encoding != "quaternion_packed"):
        raise SplatFormatError(
            f"{reader.where} is of the layout that sogs 1.0.0 wrote, before version 1",
            got="separate opacities" if "opacities" in reader.root else f"quats encoding {encoding!r:.40}",
            expected="quats packed with their largest component named, and opacities beside sh0",
            hint="compress the PLY again: this layout has lost a part of every rotation",
        )


def decode(source: Source, meta: MetaV1) -> Gaussians:
    """The Gaussians, in the order of the file.

    Raises:
        SplatFormatError: an image is missing, damaged, of the wrong size, or a label outside the palette.
    """
    n = meta.count
    check_memory(n, 3 if meta.shN else 0)
    low, high = (read_pixels(source, name, n) for name in meta.means_files)
    sh0 = meta.sh0.decode(read_pixels(source, meta.sh0_file, n))
    return Gaussians(
        means=pack.unpack_means(join_bytes(low, high), meta.means.mins, meta.means.maxs),
        quats=pack.unpack_quats(read_pixels(source, meta.quats_file, n)),
        scales=meta.scales.decode(read_pixels(source, meta.scales_file, n)[:, :3]),
        opacities=np.ascontiguousarray(sh0[:, 3]),
        sh0=np.ascontiguousarray(sh0[:, None, :3]),
        shN=_decode_sh(source, meta),
    )


def _decode_sh(source: Source, meta: MetaV1) -> Float[np.ndarray, "N K 3"]:
    if meta.shN is None:
        return np.zeros((meta.count, 0, 3), np.float32)
    entries = _palette(source, meta.shN_files[0])
    labels = palette_labels(source, meta.shN_files[1], meta.count, len(entries))
    return meta.shN.decode(entries)[labels]


def _palette(source: Source, name: str) -> UInt8[np.ndarray, "P K 3"]:
    """The palette's entries; the number of bands follows from the width."""
    most = MAX_PALETTE * N_COEFFS[-1]
    image = decode_image(source.read(name, 5 * most + 65536), name, (0, 1), most)
    width = image.shape[1]
    if width not in _WIDTHS:
        raise SplatFormatError(
            f"{name} has the wrong size",
            got=f"{width} pixels wide",
            expected=f"{', '.join(map(str, _WIDTHS))} for 1, 2, 3 bands of spherical harmonics",
        )
    return image.reshape(-1, N_COEFFS[_WIDTHS[width]], 4)[:MAX_PALETTE, :, :3]


def upgrade(path: Path | str) -> dict[str, bytes]:
    """The files of a version 2 SOG that shows what the version 1 SOG at `path` shows.

    Positions, rotations and the SH palette keep their images and so their exact values; scales, base colours
    and opacities go through version 2's codebooks.

    Raises:
        SplatFormatError: as `read_sog`, and when `path` is not of version 1.
    """
    with Source(path) as source:
        reader = open_meta(source.meta(), f"meta.json of {source.path.name}")
        if reader.root.get("version") is not None:
            raise reader.error("is not of version 1", reader.root["version"], "no version key")
        meta = decode_meta_v1(reader)
        splat = decode(source, meta)
        kept = (*meta.means_files, meta.quats_file, *meta.shN_files)
        contents = {name: source.read(name, 20 * MAX_SIDE**2) for name in kept}
        bands = splat.sh_degree
        sh_count = len(_palette(source, meta.shN_files[0])) if bands else 0
    scales_codebook, sh0_codebook = (
        companded_codebook(splat.scales, most=MAX_LOG_SCALE),
        companded_codebook(splat.sh0),
    )
    scales, sh0 = nearest(splat.scales, scales_codebook), nearest(splat.sh0[:, 0], sh0_codebook)
    names = {"scales": _free("scales.webp", contents), "sh0": _free("sh0.webp", contents)}
    contents[names["scales"]] = _image(scales, np.full(splat.n, 255, np.uint8))
    contents[names["sh0"]] = _image(sh0, pack.pack_opacities(splat.opacities))
    sh = None
    if bands:
        codebook = meta.shN.decode(np.arange(SIZE, dtype=np.uint8))
        sh = ShMeta(sh_count, bands, codebook, *meta.shN_files)
    new = Meta(
        count=splat.n, mins=meta.means.mins, maxs=meta.means.maxs, means=meta.means_files,
        scales_codebook=scales_codebook, scales=names["scales"], quats=meta.quats_file,
        sh0_codebook=sh0_codebook, sh0=names["sh0"], sh=sh,
    )  # fmt: skip
    contents[META] = encode_meta(new, f"spaceport-lab {__version__}")
    return contents


def _free(name: str, taken: Mapping[str, bytes]) -> str:
    """`name`, or one beside it where a stranger's file is called so already."""
    while name in taken:
        name = f"_{name}"
    return name


def _image(rgb: UInt8[np.ndarray, "N 3"], alpha: UInt8[np.ndarray, " N"]) -> bytes:
    width, height = texture_size(len(rgb))
    pixels = np.full((width * height, 4), 255, np.uint8)
    pixels[: len(rgb), :3], pixels[: len(rgb), 3] = rgb, alpha
    pixels[len(rgb) :] = pixels[len(rgb) - 1]
    return encode_image(pixels.reshape(height, width, 4))
