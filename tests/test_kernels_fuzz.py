"""Thousands of wild scenes under bounds checks: no crash, and nothing written where it should not be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_kernels_compiling import PROCESSORS

SECONDS = {"native": 20}


@pytest.mark.timeout(1800)  # the kernels are compiled anew, with checks, for each processor
@pytest.mark.parametrize("processor", ["native", *PROCESSORS])
def test_wild_scenes_under_bounds_checks(processor: str) -> None:
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1"}
    if processor != "native":
        environment["NUMBA_CPU_NAME"], environment["NUMBA_CPU_FEATURES"] = PROCESSORS[processor]
    program = Path(__file__).with_name("fuzz_rasterizer.py")
    done = subprocess.run(
        [sys.executable, str(program), "--seconds", str(SECONDS.get(processor, 8)), "--seed", "1",
         "--least", "250"],
        env=environment, capture_output=True, text=True, timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, f"the process died with {done.returncode}\n{done.stderr[-2000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["checked"], "numba's bounds checks were off, so nothing was proved"
    assert not result["wrong"], result["wrong"][:5]
    assert result["scenes"] >= 250
    assert result["seen"] > 0.4 * result["scenes"]
    assert result["refused"] > 0
