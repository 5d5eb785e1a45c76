"""Write a SOG of version 2, with no GPU and the same bytes for the same splat and seed."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from spaceport_lab import __version__
from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.sog import pack
from spaceport_lab.sog.codebook import companded_codebook, nearest, uniform_codebook
from spaceport_lab.sog.container import META, encode_image, write_bundle, write_folder
from spaceport_lab.sog.meta import PALETTE_COLUMNS, Meta, ShMeta, encode_meta, texture_size
from spaceport_lab.sog.order import morton_order
from spaceport_lab.sog.palette import Palette, build_palette, default_size, sort_entries
from spaceport_lab.workspace import Progress


@dataclass(frozen=True)
class SogOptions:
    """What decides the bytes.

    Attributes:
        sh_degree: bands above it are dropped.
        sh_palette: entries of the SH palette at the most; 0 chooses by the number of Gaussians.
        iterations: of the palette's k-means.
        seed: of its random starts.
        antialias: note that the splat was trained with antialiasing.
        device: where k-means runs, a torch device.
    """

    sh_degree: int = 3
    sh_palette: int = 0
    iterations: int = 6
    seed: int = 0
    antialias: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Encoded:
    """A SOG in memory.

    Attributes:
        files: bytes by name, meta.json among them.
        order: [N] which Gaussian of the input is at each place of the SOG.
    """

    files: dict[str, bytes] = field(repr=False)
    order: Int[np.ndarray, "N"] = field(repr=False)


def write_sog(path: Path | str, gaussians: Gaussians, options: SogOptions = SogOptions()) -> Encoded:
    """Write `path`: a bundle when it ends in .sog, otherwise a folder of images and meta.json.

    Raises:
        SplatFormatError: no Gaussians, too many, or values that are not finite.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    steps = encode(gaussians, options)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            encoded = done.value
            break
    (write_bundle if Path(path).suffix == ".sog" else write_folder)(path, encoded.files)
    return encoded


def encode(gaussians: Gaussians, options: SogOptions = SogOptions()) -> Generator[Progress, None, Encoded]:
    """Make the files of a SOG; yields its progress and returns them (`encoded = yield from encode(...)`).

    Raises:
        SplatFormatError: no Gaussians, too many, or values that are not finite.
    """
    _check(gaussians)
    yield Progress(0, None, "sorting along the Morton curve")
    order = sog_order(gaussians)
    ordered = gaussians.with_sh_degree(options.sh_degree).subset(order)
    with ThreadPoolExecutor(2) as pool:
        images: dict[str, Future[bytes]] = {}
        meta = _encode_fields(ordered, options, pool, images)
        sh = None
        if ordered.sh_degree > 0:
            sh = yield from _encode_sh(ordered, options, pool, images)
        yield Progress(0, None, "writing images")
        contents = {name: future.result() for name, future in images.items()}
    meta = Meta(**{**vars(meta), "sh": sh})
    contents[META] = encode_meta(meta, f"spaceport-lab {__version__}")
    return Encoded(contents, order)


def sog_order(gaussians: Gaussians) -> Int[np.ndarray, "N"]:
    """Which Gaussian goes to each place of the SOG: the Morton curve through log coordinates."""
    return morton_order(pack.log_coordinates(gaussians.means))


def _check(gaussians: Gaussians) -> None:
    if gaussians.n == 0:
        raise SplatFormatError("there are no Gaussians to write", expected="at least one")
    for name, values in vars(gaussians).items():
        bad = int((~np.isfinite(values)).reshape(gaussians.n, -1).any(axis=1).sum())
        if bad:
            raise SplatFormatError(
                f"{name} holds values that are not finite",
                got=f"NaN or Inf in {bad:,} of {gaussians.n:,} Gaussians",
                hint="leave them out first, as read_ply(path, drop_invalid=True) does",
            )


