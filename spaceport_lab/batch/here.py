"""Scenes of a batch on this machine, several at a time."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from types import TracebackType

from spaceport_lab import runcard
from spaceport_lab.batch.attempt import GRACE_SECONDS, Result, Work, attempt
from spaceport_lab.jobs.failures import retry_delay

MOST_ATTEMPTS = 3
"""A scene whose failure may pass is tried so often."""


class Here:
    """Runs scenes in processes of this machine.

    Args:
        jobs: so many at a time; each gets its part of the cores when there are several.
        grace_s: [s] between asking a scene to stop and killing it.
        most_attempts: see MOST_ATTEMPTS.
    """

    def __init__(
        self, jobs: int = 1, grace_s: float = GRACE_SECONDS, most_attempts: int = MOST_ATTEMPTS
    ) -> None:
        self.jobs, self.grace_s, self.most_attempts = max(1, jobs), grace_s, most_attempts
        self._pool = futures.ThreadPoolExecutor(self.jobs, thread_name_prefix="scene")
        self._left: dict[futures.Future[Result], str] = {}
        self._hurry = 0
        self._woken = threading.Event()

    def __enter__(self) -> Here:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._ask(2)
        self._pool.shutdown(cancel_futures=True)

    def begin(self, works: Sequence[Work]) -> None:
        """Start them, in this order, as there is room.

        Raises:
            BackendError: one asks for CUDA, and there is none; nothing is started.
        """
        if any(work.backend == "cuda" for work in works):
            from spaceport_lab.backends import choose_backend

            choose_backend("cuda")
        threads = max(1, runcard.usable_cores() // self.jobs) if self.jobs > 1 else 0
        for work in works:
            placed = dataclasses.replace(work, threads=threads)
            self._left[self._pool.submit(self._run, placed)] = work.job

    def poll(self, seconds: float) -> list[tuple[str, Result]]:
        """Jobs that have ended since the last call, waiting so long for one."""
        done, _ = futures.wait(self._left, seconds, futures.FIRST_COMPLETED)
        return [(self._left.pop(one), one.result()) for one in done if not one.cancelled()]

    def stop(self) -> list[tuple[str, Result]]:
        """Stop all within the grace time, at once on a second interrupt; how those at work ended."""
        self._ask(1)
        for future in self._left:
            future.cancel()
        while True:
            try:
                futures.wait(self._left)
                return self.poll(0)
            except KeyboardInterrupt:
                self._ask(2)

    def _ask(self, hurry: int) -> None:
        self._hurry = max(self._hurry, hurry)
        self._woken.set()

    def _run(self, work: Work) -> Result:
        for tried in range(1, self.most_attempts + 1):
            result = attempt(work, lambda: self._hurry, grace_s=self.grace_s)
            if not result.again or tried == self.most_attempts or self._hurry:
                break
            with contextlib.suppress(futures.CancelledError):
                self._woken.wait(retry_delay(tried))
            if self._hurry:
                break
        return result
