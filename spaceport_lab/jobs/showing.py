"""The queue on a terminal: its jobs as a table, one job with all that happened to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from spaceport_lab.jobs.model import ENDED, Event, Job
from spaceport_lab.jobs.store import Store

COLOURS = {"queued": "cyan", "running": "bold", "succeeded": "green", "failed": "red", "cancelled": "dim"}
LOOK_SECONDS = 1.0


def listing(store: Store, ended: int = 30) -> list[Job]:
    """All jobs that wait or run, and the newest of those that have ended; the newest first."""
    jobs = store.list(("queued", "running"), limit=100_000) + store.list(ENDED, limit=ended)
    return sorted(jobs, key=lambda job: job.created, reverse=True)


def as_json(store: Store, name: str = "") -> str:
    """The queue, or one job with its events and letters, for other programs.

    Raises:
        JobUnknownError: there is no job of that name.
    """
    content: dict[str, Any]
    if name:
        content = store.get(name).as_dict()
        content["events"] = [event.as_dict() for event in store.events(name, limit=100_000)]
        content["letters"] = [{k: v for k, v in one.items() if k != "address"} for one in store.post(name)]
    else:
        content = {"counts": store.counts(), "jobs": [job.as_dict() for job in listing(store)]}
    return json.dumps(content, indent=2)


def jobs_table(jobs: Sequence[Job], now: float) -> Table:
    """One line for each job.

    Args:
        jobs: in the order they are shown.
        now: [s] since 1970, for ages.
    """
    table = Table("job", "state", "stage", box=None, pad_edge=False)
    for column in ("done", "attempt", "age"):
        table.add_column(column, justify="right")
    table.add_column("")
    for job in jobs:
        state = "stopping" if job.state == "running" and job.cancel_requested else job.state
        table.add_row(
            job.name,
            f"[{COLOURS[job.state]}]{state}[/]",
            job.stage,
            f"{job.progress:.0%}" if job.started else "",
            f"{job.attempt}/{job.max_attempts}" if job.attempt else "",
            age(now - job.created),
            escape(_remark(job, now)),
        )
    return table


def age(seconds: float) -> str:
    """`40 s`, `5 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def event_line(event: Event) -> str:
    """What happened, in one line, without markup."""
    data, when = event.data, time.strftime("%H:%M:%S", time.localtime(event.time))
    failure = data.get("failure") or {}
    reason = f": {failure['code']} {_first_line(failure['message'])}" if failure else ""
    if event.kind == "progress":
        said = f"{data['stage']}  {data['progress']:.0%}  {data['message']}"
    elif event.kind == "stage":
        seconds = f" in {data['seconds']:.0f} s" if data.get("seconds") else ""
        said = f"{data['stage']}: {data['status']}{seconds}"
    elif event.kind == "attempt" and failure:
        said = f"attempt {data['attempt']} failed{reason}; again in {age(data['again_in_s'])}"
    elif event.kind == "attempt":
        lost = f", lost by {data['lost_by']}" if "lost_by" in data else ""
        said = f"attempt {data['attempt']} by {data['worker']}{lost}"
    elif event.kind == "warning":
        said = f"{data.get('stage', '')}: {data.get('message', '')}"
    else:
        asked = ", asked to stop" if data.get("cancel_requested") else ""
        said = f"{data.get('state')}{asked}{reason}"
    return f"{when}  {said}"


def show(store: Store, console: Console, name: str = "", watch: bool = False) -> None:
    """Print the queue, or one job; with `watch` until nothing waits or runs any more.

    Raises:
        JobUnknownError: there is no job of that name.
    """
    if name:
        _show_job(store, console, name, watch)
    elif watch and console.is_terminal:
        with Live(console=console, get_renderable=lambda: jobs_table(listing(store), store.clock())):
            _until(lambda: not store.list(("queued", "running"), limit=1))
    else:
        if watch:
            _until(lambda: not store.list(("queued", "running"), limit=1))
        console.print(jobs_table(listing(store), store.clock()))


def _show_job(store: Store, console: Console, name: str, watch: bool) -> None:
    last = 0

    def told() -> bool:
        nonlocal last
        over = store.get(name).has_ended
        while events := store.events(name, after=last):
            last = events[-1].seq
            for event in events:
                # Without --watch what counts is how it went, not each step of the way.
                if watch or event.kind != "progress":
                    console.print(escape(event_line(event)), soft_wrap=True)
        return over

    told()
    if watch:
        _until(told)
    job = store.get(name)
    console.print()
    console.print(jobs_table([job], store.clock()))
    if job.failure is not None:
        lines = [("", job.failure.message), ("try", job.failure.hint), ("see", job.failure.log)]
        for label, text in lines:
            if text:
                console.print(escape(f"{label}: {text}" if label else text), soft_wrap=True)
    if job.run_dir:
        console.print(escape(job.run_dir), soft_wrap=True)


def _remark(job: Job, now: float) -> str:
    if job.failure is not None:
        again = f", again in {age(job.not_before - now)}" if job.not_before > now else ""
        return f"{job.failure.code} {_first_line(job.failure.message)}{again}"
    return job.message if job.state == "running" else ""


def _first_line(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= 80 else line[:79] + "…"


def _until(over: Callable[[], bool]) -> None:
    while not over():
        time.sleep(LOOK_SECONDS)
