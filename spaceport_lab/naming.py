"""What jobs, stages and scenes are called; light, for whoever only wants a name."""

from __future__ import annotations

import datetime
import re
import secrets
from pathlib import PurePosixPath

from spaceport_lab.params import STAGES

JOB_NAME = re.compile(r"[a-z0-9](-*[a-z0-9]){0,40}")
"""What a job may be called: SageMaker's rule, shortened so that `-compression` still fits."""

STEPS: dict[str, tuple[str, ...]] = {
    "full": STAGES,
    "3dgs": ("sfm", "train", "compress", "inspect"),
    "compression": ("compress", "inspect"),
}
"""What `--steps` may be, and the stages each one runs."""

STAGE_SUFFIX = {
    "ingest": "ingest",
    "sfm": "sfm",
    "train": "3dgs",
    "compress": "compression",
    "inspect": "inspect",
}
"""A stage's name is the job's plus one of these."""

_GENERIC = ("images", "photos", "point_cloud", "splat", "output", "model", "sparse", "0")
"""Names of folders and files that say nothing of the scene; the folder above is asked instead."""


def new_name(source: str, now: float) -> str:
    """A name for a job on the scene at `source`, path or address; see `job_name`."""
    return job_name(scene_of(source), now)


def job_name(scene: str, now: float) -> str:
    """A job name nobody else has: scene, time in UTC, four random digits.

    Args:
        scene: as `slug` makes it.
        now: [s] since 1970.
    """
    stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{scene}-{stamp}-{secrets.token_hex(2)}"


def scene_of(source: str) -> str:
    """What a job name calls the scene at `source`: at most 20 letters, digits and hyphens."""
    path = PurePosixPath(source.rstrip("/"))
    parts = [part for part in path.parts if part not in ("/", "..")]
    if "runs" in parts[:-1]:
        parts = parts[: parts.index("runs")]  # a run folder is called after its scene
    while len(parts) > 1 and PurePosixPath(parts[-1]).stem in _GENERIC:
        parts.pop()
    return slug(PurePosixPath(parts[-1]).stem if parts else "")


def slug(name: str) -> str:
    """`name` in lower-case letters, digits and single hyphens, at most 20 of them; never empty."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:20].strip("-") or "scene"
