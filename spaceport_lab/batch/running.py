"""Running a batch: what is done is left alone, what is left is run, how it went is written down."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import filelock

from spaceport_lab import files, runcard
from spaceport_lab.batch.attempt import Result, Work
from spaceport_lab.batch.plan import Batch, Scene
from spaceport_lab.batch.rows import Row, at_work, facts
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.jobs.attempt import COMMAND
from spaceport_lab.jobs.model import Failure
from spaceport_lab.jobs.watching import Watcher
from spaceport_lab.pipeline.holding import termination_as_interrupt

LOOK_SECONDS = 0.5


class Runner(Protocol):
    """Where scenes are run: `here.Here`, `on_ray.OnRay`."""

    def begin(self, works: Sequence[Work]) -> None:
        """Start them, or none when one of them cannot be run here."""

    def poll(self, seconds: float) -> list[tuple[str, Result]]:
        """Jobs that have ended, waiting so long for one."""
        ...

    def stop(self) -> list[tuple[str, Result]]:
        """Stop all; how those at work ended."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a batch went: a row for each scene, and whether a person or a signal ended it."""

    rows: tuple[Row, ...]
    interrupted: bool
    report: Path

    @property
    def exit_code(self) -> int:
        """0, 1 when a scene failed, 130 when interrupted."""
        if self.interrupted:
            return 130
        return 0 if all(row.state == "succeeded" for row in self.rows) else 1


def run_batch(
    batch: Batch,
    runner: AbstractContextManager[Runner],
    told: Callable[[Sequence[Row]], None] = lambda rows: None,
    command: Sequence[str] = COMMAND,
) -> Outcome:
    """Run the scenes that have not succeeded yet; one that fails does not stop the others.

    How far each is stands on its run card, nowhere else: batch.json is written, never read.

    Args:
        batch: from `make_batch`.
        runner: where.
        told: how all scenes stand, about twice a second.
        command: what runs a scene, with the path of its spec behind it; for tests.

    Raises:
        BackendError: CUDA was asked for and cannot be had; nothing was run.
        WorkspaceError: another process runs this batch, or its folder cannot be written.
    """
    with _only_one(batch), termination_as_interrupt():
        state = _State(batch)
        works = [state.work(scene, tuple(command)) for scene in state.left()]
        interrupted = False
        try:
            if works:
                with runner as running:
                    interrupted = _follow(running, works, state, told)
        except KeyboardInterrupt:
            interrupted = True
        told(state.rows())
        return state.write(interrupted)


def _follow(
    runner: Runner, works: Sequence[Work], state: _State, told: Callable[[Sequence[Row]], None]
) -> bool:
    """Until all have ended; returns whether it was interrupted."""
    left = {work.job for work in works}
    try:
        runner.begin(works)
        state.write()
        while left:
            for job, result in runner.poll(LOOK_SECONDS):
                left.discard(job)
                state.end(job, result)
                state.write()
            state.look(left)
            told(state.rows())
    except KeyboardInterrupt:
        for job, result in runner.stop():
            state.end(job, result)
        state.stopped()
        return True
    return False


class _State:
    """The rows of a batch while it runs."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.started, self._clock = batch, runcard.now(), time.monotonic()
        self._scenes = {scene.job: scene for scene in batch.scenes}
        self._rows = {scene.job: _first(scene) for scene in batch.scenes}
        self._watchers = {
            s.job: Watcher(s.run_dir, s.ask.steps) for s in batch.scenes if s.run_dir is not None
        }

    def left(self) -> list[Scene]:
        return [scene for scene in self.batch.scenes if self._rows[scene.job].state == "waiting"]

    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def work(self, scene: Scene, command: tuple[str, ...]) -> Work:
        return Work(
            scene.job,
            scene.ask.model_dump(mode="json", exclude={"email", "webhook"}),
            str(self.batch.data),
            str(scene.run_dir),
            str(self.batch.folder),
            backend=scene.backend,
            command=command,
        )

    def look(self, left: set[str]) -> None:
        """What cards say of those that have not ended; on a cluster only where its nodes share the folder."""
        for job in left:
            row, scene = self._rows[job], self._scenes[job]
            if row.state == "running" or at_work(scene.run_dir):
                columns = self._watchers[job].look()[0]
                self._rows[job] = row.with_facts(facts(scene.run_dir), **columns, state="running")

    def end(self, job: str, result: Result) -> None:
        row = self._rows[job].with_facts(result.facts, message="", state=result.state)
        if result.state == "failed":
            row = row.failed(result.failure or Failure())
        self._rows[job] = dataclasses.replace(row, progress=1.0) if result.state == "succeeded" else row

    def stopped(self) -> None:
        """Nothing is at work any more; who was and did not say how it ended was interrupted."""
        for job, row in self._rows.items():
            if row.state == "running":
                self._rows[job] = dataclasses.replace(row, state="interrupted", message="")

    def write(self, interrupted: bool = False) -> Outcome:
        """batch.json: how all stand now."""
        outcome = Outcome(tuple(self.rows()), interrupted, self.batch.folder / "batch.json")
        states = [row.state for row in outcome.rows]
        open_ones = {"waiting", "running"} & set(states)
        content: dict[str, Any] = {
            "name": self.batch.name,
            "file": str(self.batch.file),
            "data": str(self.batch.data),
            "status": "interrupted" if interrupted else "running" if open_ones else "ended",
            "exit_code": outcome.exit_code if interrupted or not open_ones else None,
            "started": self.started,
            "written": runcard.now(),
            "seconds": round(time.monotonic() - self._clock, 1),
            "counts": {state: states.count(state) for state in sorted(set(states))},
            "scenes": [row.as_dict() for row in outcome.rows],
        }
        files.write_json(outcome.report, content)
        return outcome


def _first(scene: Scene) -> Row:
    row = Row(scene.name, scene.job, str(scene.run_dir or ""))
    if scene.trouble is not None:
        return row.failed(scene.trouble)
    if scene.is_done():
        return row.with_facts(facts(scene.run_dir), state="succeeded", before=True, progress=1.0)
    return row


@contextlib.contextmanager
def _only_one(batch: Batch) -> Iterator[None]:
    lock = filelock.FileLock(batch.folder / ".lock")
    with files.clear_os_errors(batch.folder):
        batch.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise WorkspaceError(
                f"batch {batch.name} is being run by another process",
                got=batch.folder,
                hint="wait for it, stop it, or give this one another --name",
            ) from error
    try:
        yield
    finally:
        lock.release()
