"""The prediction of memory against processes that are looked at from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spaceport_lab.backends.memory import rendering_bytes, training_bytes

SCRIPT = Path(__file__).parent / "measure_memory.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def measured(n: int, width: int, height: int, degree: int, what: str) -> int:
    command = [sys.executable, str(SCRIPT), *map(str, (n, width, height, degree)), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize(
    ("n", "width", "height", "degree"),
    [(50_000, 640, 480, 3), (300_000, 640, 480, 0), (400_000, 640, 480, 3), (20_000, 1920, 1080, 3)],
)
def test_training_takes_what_was_predicted(n: int, width: int, height: int, degree: int) -> None:
    found = measured(n, width, height, degree, "train")
    assert training_bytes(n, width, height, sh_degree=degree) == pytest.approx(found, rel=0.2)


@pytest.mark.parametrize(("n", "width", "height"), [(100_000, 640, 480), (400_000, 1280, 960)])
def test_rendering_takes_what_was_predicted(n: int, width: int, height: int) -> None:
    assert rendering_bytes(n, width, height) == pytest.approx(
        measured(n, width, height, 3, "render"), rel=0.2
    )


def test_more_of_anything_takes_more() -> None:
    base = training_bytes(50_000, 640, 480)
    assert training_bytes(100_000, 640, 480) > base < training_bytes(50_000, 1280, 960)
    assert training_bytes(50_000, 640, 480, absgrad=True) > base > rendering_bytes(50_000, 640, 480)
    assert training_bytes(50_000, 640, 480, sh_degree=0) < base
    assert training_bytes(0, 64, 64) > 0
