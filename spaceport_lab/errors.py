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
└── WorkspaceError       the run folder: disk full, not writable, in use by another process
"""

from __future__ import annotations


class SpaceportError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: what went wrong, one sentence without a trailing period.
        got: what came instead, if that helps.
        expected: what would have been right.
        hint: the first thing to try.
        see: where there is more to read, such as a log.
    """

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


class InputError(SpaceportError):
    """What was given to us cannot be used."""


class PhotosError(InputError):
    """No photographs, unreadable ones only, too few, or a hostile archive."""


class ReconstructionError(InputError):
    """Structure from motion, or somebody's COLMAP folder, gave no usable cameras."""


class SplatFormatError(InputError):
    """A PLY or SOG file is truncated, lacks fields, or holds values that cannot be."""


class BackendError(SpaceportError):
    """The rasterizer asked for cannot run on this machine, or its input is not usable."""


class QualityGateError(SpaceportError):
    """A stage ran, and what it made is not good enough to go on."""


class StageError(SpaceportError):
    """A stage broke: its worker died, a time limit ended it, a cell failed."""


class WorkspaceError(SpaceportError):
    """The run folder cannot be used: disk full, not writable, in use by another process."""
