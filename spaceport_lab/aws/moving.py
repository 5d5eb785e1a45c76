"""Many transfers at once, seen from one generator; the first that fails ends all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from spaceport_lab import files
from spaceport_lab.aws.client import CONNECTIONS
from spaceport_lab.workspace import Progress

AT_ONCE = 8
"""Files at once; each large one moves in parts of PART_BYTES, several at once too."""
PART_BYTES = 16 << 20
_TICK = 0.25  # seconds

T = TypeVar("T")


class Moved:
    """Bytes moved so far, counted by many threads."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, n: int) -> None:
        """Count `n` more; negative where a part is begun anew."""
        with self._lock:
            self.bytes += n


class Transfers:
    """s3transfer's manager on a client, for many threads; a context manager that cancels what is left.

    Its own `shutdown(cancel=True)` breaks where a transfer is under way (0.19), so each is cancelled alone.
    """

    def __init__(self, store: Any) -> None:
        from s3transfer.manager import TransferConfig, TransferManager

        self._manager = TransferManager(
            store,
            TransferConfig(
                multipart_threshold=PART_BYTES,
                multipart_chunksize=PART_BYTES,
                max_request_concurrency=CONNECTIONS - AT_ONCE,
                num_download_attempts=2,
            ),
        )
        self._under_way: set[Any] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Transfers:
        self._manager.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._manager.__exit__(*problem)

    def upload(self, *arguments: Any, **named: Any) -> None:
        """As the manager's; waits for the end."""
        self._wait(self._manager.upload(*arguments, **named))

    def download(self, *arguments: Any, **named: Any) -> None:
        """As the manager's; waits for the end."""
        self._wait(self._manager.download(*arguments, **named))

    def stop(self) -> None:
        """Cancel what is under way; who waits for it gets an error once its requests have ended."""
        with self._lock:
            futures = list(self._under_way)
        for future in futures:
            future.cancel()

    def _wait(self, future: Any) -> None:
        with self._lock:
            self._under_way.add(future)
        try:
            future.result()
        finally:
            with self._lock:
                self._under_way.discard(future)


def subscribers(moved: Moved, size: int | None = None, etag: str | None = None) -> list[Any]:
    """What follows one transfer: bytes are counted, and of a download what is known is handed over."""
    from s3transfer.subscribers import BaseSubscriber

    class Follower(BaseSubscriber):
        def on_queued(self, future: Any, **_: Any) -> None:
            if size is not None:
                future.meta.provide_transfer_size(size)
            if etag is not None:
                future.meta.provide_object_etag(etag)

        def on_progress(self, future: Any, bytes_transferred: int, **_: Any) -> None:
            moved.add(bytes_transferred)

    return [Follower()]


def together(
    work: Callable[[T], None],
    items: Sequence[T],
    state: Callable[[], Progress],
    stop: Callable[[], None] = lambda: None,
) -> Iterator[Progress]:
    """Do `work` on every item, AT_ONCE at a time, and yield how it stands.

    Args:
        work: runs in a thread.
        items: what it is done on.
        state: how far it is.
        stop: called when it ends early, to wake threads that wait.

    Raises:
        whatever the first failing `work` raises; no other is begun after it.
    """
    pool = ThreadPoolExecutor(AT_ONCE)
    waiting = {pool.submit(work, item) for item in items}
    try:
        while waiting:
            done, waiting = wait(waiting, _TICK, FIRST_COMPLETED)
            for future in done:
                future.result()
            yield state()
    except BaseException:
        for future in waiting:
            future.cancel()
        stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        WorkspaceError: it may not be read.
    """
    with files.clear_os_errors(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> tuple[int, int, int]:
    """Inode, bytes and time of change: equal while nobody wrote to the file."""
    there = path.stat()
    return there.st_ino, there.st_size, there.st_mtime_ns
