"""What both doors do with a request: judge it, put it into the queue, say how jobs stand.

A door knows HTTP and who is asking; this knows neither. Every method gives an answer and raises nothing: what
was raised on purpose is put into words; what was not is logged under a number, and the number is all that is
said.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spaceport_lab import __version__
from spaceport_lab.errors import (
    InputError,
    JobConflictError,
    JobUnknownError,
    NotAllowedError,
    ParamsError,
    QueueFullError,
    SpaceportError,
)
from spaceport_lab.jobs.model import STATES, Ask, Job, make_ask
from spaceport_lab.jobs.store import Store
from spaceport_lab.naming import JOB_NAME
from spaceport_lab.params import preset_names, resolve
from spaceport_lab.resources import presets_dir
from spaceport_lab.serve import results, rules
from spaceport_lab.serve.model import About, JobList, Problem, Started, StartJob
from spaceport_lab.serve.settings import ServeSettings
from spaceport_lab.serve.views import Cards, job_view, scrub

logger = logging.getLogger(__name__)

BODY_BYTES = 16 * 1024
"""A request is smaller."""

LOOKUP_SECONDS = 1.0
"""A webhook's name that takes longer to look up is judged when it is called, and only then."""

RETRY_SECONDS = 60
"""When to come back to a full queue."""


