"""How much of the photographs' detail is left when they are made smaller."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

FACTORS = (2.0, 4.0, 8.0)
"""By which image sides can be divided."""

GREY = np.array([0.299, 0.587, 0.114], np.float32)


def significance(photos: Iterable[UInt8[np.ndarray, "H W 3"]]) -> dict[float, float]:
    """Share of the magnitude spectrum that photographs keep when their sides are divided by each of FACTORS.

    The measure of DashGaussian (Chen et al. 2025, section 3.2): magnitudes of the 2D Fourier transform within
    the window of frequencies that the smaller image can hold, over all of them; without the mean. Photographs
    without any detail keep all of it.

    Returns:
        Factor to share, 0 to 1, falling as factors rise; the mean over the photographs.
    """
    shares = [_shares(photo.astype(np.float32) @ GREY) for photo in photos]
    return dict(zip(FACTORS, np.mean(shares, axis=0).tolist(), strict=True)) if shares else {}


def _shares(grey: np.ndarray) -> list[float]:
    height, width = grey.shape
    spectrum = np.abs(np.fft.rfft2(grey - grey.mean()))
    vertical = np.abs(np.fft.fftfreq(height))[:, None]
    horizontal = np.abs(np.fft.rfftfreq(width))[None]
    # The half that a real image's spectrum leaves out mirrors all but the first column.
    weights = np.where(horizontal > 0, 2.0, 1.0) * spectrum
    frequency = np.maximum(vertical, horizontal)
    total = float(weights.sum())
    if total < 1e-6 * grey.size:
        return [1.0] * len(FACTORS)
    return [float(weights[frequency <= 0.5 / factor].sum() / total) for factor in FACTORS]
