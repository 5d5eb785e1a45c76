"""Write a SOG of version 2, with no GPU and the same bytes for the same splat and seed."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from spaceport_lab import __version__
from spaceport_lab.errors import SplatFormatError
from spaceport_lab.gaussians import N_COEFFS, Gaussians
from spaceport_lab.kernels.hilbert import hilbert_order
from spaceport_lab.sog import pack
from spaceport_lab.sog.axes import least_turn
from spaceport_lab.sog.codebook import MAX_LOG_SCALE, companded_codebook, nearest, uniform_codebook
from spaceport_lab.sog.container import META, encode_image, write_bundle, write_folder
from spaceport_lab.sog.far import far_splats, pull_in
from spaceport_lab.sog.meta import PALETTE_COLUMNS, Meta, ShMeta, encode_meta, texture_size
from spaceport_lab.sog.palette import Palette, build_palette, default_size, sort_entries
from spaceport_lab.workspace import Progress

_BLOCK = 1 << 16  # Gaussians looked at together where temporaries would otherwise be large
_UNSEEN = 0.1  # error of view-dependent colour that nobody sees, as a share of its own size


@dataclass(frozen=True)
class SogOptions:
    """What decides the bytes.

    Attributes:
        sh_degree: bands above it are dropped.
        sh_palette: entries of the SH palette at the most; 0 chooses by the number of Gaussians.
        per_entry: how many Gaussians share an entry of the palette in the mean, where its size is chosen.
        sh_share: of the palette's own error that storing its entries in 256 values may add; less is finer.
        every: use only every second value, or fourth, of all fields but scales: twice the error, fewer bytes.
        iterations: of the palette's k-means, at the most.
        seed: of its random starts.
        antialias: note that the splat was trained with antialiasing.
        sort: along Hilbert's curve; otherwise Gaussians keep their order: a random one costs 15 % more bytes.
        pull_far: bring splats in that lie so far out that they would cost all others precision.
        device: where k-means runs: "cpu", or a torch device.
    """

    sh_degree: int = 3
    sh_palette: int = 0
    per_entry: int = 8
    sh_share: float = 0.2
    every: int = 1
    iterations: int = 6
    seed: int = 0
    antialias: bool = False
    sort: bool = True
    pull_far: bool = True
    device: str = "cpu"


SETTINGS: Mapping[str, SogOptions] = {
    "quality": SogOptions(per_entry=1, sh_share=0.1),
    "balanced": SogOptions(),
    "small": SogOptions(per_entry=32, sh_share=0.35, every=2),
    "no-sh": SogOptions(sh_degree=0),
}
"""Options by a word, the best first."""


@dataclass(frozen=True)
class Encoded:
    """A SOG in memory.

    Attributes:
        files: bytes by name, meta.json among them.
        order: [N] which Gaussian of the input is at each place of the SOG.
        far: [F] which Gaussians of the input were pulled in, see `far.pull_in`.
    """

    files: dict[str, bytes] = field(repr=False)
    order: Int[np.ndarray, "N"] = field(repr=False)
    far: Int[np.ndarray, "F"] = field(repr=False)


def write_sog(
    path: Path | str,
    gaussians: Gaussians,
    options: SogOptions = SogOptions(),
    weights: Float[np.ndarray, "N"] | None = None,
) -> Encoded:
    """Write `path`: a bundle when it ends in .sog, otherwise a folder of images and meta.json.

    Args:
        weights: as of `encode`.

    Raises:
        SplatFormatError: no Gaussians, too many, or values that are not finite.
        WorkspaceError: the disk is full or the folder is not writable.
    """
    steps = encode(gaussians, options, weights)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            encoded = done.value
            break
    (write_bundle if Path(path).suffix == ".sog" else write_folder)(path, encoded.files)
    return encoded


def encode(
    gaussians: Gaussians,
    options: SogOptions = SogOptions(),
    weights: Float[np.ndarray, "N"] | None = None,
) -> Generator[Progress, None, Encoded]:
    """Make the files of a SOG; yields its progress and returns them (`encoded = yield from encode(...)`).

    Args:
        gaussians: what to write.
        options: how.
        weights: [N] how much the view-dependent colour of each Gaussian counts, not negative; None
            guesses it by `visibility`.

    Raises:
        SplatFormatError: no Gaussians, too many, or values that are not finite.
    """
    _check(gaussians)
    yield Progress(0, None, "sorting along a curve through space")
    order, far = sog_order(gaussians, options)
    g = pull_in(gaussians, far)
    with ThreadPoolExecutor(2) as pool:
        images: dict[str, Future[bytes]] = {}
        meta = _encode_fields(g, order, options, pool, images)
        if min(options.sh_degree, g.sh_degree) > 0:
            sh = yield from _encode_sh(g, order, options, weights, pool, images)
            meta = replace(meta, sh=sh)
        yield Progress(0, None, "writing images")
        contents = {name: future.result() for name, future in images.items()}
    contents[META] = encode_meta(meta, f"spaceport-lab {__version__}")
    return Encoded(contents, order, far)


def sog_order(
    gaussians: Gaussians, options: SogOptions = SogOptions()
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "F"]]:
    """Which Gaussian goes to each place of a SOG, and which ones are pulled in: as in `Encoded`."""
    far = far_splats(gaussians.means) if options.pull_far else np.empty(0, np.intp)
    g = pull_in(gaussians, far)
    order = hilbert_order(pack.log_coordinates(g.means)) if options.sort else np.arange(g.n)
    return order, far


def _check(gaussians: Gaussians) -> None:
    if gaussians.n == 0:
        raise SplatFormatError("there are no Gaussians to write", expected="at least one")
    for name, values in vars(gaussians).items():
        bad = 0
        for start in range(0, gaussians.n, _BLOCK):
            finite = np.isfinite(values[start : start + _BLOCK])
            if not finite.all():
                bad += int((~finite).reshape(len(finite), -1).any(axis=1).sum())
        if bad:
            raise SplatFormatError(
                f"{name} holds values that are not finite",
                got=f"NaN or Inf in {bad:,} of {gaussians.n:,} Gaussians",
                hint="leave them out first, as read_ply(path, drop_invalid=True) does",
            )


def _encode_fields(
    g: Gaussians,
    order: Int[np.ndarray, "N"],
    options: SogOptions,
    pool: ThreadPoolExecutor,
    images: dict[str, Future[bytes]],
) -> Meta:
    """Start the images of all fields but the higher spherical harmonics."""
    size = texture_size(g.n)

    def image(name: str, *channels: UInt8[np.ndarray, "N C"]) -> str:
        images[name] = pool.submit(encode_image, _texture(size, *channels))
        return name

    steps, mins, maxs = pack.pack_means(g.means[order], options.every)
    means = (
        image("means_l.webp", (steps & 255).astype(np.uint8)),
        image("means_u.webp", (steps >> 8).astype(np.uint8)),
    )
    quats, scales = least_turn(g.quats[order], g.scales[order])
    quats_name = image("quats.webp", pack.pack_quats(quats, options.every))
    scales_codebook = companded_codebook(scales, most=MAX_LOG_SCALE)
    scales_name = image("scales.webp", nearest(scales, scales_codebook))
    sh0_codebook = companded_codebook(g.sh0, 256 // options.every)
    sh0 = nearest(g.sh0[order, 0], sh0_codebook)
    sh0_name = image("sh0.webp", sh0, pack.pack_opacities(g.opacities[order], options.every)[:, None])
    return Meta(
        count=g.n,
        mins=mins,
        maxs=maxs,
        means=means,
        scales_codebook=scales_codebook,
        scales=scales_name,
        quats=quats_name,
        sh0_codebook=sh0_codebook,
        sh0=sh0_name,
        sh=None,
        antialias=options.antialias,
    )


def _encode_sh(
    g: Gaussians,
    order: Int[np.ndarray, "N"],
    options: SogOptions,
    weights: Float[np.ndarray, "N"] | None,
    pool: ThreadPoolExecutor,
    images: dict[str, Future[bytes]],
) -> Generator[Progress, None, ShMeta]:
    """Find the palette and start its two images."""
    degree = min(options.sh_degree, g.sh_degree)
    palette = yield from build_palette(
        g.shN[:, : N_COEFFS[degree]].reshape(g.n, -1),  # unsorted: a sorted copy would double the memory
        visibility(g) if weights is None else damped(weights),
        min(options.sh_palette, g.n) or default_size(g.n, options.per_entry),
        options.iterations,
        options.seed,
        options.device,
    )
    palette = sort_entries(Palette(palette.entries, palette.labels[order], palette.mean_square))
    # Palettes that are nearly or quite exact need no finer values than can be seen.
    visible = _UNSEEN**2 * float(np.mean(np.square(palette.entries)))
    codebook = uniform_codebook(palette.entries, max(palette.mean_square, visible), options.sh_share)
    images["shN_centroids.webp"] = pool.submit(encode_image, _centroids(palette, codebook))
    labels = np.zeros((g.n, 3), np.uint8)
    labels[:, 0], labels[:, 1] = palette.labels & 255, palette.labels >> 8
    images["shN_labels.webp"] = pool.submit(encode_image, _texture(texture_size(g.n), labels))
    return ShMeta(len(palette.entries), degree, codebook, "shN_centroids.webp", "shN_labels.webp")


def visibility(g: Gaussians) -> Float[np.ndarray, "N"]:
    """How much of a picture each Gaussian can fill: opacity times its two largest axes, damped."""
    largest = np.sort(g.scales, axis=1)
    area = (largest[:, 1] + largest[:, 2]).astype(np.float64)
    area += np.log(np.maximum(g.alphas, 1e-6))
    return damped(np.exp(np.minimum(area - np.median(area), 50)))


def damped(seen: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Weights from how much is seen of each Gaussian: median 1 among those seen at all, root, bounded.

    The square root and the bounds keep a few huge Gaussians from taking the palette for themselves.
    """
    positive = seen[seen > 0]
    middle = np.median(positive) if len(positive) else 1.0
    return np.sqrt(np.clip(seen / middle, 1e-3, 2500))


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
