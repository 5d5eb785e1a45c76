"""Parameters: one frozen schema per stage, presets, overrides. The only place where a default lives."""

from spaceport_lab.params.base import StageParams
from spaceport_lab.params.compress import CompressParams
from spaceport_lab.params.ingest import IngestParams
from spaceport_lab.params.inspect import InspectParams
from spaceport_lab.params.resolve import Resolved, load_preset, preset_names, resolve, validate_stage
from spaceport_lab.params.schemas import SCHEMAS, STAGES
from spaceport_lab.params.sfm import SfmParams
from spaceport_lab.params.train import TrainParams

__all__ = [
    "SCHEMAS",
    "STAGES",
    "CompressParams",
    "IngestParams",
    "InspectParams",
    "Resolved",
    "SfmParams",
    "StageParams",
    "TrainParams",
    "load_preset",
    "preset_names",
    "resolve",
    "validate_stage",
]
