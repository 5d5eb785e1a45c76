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

MIN_COMPUTE_CAPABILITY = (7, 0)
"""gsplat's kernels are built for Volta and newer."""


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
    import torch

    if torch.version.cuda is None:
        yield Finding(
            "note",
            "GPU",
            "this torch is built for the CPU only",
            "fine without a GPU; with one, install torch's CUDA build (see environment.yml)",
        )
        return
    if not torch.cuda.is_available():
        driver = "" if shutil.which("nvidia-smi") else ", and no NVIDIA driver"
        yield Finding(
            "note",
            "GPU",
            f"torch {torch.__version__} finds no CUDA device{driver}",
            f"with a GPU in the machine: install a driver for CUDA {torch.version.cuda} or newer",
        )
        return
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    recent = capability >= MIN_COMPUTE_CAPABILITY
    yield Finding(
        "ok" if recent else "problem",
        "GPU",
        f"{name}, compute capability {capability[0]}.{capability[1]}, {memory:.0f} GB",
        "" if recent else "older than gsplat supports: use --set train.backend=cpu",
    )
    if recent:
        yield _gsplat_kernels()


def _gsplat_kernels() -> Finding:
    from spaceport_lab.backends import choose_backend
    from spaceport_lab.errors import BackendError

    try:
        choose_backend("cuda")
    except BackendError as error:
        return Finding(
            "problem", "gsplat kernels", error.what, error.hint or "install the CUDA toolkit (nvcc)"
        )
    return Finding("ok", "gsplat kernels", "built and loaded")


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
