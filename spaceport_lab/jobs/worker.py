"""The worker: takes jobs from the queue, one at a time, for as long as it is let."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spaceport_lab import logs
from spaceport_lab.errors import SpaceportError
from spaceport_lab.jobs.attempt import COMMAND, Attempt
from spaceport_lab.jobs.model import Job
from spaceport_lab.jobs.store import Store

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
GRACE_SECONDS = 9.0
"""A second less than what containers are given by most who stop them; a stage takes five at the most."""

BESIDE_SECONDS = 15.0
"""What runs beside a worker that has nothing more to do gets this long to end."""

TROUBLE_SECONDS = 5.0
"""When the queue itself cannot be used, it is tried again after so long."""


class Worker:
    """Takes jobs one at a time and runs each in a process of its own.

    SIGTERM or SIGINT: no more jobs are taken, and the running one is stopped within the grace time and put
    back into the queue, without an attempt being counted; a second one kills it. If the worker itself is
    killed, all it started dies with it, its lease runs out, and another worker goes on from the last
    checkpoint.

    Args:
        store: the queue.
        data: where scenes lie.
        name: of this worker; empty: host and process.
        lease_s: [s] so long after its death others take its job.
        grace_s: [s] between asking a job's process to stop and killing it.
        kinds: only jobs of these steps; empty: of all.
        command: what runs a job, with the path of its spec behind it; for tests.
        poll_s: [s] between looks at an empty queue.
        beside: run in threads of their own as long as the worker does, such as what delivers letters; each is
            called with an event that is set at the end, and waited for.
    """

    def __init__(
        self,
        store: Store,
        data: Path,
        name: str = "",
        lease_s: float = LEASE_SECONDS,
        grace_s: float = GRACE_SECONDS,
        kinds: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        poll_s: float = 1.0,
        beside: Sequence[Callable[[threading.Event], Any]] = (),
    ) -> None:
        self.store, self.data = store, Path(data)
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.lease_s, self.grace_s, self.kinds = lease_s, grace_s, tuple(kinds)
        self.command, self.poll_s, self.beside = tuple(command), poll_s, tuple(beside)
        self._stops = 0
        self._awake = threading.Event()

    def stop(self) -> None:
        """Stop as SIGTERM does; a second time as a second SIGTERM."""
        self._stops += 1
        self._awake.set()

    def run(self, once: bool = False) -> int:
        """Take jobs until stopped.

        Args:
            once: take one at the most, and none when none is due.

        Returns:
            How many were taken.

        Raises:
            SpaceportError, OSError: with `once`, what kept it from the queue; else that is logged, and tried
                again.
        """
        taken = 0
        with self._signals(), self._beside():
            logger.info("worker %s: looks for jobs in %s", self.name, self.store.path)
            while not self._stops:
                try:
                    job = self.store.claim(self.name, self.lease_s, self.kinds)
                    taken += job is not None
                    if job is not None:
                        self._work(job)
                except (SpaceportError, OSError):
                    if once:
                        raise
                    logger.exception("worker %s: queue or data cannot be used", self.name)
                    self._awake.wait(TROUBLE_SECONDS)
                    continue
                if once:
                    break
                if job is None:
                    self._awake.wait(self.poll_s)
            logger.info("worker %s: ends after %d jobs", self.name, taken)
        return taken

    def _work(self, job: Job) -> None:
        attempt = Attempt(self.store, job, self.data, self.lease_s, self.grace_s, self.command)
        with logs.bound(job=job.name):
            logger.info("job %s: attempt %d begins, token %d", job.name, job.attempt, job.token)
            outcome = attempt.run(lambda: self._stops)
            logger.info("job %s: attempt %d: %s", job.name, job.attempt, outcome)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_number: int, _frame: Any) -> None:
            self.stop()

        before: dict[signal.Signals, Any] = {}
        with contextlib.suppress(ValueError):  # not in the main thread: whoever runs us there calls stop()
            before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _beside(self) -> Iterator[None]:
        over = threading.Event()
        threads = [threading.Thread(target=one, args=(over,), daemon=True) for one in self.beside]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(self.grace_s if self._stops else BESIDE_SECONDS)
