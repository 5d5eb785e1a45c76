"""A durable queue of runs, and the worker that runs them one after another."""

from spaceport_lab.jobs.asking import local_ask
from spaceport_lab.jobs.model import ENDED, STATES, Ask, Event, Failure, Job, Letter, make_ask
from spaceport_lab.jobs.store import Store, store_path
from spaceport_lab.jobs.worker import Worker

__all__ = [
    "ENDED",
    "STATES",
    "Ask",
    "Event",
    "Failure",
    "Job",
    "Letter",
    "Store",
    "Worker",
    "local_ask",
    "make_ask",
    "store_path",
]