@dataclass(frozen=True)
class Answer:
    """What a door sends: a status, something JSON-able, headers besides the door's own."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def _answers(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what is raised into an answer."""

    @functools.wraps(method)
    def wrapped(self: Service, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            return refusal(error, self.settings.data)

    return wrapped


class Service:
    """The core of the API, safe to be called from many threads."""

    def __init__(
        self, store: Store, settings: ServeSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store, self.settings = store, settings
        self.cards = Cards()
        self.limit = RateLimit(settings.starts_per_minute, clock)

    @_answers
    def start(self, body: bytes, key: str = "", who: str = "") -> Answer:
        """Put a job into the queue: 202, or why not (400, 409, 413, 422, 429).

        Args:
            body: JSON, see `StartJob`.
            key: the `Idempotency-Key` header, or empty; the same key and body give the same job.
            who: whose rate limit this counts for.
        """
        if wait := self.limit.take(who):
            raise _TooFast(wait)
        if len(body) > BODY_BYTES:
            raise _TooLarge()
        ask = self._ask(_read(body))
        self._check_name_is_free(ask.name)
        job, _ = self.store.submit(ask, rules.check_key(key))
        logger.info("job %s is %s", job.name, job.state)
        status = f"jobs/{job.name}"
        started = Started(
            jobId=job.name, name=job.name, state=job.state, status=status, events=f"{status}/events"
        )
        return Answer(202, started.model_dump(), {"Location": status})

    @_answers
    def jobs(self, states: Sequence[str] = (), limit: int = 100) -> Answer:
        """Jobs, newest first."""
        if unknown := sorted(set(states) - set(STATES)):
            raise ParamsError("there is no such state", got=unknown[0][:40], expected=", ".join(STATES))
        if not 1 <= limit <= 1000:
            raise ParamsError("limit is out of range", expected="1 to 1000")
        found = [self.view(job) for job in self.store.list(states, limit)]
        return Answer(200, JobList(jobs=found, counts=self.store.counts()).model_dump())

    @_answers
    def job(self, name: str) -> Answer:
        """How a job stands."""
        return Answer(200, self.view(self.find(name)))

    @_answers
    def cancel(self, name: str) -> Answer:
        """Stop a job: 200 when it has ended, 202 while its worker is being told."""
        job = self.store.cancel(self.find(name).name)
        return Answer(200 if job.has_ended else 202, self.view(job))

    @_answers
    def about(self) -> Answer:
        """What the start page has to know."""
        settings = self.settings
        about = About(
            version=__version__,
            presets={name: _purpose(name) for name in preset_names()},
            scenes=_scenes(settings),
            s3Prefixes=list(settings.s3_prefixes),
            outputPrefixes=list(settings.output_prefixes),
            webhookHosts=list(settings.webhook_hosts),
        )
        return Answer(200, about.model_dump())

    @_answers
    def content(self, name: str, kind: str, asked: str = "") -> results.Content | Answer:
        """A file of a job that has ended; see `results.content`."""
        job = self.find(name)
        if not job.has_ended:
            raise JobUnknownError(f"job {job.name} has no {kind} yet", hint="wait until it has ended")
        return results.content(job, self.settings.data, kind, asked)

    def find(self, name: str) -> Job:
        """A job by its name.

        Raises:
            JobUnknownError: there is none, or that is no job's name.
        """
        if not JOB_NAME.fullmatch(name):
            raise JobUnknownError("that is not the name of a job", expected="letters a-z, digits, hyphens")
        return self.store.get(name)

    def view(self, job: Job) -> dict[str, Any]:
        """A job as the API shows it."""
        return job_view(job, self.settings.data, self.cards).model_dump()

    def _ask(self, request: StartJob) -> Ask:
        """What the core is asked for, with every part judged.

        Raises:
            NotAllowedError, ParamsError, InputError: a rule is broken, or this could not run.
        """
        settings = self.settings
        if bool(request.s3Url) == bool(request.source):
            raise NotAllowedError("a job needs one source", expected="either s3Url or source")
        if request.s3Url and not request.s3Url.startswith("s3://"):
            raise NotAllowedError("s3Url is not an S3 address", expected="s3://bucket/prefix")
        if request.name and not JOB_NAME.fullmatch(request.name):
            raise NotAllowedError(
                "that is not a job name", expected="lower-case letters, digits and inner hyphens, at most 41"
            )
        if request.webhook:
            self._check_webhook(request.webhook)
        ask = make_ask(
            source=rules.check_source(request.s3Url or request.source, settings),
            steps=request.pipelineStep,
            name=request.name,
            presets=rules.check_presets(request.presets),
            overrides=rules.check_overrides(request.overrides),
            output=rules.check_output(request.outputUrl, settings),
            email=rules.check_email(request.email, settings),
            webhook=request.webhook,
            priority=request.priority,
        )
        self._check_it_can_run(ask)
        return ask

    def _check_name_is_free(self, name: str) -> None:
        """Refuse the name of a run that no job made: it is a person's, and would be gone on with."""
        if not name or not any(self.settings.data.glob(f"*/runs/{name}")):
            return
        try:
            self.store.get(name)  # of a job's name the queue judges, which knows the key
        except JobUnknownError as error:
            raise JobConflictError(
                f"there is a run {name} already", hint="choose another name, or none to have one made"
            ) from error

    def _check_it_can_run(self, ask: Ask) -> None:
        """Refuse now what the worker would refuse later: wrong values, nothing to start from."""
        from spaceport_lab.pipeline.request import make_request

        asked = make_request(ask.source, ask.steps, self.settings.data, ask.scene)
        if not asked.scene_dir.resolve().is_relative_to(self.settings.data.resolve()):
            # A run of another data folder would be gone on from there, and written there.
            raise NotAllowedError(
                "that run is not in the data folder of this service",
                expected="a run or scene of its own, or a COLMAP folder or PLY",
            )
        resolve(ask.presets, ask.overrides, asked.fixed)

    def _check_webhook(self, url: str) -> None:
        """Form and host at once; the name's addresses as far as they can be had in a moment."""
        rules.check_webhook_form(url, self.settings)
        refused: list[NotAllowedError] = []

        def look() -> None:
            try:
                rules.check_webhook(url, self.settings)
            except NotAllowedError as error:
                refused.append(error)
            except OSError:  # judged again before it is called
                pass

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(LOOKUP_SECONDS)
        if refused:
            raise refused[0]


def warm() -> None:
    """Load what judging a request needs, seconds of it, before the first one comes."""
    from spaceport_lab.pipeline.request import make_request  # noqa: F401


class RateLimit:
    """So many a minute for each caller, with as many at once (token bucket)."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.rate, self.clock = float(per_minute), per_minute / 60, clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, who: str) -> float:
        """0 when this one may pass, else [s] until the next may."""
        with self._lock:
            now = self.clock()
            left, before = self._left.get(who, (self.most, now))
            left = min(self.most, left + (now - before) * self.rate)
            passes = left >= 1
            self._left[who] = (left - 1 if passes else left, now)
            return 0.0 if passes else (1 - left) / self.rate


class _TooFast(NotAllowedError):
    def __init__(self, seconds: float) -> None:
        super().__init__("these are too many jobs at once", hint=f"wait {math.ceil(seconds)} s")
        self.seconds = seconds


class _TooLarge(NotAllowedError):
    def __init__(self) -> None:
        super().__init__("the request is too large", expected=f"at most {BODY_BYTES // 1024} kB")


class _Unreadable(InputError):
    """The body is no JSON object."""


_STATUS: tuple[tuple[type[SpaceportError], int], ...] = (
    (_TooFast, 429), (_TooLarge, 413), (_Unreadable, 400), (JobUnknownError, 404), (JobConflictError, 409),
    (QueueFullError, 429), (NotAllowedError, 422), (ParamsError, 422), (InputError, 422),
)  # fmt: skip


def refusal(error: Exception, data: Path) -> Answer:
    """The answer that says why not: number, message, hint; no traceback, no path outside the data folder."""
    if not isinstance(error, SpaceportError):
        number = secrets.token_hex(4)
        logger.error("request failed, number %s", number, exc_info=error)
        hint = f"the service's log has it under {number}"
        problem = Problem(code=SpaceportError.code, message="something broke", hint=hint)
        return Answer(500, problem.model_dump())
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
    headers = {}
    if isinstance(error, _TooFast):
        headers["Retry-After"] = str(math.ceil(error.seconds))
    elif status in (429, 503):
        headers["Retry-After"] = str(RETRY_SECONDS)
    parts = {"message": error.what, "got": error.got, "expected": error.expected, "hint": error.hint}
    words = {name: scrub(str(part), data) for name, part in parts.items() if part is not None}
    return Answer(status, Problem(code=error.code, **words).model_dump(), headers)


def _read(body: bytes) -> StartJob:
    try:
        return StartJob.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        if any(fault["type"] == "json_invalid" for fault in faults) or not faults[0]["loc"]:
            raise _Unreadable("the body is no JSON object", expected='such as {"s3Url": "s3://…"}') from None
        raise ParamsError(
            "the request cannot be used",
            got="; ".join(f"{'.'.join(map(str, f['loc']))[:60]}: {f['msg']}" for f in faults[:5]),
            expected=f"of {', '.join(StartJob.model_fields)}",
        ) from None


def _scenes(settings: ServeSettings) -> list[str]:
    """Names of folders below the roots, for a person to choose from; the first hundred."""
    names: set[str] = set()
    for root in settings.allowed_roots:
        with contextlib.suppress(OSError):
            names |= {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")}
    return sorted(names)[:100]


def _purpose(preset: str) -> str:
    """What a preset is for: the comment its file begins with, its first sentence."""
    first = (presets_dir() / f"{preset}.yaml").read_text().partition("\n")[0]
    return first.removeprefix("#").strip().partition(". ")[0].rstrip(".") if first.startswith("#") else ""
