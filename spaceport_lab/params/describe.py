"""A parameter's bounds in words, which may change while a stage runs, and what was changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from spaceport_lab.params.base import StageParams

_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def bounds(schema: type[StageParams], name: str) -> str:
    """`≥ 1, ≤ 3` or `auto | cpu | cuda`; empty where anything of the type goes."""
    field = schema.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return " | ".join(get_args(field.annotation))
    found = [
        f"{sign} {getattr(rule, attribute):,}"
        for rule in field.metadata
        for attribute, sign in _SIGNS.items()
        if getattr(rule, attribute, None) is not None
    ]
    return ", ".join(found)


def live_names(schema: type[StageParams]) -> frozenset[str]:
    """Parameters that may change while the stage runs: the fields marked `live: True`."""
    return frozenset(
        name
        for name, field in schema.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("live")
    )


def changes_in_words(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """`from step 21: grow_grad2d 0.002` for each time a person changed something while the stage ran.

    Args:
        changes: `{"step": finished steps, "values": {name: value}}`, as on the run card.
    """
    return [
        f"from step {change['step'] + 1:,}: " + ", ".join(f"{n} {v}" for n, v in change["values"].items())
        for change in changes
    ]
