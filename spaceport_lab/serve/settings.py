"""What the service may read, write and call, and how much: a YAML file and SPACEPORT_SERVE_* variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spaceport_lab.errors import ParamsError

PREFIX = "SPACEPORT_SERVE_"
FILE = "SPACEPORT_SERVE_SETTINGS"
"""The variable that names the YAML file where no command line does."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*")
_WEBHOOK_HOST = re.compile(r"(?:[a-z0-9-]{1,63}\.)+[a-z0-9-]{2,63}(?::[0-9]{1,5})?")
_DOMAIN = re.compile(r"(?:[a-z0-9-]{1,63}\.)+[a-z0-9-]{2,63}")
_PREFIX = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^\s*?]*)?")


class ServeSettings(BaseModel):
    """Settings of both doors; frozen, and an unknown name is an error.

    Attributes:
        data: folder of the scenes.
        roots: folders below which a local source may lie; none given: `data`.
        s3_prefixes: addresses below which a source may lie, such as s3://bucket/flights; none: no S3 source.
        output_prefixes: addresses below which results may go; none: nowhere.
        webhook_hosts: exact hosts, with `:port` where it is not 443; none: no webhooks.
        email_domains: domains that mail may go to; none: any.
        token_file: bearer tokens, one a line; none given: `.jobs/token` below `data`, made at first start.
        queue_limit: jobs that may wait.
        starts_per_minute: jobs that one token may start.
        streams: connections that may follow events at a time.
        cors_origins: exact origins whose pages may call; none: no other page.
        hosts: names by which the service may be called, besides loopback.
        host: address to listen at.
        port: 0 takes a free one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Path("data")
    roots: tuple[Path, ...] = ()
    s3_prefixes: tuple[str, ...] = ()
    output_prefixes: tuple[str, ...] = ()
    webhook_hosts: tuple[str, ...] = ()
    email_domains: tuple[str, ...] = ()
    token_file: Path | None = None
    queue_limit: int = Field(1000, ge=1, le=100_000)
    starts_per_minute: int = Field(300, ge=1, le=100_000)
    streams: int = Field(64, ge=1, le=1000)
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = Field(8321, ge=0, le=65535)

    @field_validator("data", "roots", "token_file")
    @classmethod
    def _absolute(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(path.expanduser().absolute() for path in value)
        return value if value is None else value.expanduser().absolute()

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _each(value, _ORIGIN, "an exact origin such as https://lab.example.com, never * or null")

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _each(tuple(v.lower() for v in value), _HOST, "a host's name or address, without a port")

    @field_validator("webhook_hosts")
    @classmethod
    def _webhook_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        named = tuple(v.lower() for v in value)
        return _each(named, _WEBHOOK_HOST, "an exact host such as hooks.example.com, with :port if not 443")

    @field_validator("email_domains")
    @classmethod
    def _domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _each(tuple(v.lower() for v in value), _DOMAIN, "a domain such as example.com")

    @field_validator("s3_prefixes", "output_prefixes")
    @classmethod
    def _prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # A prefix ends at a slash, so that `flights` does not let `flights-of-others` in.
        return tuple(p.rstrip("/") + "/" for p in _each(value, _PREFIX, "s3://bucket or s3://bucket/prefix"))

    @property
    def allowed_roots(self) -> tuple[Path, ...]:
        """Folders below which a local source may lie, resolved."""
        return tuple(path.resolve() for path in self.roots or (self.data,))

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names by which the service may be called, lower case, without ports."""
        return frozenset({*LOOPBACK, self.host.lower(), *self.hosts})

    @property
    def token_path(self) -> Path:
        """The file with the bearer tokens."""
        return self.token_file or self.data / ".jobs" / "token"


def load(
    path: Path | None = None, environment: Mapping[str, str] = os.environ, **given: Any
) -> ServeSettings:
    """Settings by precedence: defaults < file < SPACEPORT_SERVE_* < `given`; None in `given` is not given.

    Lists are separated by commas in a variable; relative paths of a file are relative to the file's folder.

    Args:
        path: a YAML file; None: the one that SPACEPORT_SERVE_SETTINGS names, if it does.
        environment: where variables are looked up.
        given: from the command line.

    Raises:
        ParamsError: the file cannot be read, or a name or value is wrong; all of them are named at once.
    """
    named = path or environment.get(FILE)
    values = _from_file(Path(named)) if named else {}
    values |= _from_environment(environment)
    values |= {name: value for name, value in given.items() if value is not None}
    if "data" not in values and environment.get("SPACEPORT_DATA"):
        values["data"] = environment["SPACEPORT_DATA"]
    try:
        return ServeSettings(**values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ParamsError(
            "a setting of the service cannot be used",
            got="\n            ".join(lines),
            expected=f"of {', '.join(ServeSettings.model_fields)}",
            hint=f"look at {named}" if named else f"look at your {PREFIX}… variables",
        ) from error


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(
            f"the settings file {path} cannot be read", got=str(error).splitlines()[0], expected="YAML"
        ) from error
    if not isinstance(content, dict):
        raise ParamsError(f"the settings file {path} has the wrong shape", expected="lines of NAME: VALUE")
    here = path.absolute().parent
    for name in ("data", "token_file"):
        if isinstance(content.get(name), str):
            content[name] = here / Path(content[name]).expanduser()
    if isinstance(content.get("roots"), list):
        content["roots"] = [here / Path(str(root)).expanduser() for root in content["roots"]]
    return {str(name): value for name, value in content.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable == FILE:
            continue
        name = variable.removeprefix(PREFIX).lower()
        field = ServeSettings.model_fields.get(name)
        listed = field is not None and isinstance(field.default, tuple)
        values[name] = [part.strip() for part in text.split(",") if part.strip()] if listed else text
    return values


def _each(values: tuple[str, ...], form: re.Pattern[str], expected: str) -> tuple[str, ...]:
    for value in values:
        if not form.fullmatch(value):
            raise ValueError(f"{value!r} is not {expected}")
    return values
