"""Where tuning happens: in a run of its own, so that a finished one is never touched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spaceport_lab import notebook, workspace
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.workspace import StageRun, folder_name

SUFFIX = "-tune"


def apart(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters cell with a run folder beside the one it names: `bench` is tuned in `bench-tune`.

    The new run shares the sfm stage of the given one by a link; it is an ordinary run otherwise.

    Args:
        cell: the notebook's `globals()`; `run_dir` names the run to tune, empty the bench run.

    Raises:
        WorkspaceError: that run has no finished sfm stage, or the folder cannot be written.
    """
    given = cell.get("run_dir") or ""
    root = Path(given).resolve() if given else notebook.bench_run()
    if root.name.endswith(SUFFIX):
        return {**cell, "run_dir": str(root)}
    if not StageRun(root, "train").has("sfm"):
        raise WorkspaceError(
            "there is nothing to tune yet: training needs what the sfm stage makes",
            got=f"no {folder_name('sfm')}/stage.json in {root}",
            hint=f"run notebooks/{folder_name('ingest')}.ipynb and {folder_name('sfm')}.ipynb first, or set "
            "run_dir to a run that has both",
        )
    folder = root.with_name(root.name + SUFFIX)
    workspace.share_stage(root, folder, "sfm")
    return {**cell, "run_dir": str(folder)}
