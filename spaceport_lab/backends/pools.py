"""Torch's threads beside ours: none of them may burn a core by waiting for work."""

from __future__ import annotations

import functools
import sys
import threading

import torch

import spaceport_lab

PARALLEL = 1 << 20  # numbers that torch shares out among its threads


@functools.cache
def let_torch_sleep() -> threading.Thread | None:
    """Keep torch's idle threads from spinning where it was imported before spaceport_lab.

    GNU OpenMP, which torch brings along on Linux, reads OMP_WAIT_POLICY when it is loaded: afterwards the
    variable is of no use, and after each parallel operation its threads spin for milliseconds on the cores
    that our kernels want. But it spins only for a moment while it manages more threads than there are cores.
    So a thread that does nothing else asks torch for one parallel operation and stays: it owns a second team,
    which is counted.

    Returns:
        that thread; None where there is no need for it.
    """
    if not (spaceport_lab.TORCH_CAME_FIRST and sys.platform == "linux" and torch.get_num_threads() > 1):
        return None
    counted = threading.Event()

    def own_a_team() -> None:
        torch.zeros(PARALLEL).add_(1)
        counted.set()
        threading.Event().wait()

    owner = threading.Thread(target=own_a_team, name="spaceport-second-team", daemon=True)
    owner.start()
    counted.wait()
    return owner
