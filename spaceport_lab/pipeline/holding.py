"""One writer to a run folder: a lock, and what to do about an older attempt that will not let go of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import psutil

from spaceport_lab import fence, files
from spaceport_lab.errors import WorkspaceError

LOCK = ".lock"
HOLDER = ".holder.json"

PARENT = "SPACEPORT_PARENT"
"""Environment variable with the process that a stage's process must not outlive."""

PERSON_SECONDS = 2.0
"""A run without a token waits this long for the folder."""

ATTEMPT_SECONDS = 60.0
"""A later attempt at a job waits this long: an older one that lives fails at its next write and lets go."""

KILL_SECONDS = 20.0
"""After this long an older attempt that has not let go, such as a stopped process, is killed."""

_SAME_START = 2.0  # [s] as far as the system's clock may have been set meanwhile


@contextlib.contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold a run folder for as long as the context lasts.

    An attempt at a job (see `fence`) has said so in the folder before it comes here, so an older one is
    refused its next write and ends by itself. One on this host that does not is killed, with all it started.

    Raises:
        WorkspaceError: another process has the folder, and keeps it.
    """
    root = Path(root).resolve()
    lock = filelock.FileLock(root / LOCK)
    with files.clear_os_errors(root):
        _acquire(lock, root)
    try:
        files.write_json(root / HOLDER, _myself(root))
        yield
    finally:
        if _holder(root).get("pid") == os.getpid():
            (root / HOLDER).unlink(missing_ok=True)
        lock.release()


def _acquire(lock: filelock.FileLock, root: Path) -> None:
    token = _token(root)
    begun = time.monotonic()
    limit = PERSON_SECONDS if token is None else ATTEMPT_SECONDS
    while True:
        try:
            lock.acquire(timeout=min(1.0, limit))
            return
        except filelock.Timeout as error:
            waited = time.monotonic() - begun
            if waited >= limit:
                raise WorkspaceError(
                    f"job {root.name} is being run by another process",
                    got=root,
                    hint="wait for it, stop it, or give another --job name",
                ) from error
        if token is not None and waited >= KILL_SECONDS:
            _kill_older(_holder(root), token)


def _kill_older(holder: dict[str, Any], token: int) -> None:
    """Kill the holder where it is an older attempt and beyond doubt the process that wrote itself down."""
    older = isinstance(holder.get("token"), int) and holder["token"] < token
    if not older or holder.get("host") != socket.gethostname():
        return
    with contextlib.suppress(psutil.Error, OSError, KeyError, TypeError, ValueError):
        process = psutil.Process(holder["pid"])
        if abs(process.create_time() - holder["started"]) > _SAME_START:
            return  # the number is another process's now
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        group = os.getpgid(process.pid)
        # A group of its own, which the worker gave it; never one that somebody shares with it.
        if group == holder["group"] and group != os.getpgid(0):
            os.killpg(group, signal.SIGKILL)
        process.kill()


def _myself(root: Path) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "host": socket.gethostname(),
        "started": psutil.Process().create_time(),
        "token": _token(root),
    }


def _holder(root: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((root / HOLDER).read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _token(root: Path) -> int | None:
    """This process's own number where it is an attempt at the job in `root`."""
    number, _, folder = os.environ.get(fence.VARIABLE, "").partition(":")
    return int(number) if number and Path(folder) == root else None


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end what runs as Ctrl-C does: stages are stopped and cards say interrupted."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
