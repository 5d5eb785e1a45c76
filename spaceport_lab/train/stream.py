"""metrics.jsonl: what happened in training, one JSON object a line, readable while it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spaceport_lab import fence, files
from spaceport_lab.errors import ParamsError

FLUSH_SECONDS = 10
"""How long TensorBoard's own files may lag behind."""


class Stream:
    """Appends records to a file; each has `kind` and `step`, the number of finished steps.

    Opening it for a resumed training drops what was written after the checkpoint; those steps come again.

    Args:
        path: of the file.
        resume_from: finished steps of the checkpoint that training goes on from; None starts anew.
        tensorboard: folder in which TensorBoard finds the same records, their numbers as scalars
            `kind/name` (lists and texts are in the file only); None: no such folder.

    Raises:
        WorkspaceError: the file or the folder cannot be written.
        ParamsError: `tensorboard` is given and the package of that name is not installed.
    """

    def __init__(self, path: Path, resume_from: int | None, tensorboard: Path | None = None) -> None:
        kept = [] if resume_from is None else [r for r in read(path) if r["step"] <= resume_from]
        self._board = None if tensorboard is None else _open_board(Path(tensorboard))
        files.write_text(path, "".join(_line(record) for record in kept))
        self.path = path
        with files.clear_os_errors(path):
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        for record in kept:
            self._show(record)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record; it can be read by others at once, in TensorBoard within seconds."""
        record = {"kind": kind, "step": step, **values}
        fence.check(self.path)
        with files.clear_os_errors(self.path):
            self._file.write(_line(record))
            self._file.flush()
        self._show(record)

    def close(self) -> None:
        """Close the file, and TensorBoard's; safe to call twice."""
        self._file.close()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _show(self, record: dict[str, Any]) -> None:
        if self._board is not None:
            values = {name: value for name, value in record.items() if name not in ("kind", "step")}
            for name, number in _scalars(record["kind"], files.plain(values)):
                self._board.add_scalar(name, number, record["step"])


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


def _open_board(folder: Path) -> Any:
    """A writer of TensorBoard's files; those of earlier attempts go, as their records are written again."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ParamsError(
            "TensorBoard was asked for and is not installed",
            got=str(error),
            hint="pip install 'spaceport-lab[tensorboard]', or leave it off: metrics.jsonl has it all",
        ) from error
    with files.clear_os_errors(folder):
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        return SummaryWriter(str(folder), flush_secs=FLUSH_SECONDS)


def _scalars(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number in a record's value, however deep in dicts, with its path as its name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _scalars(f"{name}/{key}", item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(files.plain(record), allow_nan=False) + "\n"
