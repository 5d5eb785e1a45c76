"""The queue's SQLite file: opened, made, judged, and its faults put into words."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import filelock

from spaceport_lab import files
from spaceport_lab.errors import QueueError, WorkspaceError

VERSION = 1
"""Of the tables below; a greater one was made by a later version of this package."""

BUSY_SECONDS = 30.0
"""How long a transaction waits for another one; each takes milliseconds."""

TABLES = """
CREATE TABLE about (version INTEGER NOT NULL);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    key TEXT UNIQUE,
    ask TEXT NOT NULL,
    steps TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    attempt INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    not_before REAL NOT NULL DEFAULT 0,
    worker TEXT NOT NULL DEFAULT '',
    token INTEGER NOT NULL,
    lease_until REAL NOT NULL DEFAULT 0,
    run_dir TEXT NOT NULL DEFAULT '',
    failure TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    stage TEXT NOT NULL DEFAULT '',
    progress REAL NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_by_turn ON jobs (state, priority DESC, id);
CREATE TABLE events (
    job INTEGER NOT NULL REFERENCES jobs (id),
    seq INTEGER NOT NULL,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job, seq)
) WITHOUT ROWID;
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL REFERENCES jobs (id),
    kind TEXT NOT NULL,
    channel TEXT NOT NULL,
    address TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'sent', 'dead')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL,
    error TEXT NOT NULL DEFAULT '',
    UNIQUE (job, kind, channel, address)
);
CREATE INDEX outbox_by_turn ON outbox (state, next_at);
"""


class Database:
    """One SQLite file in WAL mode, for many threads and processes.

    A process has one connection, which its threads take turns at: there is one writer at a time in any case.
    After a fork, and when the file was replaced, a new one is made.

    Raises:
        QueueError: what lies at `path` is damaged, no queue, or of a later version.
        WorkspaceError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner: tuple[int, int] | None = None  # process, inode
        # A connection must not even be closed after a fork: that would drop the locks of the parent's.
        self._left_behind: list[sqlite3.Connection] = []
        with self.read():
            pass

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with; each statement sees the newest state."""
        with self._lock, self._in_words():
            yield self._open()

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction, the only one that writes; all of it is kept or nothing."""
        with self._lock, self._in_words():
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:  # an interrupt as well
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None and self._owner is not None:
                if self._owner[0] == os.getpid():
                    self._connection.close()
                else:
                    self._left_behind.append(self._connection)
            self._connection = self._owner = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner == (os.getpid(), self._inode()):
            return self._connection
        self.close()
        with files.clear_os_errors(self.path):
            if self.path.parent.is_file():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.path.parent))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One at a time: changing to WAL does not wait for others as everything after it does.
            with filelock.FileLock(self.path.with_name(self.path.name + ".lock"), timeout=BUSY_SECONDS):
                # It holds addresses of people: nobody else's business, unless an owner opens it up.
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
                connection = sqlite3.connect(
                    self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                try:
                    _prepare(connection, self.path)
                except BaseException:
                    connection.close()
                    raise
        connection.row_factory = sqlite3.Row
        self._connection, self._owner = connection, (os.getpid(), self._inode())
        return connection

    def _inode(self) -> int:
        try:
            return self.path.stat().st_ino
        except FileNotFoundError:
            return -1

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except filelock.Timeout as error:
            raise _busy(self.path, error) from error
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise _in_words(self.path, error) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables:
        _check_version(connection, tables, path)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    # A job that was accepted must still be there after a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    if not tables:
        connection.executescript(f"BEGIN IMMEDIATE; {TABLES} INSERT INTO about VALUES ({VERSION}); COMMIT;")


def _check_version(connection: sqlite3.Connection, tables: set[str], path: Path) -> None:
    found = connection.execute("SELECT * FROM about").fetchone() if "about" in tables else None
    if found is None or not isinstance(found[0], int):
        raise QueueError(
            "this is a database, and not one of a queue",
            got=path,
            hint="choose another file with SPACEPORT_JOBS",
        )
    if found[0] > VERSION:
        raise QueueError(
            "the queue was made by a later version of Spaceport Lab",
            got=f"version {found[0]} in {path}",
            expected=f"version {VERSION} or earlier",
            hint="update spaceport-lab here, or choose another file with SPACEPORT_JOBS",
        )


def _in_words(path: Path, error: sqlite3.DatabaseError) -> QueueError | WorkspaceError:
    text = str(error).lower()
    if "locked" in text or "busy" in text:
        return _busy(path, error)
    if "full" in text:
        return WorkspaceError(
            f"cannot write {path}", got=error, hint="free some space; what was there before is untouched"
        )
    if "readonly" in text or "unable to open" in text or "disk i/o" in text:
        return WorkspaceError(
            f"cannot use the queue {path}",
            got=error,
            expected="a folder on a local disk that can be written",
            hint="make it writable, or choose another file with SPACEPORT_JOBS",
        )
    return QueueError(
        "the queue's database cannot be read",
        got=f"{error}: {path}",
        expected="an SQLite database made by Spaceport Lab",
        hint="move it away with its -wal and -shm files: a new one is made, and runs are not touched",
    )


def _busy(path: Path, error: Exception) -> QueueError:
    return QueueError(
        "the queue is busy",
        got=f"{error}: {path}",
        expected=f"its turn within {BUSY_SECONDS:.0f} s",
        hint="look for a process that holds it; on a network drive SQLite cannot work",
    )
