"""Many scenes: one run each, on this machine or on the nodes of a Ray cluster."""

from spaceport_lab.batch.here import Here
from spaceport_lab.batch.plan import Batch, Scene, make_batch
from spaceport_lab.batch.rows import Row
from spaceport_lab.batch.running import Outcome, run_batch

__all__ = ["Batch", "Here", "Outcome", "Row", "Scene", "make_batch", "run_batch"]
