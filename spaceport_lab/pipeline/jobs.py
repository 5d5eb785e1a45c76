"""Job names, and finding finished work that need not be done again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from spaceport_lab import files, runcard
from spaceport_lab.errors import ParamsError, WorkspaceError
from spaceport_lab.naming import JOB_NAME, job_name, slug
from spaceport_lab.params import STAGES, StageParams
from spaceport_lab.pipeline.request import Request
from spaceport_lab.workspace import (
    StageRun,
    folder_name,
    gather_inputs,
    is_done,
    read_manifest,
    stage_key,
)

_NEVER_LINKED = (".json", ".jsonl", ".txt")


def open_run(request: Request, asked: dict[str, Any], job: str | None, new: bool = False) -> Path:
    """The run folder to work in: the named job's, the newest with the same request, or a new one.

    Args:
        request: what was asked for.
        asked: the request as the run card keeps it; a run with an equal one is continued.
        job: the name given by a person, or None.
        new: start a new job even when an equal request was run before.

    Raises:
        ParamsError: the name is not a job name.
        WorkspaceError: another scene has a job of this name, or the folder cannot be made.
    """
    runs = request.scene_dir / "runs"
    if job is not None:
        if not JOB_NAME.fullmatch(job):
            raise ParamsError(
                f"{job!r} is not a job name",
                expected="lower-case letters, digits and inner hyphens, 41 at the most",
                hint=slug(job),
            )
        clash = [p for p in request.scene_dir.parent.glob(f"*/runs/{job}") if p.parent != runs]
        if clash:
            raise WorkspaceError(
                f"there is a job {job!r} of another scene already", got=clash[0], hint="choose another name"
            )
        root = runs / job
        with files.clear_os_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        return root
    if not new:
        equal = [p for p in runs.glob("*/run.json") if _asked(p.parent) == asked]
        if equal:
            return max(equal, key=lambda p: p.stat().st_mtime).parent
    root = runs / job_name(slug(request.scene), time.time())
    with files.clear_os_errors(root):
        # exist_ok stays False: two runs started in the same second must never share a folder.
        root.mkdir(parents=True)
    return root


def prepare_stage(run: StageRun, params: StageParams) -> str:
    """Make a stage's folder ready; returns `done`, `reused` or `todo`.

    `done`: this run has it with the same key. `reused`: another run of the scene had it, and it was linked
    here. `todo`: it has to run; what an attempt with another key left behind is removed.
    """
    key = stage_key(run.stage, params, gather_inputs(run, params))
    if is_done(run, key):
        return "done"
    donor = _find_finished(run, key)
    if donor is not None:
        adopt_stage(donor, run.dir)
        return "reused"
    if read_manifest(run.dir) is not None:
        # Finished with other params or inputs: nothing of it may leak into the new attempt.
        shutil.rmtree(run.dir)
    return "todo"


def adopt_run(donor: Path, root: Path, before: str) -> None:
    """Link all finished stages before `before` from one run into another."""
    for stage in STAGES[: STAGES.index(before)]:
        source = donor / folder_name(stage)
        manifest = read_manifest(source)
        if manifest is not None and donor != root:
            adopt_stage(source, root / folder_name(stage))
        if manifest is not None:
            runcard.update_stage(
                root,
                stage,
                status="succeeded",
                reused_from=donor.name,
                metrics=manifest["metrics"],
                warnings=manifest["warnings"],
            )


def adopt_stage(source: Path, target: Path) -> None:
    """Link a finished stage's outputs into another folder; small text files are copied.

    Files that grow in place must not be shared, so text is never linked; stage.json comes last.
    """
    manifest = read_manifest(source)
    assert manifest is not None
    if target.exists():
        shutil.rmtree(target)
    for name in manifest["outputs"]:
        path = source / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            place = target / file.relative_to(source)
            if file.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            elif file.suffix in _NEVER_LINKED:
                files.write_bytes(place, file.read_bytes())
            else:
                files.link_or_copy(file, place)
    files.write_json(target / "stage.json", manifest)


def _find_finished(run: StageRun, key: str) -> Path | None:
    for stage_dir in sorted(run.root.parent.glob(f"*/{folder_name(run.stage)}")):
        manifest = read_manifest(stage_dir)
        if manifest is None or manifest.get("key") != key or stage_dir == run.dir:
            continue
        if all((stage_dir / name).exists() for name in manifest["outputs"]):
            return stage_dir
    return None


def _asked(root: Path) -> Any:
    return (runcard.read(root) or {}).get("request")
