"""How the sample's loops are compiled: numba without fastmath, so that results depend on no processor.

Entry points are kept on disk in a folder whose name holds a hash of this package's sources. numba's own cache
watches one file only and would keep machine code that inlined a helper as it was before an edit elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config

from spaceport_lab.kernels.compiling import cache_folder

_OPTIONS = {"nogil": True, "error_model": "numpy"}

helper: Callable[[Callable], Any] = numba.njit(**_OPTIONS)
"""Compile a function that only other compiled functions call; it is kept as part of them."""


def kernel(function: Callable) -> Any:
    """Compile an entry point, called from Python, and keep its machine code where a folder can be written."""
    if _FOLDER is None:
        return numba.njit(**_OPTIONS)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_FOLDER)
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    finally:
        config.CACHE_DIR = before


def _folder() -> Path | None:
    parent = cache_folder()
    if parent is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return parent / f"sample-{digest.hexdigest()[:16]}"


_FOLDER = _folder()
