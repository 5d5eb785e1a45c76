"""Log lines of the whole program through structlog, for people or as JSON, with job and stage on each.

Modules go on calling `logging.getLogger(__name__)`; what they and the libraries write comes out here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from spaceport_lab.errors import ParamsError
from spaceport_lab.logs.secrets import without_secrets

FORMATS = ("console", "json")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
JOB, STAGE = "SPACEPORT_JOB", "SPACEPORT_STAGE"
"""By these a child process knows what it works for."""

OURS = "spaceport_lab"
_MARK = "_spaceport_lab"
_FIRST = ("time", "level", "logger", "event", "job", "stage")


def configure(
    format: str = "",
    level: str = "",
    stream: TextIO | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Send every log line of this process to `stream`; calling it again changes format, level and stream.

    Ours are shown from `level` on, those of libraries from WARNING on: their debug output would drown ours.

    Args:
        format: console or json; empty: LOG_FORMAT, else console.
        level: empty: LOG_LEVEL, else INFO.
        stream: standard error when None.
        environment: where LOG_FORMAT and LOG_LEVEL are looked up.

    Raises:
        ParamsError: there is no such format or level.
    """
    chosen = (format or environment.get("LOG_FORMAT", "").strip() or "console").lower()
    if chosen not in FORMATS:
        raise ParamsError("LOG_FORMAT is not known", got=chosen, expected=", ".join(FORMATS))
    threshold = log_level({"LOG_LEVEL": level} if level else environment)
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    setattr(handler, _MARK, True)
    handler.setFormatter(_formatter(chosen, stream))
    root = logging.getLogger()
    for old in [h for h in root.handlers if getattr(h, _MARK, False)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, logging.getLevelName(threshold)))
    logging.getLogger(OURS).setLevel(threshold)
    logging.captureWarnings(True)


def log_level(environment: Mapping[str, str] = os.environ) -> str:
    """`LOG_LEVEL`, INFO when it is not set.

    Raises:
        ParamsError: no level of that name.
    """
    level = environment.get("LOG_LEVEL", "").strip().upper() or "INFO"
    if level not in LEVELS:
        raise ParamsError("LOG_LEVEL is not known", got=level, expected=", ".join(LEVELS))
    return level


@contextlib.contextmanager
def bound(job: str = "", stage: str = "") -> Iterator[None]:
    """Put job and stage on every line that is written inside, in this thread."""
    given = {name: value for name, value in (("job", job), ("stage", stage)) if value}
    with structlog.contextvars.bound_contextvars(**given):
        yield


def child_environment(job: str = "", stage: str = "") -> dict[str, str]:
    """Variables by which a child process puts the same job and stage on its lines."""
    return {name: value for name, value in ((JOB, job), (STAGE, stage)) if value}


def _formatter(format: str, stream: TextIO) -> logging.Formatter:
    tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _masked]
    if format == "json":
        tail += [_in_order, structlog.processors.JSONRenderer(serializer=_one_line)]
    else:
        # With rich installed the default shows local variables, among which there may be secrets.
        plain = structlog.dev.plain_traceback
        colors = bool(getattr(stream, "isatty", lambda: False)())
        tail += [
            structlog.dev.ConsoleRenderer(
                colors=colors, timestamp_key="time", exception_formatter=plain, pad_event_to=0
            )
        ]
    return structlog.stdlib.ProcessorFormatter(processors=tail, foreign_pre_chain=_chain())


def _chain() -> list[Any]:
    """What happens to every line before it is written."""
    return [
        structlog.contextvars.merge_contextvars,
        _from_environment,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        # Before secrets are masked: a traceback is text like any other.
        structlog.processors.format_exc_info,
    ]


def _from_environment(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, variable in (("job", JOB), ("stage", STAGE)):
        if value := os.environ.get(variable):
            line.setdefault(name, value)
    return line


def _masked(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return without_secrets(line)


def _in_order(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The fields people look for first come first."""
    return {**{name: line[name] for name in _FIRST if name in line}, **line}


def _one_line(line: Mapping[str, Any], **_options: Any) -> str:
    # Escaped to ASCII: no character in a message can break the line, or the encoding of the stream.
    return json.dumps(_finite(line), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
