"""A splat: its six fields, and the PLY files that hold one.

fields  values, activations, first guess from points
header  what a PLY says that it holds
rows    its numbers, whatever their encoding
packed  the compressed PLY of PlayCanvas
ply     PLY in and out
"""

from spaceport_lab.gaussians.fields import (
    N_COEFFS,
    SH_C0,
    Gaussians,
    concatenate,
    from_points,
    normalize_quats,
    sigmoid,
)
from spaceport_lab.gaussians.header import ply_fields
from spaceport_lab.gaussians.ply import Dropped, read_ply, read_ply_antialias, read_ply_valid, write_ply

__all__ = [
    "N_COEFFS",
    "SH_C0",
    "Dropped",
    "Gaussians",
    "concatenate",
    "from_points",
    "normalize_quats",
    "ply_fields",
    "read_ply",
    "read_ply_antialias",
    "read_ply_valid",
    "sigmoid",
    "write_ply",
]
