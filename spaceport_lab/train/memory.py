"""How much memory there is, what a Gaussian costs, and what training has used."""

from __future__ import annotations

import resource
import sys

import psutil
import torch

from spaceport_lab.params import TrainParams

BYTES_PER_GAUSSIAN = 4000
"""Peak memory over the count of Gaussians was measured as 3.4 kB on the CPU (640 px, SH degree 3): values,
gradients, two moments, activations, rasterizer records. The rest is for the copy of the best state."""


def free_bytes(device: torch.device) -> int:
    """Memory of the device that could be used now, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def affordable_cap(p: TrainParams, device: torch.device) -> int:
    """`cap_max`, or fewer Gaussians where two thirds of the free memory hold fewer."""
    return max(1, min(p.cap_max, int(free_bytes(device) * 2 / 3) // BYTES_PER_GAUSSIAN))


def peak_mb(device: torch.device) -> dict[str, float]:
    """Peak memory of this process so far, and of the GPU where one is used, in megabytes."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    peaks = {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    if device.type == "cuda":
        peaks["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks
