"""What a person at this machine asks for, judged now where it would fail an hour later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spaceport_lab.errors import InputError
from spaceport_lab.jobs.model import Ask, make_ask
from spaceport_lab.params import resolve


def local_ask(source: str, presets: Sequence[str] = (), overrides: Sequence[str] = (), **values: Any) -> Ask:
    """What a person asks for in a shell.

    Paths become absolute, for the worker may be anywhere; presets and overrides are judged now.

    Args:
        source: local path or address.
        presets: names or paths.
        overrides: `STAGE.NAME=VALUE`.
        values: the other fields of `Ask`.

    Raises:
        InputError: there is nothing at the path.
        ParamsError: a preset, an override or a field cannot be used.
    """
    resolve(presets, overrides)
    if "://" not in source:
        path = Path(source).expanduser().absolute()
        if not path.exists():
            raise InputError("there is nothing at this path", got=path, hint="check the spelling")
        source = str(path)
    placed = [str(Path(p).absolute()) if p.endswith((".yaml", ".yml")) else p for p in presets]
    return make_ask(source=source, presets=tuple(placed), overrides=tuple(overrides), **values)
