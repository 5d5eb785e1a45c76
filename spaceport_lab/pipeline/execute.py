"""One notebook in one process: `python -m spaceport_lab.pipeline.execute SPEC.json`.

SPEC holds notebook, output, parameters, cwd, log and error (paths). On failure `error` is written with the
failing cell's own message, and the exit code is 1.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import DeadKernelError

from spaceport_lab import files, logs
from spaceport_lab.notebook import die_with_parent
from spaceport_lab.pipeline.holding import PARENT


def execute(spec: dict[str, Any]) -> int:
    """Execute a notebook with papermill as the spec says; returns the exit code."""
    logs.configure(level="WARNING")
    with open(spec["log"], "a", encoding="utf-8", buffering=1) as log:
        try:
            papermill.execute_notebook(
                spec["notebook"],
                spec["output"],
                parameters=spec["parameters"],
                cwd=spec["cwd"],
                kernel_name="python3",
                progress_bar=False,
                stdout_file=log,
                stderr_file=log,
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
        else:
            return 0
        log.write(f"\n{problem['name']}: {problem['message']}\n")
    files.write_json(Path(spec["error"]), problem)
    return 1


if __name__ == "__main__":
    die_with_parent()
    if os.getppid() != int(os.environ.get(PARENT, os.getppid())):
        sys.exit(130)  # it died while this was being imported
    sys.exit(execute(json.loads(Path(sys.argv[1]).read_text())))
