"""What a message says, for a person who does not know the machine it comes from.

Whatever the error was, there is a message: each part has a default, what is no text is made one, what is too
long loses its middle, and nothing in it can become a mail header or HTML.
"""

from __future__ import annotations

import datetime
import html
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab import errors, runcard
from spaceport_lab.jobs.model import Failure, Job, Letter
from spaceport_lab.jobs.text import shorten
from spaceport_lab.logs import without_secrets
from spaceport_lab.naming import scene_of
from spaceport_lab.notify.settings import NotifySettings
from spaceport_lab.params import STAGES
from spaceport_lab.workspace import folder_name

WORDS = {
    "ingest": "checking the photographs",
    "sfm": "finding where each photograph was taken",
    "train": "training the splat",
    "compress": "making the small file",
    "inspect": "looking at the result",
}
"""What each stage does, for somebody who never saw its name."""

LINES, LINE, TEXT = 15, 300, 2000
"""Of a log the last lines, the characters of one, and the characters of a text."""

_TAIL = 16384  # bytes of a log that are read
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, separators of lines, and what turns the direction of writing round."""
# The escape may have been made a replacement character before it came here.
_ANSI = re.compile(r"[\x1b\ufffd]\[[0-9;?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Message:
    """A message: subject in one line, plain text, and the same as HTML."""

    subject: str
    text: str
    html: str


def compose(letter: Letter, settings: NotifySettings) -> Message:
    """The message for a letter; it never fails, whatever is in the job."""
    job, good = letter.job, letter.kind == "succeeded"
    card = _card(job)
    scene = _one_line(_scene(job, card), 60)
    failure = job.failure or Failure()
    subject = (
        f"{scene} is ready (job {_one_line(job.name, 60)})"
        if good
        else f"{scene} could not be finished: {_code(failure)} (job {_one_line(job.name, 60)})"
    )
    opening = (
        f"The splat of {scene} is ready."
        if good
        else f"The job for {scene} stopped{_while(failure.stage)} and did not finish."
    )
    rows = [(name, _text(value, TEXT)) for name, value in _rows(job, card, settings, good) if value]
    parts = [] if good else list(_failure_parts(failure, settings))
    log = [] if good else _log(job, failure)
    return Message(subject, _plain(opening, rows, parts, log, job), _page(opening, rows, parts, log, job))


def payload(letter: Letter, settings: NotifySettings) -> dict[str, Any]:
    """The body of a webhook, JSON-able: what happened and when, without people's addresses and our paths."""
    job = letter.job
    card = _card(job)
    failure = None
    if letter.kind == "failed":
        told = job.failure or Failure()
        parts = ("code", "stage", "message", "hint")
        failure = {name: _text(_without_place(getattr(told, name), job), TEXT) for name in parts}
    return {
        "type": f"job.{letter.kind}",
        "timestamp": _moment(job.ended or job.created),
        "data": {
            "job": _one_line(job.name, 60),
            "scene": _one_line(_scene(job, card), 60),
            "steps": _one_line(job.ask.steps, 20),
            "state": letter.kind,
            "attempt": job.attempt,
            "seconds": _number(card.get("seconds")),
            "cost_usd": _number(card.get("cost")),
            "output": _text(_output(job), TEXT),
            "page": _job_page(job, settings),
            "failure": failure,
        },
    }


def _rows(
    job: Job, card: Mapping[str, Any], settings: NotifySettings, good: bool
) -> Iterator[tuple[str, object]]:
    yield "Job", _one_line(job.name, 60)
    yield "From", _one_line(job.ask.source, 500)
    yield "Took", _duration(job, card)
    yield "Cost", _cost(card)
    if good:
        yield "Likeness", _likeness(card)
    if job.attempt > 1:
        yield "Attempts", job.attempt
    if output := _output(job):
        yield "Results" if good else "So far", output
    yield "Page", _job_page(job, settings)
    report = Path(job.run_dir) / "report.html" if job.run_dir else None
    if report is not None and _is_file(report):
        yield "Report", f"{report} on the machine that ran it"
    elif not good and job.run_dir:
        yield "Folder", f"{job.run_dir} on the machine that ran it"


def _failure_parts(failure: Failure, settings: NotifySettings) -> Iterator[tuple[str, str]]:
    code = _code(failure)
    yield "What happened", _text(failure.message, TEXT) or "Nothing more is known; the log may say more."
    yield "What to do first", _text(failure.hint, TEXT) or "Look into the log, then start the job again."
    place = f"{settings.errors_url}#{code.lower()}" if settings.errors_url else "docs/errors.md"
    yield f"Error {code}", f"{_meaning(code)} More about it: {place}"


def _code(failure: Failure) -> str:
    return _one_line(failure.code, 20) or Failure().code


def _meaning(code: str) -> str:
    """The first sentence of what errors.py says of a code."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and vars(kind).get("code") == code and code != "SL-000":
            return (kind.__doc__ or "").split("\n")[0]
    return "An error that was not foreseen."


def _without_place(text: object, job: Job) -> object:
    """Where the scenes lie on our machine is nobody's business elsewhere."""
    if not isinstance(text, str) or len(Path(job.run_dir).parts) < 5:
        return text
    return text.replace(str(Path(job.run_dir).parents[2]), "…")


def _while(stage: str) -> str:
    known = _one_line(stage, 40)
    return f" while {WORDS[known]} ({known})" if known in WORDS else f" in {known}" if known else ""


def _card(job: Job) -> dict[str, Any]:
    try:
        card = runcard.read(Path(job.run_dir)) if job.run_dir else None
    except (OSError, ValueError):  # a path with NUL, a card that is not UTF-8
        card = None
    return card if isinstance(card, dict) else {}


