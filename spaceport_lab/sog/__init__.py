"""PlayCanvas' SOG format: write it, read it, nothing else."""

from spaceport_lab.sog.compare import FieldError, field_errors
from spaceport_lab.sog.container import write_bundle, write_folder
from spaceport_lab.sog.read import read_sog
from spaceport_lab.sog.write import SETTINGS, Encoded, SogOptions, encode, sog_order, write_sog

__all__ = [
    "SETTINGS",
    "Encoded",
    "FieldError",
    "SogOptions",
    "encode",
    "field_errors",
    "read_sog",
    "sog_order",
    "write_bundle",
    "write_folder",
    "write_sog",
]
