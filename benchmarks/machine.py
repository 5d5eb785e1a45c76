"""What a benchmark was measured on."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding

from spaceport_lab.kernels import threads


def machine() -> dict[str, Any]:
    """Processor, cores, widest vectors, versions, date and load."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    features = llvmlite.binding.get_host_cpu_features()
    return {
        "cpu": model,
        "cores": threads.available_threads(),
        "vectors": next((name for name in ("avx512f", "avx2", "neon", "sse2") if features.get(name)), "none"),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numba")},
        "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
