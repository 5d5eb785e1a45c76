"""One attempt at a job, as its worker sees it: a process, a heartbeat, an end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spaceport_lab import files, logs
from spaceport_lab.errors import JobUnknownError, SpaceportError
from spaceport_lab.jobs import keeper
from spaceport_lab.jobs.failures import DISK_FULL, disk_full, from_exception, from_exit, retry_delay
from spaceport_lab.jobs.model import Failure, Job
from spaceport_lab.jobs.store import Store
from spaceport_lab.jobs.watching import Watcher

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""A process is looked after this often, and the wish to stop it."""

BEAT_SECONDS = 1.0
"""A job is asked this often whether it is still ours and still wanted."""

PROGRESS_SECONDS = 2.0
"""Progress is told at most this often."""

COMMAND = (sys.executable, "-m", "spaceport_lab.jobs.execute")


class Attempt:
    """A claimed job at work in a process of its own.

    The process dies with this one, and all it started (see `keeper`). It is killed at once when the job is
    another worker's, or may be: when no heartbeat has come through for as long as the lease.

    Args:
        store: the queue.
        job: as `claim` gave it.
        data: where scenes lie.
        lease_s: [s] each heartbeat extends the lease by so much.
        grace_s: [s] a process that was asked to stop is killed after so long.
        command: what is run, with the path of the spec behind it.
    """

    def __init__(
        self,
        store: Store,
        job: Job,
        data: Path,
        lease_s: float,
        grace_s: float,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.store, self.job, self.data = store, job, Path(data).absolute()
        self.lease_s, self.grace_s, self.command = lease_s, grace_s, tuple(command)
        folder = self.data / ".jobs"
        self.log = folder / "logs" / f"{job.name}.log"
        self._spec, self._place, self._result = (
            folder / "work" / f"{job.name}-{job.token}.{kind}.json" for kind in ("spec", "place", "result")
        )
        self._lost, self._cancelled, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._beaten = time.monotonic()
        self._watcher: Watcher | None = None
        self._stage = ""

    def run(self, stopping: Callable[[], int] = lambda: 0) -> str:
        """Run the job to its end, whatever that is, and write it down.

        Args:
            stopping: 0 to go on, 1 to stop within the grace time, 2 to stop now.

        Returns:
            succeeded, failed, cancelled, queued (to be tried again), released or lost.
        """
        beat = threading.Thread(target=self._beat, name=f"heartbeat-{self.job.name}", daemon=True)
        self._beaten = time.monotonic()
        beat.start()
        try:
            try:
                process = self._start()
            except (SpaceportError, OSError) as error:
                return self._give_up(*from_exception(error, log=self.log))
            try:
                asked = self._look_after(process, stopping)
            finally:
                code = keeper.end(process)
                self._ended.set()
                beat.join()
            return self._settle(code, asked)
        finally:
            self._ended.set()
            for path in (self._spec, self._place, self._result):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _start(self) -> subprocess.Popen[bytes]:
        with files.clear_os_errors(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        spec = {
            "name": self.job.name,
            "token": self.job.token,
            "data": str(self.data),
            # Whom to tell is nobody's business there.
            "ask": self.job.ask.model_dump(mode="json", exclude={"email", "webhook"}),
            "place": str(self._place),
            "result": str(self._result),
            "log": str(self.log),
        }
        files.write_json(self._spec, spec)
        environment = {**os.environ, **logs.child_environment(job=self.job.name)}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", keeper.__file__, *self.command, str(self._spec)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _look_after(self, process: subprocess.Popen[bytes], stopping: Callable[[], int]) -> bool:
        """Until the process has ended or is to be killed; returns whether it was asked to stop."""
        asked_at: float | None = None
        while process.poll() is None:
            now = time.monotonic()
            if not self._lost.is_set() and now - self._beaten > self.lease_s:
                logger.error(
                    "job %s: no heartbeat came through for %.0f s", self.job.name, now - self._beaten
                )
                self._lost.set()
            hurry = stopping()
            if self._lost.is_set() or hurry > 1 or (asked_at and now - asked_at > self.grace_s):
                break
            if asked_at is None and (hurry or self._cancelled.is_set()):
                asked_at = now
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_SECONDS)
        return asked_at is not None or stopping() > 0

    def _beat(self) -> None:
        told = written = 0.0
        while not self._ended.wait(min(BEAT_SECONDS, self.lease_s / 4)):
            now = time.monotonic()
            try:
                columns, events = self._look()
                if now - told >= PROGRESS_SECONDS and self._watcher is not None:
                    told = now
                    events += [("progress", data)] if (data := self._watcher.progress()) else []
                due = bool(events) or now - written >= self.lease_s / 4
                if due:
                    self.store.heartbeat(self.job, self.lease_s, events=events, **columns)
                self._ask()
                if due and not self._lost.is_set():
                    self._beaten = written = now
            except JobUnknownError:
                self._lost.set()
            except (SpaceportError, OSError):
                # The next one may come through; where none does, the process is killed.
                logger.exception("job %s: a heartbeat failed", self.job.name)

    def _ask(self) -> None:
        """Whether the job is still ours, and still wanted."""
        now = self.store.get(self.job.name)
        if now.token != self.job.token or now.state != "running":
            self._lost.set()
        elif now.cancel_requested:
            self._cancelled.set()

    def _look(self) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
        if self._watcher is None:
            place = _read(self._place)
            if not isinstance(place.get("run_dir"), str):
                return {}, []
            self._watcher = Watcher(Path(place["run_dir"]), self.job.ask.steps, place.get("stages"))
        columns, events = self._watcher.look()
        self._stage = columns.get("stage", self._stage)
        return {"run_dir": str(self._watcher.root), **columns}, events

    def _settle(self, code: int, asked: bool) -> str:
        """Write down how it ended."""
        store, job = self.store, self.job
        if self._lost.is_set():
            logger.warning("job %s: attempt %d was lost to another worker", job.name, job.attempt)
            return "lost"
        with contextlib.suppress(SpaceportError):
            columns, events = self._look()
            store.heartbeat(job, self.lease_s, events=events, **columns)
        result = _read(self._result)
        if result.get("ok") is True:
            return "succeeded" if store.finish(job, "succeeded") else "lost"
        if self._cancelled.is_set():
            return "cancelled" if store.finish(job, "cancelled") else "lost"
        interrupted = result.get("interrupted") is True
        if asked and (interrupted or not result):
            return "released" if store.release(job) else "lost"
        if result:
            # Interrupted without our asking: by somebody else's signal.
            return self._give_up(
                Failure.read(result.get("failure")), interrupted or result.get("again") is True
            )
        if code == DISK_FULL:
            return self._give_up(disk_full(self.log), False)
        return self._give_up(from_exit(code, self._stage, self.log), True)

    def _give_up(self, failure: Failure, again: bool) -> str:
        """This attempt has failed; there may be another one."""
        job = self.job
        logger.warning("job %s: attempt %d: %s %s", job.name, job.attempt, failure.code, failure.message)
        if again:
            held = self.store.retry(job, failure, retry_delay(job.attempt))
            return self.store.get(job.name).state if held else "lost"
        return "failed" if self.store.finish(job, "failed", failure) else "lost"


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(errors="replace"))
        return found if isinstance(found, dict) else {}
    return {}
