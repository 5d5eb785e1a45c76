"""Rows of the queue's tables, inside a transaction that somebody else holds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spaceport_lab import files
from spaceport_lab.errors import JobUnknownError
from spaceport_lab.jobs.model import Ask, Failure, Job, Letter, State
from spaceport_lab.naming import JOB_NAME


def find(c: sqlite3.Connection, name: str) -> sqlite3.Row:
    """A job's row.

    Raises:
        JobUnknownError: there is none of that name.
    """
    # Whatever else was asked for is no name, and may be no text that SQLite takes.
    known = JOB_NAME.fullmatch(name)
    row = c.execute("SELECT * FROM jobs WHERE name = ?", (name,)).fetchone() if known else None
    if row is None:
        raise JobUnknownError(f"there is no job {name[:60]!r}", hint="`spaceport-lab jobs` lists them")
    return row


def held(c: sqlite3.Connection, job: Job) -> sqlite3.Row | None:
    """A job's row while `job` is the newest claim of it; else None."""
    return c.execute(
        "SELECT * FROM jobs WHERE name = ? AND token = ? AND state = 'running'", (job.name, job.token)
    ).fetchone()


def end(
    c: sqlite3.Connection, row: sqlite3.Row, now: float, state: State, failure: Failure | None = None
) -> None:
    """End a job: its state, its event, and its letters, which nothing else makes."""
    failure = (failure or Failure()) if state == "failed" else None
    c.execute(
        "UPDATE jobs SET state = ?, ended = ?, lease_until = 0, failure = ?, progress = ? WHERE id = ?",
        (
            state,
            now,
            json.dumps(failure.as_dict()) if failure else None,
            1.0 if state == "succeeded" else row["progress"],
            row["id"],
        ),
    )
    told: dict[str, Any] = {"state": state} | ({"failure": failure.as_dict()} if failure else {})
    tell(c, row, now, [("state", told)])
    if state == "cancelled":
        return
    ask = Ask.model_validate_json(row["ask"])
    addresses = (("email", ask.email), ("webhook", ask.webhook))
    c.executemany(
        "INSERT INTO outbox (job, kind, channel, address, next_at) VALUES (?, ?, ?, ?, ?)",
        [(row["id"], state, channel, address, now) for channel, address in addresses if address],
    )


def end_lost(c: sqlite3.Connection, now: float) -> None:
    """End those jobs without a living worker that nobody is to take any more."""
    lost = c.execute(
        "SELECT * FROM jobs WHERE state = 'running' AND lease_until <= ?"
        " AND (cancel_requested OR attempt >= max_attempts)",
        (now,),
    ).fetchall()
    for row in lost:
        died = Failure(
            code="SL-500",
            stage=row["stage"],
            message=f"the worker died in each of {row['attempt']} attempts; the last was {row['worker']}",
            hint="look at the machine's memory and the system's log; a smaller train.cap_max needs less",
            log=row["run_dir"] and str(Path(row["run_dir"]) / "logs"),
        )
        end(c, row, now, "cancelled" if row["cancel_requested"] else "failed", died)


def tell(
    c: sqlite3.Connection, row: sqlite3.Row, now: float, events: Iterable[tuple[str, dict[str, Any]]]
) -> None:
    """Append to what happened to a job: kind and data of each event."""
    for kind, data in events:
        c.execute(
            "INSERT INTO events SELECT ?, coalesce(max(seq), 0) + 1, ?, ?, ? FROM events WHERE job = ?",
            (row["id"], now, kind, json.dumps(files.plain(data)), row["id"]),
        )


def as_job(row: sqlite3.Row) -> Job:
    """What callers are given of a job's row."""
    values = {name: row[name] for name in Job.__dataclass_fields__}
    values["ask"] = Ask.model_validate_json(row["ask"])
    values["failure"] = Failure.read(json.loads(row["failure"])) if row["failure"] else None
    values["cancel_requested"] = bool(row["cancel_requested"])
    return Job(**values)


def as_letter(row: sqlite3.Row, job: sqlite3.Row, until: float) -> Letter:
    """What a deliverer is given of an outbox row, its own until then."""
    return Letter(row["id"], as_job(job), row["kind"], row["channel"], row["address"], row["attempts"], until)
