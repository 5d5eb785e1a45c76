"""metrics.jsonl: what happened in training, one JSON object a line, readable while it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spaceport_lab import files


class Stream:
    """Appends records to a file; each has `kind` and `step`, the number of finished steps.

    Opening it for a resumed training drops what was written after the checkpoint; those steps come again.
    """

    def __init__(self, path: Path, resume_from: int | None) -> None:
        kept = [] if resume_from is None else [r for r in read(path) if r["step"] <= resume_from]
        files.write_text(path, "".join(_line(record) for record in kept))
        self.path = path
        with files.clear_os_errors(path):
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record; it can be read by others at once."""
        with files.clear_os_errors(self.path):
            self._file.write(_line({"kind": kind, "step": step, **values}))
            self._file.flush()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


def read(path: Path | str) -> list[dict[str, Any]]:
    """All whole records of a stream; a last line that is still being written is left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    records = []
    for line in lines[:-1]:  # what stands behind the last newline is empty or unfinished
        if line:
            records.append(json.loads(line))
    return records


def _line(record: dict[str, Any]) -> str:
    return json.dumps(files.plain(record), allow_nan=False) + "\n"
