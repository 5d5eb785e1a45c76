"""A process that works on a sweep's trials: `python -m spaceport_lab.sweep.worker FOLDER TRIALS`."""

from __future__ import annotations

import sys
from pathlib import Path

from spaceport_lab.errors import SpaceportError
from spaceport_lab.notebook import die_with_parent
from spaceport_lab.sweep.running import work
from spaceport_lab.sweep.study import load, open_study

INTERRUPTED = 130
"""Exit code as shells have it."""


def main(folder: Path, n_trials: int) -> int:
    """Work until all trials are done; returns the exit code."""
    sweep = load(folder)
    try:
        work(open_study(sweep), sweep, n_trials)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SpaceportError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
