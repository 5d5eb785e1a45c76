"""A pool of Python threads for kernels that run without the GIL.

Not numba's own parallelism: its default layer may not be entered by two threads at once, and its idle
threads can spin against torch's. Here an idle thread sleeps, and any number of callers may share the pool.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_limit: int | None = None


def available_threads() -> int:
    """`NUMBA_NUM_THREADS`, else the cores that this process and its container may use."""
    if named := os.environ.get("NUMBA_NUM_THREADS"):
        return max(1, int(named))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores()))


def thread_count() -> int:
    """Threads that kernels use at present."""
    return _limit if _limit is not None else available_threads()


def set_thread_count(count: int | None) -> None:
    """Use `count` threads from now on, None for what the machine offers. Results do not depend on it."""
    global _limit
    if count is not None and count < 1:
        raise ValueError(f"at least one thread is needed, got {count}")
    _limit = count


def run_on_threads(work: Callable[[], object], n_threads: int) -> None:
    """Call `work()` on this thread and on up to n_threads - 1 others, and wait until all have returned.

    `work` claims its share from a common counter until nothing is left, so a call that never came to start
    (the pool was busy for another caller) is not missed.

    Raises:
        what `work` raised, after all calls have ended.
    """
    futures = [_executor(n_threads - 1).submit(work) for _ in range(n_threads - 1)]
    try:
        work()
    finally:
        errors = [future.exception() for future in futures if not future.cancel()]
    for error in errors:
        if error is not None:
            raise error


def on_all(kernel: Callable, n_shares: int, *args: object) -> list:
    """Run a kernel that claims its work, `n_shares` shares of it, from a counter on several threads."""
    return on_all_in_turn([(kernel, *args)], n_shares)


def on_all_in_turn(calls: Sequence[tuple], n_shares: int) -> list:
    """Run several such kernels, each a tuple with its arguments, waking the threads once for all of them.

    A thread that finds nothing left of one goes on to the next, so they must not depend on each other.
    """
    counters = [np.zeros(1, np.int64) for _ in calls]
    results: list = []

    def work() -> None:
        for counter, (kernel, *args) in zip(counters, calls, strict=True):
            results.append(kernel(counter, *args))

    run_on_threads(work, max(1, min(thread_count(), n_shares)))
    return results


def _executor(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            # An older, smaller pool may still be in use by another caller: it is left to finish, not shut
            # down.
            _pool = ThreadPoolExecutor(size, thread_name_prefix="spaceport-kernel")
            _pool_size = size
        return _pool


def _forget_pool() -> None:
    """A forked child has the pool's object but none of its threads."""
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


@functools.cache
def _cgroup_cores() -> int:
    """Whole cores that the container's CPU quota allows; a large number where there is no quota.

    Read once: opening these files before every kernel takes as long as a small kernel.
    """
    unlimited = 1 << 16
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return unlimited if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return unlimited if quota_us <= 0 else max(1, math.ceil(quota_us / period_us))
    except (OSError, ValueError):
        return unlimited
