"""One notebook in one process: `python -m spaceport_lab.pipeline.execute SPEC.json`.

SPEC holds notebook, output, parameters, cwd, error and sockets (a folder with a short path). What cells print
goes to standard output, of which the pipeline makes the log. On failure `error` is written with the failing
cell's own message, and the exit code is 1.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.iorw import LocalHandler, papermill_io
from traitlets.config import Config

from spaceport_lab import files, logs
from spaceport_lab.errors import SpaceportError
from spaceport_lab.notebook import die_with_parent
from spaceport_lab.pipeline.holding import PARENT

LONGEST_SOCKET = 100
"""[bytes] Paths of sockets may have 107, on a Mac 103."""


class Record(LocalHandler):  # type: ignore[misc]
    """How papermill saves the executed notebook, before and after each cell: whole or not at all, and only
    for as long as the run folder is this attempt's (see `fence`)."""

    def write(self, buf: str, path: str) -> None:
        """Replace the file."""
        files.write_text(Path(path), buf)


def execute(spec: dict[str, Any]) -> int:
    """Execute a notebook with papermill as the spec says; returns the exit code."""
    logs.configure(level="WARNING")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    papermill_io.register(spec["output"], Record())  # for what begins so, that is for this file
    try:
        papermill.execute_notebook(
            spec["notebook"],
            spec["output"],
            parameters=spec["parameters"],
            cwd=spec["cwd"],
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stdout,
            config=_over_sockets(Path(spec["sockets"])),
        )
    except papermill.PapermillExecutionError as error:
        problem = {"name": error.ename, "message": error.evalue, "cell": error.source}
    except DeadKernelError as error:
        problem = {
            "name": "DeadKernelError",
            "message": f"the notebook's kernel died ({error}); most often the memory was full. "
            "Try fewer Gaussians (train.cap_max) or smaller images (sfm.train_size).",
            "cell": "",
        }
    except SpaceportError as error:  # the notebook could not be saved
        problem = {"name": type(error).__name__, "message": str(error), "cell": ""}
    else:
        return 0
    print(f"\n{problem['name']}: {problem['message']}")
    with contextlib.suppress(SpaceportError):  # then the log's last lines must do
        files.write_json(Path(spec["error"]), problem)
    return 1


def _over_sockets(folder: Path) -> Config:
    """Talk to the kernel through files in `folder`, where the system can.

    A TCP port is looked for before the kernel starts and bound by it seconds later. Where many programs take
    ports, as on a node of a cluster, it is another's by then, and the kernel dies without a word.
    """
    path = str(folder / "k")  # -1, -2 … are put behind it
    if os.name != "posix" or len(os.fsencode(path)) > LONGEST_SOCKET:
        return Config()
    return Config(KernelManager={"transport": "ipc", "ip": path})


if __name__ == "__main__":
    die_with_parent()
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        sys.exit(130)  # it died while this was being imported
    sys.exit(execute(json.loads(Path(sys.argv[1]).read_text())))
