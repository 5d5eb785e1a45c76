"""PlayCanvas' own `sogs` on CUDA, for those who want its output: run as a program, brought to version 2.

It comes from https://github.com/playcanvas/sogs, where it is no longer developed, and needs torch with CUDA,
cupy, torchpq and PLAS. PyPI serves 1.0.0, which writes rotations that no reader can give back: refused.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from spaceport_lab.errors import BackendError
from spaceport_lab.gaussians import Gaussians, write_ply
from spaceport_lab.sog import v1
from spaceport_lab.sog.container import Source
from spaceport_lab.sog.meta import open_meta

LEAST = 1024
"""Gaussians; with fewer its palette would have no entry."""

_SOURCE = "git+https://github.com/playcanvas/sogs.git"
_MODULES = {
    "cupy": "pip install cupy-cuda12x",
    "torchpq": "pip install torchpq",
    "plas": "pip install git+https://github.com/fraunhoferhhi/PLAS.git",
}
_TAIL = 600


@dataclass(frozen=True)
class SogsResult:
    """What sogs made, as version 2.

    Attributes:
        files: bytes by name, meta.json among them.
        n: Gaussians left; sogs drops the faintest ones down to a square number.
        left_out: how many it dropped.
    """

    files: Mapping[str, bytes]
    n: int
    left_out: int


def check_sogs() -> None:
    """Whether sogs can run here.

    Raises:
        BackendError: it cannot; the message says why and what to do.
    """
    if not torch.cuda.is_available():
        raise BackendError(
            "backend sogs cannot run here",
            got="no CUDA device that torch can use",
            expected="an NVIDIA GPU; sogs has no CPU path",
            hint="our own writer needs none and is on by default",
        )
    try:
        version = importlib.metadata.version("sogs")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if not version or version.split(".")[:2] < ["1", "1"]:
        raise BackendError(
            "backend sogs cannot be used",
            got=f"sogs {version}, whose rotations no reader can give back"
            if version
            else "sogs is not installed",
            expected="sogs 1.1 from its repository, not from PyPI",
            hint=f"pip install {_SOURCE}",
        )
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendError(
            "backend sogs cannot run here",
            got=f"{', '.join(missing)} not installed",
            expected="what sogs needs, for this machine's CUDA",
            hint="; ".join(_MODULES[name] for name in missing),
        )


def compress_with_sogs(gaussians: Gaussians, seconds: float = 3600) -> SogsResult:
    """Compress a splat with sogs, and bring the result to version 2.

    Args:
        gaussians: finite.
        seconds: after which it is given up.

    Raises:
        BackendError: sogs cannot run here, failed, or took longer than `seconds`.
        SplatFormatError: what it wrote cannot be read.
    """
    check_sogs()
    if gaussians.n < LEAST:
        raise BackendError("too few Gaussians for sogs", got=gaussians.n, expected=f"at least {LEAST:,}")
    with tempfile.TemporaryDirectory() as folder:
        plain, out = Path(folder) / "splat.ply", Path(folder) / "sogs"
        write_ply(plain, gaussians)
        out.mkdir()
        _run([*_command(), "--ply", str(plain), "--output-dir", str(out)], seconds)
        with Source(out) as source:
            left = v1.decode_meta_v1(open_meta(source.meta(), "meta.json of sogs")).count
        return SogsResult(v1.upgrade(out), left, gaussians.n - left)


def _command() -> list[str]:
    return [sys.executable, "-m", "sogs.cli"]


def _run(command: list[str], seconds: float) -> None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError("sogs took too long", got=f"over {seconds:.0f} s") from error
    except OSError as error:
        raise BackendError("sogs cannot be started", got=error.strerror) from error
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip()[-_TAIL:]
        raise BackendError("sogs failed", got=f"exit code {done.returncode}: {said}")
