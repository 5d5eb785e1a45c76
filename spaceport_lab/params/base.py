"""What the parameters of all stages share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class StageParams(BaseModel):
    """Base of the five schemas: frozen, no unknown names.

    A field's description is `[unit] help` on one line without an equals sign: it becomes the comment in
    the notebook's parameters cell, and papermill's inspector stumbles over a second one. Only `bool`,
    `int`, `float`, `str` and `Literal` of strings are allowed as types.
    Fields marked `key: False` do not change what a stage makes and stay out of its key; those marked
    `live: True` may change while the stage runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    run_dir: str = Field(
        "",
        description="[path] run folder; empty: the bench run of data/sample",
        json_schema_extra={"key": False},
    )
    interactive: bool = Field(
        False,
        description="[bool] live plots and widgets in JupyterLab; papermill leaves it off",
        json_schema_extra={"key": False},
    )
    log_every: int = Field(
        100,
        ge=1,
        description="[steps] one log line this often when not interactive",
        json_schema_extra={"key": False},
    )
