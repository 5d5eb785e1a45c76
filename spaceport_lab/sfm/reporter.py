"""What the worker process tells its parent: one JSON object a line."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spaceport_lab.errors import SpaceportError


class Reporter:
    """Sends progress to the parent, as a share of the part of the whole that is going on."""

    def __init__(self, descriptor: int, log: Path) -> None:
        self._out = os.fdopen(descriptor, "w", buffering=1)
        self._log = log
        self._span = (0.0, 100.0)

    @property
    def current_span(self) -> tuple[float, float]:
        """Start and end in percent, as last set."""
        return self._span

    def span(self, start: float, end: float) -> None:
        """What follows takes the whole from `start` to `end` percent."""
        self._span = (start, end)

    def progress(self, share: float, message: str, **values: float) -> None:
        """`share` from 0 to 1 of the current span."""
        start, end = self._span
        step = int(start + (end - start) * min(1.0, max(0.0, share)))
        self._send({"progress": {"step": step, "total": 100, "message": message, "values": values}})

    @contextmanager
    def counting(self, pattern: str, total: int, message: str) -> Iterator[None]:
        """Meanwhile, report how often COLMAP's log has said `pattern`, out of `total`.

        The log, because a second SQLite in this process (Python's beside COLMAP's) would void the locks that
        COLMAP holds on its database and crash it.
        """
        wanted, stop = re.compile(pattern.encode()), threading.Event()

        def follow() -> None:
            done = 0
            self.progress(0, message, done=0, of=total)
            with open(self._log, "rb") as log:
                log.seek(0, os.SEEK_END)
                while not stop.wait(0.5):
                    new = sum(bool(wanted.search(line)) for line in log.readlines())
                    if new:
                        done = min(total, done + new)
                        self.progress(done / max(total, 1), message, done=done, of=total)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        self.progress(1, message, done=total, of=total)

    def result(self, result: dict[str, Any]) -> None:
        """The last word when all went well."""
        self._send({"result": result})

    def error(self, error: SpaceportError) -> None:
        """The last word when the input was at fault."""
        fields = {"what": error.what, "got": error.got, "expected": error.expected, "hint": error.hint}
        texts = {name: value if value is None else str(value) for name, value in fields.items()}
        self._send({"error": {"type": type(error).__name__, **texts}})

    def _send(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()
