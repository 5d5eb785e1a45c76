"""The production pipeline: the five notebooks in order, through papermill."""

from spaceport_lab.pipeline.request import STEPS, Request, make_request
from spaceport_lab.pipeline.run import RunResult, run_pipeline

__all__ = ["STEPS", "Request", "RunResult", "make_request", "run_pipeline"]
