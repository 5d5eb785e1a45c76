"""A pool of Python threads for kernels that run without the GIL.

Not numba's own parallelism: its default layer may not be entered by two threads at once, and its idle
threads can spin against torch's. Here an idle thread sleeps, and any number of callers may share the pool.
Nor a ThreadPoolExecutor: a kernel may take a tenth of a millisecond, and the conditions of a Future's life
take as long as that to be kept, under the lock that both threads wait for.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np

_lock = threading.Lock()
_calls: SimpleQueue[_Call] = SimpleQueue()
_n_workers = 0
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
    calls = [_Call(work) for _ in range(n_threads - 1)]
    if calls:
        _employ(len(calls))
        for call in calls:
            _calls.put(call)
    try:
        work()
    finally:
        for call in calls:
            call.end()
    for call in calls:
        if call.error is not None:
            raise call.error


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


class _Call:
    """One call of `work` by a worker, or by none where its caller was done before a worker came to it."""

    __slots__ = ("_done", "_taken", "error", "work")

    def __init__(self, work: Callable[[], object]) -> None:
        self.work, self.error = work, None
        self._taken, self._done = threading.Lock(), threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        if not self._taken.acquire(blocking=False):
            return
        try:
            self.work()
        except BaseException as error:  # for the caller to raise
            self.error = error
        finally:
            self._done.release()

    def end(self) -> None:
        """Wait for the worker that has it, or see to it that none will."""
        if not self._taken.acquire(blocking=False):
            self._done.acquire()


def _employ(count: int) -> None:
    """See to it that there are `count` workers."""
    global _n_workers
    if _n_workers >= count:
        return
    with _lock:
        while _n_workers < count:
            _n_workers += 1
            threading.Thread(target=_serve, name=f"spaceport-kernel-{_n_workers}", daemon=True).start()


def _serve() -> None:
    while True:
        _calls.get().run()


def _forget_workers() -> None:
    """A forked child has the queue but none of its threads."""
    global _calls, _n_workers, _lock
    _calls, _n_workers, _lock = SimpleQueue(), 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


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
