"""One attempt at one scene: a numbered process that takes the run folder, on this machine or a node.

What runs is what a queue's worker runs, `python -m spaceport_lab.jobs.execute`, under the same keeper: when
the process that called `attempt` dies, however that comes about, the keeper kills all that was started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaceport_lab import fence, files, runcard
from spaceport_lab.batch.rows import facts
from spaceport_lab.errors import FencedError, SpaceportError
from spaceport_lab.jobs import keeper
from spaceport_lab.jobs.attempt import COMMAND
from spaceport_lab.jobs.failures import DISK_FULL, disk_full, from_exception, from_exit
from spaceport_lab.jobs.model import Failure

COUNTER = ".attempts"
"""Folder in the run folder with one folder for each attempt, called by its number."""

HELD = "is being run by another process"
"""How `pipeline.holding` speaks of a run folder whose lock it did not get. On a shared file system a dead
host may keep one for minutes: trying again helps."""

LOOK_SECONDS = 0.1
GRACE_SECONDS = 9.0
"""Between asking a scene's process to stop and killing it; a stage takes five at the most."""


@dataclass(frozen=True)
class Work:
    """All that is needed to run a scene, wherever that is: paths and words, no data.

    Attributes:
        job: the job's name.
        ask: fields of `jobs.Ask`.
        data, run_dir, folder: where scenes lie, the run's folder, the batch's folder.
        backend: train.backend, which decides whether it gets a GPU.
        threads: for the scene's process; 0: as many as it likes.
        command: what is run, with the path of the spec behind it; for tests.
    """

    job: str
    ask: dict[str, Any]
    data: str
    run_dir: str
    folder: str
    backend: str = "auto"
    threads: int = 0
    command: tuple[str, ...] = COMMAND


