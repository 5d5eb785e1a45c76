"""What a training reached within a time, read from its evaluations."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRID = 20
"""Points in time at which trials are compared on the way, evenly over the time all of them have."""


@dataclass(frozen=True)
class Reached:
    """The best evaluation within a time.

    Attributes:
        psnr: dB, mean of the views that decide.
        heldout: dB, mean of the held-out views at the same moment.
        seconds: of training until then.
        step: finished steps then.
    """

    psnr: float
    heldout: float | None
    seconds: float
    step: int


def reached(records: Sequence[Mapping[str, Any]], limit: float | None) -> Reached | None:
    """The best evaluation within `limit` seconds of training; None where there is none.

    Views that decide are the validation views, or the held-out ones where there are no others.

    Args:
        records: of metrics.jsonl.
        limit: seconds of training, None for no end.
    """
    best: Reached | None = None
    for record in records:
        if record["kind"] != "eval" or (limit is not None and record["seconds"] > limit):
            continue
        heldout, validation = record.get("psnr"), record.get("psnr_validation")
        psnr = heldout if validation is None else validation
        if psnr is not None and (best is None or psnr > best.psnr):
            best = Reached(psnr, heldout, record["seconds"], record["step"])
    return best


def trained_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training so far, evaluations and checkpoints not counted."""
    return max((record["seconds"] for record in records if "seconds" in record), default=0.0)


def on_the_grid(records: Sequence[Mapping[str, Any]], limit: float, ended: bool) -> list[tuple[int, float]]:
    """(point, best PSNR until then) for the points of GRID this training has come to, 1 to GRID.

    Args:
        records: of metrics.jsonl.
        limit: the time of all trials in seconds, the last point.
        ended: training will not go on: what it has reached stays until the last point.
    """
    so_far = trained_seconds(records)
    found = []
    for point in range(1, GRID + 1):
        moment = limit * point / GRID
        best = reached(records, moment)
        if best is not None and (ended or so_far >= moment):
            found.append((point, best.psnr))
    return found


class Tail:
    """Reads a stream of records that grows, each line once, and all again where it was begun anew.

    Args:
        path: of metrics.jsonl; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.records = path, list[dict[str, Any]]()
        self._file, self._at, self._rest = -1, 0, b""

    def read(self) -> list[dict[str, Any]]:
        """All records so far; one that is still being written is left out."""
        try:
            with open(self.path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._file:  # a training that goes on from its checkpoint replaces the file
                    self._file, self._at, self._rest, self.records = inode, 0, b"", []
                file.seek(self._at)
                new = file.read()
        except FileNotFoundError:
            return self.records
        self._at += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        self.records += [json.loads(line) for line in lines if line]
        return self.records
