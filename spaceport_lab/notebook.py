"""What a stage notebook calls: start(), live(), record(), table(), show(), picture()."""

from __future__ import annotations

import ctypes
import html
import logging
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
from IPython.core.getipython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from IPython.display import DisplayHandle, Image, display
from matplotlib.figure import Figure

from spaceport_lab import fence, files, runcard, workspace
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.params import SCHEMAS, StageParams, validate_stage
from spaceport_lab.params.describe import changes_in_words
from spaceport_lab.workspace import Progress, StageRun

UPDATE_SECONDS = 2.0
"""A live display changes at most this often; more costs training time and the browser's patience."""

LOCK_SECONDS = 15.0
"""How long a stage waits for the kernel of an interrupted run to die before it refuses to write beside it."""

_locks: dict[Path, filelock.FileLock] = {}


class Table:
    """Rows as a table: HTML in a notebook, aligned text elsewhere."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
        self.columns = list(columns) if columns else list(rows[0]) if rows else []
        self.rows = [[_cell(row.get(column)) for column in self.columns] for row in rows]

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.columns, ["─" * width for width in widths], *self.rows]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="text-align:left">{html.escape(c)}</th>' for c in self.columns)
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{html.escape(c)}</td>' for c in row) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Table:
    """A neat table of a list of dicts; `columns` chooses and orders."""
    return Table(rows, columns)


def show(*shown: Any) -> None:
    """Display figures, tables and pictures one below the other; None is passed over."""
    for one in shown:
        if one is not None:
            display(one)


def picture(path: Path | None) -> Image | None:
    """A picture file (PNG, JPEG, GIF) as part of the notebook; None, which shows nothing, without one."""
    if path is None or not path.is_file():
        return None
    return Image(data=path.read_bytes(), format=path.suffix[1:].lower().replace("jpg", "jpeg"))


def start(stage: str, cell: Mapping[str, Any]) -> tuple[StageParams, StageRun]:
    """Open a stage: validate the parameters cell, take the run folder, show what is in force.

    Args:
        stage: one of the five.
        cell: the notebook's `globals()`.

    Returns:
        The frozen parameters, and the stage's run.

    Raises:
        ParamsError: a parameter is of the wrong type or out of range.
        WorkspaceError: another process works on this stage, or the folder cannot be written.
    """
    names = SCHEMAS[stage].model_fields
    params = validate_stage(stage, {name: cell[name] for name in names if name in cell})
    if not params.interactive:
        die_with_parent()
    _log_to_the_cell()
    shell = get_ipython()
    if shell is not None:
        select_figure_formats(shell, {"png"}, bbox_inches=None)
    run = StageRun(Path(params.run_dir) if params.run_dir else bench_run(), stage)
    with files.clear_os_errors(run.dir):
        run.dir.mkdir(parents=True, exist_ok=True)
    _lock(run)
    # Until record() writes it anew the stage is not done, whatever happens.
    fence.check(run.dir / "stage.json")
    (run.dir / "stage.json").unlink(missing_ok=True)
    runcard.update_stage(
        run.root, stage, status="running", started=runcard.now(), metrics={}, warnings=[], error=None
    )
    origins = _note_params(stage, params, run)
    display(_params_table(stage, params, origins, run))
    return params, run


def live(
    states: Iterable[Progress],
    params: StageParams,
    picture: Callable[[Sequence[Progress]], Figure] | None = None,
) -> Iterator[Progress]:
    """Pass a stage's states through, showing them on the way.

    Interactive: one display, changed at most every two seconds, with `picture(states so far)` under the bar.
    Otherwise: one log line per `log_every` steps. Both write progress.json for the pipeline's live line.
    """
    view = _LiveView(picture) if params.interactive else None
    seen: list[Progress] = []
    # The kernel's own clock decides: a stage may yield a thousand states a second.
    next_update, last_logged, last_message = 0.0, -params.log_every, ""
    for state in states:
        seen.append(state)
        new_message = state.message != last_message
        finished = state.total is not None and state.step >= state.total
        if view is None and (new_message or finished or state.step - last_logged >= params.log_every):
            print(_line(state), flush=True)
            last_logged, last_message = state.step, state.message
        if time.monotonic() >= next_update or finished:
            write_progress(params, state)
            if view is not None:
                view.update(seen)
            next_update = time.monotonic() + (UPDATE_SECONDS if view else 0.5)
        yield state
    if view is not None and seen:
        view.update(seen)


def record(run: StageRun, params: StageParams) -> Table:
    """Close a stage: write stage.json and the run card; returns the metrics as a table.

    Raises:
        QualityGateError: the first quality gate that did not pass. The metrics are on the card all the same,
            and stage.json is not written, so the stage counts as not done.
    """
    seconds = time.time() - run.started
    figures = {
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(_peak_rss_mb(), 1),
        "metrics": run.metrics,
        "warnings": run.warnings,
        "ended": runcard.now(),
    }
    if run.failed_gates:
        error = run.failed_gates[0]
        runcard.update_stage(run.root, run.stage, status="failed", error=str(error), **figures)
        raise error
    workspace.write_manifest(run, params)
    runcard.update_stage(run.root, run.stage, status="succeeded", error=None, **figures)
    shown = dict(run.metrics)
    if "changes" in shown:
        shown["changes"] = changes_in_words(shown["changes"])
    rows = [{"metric": name, "value": value} for name, value in shown.items()]
    rows.append({"metric": "seconds", "value": seconds})
    rows.append({"metric": "peak memory", "value": f"{figures['peak_rss_mb']:,.0f} MB"})
    rows += [{"metric": "warning", "value": warning} for warning in run.warnings]
    return table(rows)


class _LiveView:
    def __init__(self, picture: Callable[[Sequence[Progress]], Figure] | None) -> None:
        self.picture = picture
        self.bar = DisplayHandle()
        self.bar.display({"text/plain": ""}, raw=True)
        self.figure: DisplayHandle | None = None

    def update(self, seen: Sequence[Progress]) -> None:
        state = seen[-1]
        share = min(1.0, state.step / state.total) if state.total else 0.0
        bar = (
            '<div style="font-family:var(--jp-code-font-family,monospace);font-size:13px">'
            '<div style="height:6px;border-radius:3px;background:#8884;overflow:hidden">'
            f'<div style="height:6px;width:{share:.1%};background:#0072B2"></div></div>'
            f'<div style="margin-top:4px">{html.escape(_line(state))}</div></div>'
        )
        self.bar.update({"text/html": bar, "text/plain": _line(state)}, raw=True)
        if self.picture is None:
            return
        figure = self.picture(seen)
        if self.figure is None:
            self.figure = DisplayHandle()
            self.figure.display(figure)
        else:
            self.figure.update(figure)


def _line(state: Progress) -> str:
    where = f"{state.step:,}/{state.total:,}" if state.total else f"{state.step:,}"
    values = "  ".join(f"{name} {_cell(value)}" for name, value in state.values.items())
    return f"{state.message}  {where}  {values}".rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return f"{int(value):,}"
        return f"{value:,.3f}" if abs(value) >= 0.01 else f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_cell, value))
    return str(value)


def _note_params(stage: str, params: StageParams, run: StageRun) -> dict[str, str]:
    """Put the parameters in force on the run card, for a notebook worked by hand has no pipeline to do it.

    Returns:
        Name → where the value comes from.
    """
    before = (runcard.read(run.root) or {}).get("params", {}).get(stage, {})
    noted = {name: entry for name, entry in before.items() if name == "run_dir"}
    for name, value in files.plain(params.model_dump(exclude={"run_dir"})).items():
        known = before.get(name)
        default = value == files.plain(SCHEMAS[stage].model_fields[name].default)
        origin = "default" if default else "this notebook"
        noted[name] = known if known and known["value"] == value else {"value": value, "origin": origin}
    if noted != before:  # the folder is no parameter of what is made, and moves
        runcard.update(run.root, lambda card: card.setdefault("params", {}).update({stage: noted}))
    return {name: entry["origin"] for name, entry in noted.items()}


def _params_table(stage: str, params: StageParams, origins: Mapping[str, str], run: StageRun) -> Any:
    rows = [
        {"parameter": name, "value": getattr(params, name), "from": origins[name], "help": field.description}
        for name, field in SCHEMAS[stage].model_fields.items()
        if name != "run_dir"  # the title says it
    ]
    changed = [row for row in rows if row["from"] != "default"]
    rest = [row for row in rows if row["from"] == "default"]
    return _Foldable(
        f"{stage} of job {run.job}, in {run.root}",
        table(changed, ["parameter", "value", "from", "help"]),
        f"{len(rest)} parameters at their default",
        table(rest, ["parameter", "value", "from", "help"]),
    )


class _Foldable:
    """A heading, a table, and a second table folded away."""

    def __init__(self, title: str, top: Table, summary: str, folded: Table) -> None:
        self.title, self.top, self.summary, self.folded = title, top, summary, folded

    def __repr__(self) -> str:
        return f"{self.title}\n{self.top}\n({self.summary})"

    def _repr_html_(self) -> str:
        return (
            f"<strong>{html.escape(self.title)}</strong>{self.top._repr_html_()}"
            f"<details><summary>{html.escape(self.summary)}</summary>{self.folded._repr_html_()}</details>"
        )


def write_progress(params: StageParams, state: Progress) -> None:
    """Tell the pipeline's live line, through progress.json, how far a stage is."""
    if params.run_dir:
        files.write_json(
            Path(params.run_dir) / "progress.json",
            {
                "step": state.step,
                "total": state.total,
                "message": state.message,
                "values": dict(state.values),
                "time": time.time(),
            },
        )


def bench_run() -> Path:
    """Where a notebook works that was opened by hand: data/sample/runs/bench beside the notebooks or here."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "data").is_dir():
            return folder / "data" / "sample" / "runs" / "bench"
    return Path.cwd() / "data" / "sample" / "runs" / "bench"


def _lock(run: StageRun) -> None:
    path = run.dir / ".lock"
    lock = _locks.setdefault(path, filelock.FileLock(path))
    if lock.is_locked:
        return
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as error:
        raise WorkspaceError(
            f"another process is writing {run.dir}",
            hint="stop the other run or shut its kernel down, or choose another job name",
        ) from error


def _log_to_the_cell() -> None:
    """Let what the package logs appear as ordinary output; on stderr a notebook shows it as a fault."""
    logger = logging.getLogger("spaceport_lab")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def die_with_parent() -> None:
    """On Linux: let the kernel be killed when papermill dies, so that a run folder never has two writers."""
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)


def _peak_rss_mb() -> float:
    """Peak resident memory in megabytes of this process or its largest child, whichever is more."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(peaks) / unit
