"""The five schemas by stage, in the order the stages run."""

from __future__ import annotations

from spaceport_lab.params.base import StageParams
from spaceport_lab.params.compress import CompressParams
from spaceport_lab.params.ingest import IngestParams
from spaceport_lab.params.inspect import InspectParams
from spaceport_lab.params.sfm import SfmParams
from spaceport_lab.params.train import TrainParams

SCHEMAS: dict[str, type[StageParams]] = {
    "ingest": IngestParams,
    "sfm": SfmParams,
    "train": TrainParams,
    "compress": CompressParams,
    "inspect": InspectParams,
}
STAGES: tuple[str, ...] = tuple(SCHEMAS)
