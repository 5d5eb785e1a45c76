"""How alike two pictures are: PSNR and SSIM."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

SSIM_WINDOW = 11
"""Side of the Gaussian window in pixels, as in the 3DGS code."""

SSIM_SIGMA = 1.5
"""Standard deviation of the window in pixels."""

_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a data range of 1


def psnr(a: Any, b: Any) -> float:
    """Peak signal-to-noise ratio in dB of two images [H, W, 3] in 0..1 (numpy or torch).

    Infinite for identical images; NaN where a pixel is NaN.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _pair(a, b)
    mse = float(np.mean(np.square(a - b), dtype=np.float64))
    return math.inf if mse == 0 else -10 * math.log10(mse)


def ssim(a: Any, b: Any) -> float:
    """Structural similarity of two images [H, W, 3] in 0..1 (numpy or torch), mean of pixels and channels.

    Wang et al. 2004 as the 3DGS code computes it: 11×11 Gaussian window with sigma 1.5, zeros beyond the
    border, biased variances.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _pair(a, b)
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a * mean_a
    var_b = _blur(b * b) - mean_b * mean_b
    covar = _blur(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covar + _C2)
    likeness /= (mean_a * mean_a + mean_b * mean_b + _C1) * (var_a + var_b + _C2)
    return float(likeness.mean(dtype=np.float64))


def _pair(a: Any, b: Any) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W 3"]]:
    a, b = _array(a), _array(b)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"two images of one shape [H, W, 3] are needed, got {a.shape} and {b.shape}")
    return a, b


def _array(image: Any) -> np.ndarray:
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    return np.asarray(image, dtype=np.float32)


def _blur(image: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """The window's weighted mean around every pixel, rows first, then columns."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    margin, (height, width) = SSIM_WINDOW // 2, image.shape[:2]
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    rows = sum(w * padded[i : i + height] for i, w in enumerate(weights))
    return sum(w * rows[:, i : i + width] for i, w in enumerate(weights))
