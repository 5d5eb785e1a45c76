"""How much memory there is, what a Gaussian costs, and what training has used."""

from __future__ import annotations

import resource
import sys

import psutil
import torch

from spaceport_lab.backends.memory import training_bytes
from spaceport_lab.params import TrainParams

GPU_BYTES_PER_GAUSSIAN = 4000
"""On a GPU: values, gradients, two moments, activations, gsplat's lists, the copy of the best state."""

SHARE = 2 / 3
"""Of the free memory; the rest is for photographs, and for everybody else."""


def free_bytes(device: torch.device) -> int:
    """Memory of the device that could be used now, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def affordable_cap(p: TrainParams, device: torch.device, width: int, height: int) -> int:
    """`cap_max`, or fewer Gaussians where two thirds of the free memory hold fewer; at least one.

    Args:
        width, height: pixels of the largest view.
    """
    room = free_bytes(device) * SHARE
    if device.type == "cuda":
        return max(1, min(p.cap_max, int(room) // GPU_BYTES_PER_GAUSSIAN))
    low, high = 0, p.cap_max
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed_bytes(middle, p, width, height) <= room else (low, middle - 1)
    return max(1, low)


def needed_bytes(n: int, p: TrainParams, width: int, height: int) -> int:
    """What training `n` Gaussians on the CPU takes at most, the copy of the best state included."""
    best = n * 4 * (11 + 3 * (p.sh_degree + 1) ** 2)
    return best + training_bytes(n, width, height, sh_degree=p.sh_degree, absgrad=p.absgrad)


def peak_mb(device: torch.device) -> dict[str, float]:
    """Peak memory of this process so far, and of the GPU where one is used, in megabytes."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    peaks = {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    if device.type == "cuda":
        peaks["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks
