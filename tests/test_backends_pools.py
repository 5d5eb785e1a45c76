"""Torch's idle threads do not burn cores, whatever was imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

# How long the process computes while it should sleep, after each of many operations that torch shares out.
SCRIPT = """
import time
{imports}
import torch
from spaceport_lab.backends.pools import let_torch_sleep

owner = let_torch_sleep()
values, wasted = torch.zeros(1 << 21), []
for _ in range(40):
    values.add_(1)
    began = time.process_time()
    time.sleep(0.02)
    wasted.append(time.process_time() - began)
print(owner is not None, sorted(wasted)[len(wasted) // 2])
"""


def waste(imports: str) -> tuple[bool, float]:
    command = [sys.executable, "-c", SCRIPT.format(imports=imports)]
    environment = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    owned, seconds = done.stdout.split()
    return owned == "True", float(seconds)


@pytest.mark.parametrize(
    "imports",
    ["import spaceport_lab", "import torch", "import numba, torch", "import torch, numba"],
)
def test_idle_threads_sleep(imports: str) -> None:
    owned, seconds = waste(imports)
    assert seconds < 0.001
    assert owned == ("torch" in imports)
