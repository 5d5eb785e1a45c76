"""Every error a user can meet, drawn as one tree.

SpaceportError
├── ParamsError          a parameter or preset is unknown, misspelt, of the wrong type or out of range
├── InputError           what was given to us cannot be used
│   ├── PhotosError      photographs: none, unreadable, too few, hostile archive
│   ├── ReconstructionError   structure from motion, or a COLMAP folder, gave no usable cameras
│   └── SplatFormatError      PLY or SOG: truncated, wrong fields, NaN
├── BackendError         the rasterizer asked for cannot run on this machine
├── QualityGateError     a stage ran, and what it made is not good enough to go on
├── StageError           a stage broke: worker died, time limit, failing cell
├── WorkspaceError       the run folder: disk full, not writable, in use by another process
│   └── FencedError           a later attempt at the same job has taken the run folder
├── QueueError           jobs
│   ├── JobUnknownError       no job of that name
│   ├── JobConflictError      the name, or the idempotency key with another request, is taken
│   └── QueueFullError        too many jobs wait already
├── NotAllowedError      a request that the rules of this service refuse
└── StoreError           S3 or another store of objects
    ├── StoreDeniedError      no credentials, or not the right to
    ├── StoreMissingError     no such bucket or object
    ├── StoreBusyError        it answered with a fault of its own again and again
    ├── StoreTimeoutError     it did not answer in time
    └── StoreCorruptError     what came is not what was sent

Each has a number, `code`, under which docs/errors.md explains it.
"""

from __future__ import annotations

from typing import ClassVar


class SpaceportError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: what went wrong, one sentence without a trailing period.
        got: what came instead, if that helps.
        expected: what would have been right.
        hint: the first thing to try.
        see: where there is more to read, such as a log.
    """

    code: ClassVar[str] = "SL-000"

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
        see: object = None,
    ) -> None:
        self.what, self.got, self.expected, self.hint, self.see = what, got, expected, hint, see
        lines = [f"{what}."]
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if got is not None:
            lines.append(f"  got:      {got}")
        if hint:
            lines.append(f"  try:      {hint}")
        if see is not None:
            lines.append(f"  see:      {see}")
        super().__init__("\n".join(lines))


class ParamsError(SpaceportError):
    """A parameter or preset is unknown, misspelt, of the wrong type or out of range."""

    code = "SL-100"


class InputError(SpaceportError):
    """What was given to us cannot be used."""

    code = "SL-200"


class PhotosError(InputError):
    """No photographs, unreadable ones only, too few, or a hostile archive."""

    code = "SL-210"


class ReconstructionError(InputError):
    """Structure from motion, or somebody's COLMAP folder, gave no usable cameras."""

    code = "SL-220"


class SplatFormatError(InputError):
    """A PLY or SOG file is truncated, lacks fields, or holds values that cannot be."""

    code = "SL-230"


class BackendError(SpaceportError):
    """The rasterizer asked for cannot run on this machine, or its input is not usable."""

    code = "SL-300"


class QualityGateError(SpaceportError):
    """A stage ran, and what it made is not good enough to go on."""

    code = "SL-400"


class StageError(SpaceportError):
    """A stage broke: its worker died, a time limit ended it, a cell failed."""

    code = "SL-500"


class WorkspaceError(SpaceportError):
    """The run folder cannot be used: disk full, not writable, in use by another process."""

    code = "SL-600"


class FencedError(WorkspaceError):
    """A later attempt at the same job has taken the run folder."""

    code = "SL-610"


class QueueError(SpaceportError):
    """Something about the queue of jobs."""

    code = "SL-700"


class JobUnknownError(QueueError):
    """There is no job of that name."""

    code = "SL-710"


class JobConflictError(QueueError):
    """The name, or the idempotency key with another request, is taken."""

    code = "SL-720"


class QueueFullError(QueueError):
    """Too many jobs wait already."""

    code = "SL-730"


class NotAllowedError(SpaceportError):
    """A request that the rules of this service refuse."""

    code = "SL-740"


class StoreError(SpaceportError):
    """S3, or another store of objects, did not do what was asked."""

    code = "SL-800"


class StoreDeniedError(StoreError):
    """No credentials for the store, or not the right to."""

    code = "SL-810"


class StoreMissingError(StoreError):
    """The store has no such bucket or object."""

    code = "SL-820"


class StoreBusyError(StoreError):
    """The store answered with a fault of its own, again and again."""

    code = "SL-830"


class StoreTimeoutError(StoreError):
    """The store did not answer in time."""

    code = "SL-840"


class StoreCorruptError(StoreError):
    """What came from the store is not what was sent to it."""

    code = "SL-850"
