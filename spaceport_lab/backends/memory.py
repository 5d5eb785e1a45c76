"""How much memory rendering and training take on the CPU, before any of it is taken."""

from __future__ import annotations

import math

from spaceport_lab.kernels import layout, loss, render

SPANS_GROWTH = 0.45
"""Spans per Gaussian are about 1 + this * sqrt(pixels / Gaussians): Gaussians that share an image grow with
the pixels each of them has to cover. Measured on trained splats of drone flights between 0.34 and 0.6."""

FLOAT = 4


def rendering_bytes(n: int, width: int, height: int, *, sh_degree: int = 3) -> int:
    """Peak bytes of rendering one RGB view without gradients, the Gaussians themselves included.

    Args:
        n: Gaussians, as if all of them were in view.
        width, height: pixels of the view.
        sh_degree: 0 to 3.
    """
    pixels = width * height
    spans, _ = _touched(n, pixels)
    return (
        n * (_parameters(sh_degree) * FLOAT + _frame_row()) + spans * render.SPAN_BYTES_FORWARD
        + pixels * FLOAT * (3 + 1 + 1)
    )  # fmt: skip


def training_bytes(n: int, width: int, height: int, *, sh_degree: int = 3, absgrad: bool = False) -> int:
    """Peak bytes of a training step: Gaussians, gradients, Adam's two moments, rasterizer and loss.

    Photographs are not included: they belong to whoever keeps them.

    Args:
        n: Gaussians, as if all of them were in view.
        width, height: pixels of the view.
        sh_degree: the highest degree that is trained.
        absgrad: with the 2D means' absolute gradients.
    """
    pixels = width * height
    spans, words = _touched(n, pixels)
    # Values, gradients, two moments; scales and opacities once more as they are activated, with gradients.
    row = (4 * _parameters(sh_degree) + 2 * 4) * FLOAT
    # The 2D means, their gradient (and the absolute one, twice), and the colours'.
    row += (2 * 2 + 3 + (4 if absgrad else 0)) * FLOAT
    # image, T, alpha, the image's gradient
    per_pixel = FLOAT * (3 + 1 + 1 + 3)
    return (
        n * (row + _frame_row()) + spans * render.SPAN_BYTES + words * FLOAT + pixels * per_pixel
        + _loss_rows(width)
    )  # fmt: skip


def _parameters(sh_degree: int) -> int:
    """Floats of one Gaussian."""
    return 3 + 4 + 3 + 1 + 3 * (sh_degree + 1) ** 2


def _frame_row() -> int:
    """Bytes per Gaussian of a frame: record, radii, 2D mean, depth, key, count, order twice, first slot."""
    return FLOAT * (layout.record_stride(3) + 2 + 2 + 1 + 1 + 1 + 2) + 8


def _touched(n: int, pixels: int) -> tuple[int, int]:
    """Spans and, squared, tiles that the Gaussians of an ordinary image touch."""
    each = 1 + SPANS_GROWTH * math.sqrt(pixels / max(1, n))
    return round(n * each), round(n * each * each)


def _loss_rows(width: int) -> int:
    """What the loss keeps of sixteen rows of one strip, twice, for each of two threads."""
    return 2 * 2 * loss.SLOPES * layout.LANES * min(width, loss.STRIP) * 3 * FLOAT
