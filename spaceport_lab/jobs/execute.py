"""One attempt at a job in a process of its own: `python -m spaceport_lab.jobs.execute SPEC.json`.

SPEC holds name, token, data, ask, place, result and log. `place` is written as soon as the run folder is
known: {"run_dir", "stages"}, the latter as earlier attempts left them on the card. `result` is written last:
{"ok", "again", "interrupted", "failure"}. The exit code is 0, 1 for a failure, 130 when stopped, or DISK_FULL
when not even the result could be written.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

INTERRUPTED = 130


def execute(spec: dict[str, Any]) -> int:
    """Run the job's pipeline as the spec says; returns the exit code."""
    # Late: what stands above this must be done before these take their seconds.
    from spaceport_lab import files
    from spaceport_lab.errors import SpaceportError, WorkspaceError
    from spaceport_lab.jobs.failures import DISK_FULL, from_exception
    from spaceport_lab.jobs.model import Failure
    from spaceport_lab.jobs.text import tidy

    failure, again, interrupted = Failure(), False, False
    place: dict[str, Path] = {}
    try:
        _run(spec, place)
        code = 0
    except (KeyboardInterrupt, SystemExit):
        code, interrupted = INTERRUPTED, True
        failure = Failure(code="SL-500", message="the job was stopped", hint="submit it again to go on")
    except Exception as error:
        code = 1
        failure, again = from_exception(error, place.get("root"), spec["log"])
        if not isinstance(error, SpaceportError):
            print(tidy(traceback.format_exc()), file=sys.stderr)  # a fault of ours: where it was is asked for
        print(f"\n{failure.code}: {failure.message}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # how it ended must be written down now
    result = {"ok": code == 0, "again": again, "interrupted": interrupted, "failure": failure.as_dict()}
    try:
        files.write_json(Path(spec["result"]), result)
    except (WorkspaceError, OSError):
        return DISK_FULL
    return code


def _run(spec: dict[str, Any], place: dict[str, Path]) -> None:
    from spaceport_lab import fence, files
    from spaceport_lab.jobs.model import Ask
    from spaceport_lab.jobs.watching import stage_entries
    from spaceport_lab.params import resolve
    from spaceport_lab.pipeline import make_request, run_pipeline
    from spaceport_lab.pipeline.display import Display
    from spaceport_lab.pipeline.jobs import open_run

    ask = Ask.model_validate(spec["ask"])
    request = make_request(ask.source, ask.steps, Path(spec["data"]), ask.scene)
    resolve(ask.presets, ask.overrides, request.fixed)  # before anything is written
    root = open_run(request, {}, spec["name"])
    with files.clear_os_errors(root):
        fence.take(root, spec["token"])
    place["root"] = root
    files.write_json(Path(spec["place"]), {"run_dir": str(root), "stages": stage_entries(root)})
    options: dict[str, Any] = {"output": ask.output} if ask.output else {}
    run_pipeline(
        request,
        ask.presets,
        ask.overrides,
        job=spec["name"],
        display=Display(),
        mlflow=os.environ.get("SPACEPORT_MLFLOW", ""),
        usd_per_hour=_usd_per_hour(),
        **options,
    )


def _usd_per_hour() -> float:
    with contextlib.suppress(ValueError):
        return max(0.0, float(os.environ.get("SPACEPORT_USD_PER_HOUR", "")))
    return 0.0


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _die_with_keeper() -> None:
    """On Linux: be killed when the keeper is, which kills everything else when it ends in any other way."""
    keeper = os.environ.get("SPACEPORT_KEEPER")
    if keeper is None or platform.system() != "Linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(keeper):  # it died before that
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    _die_with_keeper()
    signal.signal(signal.SIGTERM, _interrupt)
    from spaceport_lab import logs

    logs.configure()
    sys.exit(execute(json.loads(Path(sys.argv[1]).read_text())))
