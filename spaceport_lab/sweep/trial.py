"""One trial: an ordinary run that trains, measured on the way, ended when its time is over."""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from optuna.study import Study
from optuna.trial import Trial, TrialState

from spaceport_lab import files, runcard, train, workspace
from spaceport_lab.errors import SpaceportError, StageError
from spaceport_lab.params import Resolved, TrainParams
from spaceport_lab.sweep.study import Sweep, changes, limit
from spaceport_lab.sweep.timing import Reached, Tail, on_the_grid, reached, trained_seconds
from spaceport_lab.train.control import Control
from spaceport_lab.workspace import Progress, StageRun

Watch = Callable[[int, Progress], None]
"""Told how far a trial is: its number, the state."""


def work_on(study: Study, sweep: Sweep, trial: Trial, watch: Watch = lambda number, state: None) -> None:
    """Train a trial, or go on with it, and tell the study how it went.

    Raises:
        StageError: it is the default, whose time all others need, and it failed.
        KeyboardInterrupt: passed on; the trial stays as running and is taken up again.
    """
    default = bool(trial.user_attrs.get("default"))
    resolved = sweep.resolved(changes(trial, sweep.space))
    run = _open(sweep, trial, resolved)
    try:
        pruned = _train(study, run, trial, resolved.params["train"], watch)
        best = _judge(study, run, trial, default)
    except KeyboardInterrupt:
        _keep(run, "interrupted", "stopped; the same command goes on from here")
        raise
    except Exception as error:
        # One trial must not cost the others, whatever it met: memory, NaN, a bug. The whole story is kept.
        reason = _tell_of(run, error)
        if default:
            raise StageError(
                "the default failed, and its training time is what all trials are measured by",
                got=reason,
                see=run.dir / "error.txt",
            ) from error
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
        return
    for name in ("psnr", "heldout", "seconds", "step"):
        trial.set_user_attr(f"best_{name}", getattr(best, name))
    study.tell(trial, None if pruned else best.psnr, TrialState.PRUNED if pruned else TrialState.COMPLETE)


def _open(sweep: Sweep, trial: Trial, resolved: Resolved) -> StageRun:
    """The trial's run folder with its card and the shared sfm stage."""
    root = sweep.run_dir(trial.number)
    workspace.share_stage(sweep.source, root, "sfm")
    shared = workspace.read_manifest(root / "02_sfm") or {}

    def fill(card: dict[str, Any]) -> None:
        card.update(status="running", error=None, steps="3dgs", params=resolved.card())
        card["sweep"] = {"name": sweep.name, "trial": trial.number, "changes": changes(trial, sweep.space)}
        card["stages"]["sfm"] = {
            "status": "succeeded", "reused_from": sweep.source.name, "metrics": shared.get("metrics") or {},
            "warnings": shared.get("warnings") or [],
        }  # fmt: skip
        card["stages"]["train"] = {
            "status": "running",
            "started": runcard.now(),
            "metrics": {},
            "warnings": [],
        }

    runcard.update(root, fill)
    run = StageRun(root, "train")
    with files.clear_os_errors(run.dir):
        run.dir.mkdir(parents=True, exist_ok=True)
        (run.dir / "error.txt").unlink(missing_ok=True)
    return run


def _train(study: Study, run: StageRun, trial: Trial, p: Any, watch: Watch) -> bool:
    """Train until steps or time are over, or the pruner sees no hope; returns whether that was so."""
    assert isinstance(p, TrainParams)
    if trial.user_attrs.get("reason"):
        return True  # its process died between the pruner's word and the study's
    seconds, said = limit(study), set(study.trials[trial.number].intermediate_values)
    key = workspace.stage_key("train", p, workspace.gather_inputs(run, p))
    if workspace.is_done(run, key):
        _keep(run, "succeeded", "", workspace.read_manifest(run.dir) or {})
        return False
    (run.dir / "stage.json").unlink(missing_ok=True)
    control, tail, looked_at = Control(p), Tail(run.dir / "metrics.jsonl"), 0
    states = train.run(run, p, control)
    try:
        for state in states:
            watch(trial.number, state)
            records = tail.read()
            if seconds is None or len(records) == looked_at:
                continue
            looked_at = len(records)
            if _pruned(trial, on_the_grid(records, seconds, ended=False), said):
                states.close()
                share = trained_seconds(records) / seconds
                _prune(run, trial, f"pruned at {min(1.0, share):.0%} of the time")
                return True
            if trained_seconds(records) > seconds:
                control.stop()
    finally:
        states.close()
    if run.failed_gates:
        raise run.failed_gates[0]
    if run.metrics.get("stopped_by") == "nan":
        raise StageError("training met NaN", see=run.dir)
    workspace.write_manifest(run, p)
    over = seconds is not None and run.metrics.get("stopped_by") == "person"
    _keep(run, "succeeded", f"its time of {seconds:.1f} s was over" if over else "")
    return False


def _pruned(trial: Trial, points: list[tuple[int, float]], said: set[int]) -> bool:
    """Report what is new, and ask the pruner after each point as if it had come alone."""
    for point, psnr in points:
        if point not in said:
            said.add(point)
            trial.report(psnr, point)
            if not trial.user_attrs.get("default") and trial.should_prune():
                return True
    return False


def _judge(study: Study, run: StageRun, trial: Trial, default: bool) -> Reached:
    """What the trial reached in its time; the default says what that time is."""
    records = train.records(run)
    if default:
        trial.set_user_attr("limit", trained_seconds(records))
    seconds = trained_seconds(records) if default else limit(study)
    best = reached(records, seconds)
    if best is None:
        raise StageError(f"not one evaluation within {seconds or 0:.1f} s of training")
    known = set(study.trials[trial.number].intermediate_values)
    if not trial.user_attrs.get("reason"):
        for point, psnr in on_the_grid(records, seconds or 0.0, ended=True):
            if point not in known:
                trial.report(psnr, point)
    return best


def _prune(run: StageRun, trial: Trial, reason: str) -> None:
    trial.set_user_attr("reason", reason)
    # Nobody goes on from there, and checkpoints are large.
    (run.dir / "checkpoint.pt").unlink(missing_ok=True)
    _keep(run, "pruned", reason)


def _keep(run: StageRun, status: str, reason: str, manifest: dict[str, Any] | None = None) -> None:
    """Write the run card, as the notebook of the stage does."""
    made = manifest or {"metrics": run.metrics, "warnings": run.warnings}
    if reason:
        made = {**made, "warnings": [*made["warnings"], reason]}
    figures = (
        {} if manifest else {"seconds": round(time.time() - run.started, 2), "peak_rss_mb": _peak_rss_mb()}
    )
    entry = {**figures, "metrics": made["metrics"], "warnings": made["warnings"], "ended": runcard.now()}
    error = reason if status != "succeeded" else None
    runcard.update_stage(run.root, "train", status=status, error=error, **entry)
    runcard.update(run.root, lambda card: card.update(status=status, ended=runcard.now()))


def _tell_of(run: StageRun, error: Exception) -> str:
    """Keep an error beside the run and on its card; returns its first line."""
    own = isinstance(error, SpaceportError)
    files.write_text(run.dir / "error.txt", str(error) if own else traceback.format_exc())
    first = (str(error).strip().splitlines() or [""])[0]
    reason = first if own else f"{type(error).__name__}: {first}"
    _keep(run, "failed", reason)
    return reason


def _peak_rss_mb() -> float:
    """Peak resident memory of this process in megabytes; of all its trials so far."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
