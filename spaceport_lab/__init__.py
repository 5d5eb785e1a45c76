"""Spaceport Lab: drone photographs to compressed 3D Gaussian splats, one notebook a stage."""

import os as _os
import sys as _sys

TORCH_CAME_FIRST = "torch" in _sys.modules and "OMP_WAIT_POLICY" not in _os.environ
"""Whether torch was loaded before the next lines could tell it to wait quietly; see `backends.pools`."""

# torch's and numba's thread pools spin against each other unless told to sleep when idle; both read
# these variables only once, when they are loaded, so they are set before anything else is imported.
for _name, _value in {
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "GOMP_SPINCOUNT": "0",
}.items():
    _os.environ.setdefault(_name, _value)

__version__ = "0.1.0"
