"""The process COLMAP runs in: `python -m spaceport_lab.sfm.worker JOB.json`.

Writes one JSON object a line to standard output: `{"progress": …}`, and at the end `{"result": …}` or
`{"error": …}`. Whatever COLMAP prints goes to standard error.
"""

from __future__ import annotations

# Before pycolmap, whose wheel exports zlib symbols of its own: loaded first they would be used by everybody.
import zlib  # noqa: F401  isort: skip

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spaceport_lab.errors import SpaceportError
from spaceport_lab.sfm.reporter import Reporter


def die_with(parent_pid: int) -> None:
    """On Linux: be killed when the parent dies, so that no COLMAP outlives its notebook."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if hasattr(os, "getppid") and os.getppid() != parent_pid:
        os._exit(1)  # it died before we could ask


def main(path: str) -> int:
    """Do the job; returns the exit code."""
    job = json.loads(Path(path).read_text())
    die_with(job["parent_pid"])
    private = os.dup(1)
    os.dup2(2, 1)
    reporter = Reporter(private, Path(job["log"]))
    try:
        reporter.result(_task(job)(job, reporter))
    except SpaceportError as error:
        reporter.error(error)
    return 0


def _task(job: dict[str, Any]) -> Callable[[dict[str, Any], Reporter], dict[str, Any]]:
    # Only here, in the process made for it.
    from spaceport_lab.sfm import finishing, importing, reconstruction

    if job.get("task") == "write_text":
        return finishing.write_text
    return importing.take_over if job["import_path"] else reconstruction.reconstruct


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    # Without the interpreter's tidying up: COLMAP's and Python's libraries unload in an order that can crash.
    os._exit(code)
