"""What the comparison's notebook calls first: which runs, and figures as pictures."""

from __future__ import annotations

from pathlib import Path

from IPython.core.getipython import get_ipython
from IPython.core.pylabtools import select_figure_formats

from spaceport_lab import notebook
from spaceport_lab.comparing.compared import Comparison, compare


def gather(runs: str) -> Comparison:
    """The runs a notebook's parameter names.

    Args:
        runs: folders of runs or scenes, separated by commas; empty: all runs of the bench's scene.

    Raises:
        InputError: there is not one run.
    """
    shell = get_ipython()
    if shell is not None:
        select_figure_formats(shell, {"png"}, bbox_inches=None)
    folders = [Path(text.strip()) for text in runs.split(",") if text.strip()]
    return compare(folders or [notebook.bench_run().parents[1]])
