"""What the photographs themselves say about figures measured on them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from spaceport_lab.train.photos import Photos
from spaceport_lab.train.spectra import GREY

CONSTANT = 1.0
"""Standard deviation, of 255, below which a photograph shows nothing."""

BLOCK = 16
"""Pixels a side of the patches in which noise is looked for."""

FLAT_SHARE = 0.1
"""Noise is what the flattest tenth of the patches shows; the others show the scene."""

LEAST_LIMIT, HIGHEST_LIMIT = 40.0, 50.0
"""dB between which the limit is sought: texture everywhere, or renders without any noise."""


@dataclass(frozen=True)
class Evidence:
    """About the photographs.

    Attributes:
        psnr_limit: dB above which no splat can honestly come on these photographs.
        n_constant: photographs that show nothing.
        same_as_training: held-out photographs that are also among those trained on.
    """

    psnr_limit: float
    n_constant: int
    same_as_training: tuple[str, ...]


def gather(train: Photos, heldout: Photos | None, chosen: list[int]) -> Evidence:
    """Look at the training photographs `chosen` and at all held-out ones.

    Identity is judged on all of them, by a hash of the pixels.
    """
    looked_at = [train.full(i) for i in chosen]
    limits = [psnr_limit(photo) for photo in looked_at]
    trained = {_hash(train.full(i)) for i in range(len(train.cameras))} if heldout else set()
    names = heldout.cameras.names if heldout else ()
    return Evidence(
        psnr_limit=float(np.median(limits)) if limits else HIGHEST_LIMIT,
        n_constant=sum(float(photo.std()) < CONSTANT for photo in looked_at),
        same_as_training=tuple(name for i, name in enumerate(names) if _hash(heldout.full(i)) in trained),
    )


def psnr_limit(photo: UInt8[np.ndarray, "H W 3"]) -> float:
    """PSNR in dB that the photograph's noise leaves to anybody who has not seen this very photograph.

    The noise is what remains of the flattest patches after the second differences of Immerkaer (1996), which
    cancel planes and edges.
    """
    grey = photo.astype(np.float32) @ GREY
    if min(grey.shape) < 2 * BLOCK:
        return HIGHEST_LIMIT
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    differences = np.abs(rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:])
    sigma = math.sqrt(math.pi / 2) / 6 * float(np.quantile(_patch_means(differences), FLAT_SHARE))
    if sigma <= 0:
        return HIGHEST_LIMIT
    return min(HIGHEST_LIMIT, max(LEAST_LIMIT, 20 * math.log10(255 / sigma)))


def _patch_means(image: Float[np.ndarray, "H W"]) -> Float[np.ndarray, " P"]:
    height, width = (side // BLOCK * BLOCK for side in image.shape)
    patches = image[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return patches.mean(axis=(1, 3)).ravel()


def _hash(photo: UInt8[np.ndarray, "H W 3"]) -> str:
    return hashlib.sha256(np.ascontiguousarray(photo)).hexdigest()