def _scene(job: Job, card: Mapping[str, Any]) -> str:
    if card.get("scene"):
        return str(card["scene"])
    return (Path(job.run_dir).parent.parent.name if job.run_dir else "") or scene_of(job.ask.source)


def _output(job: Job) -> str:
    return f"{job.ask.output.rstrip('/')}/{job.name}/" if job.ask.output else ""


def _job_page(job: Job, settings: NotifySettings) -> str:
    """Where the service shows this job; its page knows jobs by the part after #."""
    return f"{settings.public_url}/#{_one_line(job.name, 60)}" if settings.public_url else ""


def _duration(job: Job, card: Mapping[str, Any]) -> str:
    seconds = _number(card.get("seconds"))
    if seconds is None and job.started and job.ended:
        seconds = job.ended - job.started
    if seconds is None or seconds < 0:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _cost(card: Mapping[str, Any]) -> str:
    cost = _number(card.get("cost"))
    if cost is None:
        return ""
    hourly = _number(card.get("usd_per_hour"))
    return f"${cost:,.2f}" + (f" at ${hourly:,.4g} an hour" if hourly else "")


def _likeness(card: Mapping[str, Any]) -> str:
    stages = card.get("stages")
    for stage in ("inspect", "compress", "train"):
        entry = stages.get(stage) if isinstance(stages, dict) else None
        metrics = entry.get("metrics") if isinstance(entry, dict) else None
        psnr = _number(metrics.get("psnr_heldout")) if isinstance(metrics, dict) else None
        if psnr is not None:
            return f"{psnr:.1f} dB PSNR on photographs it was not trained on"
    return ""


def _log(job: Job, failure: Failure) -> list[str]:
    """The last lines of the failed stage's log, from the run folder only."""
    if not job.run_dir:
        return []
    root = Path(job.run_dir)
    named = _one_line(failure.log, 4096)
    places = [Path(named)] if named else []
    if failure.stage in STAGES:
        places.append(root / "logs" / f"{folder_name(failure.stage)}.log")
    for place in places:
        try:
            # A failure is somebody's text: a file outside the run folder is not what it may name.
            if not place.resolve().is_relative_to(root.resolve()) or place.suffix != ".log":
                continue
            with place.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TAIL))
                lines = _text(file.read(), _TAIL).splitlines()
        except (OSError, ValueError):
            continue
        if found := [_one_line(line, LINE) for line in lines if line.strip()][-LINES:]:
            return found
    return []


def _plain(
    opening: str, rows: list[tuple[str, str]], parts: list[tuple[str, str]], log: list[str], job: Job
) -> str:
    width = max((len(name) for name, _ in rows), default=0)
    lines = [opening, "", *(f"  {name.ljust(width)}  {_one_line(value, TEXT)}" for name, value in rows)]
    for title, text in parts:
        lines += ["", f"{title}:", *(f"  {line}" for line in text.splitlines())]
    if log:
        lines += ["", "The last lines of its log:", *(f"  | {line}" for line in log)]
    return "\n".join([*lines, "", _closing(job), ""])


def _page(
    opening: str, rows: list[tuple[str, str]], parts: list[tuple[str, str]], log: list[str], job: Job
) -> str:
    cell = 'style="padding:2px 16px 2px 0;vertical-align:top'
    table = "".join(
        f'<tr><td {cell};color:#666">{html.escape(name)}</td><td {cell}">{_linked(value)}</td></tr>'
        for name, value in rows
    )
    more = "".join(
        f'<h2 style="font-size:15px;margin:20px 0 4px">{html.escape(title)}</h2>'
        f'<p style="margin:0;white-space:pre-wrap">{_linked(text)}</p>'
        for title, text in parts
    )
    if log:
        shown = html.escape("\n".join(log))
        more += (
            '<h2 style="font-size:15px;margin:20px 0 4px">The last lines of its log</h2>'
            '<pre style="font-size:12px;background:#f4f4f2;padding:8px;white-space:pre-wrap;'
            f'overflow-wrap:anywhere">{shown}</pre>'
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"></head>'
        '<body style="font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;max-width:640px">'
        f'<p style="font-size:18px;margin:0 0 12px">{html.escape(opening)}</p>'
        f'<table style="border-collapse:collapse;font-size:14px">{table}</table>{more}'
        f'<p style="color:#666;font-size:13px;margin-top:24px">{html.escape(_closing(job))}</p></body></html>'
    )


def _linked(text: str) -> str:
    """Escaped; what is an address of the web, made of nothing that could mislead, can be followed."""
    pieces = re.split(r"(https?://[A-Za-z0-9./_#?&=:%~+-]+)", text)
    return "".join(
        f'<a href="{html.escape(piece)}">{html.escape(piece)}</a>' if number % 2 else html.escape(piece)
        for number, piece in enumerate(pieces)
    )


def _closing(job: Job) -> str:
    return f"You get this because job {_one_line(job.name, 60)} was started with your address. It comes once."


def _text(value: object, limit: int) -> str:
    """Text that is safe to show: printable, without secrets and colours of a terminal, cut in the middle."""
    raw = without_secrets(value, depth=0) if value is not None else ""
    raw = _ANSI.sub("", str(raw)).replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    # What came from the file system may hold surrogates, which are no UTF-8.
    whole = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", raw.encode(errors="replace").decode())
    return shorten(whole, limit).strip()


def _one_line(value: object, limit: int) -> str:
    """The same in one line: no header can be begun with it."""
    line = " ".join(_text(value, 4 * limit).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _number(value: Any) -> float | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fine else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
