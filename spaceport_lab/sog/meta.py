"""meta.json of SOG version 2: what it says, and whether that can be believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import N_COEFFS
from spaceport_lab.sog.codebook import SIZE

MAX_SIDE = 16383
"""Pixels; WebP knows no longer side."""

MAX_PALETTE = 1 << 16
PALETTE_COLUMNS = 64
"""Palette entries in one row of the centroids image."""

LARGEST_LOG = 88.72283905206836
"""log1p of the greatest float32."""


@dataclass(frozen=True)
class ShMeta:
    """The palette of spherical harmonics.

    Attributes:
        count: entries.
        bands: 1 to 3.
        codebook: [256] values of coefficients.
        centroids: name of the image that holds the entries.
        labels: name of the image that says which entry each Gaussian has.
    """

    count: int
    bands: int
    codebook: Float[np.ndarray, "M"]
    centroids: str
    labels: str


@dataclass(frozen=True)
class Meta:
    """All that meta.json holds.

    Attributes:
        count: Gaussians.
        mins: [3] least log coordinates.
        maxs: [3] greatest log coordinates.
        means: names of the images of low and of high bytes.
        scales_codebook: up to 256 log scales.
        scales: name of an image, as are `quats` and `sh0`.
        sh0_codebook: up to 256 base colour coefficients.
        sh: None without spherical harmonics above the constant one.
        antialias: whether the splat was trained with antialiasing.
    """

    count: int
    mins: Float[np.ndarray, "3"]
    maxs: Float[np.ndarray, "3"]
    means: tuple[str, str]
    scales_codebook: Float[np.ndarray, "M"]
    scales: str
    quats: str
    sh0_codebook: Float[np.ndarray, "M"]
    sh0: str
    sh: ShMeta | None
    antialias: bool = False


def texture_size(count: int) -> tuple[int, int]:
    """Width and height of an image of `count` Gaussians, multiples of 4.

    Raises:
        SplatFormatError: more Gaussians than the largest WebP has pixels.
    """
    side = math.isqrt(count - 1) + 1  # the square root, rounded up
    width = -(-side // 4) * 4
    rows = -(-count // width)
    height = -(-rows // 4) * 4
    if max(width, height) > MAX_SIDE:
        raise SplatFormatError(
            "too many Gaussians for one SOG", got=f"{count:,}", expected="at most 268 million"
        )
    return width, height


def encode_meta(meta: Meta, generator: str) -> bytes:
    """meta.json as bytes."""
    content: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": generator},
        "count": meta.count,
        "means": {"mins": meta.mins.tolist(), "maxs": meta.maxs.tolist(), "files": list(meta.means)},
        "scales": {"codebook": _short(meta.scales_codebook), "files": [meta.scales]},
        "quats": {"files": [meta.quats]},
        "sh0": {"codebook": _short(meta.sh0_codebook), "files": [meta.sh0]},
    }
    if meta.antialias:  # older readers know the first word, newer ones the second
        content |= {"antialias": True, "model": "antialiased"}
    if meta.sh is not None:
        content["shN"] = {
            "count": meta.sh.count,
            "bands": meta.sh.bands,
            "codebook": _short(meta.sh.codebook),
            "files": [meta.sh.centroids, meta.sh.labels],
        }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _short(codebook: Float[np.ndarray, "M"]) -> list[float]:
    """float32 numbers with as few digits as still name them: half the bytes of their exact decimals."""
    short = [float(str(value)) for value in codebook.astype(np.float32)]
    exact = codebook.astype(np.float32).tolist()
    return [s if np.float32(s) == np.float32(e) else e for s, e in zip(short, exact, strict=True)]


def open_meta(content: bytes, where: str) -> MetaReader:
    """A reader of the JSON object `content`, whatever its version.

    Args:
        content: the file's bytes.
        where: its name for messages.

    Raises:
        SplatFormatError: it is no JSON, or no object.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SplatFormatError(f"{where} is no JSON", got=str(error)[:120]) from error
    return MetaReader(data, where)