def _encode_fields(
    g: Gaussians, options: SogOptions, pool: ThreadPoolExecutor, images: dict[str, Future[bytes]]
) -> Meta:
    """Start the images of all fields but the higher spherical harmonics."""
    size = texture_size(g.n)

    def image(name: str, *channels: UInt8[np.ndarray, "N C"]) -> str:
        images[name] = pool.submit(encode_image, _texture(size, *channels))
        return name

    steps, mins, maxs = pack.pack_means(g.means)
    scales_codebook = companded_codebook(g.scales)
    sh0_codebook = companded_codebook(g.sh0)
    sh0 = nearest(g.sh0[:, 0], sh0_codebook)
    return Meta(
        count=g.n,
        mins=mins,
        maxs=maxs,
        means=(
            image("means_l.webp", (steps & 255).astype(np.uint8)),
            image("means_u.webp", (steps >> 8).astype(np.uint8)),
        ),
        scales_codebook=scales_codebook,
        scales=image("scales.webp", nearest(g.scales, scales_codebook)),
        quats=image("quats.webp", pack.pack_quats(g.quats)),
        sh0_codebook=sh0_codebook,
        sh0=image("sh0.webp", sh0, pack.pack_opacities(g.opacities)[:, None]),
        sh=None,
        antialias=options.antialias,
    )


def _encode_sh(
    g: Gaussians, options: SogOptions, pool: ThreadPoolExecutor, images: dict[str, Future[bytes]]
) -> Generator[Progress, None, ShMeta]:
    """Find the palette and start its two images."""
    palette = yield from build_palette(
        g.shN.reshape(g.n, -1),
        visibility(g),
        min(options.sh_palette, g.n) or default_size(g.n),
        options.iterations,
        options.seed,
        options.device,
    )
    palette = sort_entries(palette)
    codebook = uniform_codebook(palette.entries, palette.mean_square)
    images["shN_centroids.webp"] = pool.submit(encode_image, _centroids(palette, codebook))
    labels = np.zeros((g.n, 3), np.uint8)
    labels[:, 0], labels[:, 1] = palette.labels & 255, palette.labels >> 8
    images["shN_labels.webp"] = pool.submit(encode_image, _texture(texture_size(g.n), labels))
    return ShMeta(len(palette.entries), g.sh_degree, codebook, "shN_centroids.webp", "shN_labels.webp")


def visibility(g: Gaussians) -> Float[np.ndarray, "N"]:
    """How much of a picture each Gaussian can fill: opacity times its two largest axes, median 1, damped.

    The square root and the bounds keep a few huge Gaussians from taking the palette for themselves.
    """
    logs = np.sort(g.scales.astype(np.float64), axis=1)
    area = logs[:, 1] + logs[:, 2] + np.log(np.maximum(g.alphas, 1e-6))
    return np.sqrt(np.clip(np.exp(np.minimum(area - np.median(area), 50)), 1e-3, 2500))


def _centroids(palette: Palette, codebook: Float[np.ndarray, "256"]) -> UInt8[np.ndarray, "H W 4"]:
    """The palette as an image: 64 entries a row, a pixel for each coefficient."""
    k, coefficients = len(palette.entries), palette.entries.shape[1] // 3
    rows = -(-k // PALETTE_COLUMNS)
    cells = np.full((rows * PALETTE_COLUMNS, coefficients, 4), 255, np.uint8)
    cells[:k, :, :3] = nearest(palette.entries, codebook).reshape(k, coefficients, 3)
    cells[k:] = cells[k - 1]
    return cells.reshape(rows, PALETTE_COLUMNS * coefficients, 4)


def _texture(size: tuple[int, int], *channels: UInt8[np.ndarray, "N C"]) -> UInt8[np.ndarray, "H W 4"]:
    """Channels side by side as an RGBA image; alpha is 255 unless given.

    The rest of the image repeats the last Gaussian, which costs next to no bytes.
    """
    width, height = size
    pixels = np.full((width * height, 4), 255, np.uint8)
    n, column = len(channels[0]), 0
    for channel in channels:
        pixels[:n, column : column + channel.shape[1]] = channel
        column += channel.shape[1]
    pixels[n:] = pixels[n - 1]
    return pixels.reshape(height, width, 4)
