"""The production pipeline: the five notebooks in order, through papermill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spaceport_lab.naming import STEPS
from spaceport_lab.pipeline.request import Request, make_request

if TYPE_CHECKING:
    from spaceport_lab.pipeline.run import RunResult, run_pipeline

__all__ = ["STEPS", "Request", "RunResult", "make_request", "run_pipeline"]


def __getattr__(name: str) -> Any:
    """Load what runs, and torch with it, only for those who run; a service only asks what could be run."""
    if name in ("RunResult", "run_pipeline"):
        from spaceport_lab.pipeline import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
