"""A crew of Python threads for kernels that run without the GIL.

Not numba's own parallelism: its default layer may not be entered by two threads at once, and its idle
threads can spin against torch's. Here idle threads spin for a moment and then sleep, and any number of
callers may ask at once. Nor a ThreadPoolExecutor: a kernel may take a tenth of a millisecond, and to wake a
thread, to take the GIL from another and to keep a Future take as long as that; see `kernels.waiting`.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from spaceport_lab.kernels import waiting

MAX_WORKERS = 255
"""Beside the caller; for them there is room on the board."""

AWAKE_SECONDS = 5e-4 if waiting.POLITE else 0.0
"""How long an idle worker, or a caller whose workers are not done, waits before it sleeps."""

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


Work = Callable[[Sequence[np.ndarray]], object]
"""What is called with the counters that kernels claim from."""


def run_on_threads(work: Callable[[], object], n_threads: int) -> None:
    """Call `work()` on this thread and on up to n_threads - 1 others, and wait until all have returned.

    `work` claims its share from a common counter until nothing is left, so a call that never came to start
    (another caller has the workers) is not missed.

    Raises:
        what `work` raised, after all calls have ended.
    """
    _crew.run(lambda counters: work(), n_threads, 1, at_once=True)


def on_all(kernel: Callable, n_shares: int, *args: object) -> list:
    """Run a kernel that claims its work, `n_shares` shares of it, from a counter on several threads."""
    return on_all_in_turn([(kernel, *args)], n_shares)


def on_all_in_turn(calls: Sequence[tuple], n_shares: int) -> list:
    """Run several such kernels, each a tuple with its arguments, waking the threads once for all of them.

    A thread that finds nothing left of one goes on to the next, so they must not depend on each other.
    """
    results: list = []

    def work(counters: Sequence[np.ndarray]) -> None:
        for counter, (kernel, *args) in zip(counters, calls, strict=True):
            results.append(kernel(counter, *args))

    _crew.run(work, max(1, min(thread_count(), n_shares)), len(calls))
    return results


class _Crew:
    """Workers that join one caller at a time; others meanwhile work alone."""

    def __init__(self) -> None:
        self._free = threading.Lock()
        self._job: tuple[Work, list[np.ndarray]] | None = None
        self._errors: list[BaseException] = []
        self._board = np.zeros(MAX_WORKERS * waiting.LINE, np.int64)
        self._sleepers = np.zeros(MAX_WORKERS, np.int64)
        self._counters = _counters(1)
        self._patience = 0
        # For those that sleep. Queues, as one may be filled before it is asked, or twice.
        self._wake: list[SimpleQueue] = []
        self._ended: list[SimpleQueue] = []

    def run(self, work: Work, n_threads: int, n_counters: int, *, at_once: bool = False) -> None:
        """Call `work` on this thread and, where they come in time, on workers.

        Args:
            at_once: workers do not wait until this thread has claimed a share from the first counter.
        """
        if n_threads == 1 or not self._free.acquire(blocking=False):
            work(_counters(n_counters))
            return
        try:
            self._lead(work, min(n_threads - 1, MAX_WORKERS), n_counters, at_once)
        finally:
            self._free.release()

    def _lead(self, work: Work, n_workers: int, n_counters: int, at_once: bool) -> None:
        if len(self._wake) < n_workers:
            self._employ(n_workers)
        self._errors.clear()
        self._counters += _counters(n_counters - len(self._counters))
        counters = self._counters[:n_counters]
        for counter in counters:
            counter[0] = 0
        if at_once:
            counters[0][0] = n_workers
        self._job = work, counters
        try:
            for k in range(waiting.offer(self._board, n_workers, self._sleepers)):
                self._wake[self._sleepers[k]].put(None)
            work(counters)
        finally:
            while (worker := waiting.all_done(self._board, n_workers, self._patience)) >= 0:
                self._ended[worker].get()
            self._job = None
        if self._errors:
            raise self._errors[0]

    def _employ(self, count: int) -> None:
        if not self._wake:
            self._patience = int(AWAKE_SECONDS / min(self._seconds_of_a_look() for _ in range(10)))
        while len(self._wake) < count:
            worker = len(self._wake)
            self._wake.append(SimpleQueue())
            self._ended.append(SimpleQueue())
            threading.Thread(
                target=self._serve, args=(worker,), name=f"spaceport-kernel-{worker + 1}", daemon=True
            ).start()

    def _seconds_of_a_look(self) -> float:
        began, looks = time.perf_counter(), 20
        waiting.look(self._board, looks)
        return (time.perf_counter() - began) / looks

    def _serve(self, worker: int) -> None:
        patience, was_working = self._patience, False
        while True:
            what = waiting.next_work(self._board, worker, self._counters[0], patience, was_working)
            was_working = False
            if what == waiting.WAKE_CALLER:
                self._ended[worker].put(None)
            elif what == waiting.SLEEP:
                # On a machine with too little to do, or too much, it pays less and less to stay awake.
                patience //= 2
                self._wake[worker].get()
            else:
                was_working = True
                patience = min(self._patience, 2 * patience + 1)
                try:
                    self._take_part()
                except BaseException as error:  # for the caller to raise
                    self._errors.append(error)

    def _take_part(self) -> None:
        # None where the caller was interrupted; one that has come since has use for a hand too.
        if job := self._job:
            work, counters = job
            work(counters)


def _counters(count: int) -> list[np.ndarray]:
    return [np.zeros(waiting.LINE, np.int64) for _ in range(count)]


_crew = _Crew()


def _forget_workers() -> None:
    """A forked child has the crew but none of its threads."""
    global _crew
    _crew = _Crew()


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
