"""How alike two pictures are: PSNR, SSIM, and PSNR after colours are matched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import correlate1d

from spaceport_lab.kernels import loss as kernels

SSIM_WINDOW = kernels.WINDOW
"""Side of the Gaussian window in pixels, as in the 3DGS code."""

SSIM_SIGMA = kernels.SIGMA
"""Standard deviation of the window in pixels."""

_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a data range of 1


def psnr(a: Any, b: Any, mask: Any = None) -> float:
    """Peak signal-to-noise ratio in dB of two images [H, W, 3] in 0..1 (numpy or torch).

    Infinite for identical images; NaN where a pixel is NaN or the mask leaves none.

    Args:
        a, b: the images.
        mask: [H, W] bool, True where pixels count; None: everywhere.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _pair(a, b)
    counts = _mask(mask, a)
    if counts is not None:
        a, b = a[counts], b[counts]
    return _decibels(a - b)


def cc_psnr(render: Any, photo: Any, mask: Any = None) -> float:
    """PSNR in dB after the render's colours are mapped onto the photograph's, as well as an affine map can.

    What exposure and white balance change does not count, only what is seen. The map of 3 x 4 numbers is
    least squares over the pixels that count, its result is clipped to 0..1. Never below `psnr`. The name is
    that of gsplat's trainer, for the same idea.

    Args:
        render, photo: images [H, W, 3] in 0..1 (numpy or torch).
        mask: [H, W] bool, True where pixels count; None: everywhere.

    Raises:
        ValueError: the shapes differ.
    """
    render, photo = _pair(render, photo)
    counts = _mask(mask, render)
    pixels, wanted = (image.reshape(-1, 3) if counts is None else image[counts] for image in (render, photo))
    plain = _decibels(pixels - wanted)
    if not math.isfinite(plain):
        return plain
    # Around the means and in double precision, 3 x 3 normal equations lose nothing that counts.
    mean, wanted_mean = pixels.mean(0, dtype=np.float64), wanted.mean(0, dtype=np.float64)
    centred = pixels - mean
    matrix = np.linalg.pinv(centred.T @ centred, rcond=1e-12, hermitian=True) @ (centred.T @ wanted)
    matched = np.clip(centred @ matrix + wanted_mean, 0, 1)
    return max(plain, _decibels(matched - wanted))


def ssim(a: Any, b: Any, mask: Any = None) -> float:
    """Structural similarity of two images [H, W, 3] in 0..1 (numpy or torch), mean of pixels and channels.

    Wang et al. 2004 as the 3DGS code computes it: 11×11 Gaussian window with sigma 1.5, zeros beyond the
    border, biased variances. NaN where a pixel is NaN or the mask leaves none.

    Args:
        a, b: the images.
        mask: [H, W] bool, True where the map of SSIM counts (windows see past the mask's edge); None:
            everywhere.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _pair(a, b)
    counts = _mask(mask, a)
    if a.size == 0 or (counts is not None and not counts.any()):
        return math.nan
    if counts is None:
        flat_a, flat_b = (np.ascontiguousarray(image).reshape(-1) for image in (a, b))
        return 1 - float(kernels.loss_and_gradient(flat_a, flat_b, a.shape, 1.0, a.size, False)[0])
    return float(_ssim_map(a, b)[counts].mean(dtype=np.float64))


def _ssim_map(a: Float[np.ndarray, "H W 3"], b: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a * mean_a
    var_b = _blur(b * b) - mean_b * mean_b
    covar = _blur(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) * (2 * covar + _C2)
    likeness /= (mean_a * mean_a + mean_b * mean_b + _C1) * (var_a + var_b + _C2)
    return likeness


def _decibels(difference: np.ndarray) -> float:
    """PSNR of what is left between two images; NaN for no pixels."""
    if difference.size == 0:
        return math.nan
    mse = float(np.mean(np.square(difference), dtype=np.float64))
    return math.inf if mse == 0 else -10 * math.log10(mse)


def _pair(a: Any, b: Any) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W 3"]]:
    a, b = _array(a), _array(b)
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"two images of one shape [H, W, 3] are needed, got {a.shape} and {b.shape}")
    return a, b


def _mask(mask: Any, image: Float[np.ndarray, "H W 3"]) -> Bool[np.ndarray, "H W"] | None:
    if mask is None:
        return None
    mask = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    if mask.shape != image.shape[:2] or mask.dtype != bool:
        raise ValueError(
            f"a mask of bools {image.shape[:2]} is needed, got {mask.dtype} of shape {mask.shape}"
        )
    return None if mask.all() else mask


def _array(image: Any) -> np.ndarray:
    if hasattr(image, "detach"):
        image = image.detach().cpu().numpy()
    return np.asarray(image, dtype=np.float32)


def _blur(image: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """The window's weighted mean around every pixel, columns first, then rows; zeros beyond the border."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    weights /= weights.sum()
    return correlate1d(correlate1d(image, weights, 0, mode="constant"), weights, 1, mode="constant")
