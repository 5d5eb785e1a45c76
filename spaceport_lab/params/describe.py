"""A parameter's bounds in words."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

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