def decode_meta(reader: MetaReader) -> Meta:
    """Check meta.json of version 2.

    Raises:
        SplatFormatError: it is of another version, lacks something, or says something impossible.
    """
    version = reader.root.get("version")
    if version != 2 or isinstance(version, bool):
        raise SplatFormatError(
            f"{reader.where} is of a SOG version this program does not read",
            got="no version key, which means version 1" if version is None else f"version {version!r:.40}",
            expected="version 2, or none for version 1",
            hint="splat-transform in.sog out.sog writes version 2",
        )
    return Meta(
        count=reader.integer("count", 1, MAX_SIDE**2),
        mins=reader.numbers("means.mins", 3, limit=LARGEST_LOG),
        maxs=reader.numbers("means.maxs", 3, limit=LARGEST_LOG),
        means=reader.files("means", 2),
        scales_codebook=reader.numbers("scales.codebook"),
        scales=reader.files("scales", 1)[0],
        quats=reader.files("quats", 1)[0],
        sh0_codebook=reader.numbers("sh0.codebook"),
        sh0=reader.files("sh0", 1)[0],
        sh=_decode_sh(reader) if reader.root.get("shN") is not None else None,
        # Newer writers say it by `model`, older ones by `antialias`.
        antialias=reader.root.get("antialias") is True or reader.root.get("model") == "antialiased",
    )


def _decode_sh(reader: MetaReader) -> ShMeta:
    centroids, labels = reader.files("shN", 2)
    return ShMeta(
        count=reader.integer("shN.count", 1, MAX_PALETTE),
        bands=reader.integer("shN.bands", 1, len(N_COEFFS) - 1),
        codebook=reader.numbers("shN.codebook"),
        centroids=centroids,
        labels=labels,
    )


class MetaReader:
    """Picks checked values out of a JSON object by dotted names; what is not as asked is a SplatFormatError.

    Attributes:
        root: the object.
        where: its name for messages.
    """

    def __init__(self, data: Any, where: str) -> None:
        self.where = where
        if not isinstance(data, Mapping):
            raise self.error("is no JSON object", type(data).__name__, "an object")
        self.root = data

    def error(self, what: str, got: object, expected: object) -> SplatFormatError:
        """An error that says what is wrong, not yet raised."""
        return SplatFormatError(f"{self.where} {what}", got=f"{got!r:.80}", expected=expected)

    def value(self, name: str) -> Any:
        """Whatever is there."""
        found: Any = self.root
        for key in name.split("."):
            if not isinstance(found, Mapping) or key not in found:
                raise SplatFormatError(f"{self.where} lacks {name}")
            found = found[key]
        return found

    def integer(self, name: str, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        found = self.value(name)
        if type(found) is not int or not least <= found <= most:
            raise self.error(f"has an impossible {name}", found, f"a whole number from {least} to {most:,}")
        return found

    def number(self, name: str, limit: float) -> Float[np.ndarray, ""]:
        """One number, not above `limit` either way; float64, without dimensions."""
        found = self.value(name)
        if type(found) not in (int, float) or not -limit <= found <= limit:
            raise self.error(f"has an impossible {name}", found, f"a number within ±{limit:g}")
        return np.array(found, np.float64)

    def numbers(self, name: str, count: int | None = None, limit: float = 3e38) -> Float[np.ndarray, "M"]:
        """`count` numbers, or 1 to 256 of them, not above `limit` either way; float64."""
        found = self.value(name)
        right = isinstance(found, list) and (len(found) == count if count else 1 <= len(found) <= SIZE)
        if not right or not all(type(v) in (int, float) and -limit <= v <= limit for v in found):
            some = f"{count}" if count else f"1 to {SIZE}"
            raise self.error(f"has an impossible {name}", found, f"{some} numbers within ±{limit:g}")
        return np.array(found, np.float64)

    def files(self, group: str, count: int) -> tuple[str, ...]:
        """Names of files beside meta.json: a path that leads elsewhere is refused."""
        found = self.value(f"{group}.files")
        if not isinstance(found, list) or len(found) != count or not all(map(plain_name, found)):
            raise self.error(f"has impossible {group}.files", found, f"{count} plain file names")
        return tuple(found)


def plain_name(name: Any) -> bool:
    """Whether `name` can only mean a file beside the one that names it."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 128
        and name.isprintable()
        and not set(name) & set('/\\:*?"<>|')
        and name not in (".", "..", "meta.json")
    )