@dataclass(frozen=True)
class Result:
    """How an attempt ended.

    Attributes:
        state: succeeded, failed or interrupted.
        again: whether trying again can help.
        failure: why, where it failed.
        facts: what the run card says of the whole run, see `rows.facts`.
    """

    state: str
    again: bool = False
    failure: Failure | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def take_number(root: Path) -> int:
    """A number no attempt at this run has had, greater than all before.

    Each number is a folder made with mkdir, which of two callers lets only one succeed, on a local disk as on
    NFS of any version; there is no lock that a dead node could keep.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    counter = Path(root) / COUNTER
    with files.clear_os_errors(counter):
        counter.mkdir(parents=True, exist_ok=True)
        number = max([_fenced(root), *(int(p.name) for p in counter.iterdir() if p.name.isdecimal())])
        while True:
            number += 1
            with contextlib.suppress(FileExistsError):
                (counter / str(number)).mkdir()
                return number


def attempt(
    work: Work, stopping: Callable[[], int] = lambda: 0, node: str = "", grace_s: float = GRACE_SECONDS
) -> Result:
    """Run a scene once, to its end.

    Args:
        work: the scene.
        stopping: 0 to go on, 1 to stop within the grace time, 2 to stop now.
        node: of the cluster, for the run card.
        grace_s: [s] between asking the process to stop and killing it.

    Returns:
        How it ended; nothing is raised for what goes wrong with a scene.
    """
    log = Path(work.folder) / "logs" / f"{work.job}.log"
    root = Path(work.run_dir)
    try:
        running = _Running(work, take_number(root), log, node)
    except (SpaceportError, OSError) as error:
        failure, again = from_exception(error, log=log)
        return Result("failed", again, failure)
    try:
        result = running.to_the_end(stopping, grace_s)
    except (SpaceportError, OSError) as error:
        failure, again = from_exception(error, log=log)
        result = Result("failed", again, failure)
    running.note(result.state, result.failure)
    return Result(result.state, result.again, result.failure, facts(root))


class _Running:
    """The process of an attempt, its files, its entry on the run card."""

    def __init__(self, work: Work, number: int, log: Path, node: str) -> None:
        self.work, self.number, self.log, self.root = work, number, log, Path(work.run_dir)
        place = Path(work.folder) / "work"
        self.spec, self.place, self.result = (
            place / f"{work.job}-{number}.{kind}.json" for kind in ("spec", "place", "result")
        )
        self.entry: dict[str, Any] = {
            "number": number,
            "node": node,
            "host": socket.gethostname(),
            "started": runcard.now(),
            "ended": None,
            "state": "running",
        }
        if output := work.ask.get("output"):
            self.entry["output"] = output

    def to_the_end(self, stopping: Callable[[], int], grace_s: float) -> Result:
        process = self._start()
        asked_at: float | None = None
        noted = False
        try:
            while process.poll() is None:
                # Not before there is a card: one made here would keep a finished one in S3 from coming back.
                if not noted and (self.root / "run.json").exists():
                    noted = self.note("running")
                hurry = stopping()
                if hurry > 1 or (asked_at and time.monotonic() - asked_at > grace_s):
                    break
                if hurry and asked_at is None:
                    asked_at = time.monotonic()
                    process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
        finally:
            code = keeper.end(process)
            said = _read(self.result)
            for path in (self.spec, self.place, self.result):
                with contextlib.suppress(OSError):
                    path.unlink()
        return self._judge(code, said, asked=asked_at is not None or stopping() > 0)

    def note(self, state: str, failure: Failure | None = None) -> bool:
        """Put this attempt on the run card unless a later one has the folder; returns whether it is there."""
        entry = self.entry | {"state": state}
        if state != "running":
            entry["ended"] = runcard.now()
        if failure is not None:
            entry["code"] = failure.code

        def change(card: dict[str, Any]) -> None:
            if _fenced(self.root) > self.number:
                raise FencedError("a later attempt has taken the run folder", got=self.root)
            known = {one["number"]: one for one in card.get("attempts", ())}
            for earlier in known.values():
                if earlier["number"] < self.number and earlier["state"] == "running":
                    earlier["state"] = "lost"  # whoever ran it never said how it ended
            known[self.number] = entry
            card["attempts"] = [known[number] for number in sorted(known)]
            if state == "failed" and card.get("status") == "running":
                card.update(status="failed", error=failure.message if failure else None)

        try:
            runcard.update(self.root, change)
        except (SpaceportError, OSError, TimeoutError):
            return False  # a full disk must not hide what this attempt came to
        return True

    def _start(self) -> subprocess.Popen[bytes]:
        with files.clear_os_errors(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.work.job,
            "token": self.number,
            "data": self.work.data,
            "ask": self.work.ask,
            "place": str(self.place),
            "result": str(self.result),
            "log": str(self.log),
        }
        files.write_json(self.spec, content)
        environment = {**os.environ, "SPACEPORT_JOB": self.work.job}
        environment.pop(fence.VARIABLE, None)
        if self.work.threads:
            threads = str(self.work.threads)
            environment |= {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", keeper.__file__, *self.work.command, str(self.spec)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _judge(self, code: int, said: dict[str, Any], asked: bool) -> Result:
        if said.get("ok") is True:
            return Result("succeeded")
        interrupted = said.get("interrupted") is True
        if asked and (interrupted or not said):
            return Result("interrupted")
        if said:
            # Interrupted without our asking: by somebody else's signal.
            failure = Failure.read(said.get("failure"))
            again = interrupted or said.get("again") is True or HELD in failure.message
            return Result("failed", again, failure)
        if code == DISK_FULL:
            return Result("failed", False, disk_full(self.log))
        return Result("failed", True, from_exit(code, str(facts(self.root).get("stage", "")), self.log))


def _fenced(root: Path) -> int:
    """The number of the attempt that has the folder; 0 where nobody has taken it."""
    with contextlib.suppress(OSError, ValueError):
        return max(0, int((Path(root) / fence.NAME).read_text()))
    return 0


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(errors="replace"))
        return found if isinstance(found, dict) else {}
    return {}
