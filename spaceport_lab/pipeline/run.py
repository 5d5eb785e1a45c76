"""Running the notebooks in order, one process each, with a live line and a run card."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab import costs, errors, fence, files, logs, report, runcard, tracking
from spaceport_lab.errors import SpaceportError, StageError
from spaceport_lab.naming import STAGE_SUFFIX
from spaceport_lab.params import Resolved, StageParams, resolve
from spaceport_lab.params.cells import notebook_path
from spaceport_lab.pipeline.display import Display
from spaceport_lab.pipeline.holding import PARENT, only_writer, termination_as_interrupt
from spaceport_lab.pipeline.jobs import adopt_run, open_run, prepare_stage
from spaceport_lab.pipeline.request import Request
from spaceport_lab.pipeline.sending import Sent
from spaceport_lab.workspace import StageRun, folder_name

GRACE_SECONDS = 5.0
"""After a stop is asked for, a stage gets this long before it is killed."""


_OWN_ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type)}


@dataclass(frozen=True)
class RunResult:
    """What a finished pipeline gives back: the run folder and its card."""

    root: Path
    card: dict[str, Any]

    @property
    def report(self) -> Path:
        """The report: one file that opens offline."""
        return self.root / "report.html"


def run_pipeline(
    request: Request,
    presets: Sequence[str] = (),
    overrides: Sequence[str] = (),
    job: str | None = None,
    new: bool = False,
    display: Display | None = None,
    mlflow: str = "",
    usd_per_hour: float = 0.0,
    output: str = "",
) -> RunResult:
    """Run the request's stages; finished ones with the same key are not run again.

    All parameters are validated before anything is written.

    Args:
        request: what to run, from `make_request`.
        presets: names or paths of presets, later ones win.
        overrides: `STAGE.NAME=VALUE` texts.
        job: a name; None continues the newest equal request, or makes a new name.
        new: with no name: always start a new job.
        display: where progress is shown; None shows none.
        mlflow: store that takes the run once it has ended, see `tracking.log_run`; empty: none.
        usd_per_hour: what this machine costs; the card then says what each stage did. 0: the price file is
            asked, where SPACEPORT_INSTANCE says what this machine is.
        output: prefix in S3, s3://bucket/runs, that gets the run folder as `<output>/<job>/`: after each
            stage, and with a marker once all went well. What it has of the job already is brought back first,
            so that no finished stage runs again on another machine. Empty: nothing is sent.

    Raises:
        ParamsError: a parameter, preset or job name cannot be used; nothing was written.
        BackendError: CUDA was asked for and cannot be had; nothing was written.
        StageError: a notebook failed; the message is the failing cell's own.
        WorkspaceError: the run folder is in use, full or not writable.
        StoreError: `output` cannot be used, which is found out before anything runs, or broke off.
    """
    resolved = resolve(presets, overrides, request.fixed)
    _preflight(request, resolved)
    asked = {
        "steps": request.steps,
        "source": request.fixed or str(request.adopt),
        "presets": list(presets),
        "overrides": list(overrides),
    }
    root = open_run(request, asked, job, new)
    display = display or Display(quiet=True)
    with logs.bound(root.name), only_writer(root), termination_as_interrupt():
        sent = Sent(root, output, display)
        sent.begin()
        _open_card(root, request, resolved, asked)
        if request.adopt is not None:
            adopt_run(request.adopt, root, before=request.stages[0])
        display.start(root, request.stages)
        try:
            ran = False
            for stage in request.stages:
                ran |= _run_stage(root, stage, resolved, display)
                sent.sync()
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            _close_card(root, "interrupted" if stopped else "failed", error, usd_per_hour)
            if not stopped:
                # A report of what there is helps to see why; that it cannot be written must not hide why.
                with contextlib.suppress(Exception):
                    report.write_report(root)
                _track(root, mlflow, display)
            sent.abandon(error)
            raise
        finally:
            display.stop()
        _close_card(root, "succeeded", None, usd_per_hour)
        if ran or not (root / "report.html").exists():
            report.write_report(root)
        _track(root, mlflow, display)
        sent.complete()
    return RunResult(root, runcard.read(root) or {})


def _track(root: Path, store: str, display: Display) -> None:
    """Write the run into MLflow where asked for; what goes wrong there is said and fails nothing."""
    if not store:
        return
    # A full disk must not hide the error that is already on its way.
    with contextlib.suppress(SpaceportError):
        if warning := tracking.log_run(root, store):
            display.warn(warning)


def _preflight(request: Request, resolved: Resolved) -> None:
    """Refuse now what would otherwise fail an hour later."""
    if "train" in request.stages and resolved.params["train"].backend != "cpu":
        from spaceport_lab.backends import choose_backend

        choose_backend(resolved.params["train"].backend)


def _run_stage(root: Path, stage: str, resolved: Resolved, display: Display) -> bool:
    """Run a stage unless it has finished; returns whether it ran."""
    params = resolved.params[stage].model_copy(update={"run_dir": str(root)})
    run = StageRun(root, stage)
    fence.check(run.dir)  # before anything in it is cleared away
    state = prepare_stage(run, params)
    if state != "todo":
        manifest = json.loads((run.dir / "stage.json").read_text())
        known = (runcard.read(root) or {})["stages"].get(stage, {}).get("metrics") or {}
        runcard.update_stage(
            root,
            stage,
            status="succeeded",
            error=None,
            metrics={**known, **manifest["metrics"]},
            warnings=manifest["warnings"],
        )
        display.skipped(stage, state, manifest["metrics"])
        return False
    display.begin(stage)
    started = time.monotonic()
    try:
        _execute(run, params, display)
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
        status = "interrupted" if interrupted else "failed"
        message = None if interrupted else str(error)
        runcard.update_stage(root, stage, status=status, error=message, ended=runcard.now())
        display.failed(stage)
        raise
    card = (runcard.read(root) or {})["stages"][stage]
    display.done(stage, time.monotonic() - started, card["metrics"], card["warnings"])
    return True


def _execute(run: StageRun, params: StageParams, display: Display) -> None:
    """One notebook through papermill in a process of its own; polls its progress file meanwhile."""
    name = folder_name(run.stage)
    log = run.root / "logs" / f"{name}.log"
    spec = {
        "notebook": str(notebook_path(run.stage)),
        "output": str(run.root / "notebooks" / f"{name}.ipynb"),
        # Only what differs: the notebook's own cell holds the defaults, and the record stays readable.
        "parameters": params.model_dump(exclude_defaults=True),
        "cwd": str(run.dir),
        "error": str(run.dir / "error.json"),
    }
    with files.clear_os_errors(run.dir):
        for folder in (run.dir, run.root / "notebooks", log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        for stale in (run.dir / "error.json", run.root / "progress.json"):
            stale.unlink(missing_ok=True)
    # Not in the run folder: on a shared file system there may be no sockets, and its path may be too long.
    with tempfile.TemporaryDirectory(prefix="kernel-", ignore_cleanup_errors=True) as sockets:
        files.write_json(run.dir / "spec.json", {**spec, "sockets": sockets})
        code = _follow(run, log, display)
    (run.dir / "spec.json").unlink(missing_ok=True)
    if code != 0:
        raise _stage_error(run, spec, log)


def _follow(run: StageRun, log: Path, display: Display) -> int:
    """The process of a stage, from its start to its end; returns its exit code."""
    command = [sys.executable, "-m", "spaceport_lab.pipeline.execute", str(run.dir / "spec.json")]
    # A kernel named python3 in the user's home must not win over the one beside this interpreter.
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    environment |= {**logs.child_environment(run.job, run.stage), PARENT: str(os.getpid())}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            while process.poll() is None:
                _keep_log(process, log)
                display.progress(run.stage, _read_progress(run.root))
                time.sleep(0.1)
        finally:
            _stop(process)
            with contextlib.suppress(SpaceportError):  # its last words; they must not hide what is on its way
                _keep_log(process, log)
    return process.returncode


def _keep_log(process: subprocess.Popen[bytes], log: Path) -> None:
    """Append to the log what a stage has said since the last look.

    Raises:
        FencedError: a later attempt has the run folder. This is asked at each look, for COLMAP and others
            write without asking: they are stopped now, not when the stage next writes something that asks.
        WorkspaceError: the disk is full.
    """
    fence.check(log)
    assert process.stdout is not None
    source = process.stdout.fileno()
    os.set_blocking(source, False)
    with contextlib.suppress(BlockingIOError), files.clear_os_errors(log), open(log, "ab") as kept:
        while said := os.read(source, 65536):
            kept.write(said)


def _stage_error(run: StageRun, spec: dict[str, Any], log: Path) -> StageError:
    try:
        problem = json.loads(Path(spec["error"]).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        text = log.read_text(errors="replace") if log.exists() else ""
        tail = text.strip().splitlines()[-3:]
        problem = {"name": "the notebook's process died", "message": "\n".join(tail) or "no message"}
    name = f"{run.job}-{STAGE_SUFFIX[run.stage]}"
    kind, message = problem["name"], problem["message"].strip().removesuffix(".")
    if kind not in _OWN_ERRORS:
        message = f"{kind}: {message}"
    return StageError(f"{name} failed: {message}", see=f"{spec['output']} and {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read_progress(root: Path) -> dict[str, Any] | None:
    try:
        return json.loads((root / "progress.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _open_card(root: Path, request: Request, resolved: Resolved, asked: dict[str, Any]) -> None:
    def change(card: dict[str, Any]) -> None:
        card.update(
            status="running",
            error=None,
            steps=request.steps,
            request=asked,
            pid=os.getpid(),
            params=resolved.card(),
            versions=runcard.versions(),
            host=runcard.host(),
            git=runcard.git_state(),
        )
        for stage in request.stages:
            entry = card["stages"].setdefault(stage, {})
            entry.setdefault("status", "pending")
            entry["name"] = f"{root.name}-{STAGE_SUFFIX[stage]}"

    runcard.update(root, change)


def _close_card(root: Path, status: str, error: BaseException | None, usd_per_hour: float) -> None:
    message = str(error) if isinstance(error, SpaceportError) else repr(error) if error else None
    earlier = costs.read_cards(root.parents[2])

    def change(card: dict[str, Any]) -> None:
        card.update(status=status, error=message, ended=runcard.now())
        card["seconds"] = round(sum(s.get("seconds") or 0 for s in card["stages"].values()), 2)
        costs.note(card, root, usd_per_hour=usd_per_hour, earlier=earlier)

    # A full disk must not hide the error that is already on its way.
    with contextlib.suppress(SpaceportError):
        runcard.update(root, change)
