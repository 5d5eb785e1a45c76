"""Running COLMAP in a process of its own: it may hang or die there without taking the notebook with it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import spaceport_lab
from spaceport_lab import errors, files
from spaceport_lab.errors import SpaceportError, StageError
from spaceport_lab.workspace import Progress

LOG_NAME = "colmap.log"


def run_worker(
    job: dict[str, Any], work_dir: Path, log: Path, time_limit_s: float
) -> Generator[Progress, None, dict[str, Any]]:
    """Run `spaceport_lab.sfm.worker` on a job; yields its progress, returns its result.

    The worker is killed when the time is up, when this generator is closed, and (on Linux) when this process
    dies.

    Args:
        job: what to do, as JSON.
        work_dir: an existing folder the worker may fill; its working directory.
        log: where COLMAP's own messages go.
        time_limit_s: seconds.

    Raises:
        SpaceportError: what the worker found wrong with its input.
        StageError: it crashed or took too long; with the last lines of its log.
    """
    path = work_dir / "job.json"
    files.write_json(path, {**job, "log": log, "parent_pid": os.getpid()})
    package_parent = str(Path(spaceport_lab.__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    with open(log, "ab") as log_file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "spaceport_lab.sfm.worker", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            cwd=work_dir,
            env={**os.environ, "PYTHONPATH": search},
        )
    try:
        return (yield from _listen(worker, log, time_limit_s))
    finally:
        # At once and hard: there is nothing to save, and COLMAP's own signal handler may hang.
        worker.kill()
        worker.wait()
        worker.stdout.close()


def _listen(worker: subprocess.Popen, log: Path, limit: float) -> Generator[Progress, None, dict[str, Any]]:
    messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(worker.stdout, messages), daemon=True).start()
    deadline = time.monotonic() + limit
    result: dict[str, Any] | None = None
    while True:
        try:
            message = messages.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise StageError(
                f"structure from motion took longer than {limit / 60:g} minutes and was stopped",
                got=last_lines(log),
                hint="raise sfm.time_limit_min, or lower sfm.max_image_size and sfm.max_num_features",
            ) from None
        if message is None:
            break
        if "progress" in message:
            yield Progress(**message["progress"])
        elif "error" in message:
            raise _as_error(message["error"])
        else:
            result = message["result"]
    code = worker.wait()
    if code != 0 or result is None:
        raise StageError(
            f"COLMAP's process died ({_how(code)})",
            got=f"last lines of {log}:\n{last_lines(log)}",
            hint="if memory was full, lower sfm.max_image_size; else run again, and report it if it repeats",
        )
    return result


def _read(stream: IO[bytes], messages: queue.Queue) -> None:
    for line in stream:
        messages.put(json.loads(line))
    messages.put(None)


def _as_error(problem: dict[str, Any]) -> SpaceportError:
    kind = getattr(errors, problem["type"], StageError)
    return kind(problem["what"], got=problem["got"], expected=problem["expected"], hint=problem["hint"])


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, most likely the memory was full" if name == "SIGKILL" else name


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log file, indented."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"            {line}" for line in lines[-count:])
