"""run.json, the run card: what ran, with which parameters, on what, how it went."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import psutil

from spaceport_lab import __version__, files

VERSIONED = (
    "numpy", "numba", "torch", "gsplat", "pycolmap", "pyproj", "open3d", "pillow", "papermill", "jupyterlab",
)  # fmt: skip
"""Packages whose versions decide what a run makes."""


def now() -> str:
    """The time in ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read(root: Path) -> dict[str, Any] | None:
    """The run card of a run folder; None when there is none yet."""
    try:
        return json.loads((Path(root) / "run.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def update(root: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Change the run card in place, safe against another process doing the same.

    Raises:
        WorkspaceError: the disk is full or the folder is not writable.
    """
    root = Path(root)
    with files.clear_os_errors(root / "run.json"):
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / ".run.json.lock", timeout=30):
            card = read(root) or new_card(root)
            change(card)
            files.write_json(root / "run.json", card)
    return card


def update_stage(root: Path, stage: str, **values: Any) -> None:
    """Set entries of one stage on the run card."""
    update(root, lambda card: card["stages"].setdefault(stage, {}).update(values))


def price(card: dict[str, Any], usd_per_hour: float) -> None:
    """Write down what each stage cost, its measured seconds at `usd_per_hour`, and the sum, in dollars."""
    for stage in card["stages"].values():
        stage["cost"] = round((stage.get("seconds") or 0) / 3600 * usd_per_hour, 4)
    card["usd_per_hour"] = usd_per_hour
    card["cost"] = round(sum(stage["cost"] for stage in card["stages"].values()), 4)


def new_card(root: Path) -> dict[str, Any]:
    """A card for a run that has not started, with versions, host and git state filled in."""
    return {
        "job": root.name,
        "scene": root.parent.parent.name,
        "status": "running",
        "created": now(),
        "params": {},
        "versions": versions(),
        "host": host(),
        "git": git_state(),
        "stages": {},
    }


def versions() -> dict[str, str | None]:
    """Versions of this package and of those that decide what a run makes."""
    found: dict[str, str | None] = {
        "spaceport-lab": __version__,
        "python": platform.python_version(),
    }
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def host() -> dict[str, Any]:
    """What the machine is: system, processor, cores this process may use, memory in bytes."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def usable_cores() -> int:
    """Cores this process may run on, which containers and taskset make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def git_state() -> dict[str, Any] | None:
    """Commit and whether the tree is changed, of the checkout the package lies in; None outside one."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
