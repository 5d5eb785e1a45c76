"""One `rasterize()` for both backends: gsplat on CUDA, our numba kernels on the CPU."""

from __future__ import annotations

from spaceport_lab.backends.choose import choose_backend
from spaceport_lab.backends.dispatch import rasterize
from spaceport_lab.backends.loss import l1_ssim_loss
from spaceport_lab.backends.rows import DeferredAdam, add_lengths, rows_in_view, step_rows, take_rows

__all__ = [
    "DeferredAdam", "add_lengths", "choose_backend", "l1_ssim_loss", "rasterize",
    "rows_in_view", "step_rows", "take_rows",
]  # fmt: skip
