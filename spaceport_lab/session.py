"""A training beside the kernel: in a thread of its own, to be watched, steered and waited for."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import filelock

from spaceport_lab import files, notebook, train
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.params import TrainParams
from spaceport_lab.train.control import Control
from spaceport_lab.workspace import Progress, StageRun

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 1.0
"""Listeners hear at most this often: whatever they draw must not cost training time."""

LOCK_SECONDS = 5.0
"""How long a run is waited for whose kernel is just dying."""

LOOK_SECONDS = 0.25
"""How often a wait looks for an interrupt where the system does not wake it."""

SessionState = Literal["new", "running", "paused", "finished", "failed"]

_running: dict[Path, Session] = {}
_registry = threading.Lock()


class Session:
    """A training beside the kernel: one daemon thread that runs train.run and can be steered.

    It dies with the kernel; a new one on the same run goes on from the checkpoint. Nobody else should draw
    from torch's random numbers meanwhile: they are one sequence for the whole process.

    Args:
        run: the train stage, as `notebook.start` opened it.
        p: its parameters. With `interactive` it says nothing; without it prints what `notebook.live` does.

    Attributes:
        control: what a person may do to it.
        latest: the latest state; None before the first.
        error: what training raised; None where it did not.
    """

    def __init__(self, run: StageRun, p: TrainParams) -> None:
        self.run, self.params = run, p
        self.control = Control(p)
        self.latest: Progress | None = None
        self.error: BaseException | None = None
        self._listeners: list[Callable[[Progress], None]] = []
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._reader = _Reader(run.dir / "metrics.jsonl")

    @property
    def state(self) -> SessionState:
        """new, running, paused (it stands still at this moment), finished or failed."""
        if self._thread is None:
            return "new"
        if self._ended.is_set():
            return "finished" if self.error is None else "failed"
        return "paused" if self.control.waiting else "running"

    def start(self) -> None:
        """Begin, or go on from the run's checkpoint.

        Raises:
            WorkspaceError: it was started before, or the run is being trained by another session.
        """
        with _registry:
            if self._thread is not None:
                raise WorkspaceError(
                    "this session was started before",
                    got=self.state,
                    hint="make a new Session; it goes on from the checkpoint where there is one",
                )
            lock = _take(self.run)
            _running[self.run.dir] = self
            self._thread = threading.Thread(target=self._work, args=(lock,), name="training", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until it ended.

        An interrupt does not end it: it pauses before the next step, with a checkpoint, and the interrupt
        goes on to the caller.

        Raises:
            WorkspaceError: it was never started.
            Exception: what training raised.
        """
        if self._thread is None:
            raise WorkspaceError("this session has not been started", hint="call start() before wait()")
        try:
            while not self._ended.wait(LOOK_SECONDS):
                pass
        except KeyboardInterrupt:
            self.control.pause()
            print(
                "Training pauses before its next step, with a checkpoint; control.resume() and wait() go on.",
                flush=True,
            )
            raise
        if self.error is not None:
            raise self.error

    def records(self) -> list[dict[str, Any]]:
        """metrics.jsonl so far; only what is new is read."""
        return self._reader.read()

    def listen(self, callback: Callable[[Progress], None]) -> None:
        """Call back with the latest state, at most once a second and at pauses and the end.

        From the training thread, which waits for it; what it raises is logged and harms nothing.
        """
        self._listeners.append(callback)

    def _work(self, lock: filelock.FileLock) -> None:
        try:
            self._train()
        except BaseException as error:  # it is raised where somebody waits
            self.error = error
        finally:
            self.control.end()
            with _registry:
                _running.pop(self.run.dir, None)
            lock.release()
            self._ended.set()
            if self.latest is not None:
                self._tell(self.latest)

    def _train(self) -> None:
        states = train.run(self.run, self.params, self.control)
        if not self.params.interactive:
            states = notebook.live(states, self.params)
        told, message = -LISTEN_SECONDS, ""
        for state in states:
            self.latest = state
            now = time.monotonic()
            if now - told >= LISTEN_SECONDS or state.message != message or state.message == "paused":
                if self.params.interactive:
                    notebook.write_progress(self.params, state)
                self._tell(state)
                told, message = time.monotonic(), state.message

    def _tell(self, state: Progress) -> None:
        for callback in list(self._listeners):
            try:
                callback(state)
            except Exception:
                logger.exception("a listener of the training failed")


def _take(run: StageRun) -> filelock.FileLock:
    """The run's own lock for trainings; the caller holds `_registry`.

    Not that of `notebook.start`, which belongs to the kernel for as long as it lives.

    Raises:
        WorkspaceError: another session has it, here or in another process.
    """
    lock = filelock.FileLock(run.dir / ".session.lock", thread_local=False)
    hint = "wait until it has ended, stop it with its control.stop(), or shut its kernel down"
    if run.dir in _running:
        raise WorkspaceError("another session trains this run", got=run.dir, hint=hint)
    with files.clear_os_errors(run.dir):
        run.dir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except filelock.Timeout as error:
            raise WorkspaceError(
                "another session trains this run, in another process", got=run.dir, hint=hint
            ) from error
    return lock


class _Reader:
    """Reads a metrics stream from where it stopped; anew where a resumed training has cut it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._records: list[dict[str, Any]] = []
        self._end, self._file = 0, (0, 0)

    def read(self) -> list[dict[str, Any]]:
        with self._lock:
            self._records.extend(self._new())
            return list(self._records)

    def _new(self) -> list[dict[str, Any]]:
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_ino, status.st_dev) != self._file or status.st_size < self._end:
                    self._file, self._end = (status.st_ino, status.st_dev), 0
                    self._records.clear()
                file.seek(self._end)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content.rfind(b"\n") + 1
        self._end += whole
        return [json.loads(line) for line in content[:whole].splitlines() if line]
