"""What a queue holds: what was asked for, how it stands, what happened, what is to be told."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import Field

from spaceport_lab.errors import ParamsError
from spaceport_lab.jobs.text import tidy
from spaceport_lab.logs import redact
from spaceport_lab.naming import JOB_NAME, STEPS

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
ENDED = ("succeeded", "failed", "cancelled")

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Kind = Literal["state", "stage", "progress", "warning", "attempt"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_Line = Annotated[str, Field(max_length=1000)]


class Ask(pydantic.BaseModel):
    """What is asked for, in the core's own words; every door translates its own into these.

    Attributes:
        source: a local path, or an address such as s3://bucket/flight.
        steps: full, 3dgs or compression.
        name: of the job; empty: one is made.
        scene: what the scene is to be called; empty: as its folder.
        presets: names, or paths of .yaml files; later ones win.
        overrides: `STAGE.NAME=VALUE`.
        output: s3:// prefix that gets the run, or empty.
        email: who is told how it ended, or empty.
        webhook: address that is told, or empty.
        priority: -10 to 10; higher ones first.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    source: str = Field(min_length=1, max_length=4096)
    steps: str = "full"
    name: str = ""
    scene: str = Field(default="", max_length=200)
    presets: tuple[_Line, ...] = Field(default=(), max_length=50)
    overrides: tuple[_Line, ...] = Field(default=(), max_length=500)
    output: str = Field(default="", max_length=2048)
    email: str = Field(default="", max_length=320)
    webhook: str = Field(default="", max_length=2048)
    priority: int = Field(default=0, ge=-10, le=10)

    @pydantic.field_validator("source", "scene", "output", "email", "webhook")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if _CONTROL.search(value):
            raise ValueError("must be one line without control characters")
        value.encode()  # surrogates are no text; what this raises is a ValueError
        return value

    @pydantic.field_validator("steps")
    @classmethod
    def _known_steps(cls, value: str) -> str:
        if value not in STEPS:
            raise ValueError(f"must be one of {', '.join(STEPS)}")
        return value

    @pydantic.field_validator("name")
    @classmethod
    def _job_name(cls, value: str) -> str:
        if value and not JOB_NAME.fullmatch(value):
            raise ValueError("must be lower-case letters, digits and inner hyphens, 41 at the most")
        return value

    @pydantic.field_validator("output")
    @classmethod
    def _store_address(cls, value: str) -> str:
        if value and not value.startswith("s3://"):
            raise ValueError("must be an address such as s3://bucket/runs")
        return value


def make_ask(**values: Any) -> Ask:
    """An `Ask` of these values.

    Raises:
        ParamsError: one of them is unknown, of the wrong type or out of range; all of them are named.
    """
    try:
        return Ask(**values)
    except pydantic.ValidationError as error:
        faults = [
            (".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()
        ]
        raise ParamsError(
            "this cannot be asked for",
            got="; ".join(f"{name}: {tidy(message, 200)}" for name, message in faults[:5]),
            hint="see `spaceport-lab submit --help`",
        ) from error


@dataclass(frozen=True)
class Failure:
    """Why a job failed. Every field has a default: whoever tells a person needs nothing more.

    Attributes:
        code: number of the error, under which docs/errors.md explains it.
        stage: where it happened, or empty.
        message: what went wrong, at most 4 kB.
        hint: the first thing to try.
        log: file to look into.
    """

    code: str = "SL-000"
    stage: str = ""
    message: str = ""
    hint: str = ""
    log: str = ""

    @classmethod
    def read(cls, values: object) -> Failure:
        """What somebody wrote down as a failure, with whatever is missing or unfit left at its default."""
        if not isinstance(values, Mapping):
            return cls()
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tidy(values[name]) for name in names if values.get(name)})

    def as_dict(self) -> dict[str, str]:
        """JSON-able."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was read.

    Attributes:
        name: also its run folder's.
        ask: what was asked for.
        state: one of STATES.
        attempt: how many were begun; a worker that was told to stop gives its attempt back.
        max_attempts: after so many it fails.
        created, started, ended: [s] since 1970; started is the first attempt's.
        not_before: [s] since 1970; a retried job waits until then.
        worker: who has it, or had it last.
        token: fencing token; each claim makes it greater, and only the newest may write.
        run_dir: its run folder, once known.
        failure: the last one; None where it went well.
        cancel_requested: a running job is to stop.
        stage: at work on it, or the last one.
        progress: of the whole run, 0 to 1.
        message: what is being done, a few words.
    """

    name: str
    ask: Ask
    state: State
    attempt: int
    max_attempts: int
    created: float
    started: float | None
    ended: float | None
    not_before: float
    worker: str
    token: int
    run_dir: str
    failure: Failure | None
    cancel_requested: bool
    stage: str
    progress: float
    message: str

    @property
    def has_ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in ENDED

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, without secrets: of a webhook only its host, for its path is often the key to it."""
        ask = self.ask.model_dump(mode="json")
        ask["source"], ask["output"] = redact(ask["source"]), redact(ask["output"])
        ask["overrides"] = [redact(text) for text in ask["overrides"]]
        ask["webhook"] = _host_only(ask["webhook"])
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {"ask": ask, "failure": self.failure.as_dict() if self.failure else None}


def _host_only(address: str) -> str:
    if not address:
        return ""
    try:
        place = urlsplit(address)
        return f"{place.scheme}://{place.hostname or ''}/…"
    except ValueError:
        return "…"


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; `seq` counts from 1 without gaps, `time` is [s] since 1970."""

    seq: int
    time: float
    kind: Kind
    data: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Letter:
    """News for somebody, kept until it was delivered.

    Attributes:
        id: the same at each try, so that who gets it twice can see that.
        job: as it is now.
        kind: how the job ended.
        channel: how the news goes.
        address: to whom.
        attempts: how many tries failed.
        next_at: [s] since 1970; until then nobody else is given it.
    """

    id: int
    job: Job
    kind: Literal["succeeded", "failed"]
    channel: Literal["email", "webhook"]
    address: str
    attempts: int
    next_at: float
