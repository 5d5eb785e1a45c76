"""What this machine can do, and what to do about each problem."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from spaceport_lab import runcard

MIN_MEMORY_GB, MIN_DISK_GB = 6.0, 5.0
"""Below these the sample still runs and a real flight will not."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `ok`, a `note` to know, or a `problem` that stops some work."""

    state: Literal["ok", "note", "problem"]
    subject: str
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at the machine; a check that itself breaks is reported as a problem, never raised."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _processor,
        _memory_and_disk,
        _versions,
        _gpu,
        _rasterizer,
        _viewer,
        _browser,
    )
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += list(check())
        except Exception as error:
            subject = check.__name__.strip("_").replace("_", " ")
            findings.append(
                Finding("problem", subject, f"{type(error).__name__}: {error}", "reinstall with make install")
            )
    return findings


def _processor() -> Iterator[Finding]:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    vectors = [name for name in ("avx512f", "avx2", "fma", "neon", "sve") if features.get(name)]
    yield Finding(
        "ok",
        "processor",
        f"{runcard.processor_name()}, {runcard.usable_cores()} cores, {', '.join(vectors) or 'no vectors'}",
    )
    if not {"avx512f", "avx2", "neon"} & set(vectors):
        yield Finding("note", "vectors", "neither AVX2 nor NEON", "training on the CPU will be slow here")


def _memory_and_disk() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    free, total = memory.available / 1e9, memory.total / 1e9
    enough = free >= MIN_MEMORY_GB
    yield Finding(
        "ok" if enough else "note",
        "memory",
        f"{free:.1f} of {total:.1f} GB free",
        "" if enough else "close other programs, or use smaller images (--set sfm.train_size=640)",
    )
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding(
        "ok" if disk >= MIN_DISK_GB else "problem",
        "disk",
        f"{disk:.1f} GB free in {Path.cwd()}",
        "" if disk >= MIN_DISK_GB else "free some space, or point --data at another disk",
    )


def _versions() -> Iterator[Finding]:
    versions = runcard.versions()
    missing = [name for name, version in versions.items() if version is None]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding(
        "problem" if missing else "ok",
        "versions",
        found,
        f"install {', '.join(missing)}: make install" if missing else "",
    )


def _gpu() -> Iterator[Finding]:
    """No GPU, or one out of reach, is nothing wrong; one that should work and cannot is."""
    import torch

    from spaceport_lab.backends.choose import Obstacle, why_no_cuda

    reason = why_no_cuda()
    if reason is not None and reason.obstacle not in (
        Obstacle.KERNELS_NOT_BUILT,
        Obstacle.KERNELS_NOT_LOADED,
    ):
        broken = (Obstacle.DRIVER_TOO_OLD, Obstacle.DRIVER_FAILS, Obstacle.GPU_TOO_OLD)
        state = "problem" if reason.obstacle in broken else "note"
        yield Finding(state, "GPU", reason.sentence, reason.advice)
        return
    major, minor = torch.cuda.get_device_capability()
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    found = f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}, {memory:.0f} GB"
    yield Finding("ok", "GPU", found)
    if reason is None:
        yield Finding("ok", "gsplat kernels", "built and loaded")
    else:
        yield Finding("problem", "gsplat kernels", reason.sentence, reason.advice)


def _rasterizer() -> Iterator[Finding]:
    import torch

    from spaceport_lab.backends import choose_backend, rasterize

    one = torch.ones
    render, _, _ = rasterize(
        torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0, 0, 0]]), one(1, 3), one(1), one(1, 3),
        torch.eye(4)[None], torch.tensor([[[16.0, 0, 16], [0, 16, 16], [0, 0, 1]]]), 32, 32, backend="cpu",
    )  # fmt: skip
    works = float(render[0, 16, 16, 0]) > 0.9
    yield Finding(
        "ok" if works else "problem",
        "rasterizer",
        f"the CPU one renders; auto takes {choose_backend('auto')}"
        if works
        else "the CPU one renders wrongly",
        "" if works else "report this with the lines above",
    )


def _viewer() -> Iterator[Finding]:
    folder = Path(__file__).resolve().parent / "_viewer"
    present = folder.is_dir() and any(folder.iterdir())
    yield Finding(
        "ok" if present else "problem",
        "viewer",
        "its files are in the package" if present else "its files are missing",
        "" if present else "install again with the network on: make install",
    )


def _browser() -> Iterator[Finding]:
    name = next(
        (n for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if shutil.which(n)), None
    )
    yield Finding(
        "ok" if name else "note",
        "browser for tests",
        name or "none on the PATH",
        "" if name else "only the browser tests need one: make test installs it",
    )
