"""The queue: one SQLite file, leases, an outbox.

Why a lease table of our own and not a durable engine. DBOS 3.4.0 on SQLite was tried first, with two workers
on one file. Good: a queue with priorities; each job taken once; a job went on when a process of the same
executor id came back. It does not serve here, because

- a worker killed with -9 left its job PENDING, and a second worker with an id of its own stood idle beside it
  for as long as was watched. Only a process of the same id takes it over, or the coordinating service, which
  is proprietary; there is no lease that runs out;
- two processes with one id, which that recovery asks for, had the same job running at the same time. DBOS
  guards its own rows then (`owner_xid`), but hands out no ordered token by which a run folder could tell;
- a cancelled job's step ran to its end: cancelling is looked for between steps, and a training is one step;
- the same id with other arguments quietly gave back the first job; the only other choice is to refuse every
  reuse, so "the same request again, or a conflict" would have to be built beside it;
- a job's final state is one statement of DBOS's own, so rows of an outbox cannot be in that transaction;
- it brings psycopg, croniter and a pool of threads for what is one table here.

huey loses a killed task; rq, dramatiq and arq need a broker. So: a table, each change of which is one short
`BEGIN IMMEDIATE` transaction (which has the only right to write), and tokens as Kleppmann (2016, "How to do
distributed locking") has them: the lease decides who may begin, the token who may still write.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from spaceport_lab.errors import JobConflictError, ParamsError, QueueFullError
from spaceport_lab.jobs import rows
from spaceport_lab.jobs.database import Database
from spaceport_lab.jobs.model import ENDED, STATES, Ask, Event, Failure, Job, Letter, State
from spaceport_lab.jobs.text import tidy
from spaceport_lab.naming import new_name

MAX_ATTEMPTS = 3
LETTER_SECONDS = 300.0
"""Who was given a letter has this long to deliver it before somebody else is given it."""

PATH_VARIABLE = "SPACEPORT_JOBS"


def store_path(data: Path) -> Path:
    """Where the queue of a data folder lies: data/.jobs/jobs.db; SPACEPORT_JOBS wins."""
    given = os.environ.get(PATH_VARIABLE)
    return Path(given).absolute() if given else Path(data).absolute() / ".jobs" / "jobs.db"


class Store:
    """Jobs, what happened to them, and what is to be told: safe from many processes and threads.

    Args:
        path: the SQLite file, on a local disk; made when missing.
        queue_limit: so many jobs may wait.
        clock: [s] since 1970.
        max_attempts: a job that is tried again and again fails after so many.

    Raises:
        QueueError: the file is damaged, something else, of a later version, or busy for half a minute. Every
            method may raise it.
        WorkspaceError: it cannot be written, or the disk is full; likewise.
    """

    def __init__(
        self,
        path: Path,
        queue_limit: int = 1000,
        clock: Callable[[], float] = time.time,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self.queue_limit, self.clock, self.max_attempts = queue_limit, clock, max_attempts
        self._database = Database(path)
        self.path = self._database.path

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self._database.close()

    # ------------------------------------------------------------------ for whoever wants something done

    def submit(self, ask: Ask, key: str = "") -> tuple[Job, bool]:
        """Put a job into the queue.

        Args:
            ask: what is to be done.
            key: idempotency key; the same one with the same ask gives the job that was made first.

        Returns:
            The job, and whether it was made now.

        Raises:
            JobConflictError: the key came with another ask before, or the name is taken.
            QueueFullError: too many wait already.
            ParamsError: the key cannot be used.
        """
        if len(key) > 200 or not key.isprintable():
            raise ParamsError(
                "this idempotency key cannot be used",
                got=f"{len(key)} characters",
                expected="at most 200 printable ones",
            )
        with self._database.write() as c:
            if key and (row := c.execute("SELECT * FROM jobs WHERE key = ?", (key,)).fetchone()):
                return _same_or_conflict(rows.as_job(row), ask), False
            now = self.clock()
            name = ask.name or _free_name(c, ask.source, now)
            if ask.name and _is_taken(c, name):
                raise JobConflictError(
                    f"there is a job {name} already",
                    hint="choose another name, or none to have one made; finished stages are used again",
                )
            waiting = c.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            if waiting >= self.queue_limit:
                raise QueueFullError(
                    "the queue is full",
                    got=f"{waiting} jobs wait",
                    expected=f"fewer than {self.queue_limit}",
                    hint="ask again later, or cancel some",
                )
            c.execute(
                "INSERT INTO jobs (name, key, ask, steps, priority, state, max_attempts, created, token)"
                " VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?)",
                # Tokens begin at the time, so that a new queue never has less than a lost one had given out.
                (name, key or None, ask.model_dump_json(), ask.steps, ask.priority, self.max_attempts, now,
                 int(now)),
            )  # fmt: skip
            row = rows.find(c, name)
            rows.tell(c, row, self.clock(), [("state", {"state": "queued"})])
            return rows.as_job(row), True

    def get(self, name: str) -> Job:
        """The job as it stands.

        Raises:
            JobUnknownError: there is none of that name.
        """
        with self._database.read() as c:
            return rows.as_job(rows.find(c, name))

    def list(self, states: Sequence[str] = (), limit: int = 100) -> list[Job]:
        """The newest jobs first, of these states or of all."""
        wanted = [state for state in STATES if state in states] if states else list(STATES)
        marks = ", ".join("?" * len(wanted))
        with self._database.read() as c:
            found = c.execute(
                f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?",
                (*wanted, _bounded(limit)),
            ).fetchall()
        return [rows.as_job(row) for row in found]

    def cancel(self, name: str) -> Job:
        """A waiting job is cancelled at once; a running one is asked to stop; an ended one stays as it is.

        Raises:
            JobUnknownError: there is none of that name.
        """
        with self._database.write() as c:
            row = rows.find(c, name)
            lost = row["state"] == "running" and row["lease_until"] <= self.clock()
            if row["state"] == "queued" or lost:
                rows.end(c, row, self.clock(), "cancelled")
            elif row["state"] == "running" and not row["cancel_requested"]:
                c.execute("UPDATE jobs SET cancel_requested = 1 WHERE id = ?", (row["id"],))
                rows.tell(c, row, self.clock(), [("state", {"state": "running", "cancel_requested": True})])
            return rows.as_job(rows.find(c, name))

    def events(self, name: str, after: int = 0, limit: int = 500) -> list[Event]:
        """What happened to a job since its event number `after`, oldest first.

        Raises:
            JobUnknownError: there is none of that name.
        """
        with self._database.read() as c:
            found = c.execute(
                "SELECT seq, time, kind, data FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?",
                (rows.find(c, name)["id"], _bounded(after), _bounded(limit)),
            ).fetchall()
        return [Event(row["seq"], row["time"], row["kind"], json.loads(row["data"])) for row in found]

    def counts(self) -> dict[str, int]:
        """Jobs per state, and `oldest_queued_s`: how long the first of those that wait has waited [s]."""
        with self._database.read() as c:
            counted = c.execute("SELECT state, count(*) AS n, min(created) AS first FROM jobs GROUP BY state")
            found = {row["state"]: row for row in counted.fetchall()}
        counts = {state: found[state]["n"] if state in found else 0 for state in STATES}
        first = found["queued"]["first"] if "queued" in found else None
        return counts | {"oldest_queued_s": 0 if first is None else max(0, int(self.clock() - first))}

    # ------------------------------------------------------------------ for workers

    def claim(self, worker: str, lease_s: float, kinds: Sequence[str] = ()) -> Job | None:
        """Take the next job: of the highest priority the oldest, also one whose worker's lease ran out.

        Its attempt and its token grow by one. Jobs whose last attempt was lost are failed on the way.

        Args:
            worker: a name for whoever takes it.
            lease_s: [s] the job is this worker's for so long, unless `heartbeat` comes.
            kinds: only jobs of these steps; empty: of all.

        Returns:
            The job, or None when there is nothing to do.
        """
        with self._database.write() as c:
            now = self.clock()
            rows.end_lost(c, now)
            marks = ", ".join("?" * len(kinds))
            row = c.execute(
                "SELECT * FROM jobs WHERE ((state = 'queued' AND not_before <= ?)"
                " OR (state = 'running' AND lease_until <= ?))"
                + (f" AND steps IN ({marks})" if kinds else "")
                + " ORDER BY priority DESC, id LIMIT 1",
                (now, now, *kinds),
            ).fetchone()
            if row is None:
                return None
            c.execute(
                "UPDATE jobs SET state = 'running', attempt = attempt + 1, token = token + 1, worker = ?,"
                " lease_until = ?, started = coalesce(started, ?), ended = NULL WHERE id = ?",
                (worker, now + lease_s, now, row["id"]),
            )
            begun = {"attempt": row["attempt"] + 1, "worker": worker}
            if row["state"] == "running":
                begun["lost_by"] = row["worker"]
            rows.tell(c, row, self.clock(), [("attempt", begun), ("state", {"state": "running"})])
            return rows.as_job(rows.find(c, row["name"]))

    def heartbeat(
        self,
        job: Job,
        lease_s: float,
        *,
        events: Iterable[tuple[str, dict[str, Any]]] = (),
        **progress: Any,
    ) -> bool:
        """Keep a job, and write down how far it is.

        Args:
            job: as `claim` gave it.
            lease_s: [s] from now.
            events: kind and data of what happened since.
            progress: any of run_dir, stage, progress, message.

        Returns:
            Whether to go on. False: the job is another worker's now, has ended or is gone (nothing was
            written), or it is to be cancelled (and kept meanwhile); `get` tells which.
        """
        unknown = set(progress) - {"run_dir", "stage", "progress", "message"}
        if unknown:
            raise TypeError(f"a heartbeat knows no {', '.join(sorted(unknown))}")
        with self._database.write() as c:
            row = rows.held(c, job)
            if row is None:
                return False
            values = {"lease_until": self.clock() + lease_s, **progress}
            c.execute(
                f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?",
                (*values.values(), row["id"]),
            )
            rows.tell(c, row, self.clock(), events)
            return not row["cancel_requested"]

    def finish(self, job: Job, state: State, failure: Failure | None = None) -> bool:
        """End a job: its state, its event and its letters in one transaction.

        Returns:
            False when the job is another worker's now or has ended: then nothing was written.
        """
        if state not in ENDED:
            raise ValueError(f"a job ends as one of {', '.join(ENDED)}, not {state}")
        with self._database.write() as c:
            row = rows.held(c, job)
            if row is not None:
                rows.end(c, row, self.clock(), state, failure)
            return row is not None

    def retry(self, job: Job, failure: Failure, delay_s: float) -> bool:
        """Let a job be tried again after `delay_s` seconds; after its last attempt it has failed.

        Returns:
            False when the job is another worker's now or has ended: then nothing was written.
        """
        with self._database.write() as c:
            row = rows.held(c, job)
            if row is None:
                return False
            if row["cancel_requested"]:
                rows.end(c, row, self.clock(), "cancelled")
            elif row["attempt"] >= row["max_attempts"]:
                rows.end(c, row, self.clock(), "failed", failure)
            else:
                c.execute(
                    "UPDATE jobs SET state = 'queued', lease_until = 0, not_before = ?, failure = ?"
                    " WHERE id = ?",
                    (self.clock() + delay_s, json.dumps(failure.as_dict()), row["id"]),
                )
                tried = {"attempt": row["attempt"], "failure": failure.as_dict(), "again_in_s": delay_s}
                rows.tell(c, row, self.clock(), [("attempt", tried), ("state", {"state": "queued"})])
            return True

    def release(self, job: Job) -> bool:
        """Give a job back untried, because its worker has to stop: the attempt does not count.

        Returns:
            False when the job is another worker's now or has ended: then nothing was written.
        """
        with self._database.write() as c:
            row = rows.held(c, job)
            if row is None:
                return False
            if row["cancel_requested"]:
                rows.end(c, row, self.clock(), "cancelled")
            else:
                c.execute(
                    "UPDATE jobs SET state = 'queued', lease_until = 0, attempt = attempt - 1 WHERE id = ?",
                    (row["id"],),
                )
                rows.tell(
                    c, row, self.clock(), [("state", {"state": "queued", "released_by": row["worker"]})]
                )
            return True

    # ------------------------------------------------------------------ for whoever delivers

    def letters(self, limit: int = 20) -> list[Letter]:
        """Letters that are due, given to the caller alone for `LETTER_SECONDS`."""
        with self._database.write() as c:
            now = self.clock()
            until = now + LETTER_SECONDS
            found = c.execute(
                "SELECT outbox.id, outbox.kind, channel, address, attempts, name FROM outbox"
                " JOIN jobs ON jobs.id = outbox.job WHERE outbox.state = 'due' AND next_at <= ?"
                " ORDER BY next_at, outbox.id LIMIT ?",
                (now, _bounded(limit)),
            ).fetchall()
            c.executemany("UPDATE outbox SET next_at = ? WHERE id = ?", [(until, row["id"]) for row in found])
            return [rows.as_letter(row, rows.find(c, row["name"]), until) for row in found]

    def sent(self, letter: Letter) -> None:
        """It was delivered."""
        with self._database.write() as c:
            c.execute("UPDATE outbox SET state = 'sent', error = '' WHERE id = ?", (letter.id,))

    def postpone(self, letter: Letter, error: str, delay_s: float) -> None:
        """It could not be delivered now; it is due again after `delay_s` seconds."""
        with self._database.write() as c:
            c.execute(
                "UPDATE outbox SET attempts = attempts + 1, next_at = ?, error = ?"
                # Not where somebody else was given it meanwhile, or had it delivered.
                " WHERE id = ? AND state = 'due' AND next_at = ?",
                (self.clock() + delay_s, tidy(error), letter.id, letter.next_at),
            )

    def bury(self, letter: Letter, error: str) -> None:
        """It can never be delivered: a dead letter, kept with the reason."""
        with self._database.write() as c:
            c.execute(
                "UPDATE outbox SET state = 'dead', attempts = attempts + 1, error = ?"
                " WHERE id = ? AND state = 'due'",
                (tidy(error), letter.id),
            )

    def post(self, name: str) -> list[dict[str, Any]]:
        """The letters of a job, and how they stand: kind, channel, address, state (due, sent, dead), error…

        Raises:
            JobUnknownError: there is none of that name.
        """
        with self._database.read() as c:
            found = c.execute(
                "SELECT id, kind, channel, address, state, attempts, next_at, error FROM outbox"
                " WHERE job = ? ORDER BY id",
                (rows.find(c, name)["id"],),
            ).fetchall()
        return [dict(row) for row in found]


def _bounded(number: int) -> int:
    return min(max(0, number), 2**62)  # more is no number for SQLite


def _is_taken(c: sqlite3.Connection, name: str) -> bool:
    return c.execute("SELECT 1 FROM jobs WHERE name = ?", (name,)).fetchone() is not None


def _free_name(c: sqlite3.Connection, source: str, now: float) -> str:
    # Its four random digits meet again among a hundred jobs of one second, once in thirteen times.
    name = new_name(source, now)
    while _is_taken(c, name):
        name = new_name(source, now)
    return name


def _same_or_conflict(job: Job, ask: Ask) -> Job:
    if job.ask == ask:
        return job
    raise JobConflictError(
        "this idempotency key came with another request before",
        got=f"the key of job {job.name}",
        hint="send the same request again, or choose another key",
    )
