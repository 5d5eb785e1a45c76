"""Why a job failed, from whatever was raised, and whether trying again can help.

Final: input, parameters, gates, what is not allowed, a full disk, a fault of our own. Tried again: a store
that was busy or slow, a connection that broke, a process that was killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spaceport_lab import errors
from spaceport_lab.errors import SpaceportError, StageError, StoreBusyError, StoreTimeoutError, WorkspaceError
from spaceport_lab.jobs.model import Failure
from spaceport_lab.jobs.text import tidy
from spaceport_lab.jobs.watching import stage_entries
from spaceport_lab.workspace import folder_name

DISK_FULL = 74
"""Exit code of a job's process that could not write down how it ended (EX_IOERR of sysexits.h)."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_PASSING = (StoreBusyError, StoreTimeoutError, ConnectionError, TimeoutError)
_KINDS: dict[str, type[SpaceportError]] = {
    name: kind for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SpaceportError)
}  # fmt: skip

KILLED = "the notebook's process died"
"""How `pipeline.run` begins to speak of a stage whose process left no error behind."""


def from_exception(
    error: BaseException, root: Path | None = None, log: Path | str = ""
) -> tuple[Failure, bool]:
    """What to tell about an error, and whether to try again.

    Never raises: an error without a message, with a huge one, with bytes that are no UTF-8 or with causes in
    a circle gives a failure all the same.

    Args:
        error: what was raised.
        root: the run folder, where the failing stage left its own error.
        log: file to look into when the error names none.
    """
    stage, problem = _of_stage(root) if isinstance(error, StageError) and root else ("", {})
    if isinstance(error, SpaceportError):
        failure = Failure(
            code=error.code,
            stage=stage,
            message=tidy(_lines(error)),
            hint=tidy(error.hint or "", 1000),
            log=tidy(error.see if error.see is not None else log, 1000),
        )
    else:
        failure = Failure(
            code=_code(error), stage=stage, message=tidy("; ".join(_chain(error))), log=tidy(log, 1000)
        )
    if problem:
        failure = _with_inner(failure, problem)
    return failure, _may_pass(error, problem)


def from_exit(code: int, stage: str, log: Path | str) -> Failure:
    """Of a job's process that ended without a word.

    Args:
        code: exit code; below 0, or above 128 as shells have it, the signal that ended it.
        stage: at work when it was last looked at, or empty.
        log: what it said until then.
    """
    number = -code if code < 0 else max(0, code - 128)
    how = f"by signal {number}" if number else f"with exit code {code}"
    return Failure(
        code=StageError.code,
        stage=stage,
        message=f"the job's process ended {how} and left no result",
        hint="most often the memory was full: fewer Gaussians (train.cap_max) or smaller images "
        "(sfm.train_size) need less"
        if number == signal.SIGKILL
        else "the log's last lines say more",
        log=tidy(log, 1000),
    )


def disk_full(log: Path | str) -> Failure:
    """Of a job that could not even write down how it ended."""
    return Failure(
        code=WorkspaceError.code,
        message="the disk is full or cannot be written: the job could not write down how it ended",
        hint="free some space, then submit it again; finished stages are not run again",
        log=tidy(log, 1000),
    )


def retry_delay(attempt: int) -> float:
    """Seconds to wait after so many attempts: half a minute, two, eight, then ten at the most."""
    return min(30.0 * 4.0 ** max(0, attempt - 1), 600.0)


def _may_pass(error: BaseException, problem: dict[str, Any]) -> bool:
    if isinstance(error, _PASSING):
        return True
    if not isinstance(error, StageError):
        return False
    name = str(problem.get("name", ""))
    kind = _KINDS.get(name)
    if kind is not None:
        return issubclass(kind, (StoreBusyError, StoreTimeoutError))
    return name == "DeadKernelError" or (not name and KILLED in str(error))


def _of_stage(root: Path) -> tuple[str, dict[str, Any]]:
    """The stage that failed as the run card has it, and the error.json it left: name, message, cell."""
    for stage, entry in stage_entries(root).items():
        if entry.get("status") != "failed":
            continue
        with contextlib.suppress(OSError, ValueError):
            problem = json.loads((Path(root) / folder_name(stage) / "error.json").read_text(errors="replace"))
            return stage, problem if isinstance(problem, dict) else {}
        return stage, {}
    return "", {}


def _with_inner(failure: Failure, problem: dict[str, Any]) -> Failure:
    """A stage's failure with the number and the advice of what was raised inside of its notebook."""
    kind = _KINDS.get(str(problem.get("name", "")))
    text = str(problem.get("message", ""))
    advice = re.search(r"^ *try: +(.+)$", text, re.MULTILINE)
    return Failure(
        code=kind.code if kind else failure.code,
        stage=failure.stage,
        message=failure.message,
        hint=tidy(advice[1], 1000) if advice else failure.hint,
        log=failure.log,
    )


def _lines(error: SpaceportError) -> str:
    """The error's own text less what has a field of its own."""
    with contextlib.suppress(Exception):
        kept = [line for line in str(error).splitlines() if not re.match(r" *(try|see): ", line)]
        return "\n".join(kept)
    return type(error).__name__


def _chain(error: BaseException) -> Iterator[str]:
    """`Type: message` of an error and of what caused it, five at the most."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < 5:
        seen.add(id(current))
        text = tidy(current, 1500).strip()
        kind = type(current).__name__
        yield f"{'caused by ' if len(seen) > 1 else ''}{kind}: {text}" if text else kind
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _code(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in _DISK:
        return WorkspaceError.code
    if isinstance(error, TimeoutError):
        return StoreTimeoutError.code
    if isinstance(error, ConnectionError):
        return StoreBusyError.code
    return SpaceportError.code
