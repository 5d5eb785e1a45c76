"""What holds a SOG: a folder, or a ZIP named .sog; and its images, lossless WebP."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from spaceport_lab import files
from spaceport_lab.errors import SplatFormatError
from spaceport_lab.sog.meta import MAX_SIDE

META = "meta.json"
IMAGES = (
    "means_l.webp", "means_u.webp", "scales.webp", "quats.webp", "sh0.webp",
    "shN_centroids.webp", "shN_labels.webp",
)  # fmt: skip
"""Names our writer gives; a reader goes by meta.json."""

_META_LIMIT = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a ZIP knows: the same splat gives the same bytes


def encode_image(pixels: UInt8[np.ndarray, "H W 4"]) -> bytes:
    """Lossless WebP of RGBA pixels."""
    buffer = io.BytesIO()
    # Method 4 at quality 75 is within 0.05 % of the slowest setting at a fortieth of its time; without
    # `exact` colours under alpha 0 are lost, and in sh0 alpha is the opacity.
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True, method=4, quality=75)
    return buffer.getvalue()


def decode_image(content: bytes, name: str, least: tuple[int, int], most: int) -> UInt8[np.ndarray, "H W 4"]:
    """RGBA pixels of a WebP image.

    Args:
        content: the file's bytes.
        name: for messages.
        least: exact width (0: any) and the least number of pixels.
        most: pixels at the most; what claims to be larger is not decoded.

    Raises:
        SplatFormatError: no WebP, damaged, or of a size that cannot be.
    """
    width, pixels = least
    try:
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
            size, frames = image.size, getattr(image, "n_frames", 1)
            fits = pixels <= size[0] * size[1] <= most and size[0] == (width or size[0])
            if fits and frames == 1 and max(size) <= MAX_SIDE:
                return np.asarray(image.convert("RGBA"))
    # Damaged bytes make the decoder raise nearly anything.
    except Exception as error:
        raise SplatFormatError(f"{name} is no readable WebP image", got=str(error)[:120]) from error
    raise SplatFormatError(
        f"{name} has the wrong size",
        got=f"{size[0]} × {size[1]} pixels" + (f", {frames} frames" if frames > 1 else ""),
        expected=f"{width} wide, {pixels:,} pixels or more" if width else f"{pixels:,} to {most:,} pixels",
    )


def write_folder(folder: Path | str, contents: Mapping[str, bytes]) -> None:
    """Write a SOG as a folder, meta.json last; images of an earlier one that are no longer used go.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    folder = Path(folder)
    for name, content in contents.items():
        if name != META:
            files.write_bytes(folder / name, content)
    files.write_bytes(folder / META, contents[META])
    for name in set(IMAGES) - set(contents):
        (folder / name).unlink(missing_ok=True)


def write_bundle(path: Path | str, contents: Mapping[str, bytes]) -> None:
    """Write a SOG as one .sog file: a ZIP, stored, since WebP does not shrink further.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    with files.atomic_path(Path(path)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content)


class Source:
    """Reads named files out of a .sog, or out of the folder that holds a meta.json."""

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.folder = path if path.is_dir() else path.parent if path.name == META else None
        self.path = path
        self.archive: zipfile.ZipFile | None = None

    def __enter__(self) -> Source:
        if self.folder is None:
            try:
                self.archive = zipfile.ZipFile(self.path)
            except OSError as error:
                raise SplatFormatError(f"cannot read {self.path}", got=error.strerror) from error
            except Exception as error:
                raise SplatFormatError(
                    f"{self.path.name} is no .sog", got=str(error)[:120], expected="a ZIP archive"
                ) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def meta(self) -> bytes:
        """The bytes of meta.json."""
        return self.read(META, _META_LIMIT)

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one file.

        Raises:
            SplatFormatError: it is missing, damaged, or larger than `limit` bytes.
        """
        try:
            content = self._from_folder(name, limit) if self.archive is None else self._from_zip(name, limit)
        except (KeyError, FileNotFoundError) as error:
            raise SplatFormatError(f"{self.path.name} holds no {name}") from error
        except Exception as error:  # zipfile raises a dozen kinds on damaged bytes
            raise SplatFormatError(
                f"{name} of {self.path.name} cannot be read", got=str(error)[:120]
            ) from error
        if len(content) > limit:
            raise SplatFormatError(
                f"{name} of {self.path.name} is larger than it can honestly be",
                expected=f"at most {limit:,} bytes",
            )
        return content

    def _from_folder(self, name: str, limit: int) -> bytes:
        path = (self.folder / name).resolve()
        if path.parent != self.folder.resolve():
            raise OSError("it is a link that leads out of the folder")
        with open(path, "rb") as file:
            return file.read(limit + 1)

    def _from_zip(self, name: str, limit: int) -> bytes:
        # Reading stops at the limit, whatever size the archive's directory claims.
        with self.archive.open(name) as file:
            return file.read(limit + 1)
